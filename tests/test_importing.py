"""Heavy imports: the collector rests meanwhile, and what only other programs need is imported when they ask for it."""

import gc
import subprocess
import sys

import pytest

from redaes.importing import deferred, uncollected

MODULE = "wave"  # of the standard library, small, imported by nothing here


@pytest.fixture
def absent(monkeypatch):
    """The module is not imported, and is again as it was afterwards."""
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_the_collector_is_as_before_even_after_an_error():
    def failing():
        with uncollected():
            assert not gc.isenabled()
            raise KeyError("inside")

    with pytest.raises(KeyError):
        failing()
    assert gc.isenabled()


def test_one_who_had_the_collector_off_keeps_it_off():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_deferred_function_imports_its_module_when_called(absent, tmp_path):
    with deferred(MODULE, "open"):
        from wave import open as opened
    assert MODULE not in sys.modules
    with pytest.raises(FileNotFoundError):
        opened(str(tmp_path / "none.wav")).close()
    assert MODULE in sys.modules


def test_anything_else_of_the_module_imports_it_at_once(absent):
    with deferred(MODULE, "open"):
        from wave import Wave_read
    import wave

    assert Wave_read is wave.Wave_read


def test_a_module_that_is_there_is_left_alone():
    import wave

    with deferred(MODULE, "open"):
        from wave import open as opened
    assert opened is wave.open


def test_a_model_is_opened_without_scipy_and_losses_that_need_it_still_find_it():
    script = """
import sys
from redaes.models.vlm import Backbone, open_model
open_model(Backbone("nano"), inference_on="cpu")
assert "scipy.optimize" not in sys.modules
from transformers.loss.loss_for_object_detection import linear_sum_assignment
rows, columns = linear_sum_assignment([[2, 1], [1, 2]])
assert columns.tolist() == [1, 0] and "scipy.optimize" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
