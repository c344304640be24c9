"""What is refused, with which words, and that nothing is left behind by it."""

import io
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from tests.serve.endpoint import figure, files, picture, running, until, words
from tests.serve.scorers import Brightness, Held

from redaes.errors import UserError
from redaes.serve.settings import Settings, token_from_environment


def refusal(answer: httpx.Response, status: int) -> str:
    """The one line of a refusal, whose form is checked."""
    body = answer.json()
    assert answer.status_code == body["status"] == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["title"]
    assert len(body["detail"].splitlines()) == 1
    detail: str = body["detail"]
    return detail


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    limits: dict[str, Any] = {"max_images": 4, "max_body_mb": 0.25, "max_megapixels": 1.0}
    with running(Brightness(), **limits) as client:
        yield client


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (1001, 1000)).save(buffer, "PNG")
    return buffer.getvalue()


def encapsulated_postscript() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    return buffer.getvalue()


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"GIF89a is how a GIF begins", "is not an image"),
    "truncated": (picture(size=(400, 300), kind="JPEG")[:-200], "is truncated"),
    "too many pixels": (bomb(), "is 1001 x 1000 pixels, above the limit of 1 megapixels"),
    "a format that starts a program": (encapsulated_postscript(), "is not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is not an image"),
}


@pytest.mark.parametrize("path", ["/score", "/rank", "/compare"])
@pytest.mark.parametrize("name", BAD)
def test_an_image_that_cannot_be_used_is_named_with_the_reason(client: httpx.Client, path: str, name: str) -> None:
    data, reason = BAD[name]
    answer = client.post(path, files=files(picture(), data))
    assert refusal(answer, 422).startswith(f"image 1 (1.png) {reason}")
    assert [(image["index"], image["name"]) for image in answer.json()["images"]] == [(1, "1.png")]
    assert reason in client.post(path, json=words(data, picture())).json()["images"][0]["reason"]


def test_every_bad_image_of_a_request_is_named(client: httpx.Client) -> None:
    answer = client.post("/score", files=files(b"", picture(), b"no"))
    assert [image["index"] for image in answer.json()["images"]] == [0, 2]
    assert "1 more" in refusal(answer, 422)


@pytest.mark.parametrize("place", ["http://127.0.0.1:1/a.png", "file:///etc/passwd", "/etc/passwd", "a.png?", "=", "ä"])
def test_places_are_never_opened(client: httpx.Client, place: str) -> None:
    answer = client.post("/score", json={"images": [place]})
    assert "is not base64" in refusal(answer, 422)
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 422, "the body:"),
        (b"{}", 422, "images: Field required"),
        (b'{"images": []}', 422, "no image"),
        (b'{"images": "abc"}', 422, "images:"),
        (b'{"images": [1]}', 422, "images.0:"),
        (b'{"images": [], "model": "other"}', 422, "model:"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (json.dumps({"images": ["AA=="] * 5}).encode(), 422, "too many images; the limit of a request is 4"),
    ],
)
def test_json_of_another_shape_is_refused(client: httpx.Client, content: bytes, status: int, words: str) -> None:
    answer = client.post("/score", content=content, headers={"content-type": "application/json; charset=utf-8"})
    assert words in refusal(answer, status)


