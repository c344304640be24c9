"""A bucket for the tests: moto speaks Amazon's protocol on loopback."""

import logging
import urllib.request
from collections.abc import Iterator
from itertools import count

import pytest

_buckets = count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """`HOST:PORT` of a server."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: `pip install 'moto[server]'`")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; its keys are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"bucket-{next(_buckets)}"
    with urllib.request.urlopen(urllib.request.Request(f"http://{s3_server}/{name}", method="PUT")):
        return f"s3://{name}/photos.ledger?endpoint_override={s3_server}&scheme=http&region=us-east-1"
