"""How failures reach a person: in one line, without a traceback, without the folders of this computer."""

import logging
from pathlib import Path

import pytest

from redaes.errors import UserError

gradio = pytest.importorskip("gradio")


def test_bad_input_is_told_without_folders_and_a_fault_of_ours_without_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from redaes.app.blocks import spoken

    def wrong() -> None:
        raise UserError(f"no pairs.jsonl in {tmp_path / 'mine'};\n is this a dataset?")

    def broken() -> None:
        raise RuntimeError(f"unexpected {tmp_path}")

    with pytest.raises(gradio.Error) as told:
        spoken(wrong)()
    assert told.value.message == "no pairs.jsonl in mine; is this a dataset?"
    with caplog.at_level(logging.ERROR), pytest.raises(gradio.Error) as told:
        spoken(broken)()
    assert told.value.message == "Something went wrong; the terminal says what."
    assert not told.value.print_exception
    assert "RuntimeError: unexpected" in caplog.text, "the terminal does say it"


def test_gradio_writes_nothing_beside_our_sources() -> None:
    import redaes.app.blocks as module

    assert module.__file__ is not None
    assert not Path(module.__file__).with_suffix(".pyi").exists()
