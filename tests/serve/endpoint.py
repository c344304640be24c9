"""The endpoint on loopback, and pictures to send to it."""

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from PIL import Image

from redaes.inference import ScorerProtocol
from redaes.serve.app import create_app
from redaes.serve.settings import Settings


@contextmanager
def running(scorer: ScorerProtocol, token: str | None = None, **settings: Any) -> Iterator[httpx.Client]:
    """Serve from a thread of this process while the block runs; gives a client of it."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(scorer, Settings(**settings), model="a-model", token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=10)
    assert not thread.is_alive()


def until(true: Any, seconds: float = 10.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)


def picture(level: int = 128, *, size: tuple[int, int] = (16, 16), kind: str = "PNG") -> bytes:
    """An even picture of one gray, encoded."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(buffer, kind)
    return buffer.getvalue()


def files(*pictures: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """Pictures as parts of a form: 0.png, 1.png, ..."""
    return [("images", (f"{index}.png", data)) for index, data in enumerate(pictures)]


def words(*pictures: bytes) -> dict[str, list[str]]:
    """Pictures in JSON."""
    return {"images": [base64.b64encode(data).decode() for data in pictures]}


def figure(client: httpx.Client, name: str, headers: dict[str, str] | None = None) -> float:
    """One figure of /metrics, by its name and labels."""
    lines = client.get("/metrics", headers=headers).text.splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name]
    return found[0] if found else 0.0