@pytest.mark.parametrize(
    ("kind", "content", "status", "words"),
    [
        ("multipart/form-data", b"", 400, "boundary"),
        ("multipart/form-data; boundary=x", b"nothing", 400, "form cannot be read"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422, "no image"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--\r\n", 400, "form cannot be read"),
        (
            "multipart/form-data; boundary=x; charset=undefined",
            b'--x\r\ncontent-disposition: form-data; name="images"; filename="\xff"\r\n\r\n\r\n--x--\r\n',
            400,
            "charset",
        ),
        ("text/plain", b"", 415, "application/json"),
        ("", b"", 415, "application/json"),
    ],
)
def test_a_malformed_body_is_refused(client: httpx.Client, kind: str, content: bytes, status: int, words: str) -> None:
    answer = client.post("/score", content=content, headers={"content-type": kind})
    assert words in refusal(answer, status)


def test_a_form_may_hold_nothing_but_files_of_one_field(client: httpx.Client) -> None:
    assert "no field 'photo'" in refusal(client.post("/score", files={"photo": ("a.png", picture())}), 422)
    both = client.post("/score", files=files(picture()), data={"model": "other"})
    assert "nothing else" in refusal(both, 422)
    assert "too many images" in refusal(client.post("/score", files=files(*[picture()] * 5)), 422)


def test_a_comparison_is_of_two(client: httpx.Client) -> None:
    for count in (1, 3):
        assert "2 images" in refusal(client.post("/compare", files=files(*[picture()] * count)), 422)


def test_a_body_above_the_limit_is_refused_by_its_length_and_by_its_bytes(client: httpx.Client) -> None:
    large = b"x" * (1 << 20)
    assert "0.25 MiB" in refusal(client.post("/score", files=files(large)), 413)
    chunks = (large[at : at + 65536] for at in range(0, len(large), 65536))
    headers = {"content-type": "application/json"}
    assert "0.25 MiB" in refusal(client.post("/score", content=chunks, headers=headers), 413)
    assert client.post("/score", files=files(picture())).status_code == 200


def test_a_name_comes_back_printable_and_short(client: httpx.Client) -> None:
    name = b"\x1b[31m" + b"n" * 200
    content = b'--x\r\ncontent-disposition: form-data; name="images"; filename="' + name + b'"\r\n\r\nno\r\n--x--\r\n'
    answer = client.post("/score", content=content, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.json()["images"][0]["name"] == "[31m" + "n" * 96


def test_paths_and_methods_that_are_not_there(client: httpx.Client) -> None:
    refusal(client.get("/docs"), 404)
    assert "method" in refusal(client.get("/score"), 405)
    assert client.get("/score").headers["allow"] == "POST"
    assert figure(client, 'redaes_requests_total{path="other",status="404"}') >= 1


def test_photographs_are_not_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # a temporary file would be an error
    buffer = io.BytesIO()
    Image.effect_noise((1500, 1500), 80).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 1 << 20
    with running(Brightness()) as client:
        assert client.post("/score", files=files(buffer.getvalue())).status_code == 200


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    scorer = Held()
    with running(scorer, queue=4, max_images=4, batch_size=2) as client, ThreadPoolExecutor(2) as pool:
        inside = pool.submit(client.post, "/score", files=files(*[picture()] * 3))
        assert scorer.begun.wait(5)
        two = client.post("/score", files=files(picture(), picture()))
        assert "too many images are waiting" in refusal(two, 503)
        assert int(two.headers["retry-after"]) >= 1
        assert client.get("/ready").status_code == 200
        fourth = pool.submit(client.post, "/score", files=files(picture()))
        until(lambda: figure(client, "redaes_images_inside") == 4)
        assert refusal(client.get("/ready"), 503)
        assert client.get("/health").status_code == 200
        scorer.go.set()
        assert inside.result().status_code == fourth.result().status_code == 200
        assert client.get("/ready").status_code == 200


def test_a_request_that_takes_too_long_leaves_the_queue() -> None:
    scorer = Held()
    with running(scorer, timeout=0.3, batch_size=2) as client:
        assert "0.3 s" in refusal(client.post("/score", files=files(*[picture()] * 6)), 504)
        assert figure(client, "redaes_queue_images") == figure(client, "redaes_images_inside") == 0
        time.sleep(0.4)
        assert "does not come back" in refusal(client.get("/health"), 503)
        scorer.go.set()
        until(lambda: client.get("/health").status_code == 200)
        assert client.post("/score", files=files(picture())).status_code == 200
        assert scorer.batches == [2, 1]


def test_a_client_that_goes_takes_its_images_with_it() -> None:
    scorer = Held()
    with running(scorer, batch_size=2) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/score", files=files(*[picture()] * 6), timeout=0.3)
        until(lambda: figure(client, "redaes_images_inside") == 0)
        assert figure(client, "redaes_queue_images") == 0
        assert figure(client, 'redaes_requests_total{path="/score",status="499"}') == 1
        scorer.go.set()
        assert client.post("/score", files=files(picture())).status_code == 200
        assert scorer.batches == [2, 1]


def test_an_upload_that_dawdles_is_ended() -> None:
    with running(Brightness(), timeout=0.3) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=10) as slow:
            slow.sendall(
                b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
            )
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert figure(client, "redaes_images_inside") == 0


def test_uploads_together_are_bounded() -> None:
    with running(Brightness(), max_body_mb=1.0, timeout=5) as client:
        head = b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
        address = (client.base_url.host, client.base_url.port)
        sockets = [socket.create_connection(address, timeout=10) for _ in range(4)]
        try:
            for connection in sockets:
                connection.sendall(head + b"x" * 999_999)
            until(lambda: figure(client, "redaes_images_inside") == 4)
            time.sleep(0.2)
            large = client.post("/score", content=b"x" * 500_000, headers={"content-type": "application/json"})
            assert "bytes" in refusal(large, 503)
            assert large.headers["retry-after"] == "1"
        finally:
            for connection in sockets:
                connection.close()
        until(lambda: client.post("/score", files=files(picture())).status_code == 200)


def test_a_token_guards_all_but_the_state() -> None:
    token = "correct horse battery staple".replace(" ", "-")
    with running(Brightness(), token=token) as client:
        assert "token" in refusal(client.post("/score", files=files(picture())), 401)
        for path in ("/score", "/rank", "/compare"):
            shown = client.post(path, files=files(picture(), picture()), headers={"authorization": f"Bearer {token}x"})
            assert refusal(shown, 401)
            assert token not in shown.text
            assert shown.headers["www-authenticate"] == "Bearer"
        assert refusal(client.get("/metrics"), 401)
        own = {"authorization": f"Bearer {token}"}
        assert client.post("/score", files=files(picture()), headers=own).status_code == 200
        assert figure(client, 'redaes_requests_total{path="/score",status="401"}', own) == 2
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        assert client.post("/score", content=b"x" * 10, headers={"authorization": "Basic eA=="}).status_code == 401


@pytest.mark.parametrize("token", ["", "short", "has a blank in it, really", "täuschend-lang-genug"])
def test_a_token_that_protects_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("REDAES_SERVE_TOKEN", token)
    with pytest.raises(UserError, match="REDAES_SERVE_TOKEN must hold"):
        token_from_environment()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be above 0"),
        ({"cache": -1}, "cache is -1; it must be at least 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"max_images": 9, "queue": 8}, "max_images is 9; it must be at most queue"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Settings(**settings)
