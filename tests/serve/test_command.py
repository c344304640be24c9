"""`redaes serve` as a process: where it listens, how it ends, what it says when it cannot begin."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.serve.endpoint import figure, files, picture, until

from redaes.cli import main

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def served(*words: str, scorer: str = "Brightness", **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process on a free port, and its address."""
    command = [sys.executable, "-m", "redaes", "serve", "--port=0", f"--scorer=tests.serve.scorers.{scorer}", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT))), **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:  # type: ignore[call-overload]
        guard = threading.Timer(60, process.kill)
        guard.start()
        try:
            said = process.stdout.readline()
            found = re.search(r"is served at (http://\S+)$", said)
            assert found, said + process.stderr.read()
            yield process, found[1]
        finally:
            guard.cancel()
            process.kill()


def test_sigterm_answers_what_was_accepted_and_refuses_the_rest() -> None:
    with (
        served("--batch-size=2", scorer="Slow") as (process, address),
        httpx.Client(base_url=address, timeout=30) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        accepted = [pool.submit(client.post, "/score", files=files(picture(level))) for level in range(6)]
        until(lambda: figure(client, "redaes_images_inside") == 6)
        process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            host, _, port = address.removeprefix("http://").partition(":")
            with socket.socket() as connection:
                return connection.connect_ex((host, int(port))) != 0

        until(refused, 2)
        assert process.poll() is None
        answers = [future.result() for future in accepted]
        assert [a.json()["scores"][0]["score"] for a in answers] == [pytest.approx(n / 25.5) for n in range(6)]
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_ctrl_c_ends_it_as_an_interruption() -> None:
    with served() as (process, address):
        assert httpx.get(f"{address}/health").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == "interrupted\n"


def test_the_token_comes_from_the_environment_and_a_folder_is_named_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    token = "0123456789abcdef"
    with served(f"--model={tmp_path}/my-model", REDAES_SERVE_TOKEN=token) as (_, address):
        assert httpx.post(f"{address}/score", files=files(picture())).status_code == 401
        own = {"authorization": f"Bearer {token}"}
        answer = httpx.post(f"{address}/score", files=files(picture()), headers=own)
        assert answer.json()["model"] == "tests.serve.scorers.Brightness:my-model"
        assert "server" not in answer.headers


def test_who_listens_to_everybody_without_a_token_is_warned() -> None:
    with served("--host=0.0.0.0") as (process, address):
        assert httpx.get(address.replace("0.0.0.0", "127.0.0.1") + "/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert "REDAES_SERVE_TOKEN" in process.stderr.read()


def test_what_cannot_begin_says_why_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        assert main(["serve", "--scorer=tests.serve.scorers.Brightness", *words]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1:{port}" in said(f"--port={port}")
    assert "--port is 70000" in said("--port=70000")
    assert "cannot listen at nowhere.invalid" in said("--host=nowhere.invalid")
    assert "batch_size is 0" in said("--batch-size=0", "--port=0")
    assert "--gather" in said("--gather=1")
