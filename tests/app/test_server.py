"""What the server gives away: the page and the uploads, to this computer; no other file, nothing from elsewhere."""

import http.client
import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from tests.app.conftest import Served, free_port

from redaes.app.server import LARGEST_UPLOAD, POLICY, Guard, serving
from redaes.errors import UserError
from redaes.inference.scorer import Scorer

SECRET = b"not for the page"


def ask(
    served: Served, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """One request whose path goes over the wire as it is written here."""
    connection = http.client.HTTPConnection(urlsplit(served.address).netloc, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in {"Content-Length": str(len(body or b"")), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, {name.lower(): value for name, value in answer.getheaders()}


def upload(served: Served, name: str, data: bytes) -> tuple[int, bytes]:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + data + b"\r\n--x--\r\n"
    return ask(served, "/gradio_api/upload", "POST", body, Content_Type="multipart/form-data; boundary=x")[:2]


def answer_to(served: Served, inputs: list[Any], function: int) -> str:
    """What a button's function says to inputs that no page would send."""
    body = json.dumps({"data": inputs, "fn_index": function, "session_hash": "forged", "event_data": None}).encode()
    status, joined, _ = ask(served, "/gradio_api/queue/join", "POST", body, Content_Type="application/json")
    if status != 200:
        return joined.decode()
    return ask(served, "/gradio_api/queue/data?session_hash=forged")[1].decode()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_bytes(SECRET)
    return path


def test_the_page_is_served_with_a_policy_that_keeps_the_browser_here(served: Served) -> None:
    status, content, headers = ask(served, "/")
    assert status == 200
    assert b"redaes" in content
    assert headers["content-security-policy"] == POLICY
    assert "*" not in POLICY
    assert "http" not in POLICY


def test_a_page_from_elsewhere_cannot_send_anything_here(served: Served) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\nabc\r\n--x--\r\n'
    sent = {"method": "POST", "body": form, "Content_Type": "multipart/form-data; boundary=x"}
    before = sorted(served.uploads.rglob("*"))
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert ask(served, "/gradio_api/upload", Origin=origin, **sent)[0] == 404
    assert sorted(served.uploads.rglob("*")) == before
    assert ask(served, "/gradio_api/upload", Origin=served.address.rstrip("/"), **sent)[0] == 200


def test_an_upload_is_served_and_no_file_outside_the_uploads_is(served: Served, secret: Path, run: Path) -> None:
    status, answer = upload(served, "fine.txt", SECRET)
    (path,) = json.loads(answer)
    assert status == 200
    assert Path(path).is_relative_to(served.uploads)
    assert ask(served, f"/gradio_api/file={path}")[:2] == (200, SECRET)
    link = served.uploads / "link.txt"
    link.symlink_to(secret)
    up = "../" * 12
    outside = [
        str(secret), f"/{secret}", f"//{secret}", "/etc/passwd", "/proc/self/environ", "pyproject.toml",
        f"{served.uploads}/../../../../../etc/passwd", f"{served.uploads}/{up}{secret}", str(link), "src/redaes/cli.py",
        str(run / "data" / "manifest.json"), str(next((run / "data" / "images").iterdir())), f"~/{secret.name}",
        f"file://{secret}", "http://127.0.0.1:1/x", "https://example.com/x.png", f"{secret}%00.png",
    ]  # fmt: skip
    forms = {
        form for path in outside for form in (quote(path), quote(path, safe=""), quote(quote(path, safe=""), safe=""))
    }
    for form in forms:
        for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/gradio_api/proxy=", "/assets/", "/static/"):
            status, content, _ = ask(served, route + form)
            assert status in (400, 403, 404), (route, form)
            assert SECRET not in content
            assert str(secret.parent).encode() not in content


@pytest.mark.parametrize(
    "name", ["../../escaped.txt", "..%2f..%2fescaped.txt", "/tmp/escaped.txt", "..", "a\\..\\..\\b.txt", ""]
)
def test_an_upload_lands_in_the_uploads_whatever_it_is_called(served: Served, name: str) -> None:
    status, answer = upload(served, name, SECRET)
    if status == 200:
        assert all(Path(path).resolve().is_relative_to(served.uploads) for path in json.loads(answer))
    else:
        assert status in (400, 422)
    assert not Path("/tmp/escaped.txt").exists()


def test_a_file_above_the_limit_is_not_taken_in(served: Served) -> None:
    status, answer = upload(served, "huge.jpg", bytes(LARGEST_UPLOAD + 1))
    assert status == 413
    assert str(served.uploads).encode() not in answer


def test_a_path_or_an_address_in_place_of_an_upload_is_refused(served: Served, secret: Path, run: Path) -> None:
    config = json.loads(ask(served, "/config")[1])
    kinds = {component["id"]: component["type"] for component in config["components"]}
    takers = [d for d in config["dependencies"] if {"file", "image"} & {kinds[i] for i in d["inputs"]}]
    assert len(takers) >= 3
    for path in (
        str(secret),
        str(run / "data" / "manifest.json"),
        "https://example.com/x.png",
        "http://127.0.0.1:1/x.png",
    ):
        file = {"path": path, "url": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
        for taker in takers:
            inputs = [[file] if kinds[i] == "file" else file for i in taker["inputs"]]
            answer = answer_to(served, inputs, taker["id"])
            assert '"success":true' not in answer.replace(" ", "")
            assert "not for the page" not in answer
            assert str(secret.parent) not in answer or str(secret.parent) in path
            assert "Traceback" not in answer


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring", "/gradio_api/monitoring", "/gradio_api/runs", "/gradio_api/deep_link?session_hash=x", "/docs",
        "/openapi.json", "/gradio_api/openapi.json", "/gradio_api/proxy=https://example.com", "/gradio_api/run/score",
        "/gradio_api/custom_component/x/client/component/y", "/gradio_api/stream/x", "/gradio_api/mcp",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(served: Served, path: str) -> None:
    assert ask(served, path)[0] == 404


def test_other_sites_that_point_their_name_at_this_computer_are_refused(served: Served) -> None:
    assert ask(served, "/", Host="evil.example")[0] == 400
    assert ask(served, "/config", Host="evil.example:80")[0] == 400


def test_a_taken_port_is_said_and_uploads_are_deleted_in_the_end(scorer: Scorer, run: Path) -> None:
    before = os.environ.get("GRADIO_TEMP_DIR")
    port = free_port()
    with serving(scorer, port=port):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.is_dir()
        with pytest.raises(UserError, match=f"port {port} is taken"), serving(scorer, port=port):
            pass
    assert not folder.exists()
    assert os.environ.get("GRADIO_TEMP_DIR") == before
    with pytest.raises(UserError, match="no dataset at"), serving(scorer, port=port, data=run):
        pass


def test_the_guard_follows_links_before_it_decides(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    guard = Guard(None, tmp_path / "uploads")
    inside = tmp_path / "uploads" / "a.jpg"
    inside.touch()
    shutil.copy(inside, tmp_path / "b.jpg")
    (tmp_path / "uploads" / "out").symlink_to(tmp_path)
    assert guard.lets_through(f"/gradio_api/file={inside}")
    assert not guard.lets_through(f"/gradio_api/file={tmp_path}/uploads/out/b.jpg")
    assert not guard.lets_through(f"/gradio_api/file={tmp_path}/uploads2/a.jpg")
    assert not guard.lets_through("/gradio_api/file=")
