"""`redaes app` as it is typed."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.app.conftest import free_port

from redaes.cli import main


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", f"--port={port}"]) == 2
    assert f"--port is {port}; it must be from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--data"], "no dataset at"), (["--run"], "holds nothing of a run"), (["--model"], "is not a model checkpoint")],
)
def test_what_is_not_there_is_said_in_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio")
    assert main(["app", f"--port={free_port()}", *words, str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert told in said
    assert "\n" not in said


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_page_is_up_until_somebody_ends_it_and_leaves_nothing(
    end: signal.Signals, run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gradio")
    port = free_port()
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    command = [sys.executable, "-m", "redaes", "app", f"--port={port}", "--run", str(run)]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(uploads)},
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert line == f"the page is at http://127.0.0.1:{port}/ (Ctrl-C closes it)\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                assert answer.status == 200
            assert len(list(uploads.iterdir())) == 1
            process.send_signal(end)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    assert list(tmp_path.rglob("*")) == [uploads], "nothing is left where it was started"
