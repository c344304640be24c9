"""The openai SDK asks a server on loopback that speaks the vendors' protocols; every failure means what it should."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
from benchmarks.vendors.faults import TRANSPORT, Faults
from benchmarks.vendors.images import PICTURES, edited
from benchmarks.vendors.server import running
from benchmarks.vendors.state import Vendors
from PIL import Image

from redaes.calls import Declined, Receipt, Transient, UnusableAnswer, collecting
from redaes.editors import Editor, images_api
from redaes.editors.answers import MAX_ANSWER_BYTES
from redaes.editors.images_api import ImagesApiEditor
from redaes.errors import UserError
from redaes.records import Instruction
from redaes.registry import create

KEY = "sk-planted-key-of-this-test-0123456789"
WARM = Instruction(text="Make the sky warmer.", category="warm", orientation="quality")
SOURCE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((48, 48))
ROUTES = ("edits", "generations")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def vendors() -> Vendors:
    return Vendors(key=KEY)


@pytest.fixture
def address(vendors: Vendors) -> Iterator[str]:
    with running(vendors) as address:
        yield address


def editor(address: str, **settings: Any) -> ImagesApiEditor:
    chosen = {"model": "gpt-image-1", "base_url": f"{address}/v1", "timeout": 5.0, **settings}
    made: ImagesApiEditor = create("editors", {"class_path": "images_api", "init_args": chosen})
    return made


def asked(made: Editor, instruction: Instruction = WARM) -> tuple[Image.Image, Receipt]:
    with collecting() as receipt:
        return made.edit(SOURCE, instruction, seed=7), receipt


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("size", [None, "48x48", "1024x1024", "auto", "2K"])
def test_the_edit_that_the_server_made_comes_back_at_the_sources_size(
    address: str, route: str, size: str | None
) -> None:
    made = editor(address, route=route, size=size, quality="high", parameters={"response_format": "b64_json"})
    picture, receipt = asked(made)
    assert (picture.size, picture.mode) == (SOURCE.size, "RGB")
    wanted = np.asarray(edited(SOURCE, WARM.text, "gpt-image-1"), dtype=float)
    assert np.abs(np.asarray(picture, dtype=float) - wanted).mean() < 1
    assert receipt.usage.images == 1
    assert receipt.usage.input_tokens > 0 < receipt.usage.output_tokens
    assert receipt.model == "gpt-image-1"
    assert "b64" not in receipt.replies[0]


def test_another_model_or_instruction_edits_otherwise(address: str) -> None:
    other = WARM.model_copy(update={"text": "Make it darker."})
    made = editor(address)
    edits = {asked(made)[0].tobytes(), asked(made, other)[0].tobytes(), asked(editor(address, model="x"))[0].tobytes()}
    assert len(edits) == 3


def test_a_picture_behind_an_address_is_fetched_from_hosts_that_are_allowed(address: str) -> None:
    settings: dict[str, Any] = {"parameters": {"response_format": "url"}}
    picture, receipt = asked(editor(address, url_hosts=["127.0.0.1"], **settings))
    assert picture.tobytes() == edited(SOURCE, WARM.text, "gpt-image-1").tobytes()
    assert "http" not in receipt.replies[0]
    for hosts in ([], ["example.com"], [".0.0.1.example.com"], ["27.0.0.1"]):
        with pytest.raises(UserError, match=r"http://127\.0\.0\.1, which is not allowed"):
            asked(editor(address, url_hosts=hosts, **settings))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/picture.png",
        "file:///etc/passwd",
        "ftp://cdn.example.com/x",
        "https://evil.com/cdn.example.com",
        "https://cdn.example.com.evil.com/x",
        "https://xexample.com/x",
        "//cdn.example.com/x",
        "",
    ],
)
def test_only_encrypted_addresses_of_allowed_hosts_are_fetched(url: str) -> None:
    with pytest.raises(UserError, match="not allowed"):
        images_api.fetch(url, [".example.com", "example.com"], timeout=1)


TRANSIENT = [kind for kind in TRANSPORT if kind not in ("huge", "timeout")]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_busy_or_broken_server_is_worth_asking_again_and_is_asked_once(
    vendors: Vendors, address: str, route: str, fault: str
) -> None:
    vendors.faults = Faults([fault], share=1.0, in_a_row=1, retry_after=2.5)
    made = editor(address, route=route)
    with pytest.raises(Transient) as caught:
        asked(made)
    assert caught.value.retry_after == (2.5 if fault == "429_retry_after" else None)
    assert sum(vendors.requests.values()) == 1
    assert asked(made)[0].size == SOURCE.size


def test_a_silent_server_is_given_up_after_the_timeout(vendors: Vendors, address: str) -> None:
    vendors.faults = Faults(["timeout"], share=1.0, delay=3.0)
    with pytest.raises(Transient, match="Timeout"):
        asked(editor(address, timeout=0.2))


def test_a_server_that_is_not_there_is_transient() -> None:
    with pytest.raises(Transient, match="ConnectError"):
        asked(editor("http://127.0.0.1:9"))


@pytest.mark.parametrize("fault", PICTURES)
def test_a_picture_that_cannot_be_used_is_said_to_be_so_after_it_was_noted(
    vendors: Vendors, address: str, fault: str
) -> None:
    vendors.faults = Faults([fault], share=1.0, in_a_row=1)
    made = editor(address)
    with collecting() as receipt, pytest.raises(UnusableAnswer, match="the picture it sent"):
        made.edit(SOURCE, WARM, 0)
    assert receipt.usage.images == 1  # paid for all the same
    assert asked(made)[0].size == SOURCE.size


def test_a_refusal_is_final(address: str) -> None:
    with pytest.raises(Declined, match="400: Your request was rejected by the safety system"):
        asked(editor(address), WARM.model_copy(update={"text": "Show something forbidden."}))


def test_a_wrong_key_or_model_stops_the_build_and_the_key_is_not_repeated(
    vendors: Vendors, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="missing-model"):
        asked(editor(address, model="missing-model"))
    vendors.key = "another"
    with pytest.raises(UserError, match="refuses the key") as caught:
        asked(editor(address))
    assert KEY not in str(caught.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        asked(editor(address))


def test_a_size_of_another_aspect_is_refused_before_anything_is_paid(vendors: Vendors, address: str) -> None:
    with pytest.raises(UserError, match="1536x1024 pixels, but a source has 48 x 48"):
        asked(editor(address, size="1536x1024"))
    assert not vendors.requests


def _answers(body: bytes, *, kind: str = "application/json") -> HTTPServer:
    """A server that answers everything with the same body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    servers: list[HTTPServer] = []

    def start(body: bytes) -> str:
        servers.append(_answers(body))
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"data": []}',
        b'{"data": null}',
        b'{"data": "x"}',
        b'{"data": [null]}',
        b'{"data": [{}]}',
        b'{"data": [{"b64_json": null, "url": null}]}',
        b'{"data": [{"b64_json": "not base64!"}]}',
        b'{"data": [{"b64_json": ""}]}',
        b'{"data": [{"b64_json": 3}], "usage": "free", "model": 4}',
        b'{"data": [{"b64_json": "aGk="}], "usage": {"input_tokens": "many", "output_tokens": -1.5}}',
    ],
)
def test_json_without_a_picture_is_unusable(answering: Callable[[bytes], str], body: bytes) -> None:
    with pytest.raises(UnusableAnswer):
        asked(editor(answering(body)))


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[1]", b"null", b"<html>", b'{"data": [{"b64_json": "aGk', b"[" * 100_000, b"\xff\xfe"]
)
def test_what_is_no_json_object_is_asked_for_again(answering: Callable[[bytes], str], body: bytes) -> None:
    with pytest.raises(Transient, match="not a JSON object"):
        asked(editor(answering(body)))


def test_a_huge_answer_is_not_read_to_its_end(vendors: Vendors, address: str) -> None:
    vendors.faults = Faults(["huge"], share=1.0, huge=2 * MAX_ANSWER_BYTES)
    with pytest.raises(UnusableAnswer, match="too large"):
        asked(editor(address, timeout=30.0))


def test_a_key_that_the_answer_repeats_is_not_kept(answering: Callable[[bytes], str]) -> None:
    body = json.dumps({"data": [], "echo": f"Bearer {KEY}"}).encode()
    with collecting() as receipt, pytest.raises(UnusableAnswer):
        editor(answering(body)).edit(SOURCE, WARM, 0)
    assert KEY not in receipt.replies[0]
    assert "Bearer ***" in receipt.replies[0]


def test_many_threads_share_one_editor_and_get_their_own_edits(address: str) -> None:
    made = editor(address)
    texts = [WARM.model_copy(update={"text": f"Warm it {n}."}) for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        edits = list(pool.map(lambda text: made.edit(SOURCE, text, 0), texts))
    assert [e.tobytes() for e in edits] == [edited(SOURCE, t.text, "gpt-image-1").tobytes() for t in texts]


def test_the_identity_is_what_an_edit_depends_on_and_holds_no_address_or_key(address: str) -> None:
    made = editor(address, size="1024x1024")
    assert made.identity("edit") == editor("http://elsewhere:1", size="1024x1024", timeout=9).identity("edit")
    changed: list[dict[str, Any]] = [{"model": "b"}, {"size": "auto"}, {"quality": "low"}, {"parameters": {"a": 1}}]
    for setting in changed:
        assert editor(address, **{"size": "1024x1024", **setting}).identity("edit") != made.identity("edit")
    assert KEY not in json.dumps(made.identity("edit"))
    assert made.endpoint == address.removeprefix("http://")
    assert made.largest_usage("edit").images == 1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"base_url": "api.openai.com"}, "must be an address"),
        ({"base_url": "https://user:secret@host/v1"}, "password"),
        ({"route": "edit"}, "did you mean 'edits'"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_it_is_made(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        create("editors", {"class_path": "images_api", "init_args": {"model": "m", **settings}})
