"""The google-genai SDK asks a server on loopback that speaks generateContent; every failure means what it should."""

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
from redaes.editors import Editor
from redaes.errors import UserError
from redaes.records import Instruction
from redaes.registry import create
from redaes_google import NanoBananaEditor

KEY = "AIza-planted-key-of-this-test-0123456789"
MODEL = "gemini-2.5-flash-image"
WARM = Instruction(text="Make the sky warmer.", category="warm", orientation="quality")
SOURCE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((60, 40))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def vendors() -> Vendors:
    return Vendors(key=KEY)


@pytest.fixture
def address(vendors: Vendors) -> Iterator[str]:
    with running(vendors) as address:
        yield address


def editor(address: str, **settings: Any) -> NanoBananaEditor:
    return NanoBananaEditor(**{"base_url": address, "timeout": 5.0, **settings})


def asked(made: NanoBananaEditor, text: str = WARM.text) -> tuple[Image.Image, Receipt]:
    with collecting() as receipt:
        return made.edit(SOURCE, WARM.model_copy(update={"text": text}), seed=2**62 + 1), receipt


def test_it_is_an_editor_and_the_registry_makes_it() -> None:
    made = create("editors", {"class_path": "redaes_google.NanoBananaEditor", "name": "Nano-Banana"})
    assert isinstance(made, Editor)
    assert (made.name, made.endpoint) == ("Nano-Banana", "generativelanguage.googleapis.com")


@pytest.mark.parametrize("parameters", [{}, {"temperature": 0.5}, {"response_modalities": ["TEXT", "IMAGE"]}])
def test_the_edit_that_the_server_made_comes_back(address: str, parameters: dict[str, Any]) -> None:
    picture, receipt = asked(editor(address, parameters=parameters, send_seed=True))
    assert picture.tobytes() == edited(SOURCE, WARM.text, MODEL).tobytes()
    assert receipt.usage.images == 1
    assert receipt.usage.input_tokens > 0 < receipt.usage.output_tokens
    assert receipt.model == MODEL
    assert json.loads(receipt.replies[0])["finish_reason"] == "STOP"


@pytest.mark.parametrize("fault", [kind for kind in TRANSPORT if kind not in ("huge", "timeout", "empty")])
def test_a_busy_or_broken_server_is_worth_asking_again_and_is_asked_once(
    vendors: Vendors, address: str, fault: str
) -> None:
    vendors.faults = Faults([fault], share=1.0, in_a_row=1, retry_after=2.5)
    made = editor(address)
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
    assert receipt.usage.images == 1
    assert asked(made)[0].size == SOURCE.size


def test_a_blocked_question_is_final(address: str) -> None:
    with pytest.raises(Declined, match="PROHIBITED_CONTENT"):
        asked(editor(address), "Show something forbidden.")


def test_a_wrong_key_or_model_stops_the_build_and_the_key_is_not_repeated(
    vendors: Vendors, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="404 NOT_FOUND"):
        asked(editor(address, model="missing"))
    vendors.key = "another"
    with pytest.raises(UserError, match="API key not valid") as caught:
        asked(editor(address))
    assert KEY not in str(caught.value)
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UserError, match="GEMINI_API_KEY"):
        asked(editor(address))


def test_parameters_that_the_sdk_does_not_know_are_named(vendors: Vendors, address: str) -> None:
    with pytest.raises(UserError, match="parameters: temprature"):
        asked(editor(address, parameters={"temprature": 1}))
    assert not vendors.requests


@pytest.fixture
def answering() -> Iterator[Callable[[Any], str]]:
    """Starts a server that answers everything with one body."""
    servers: list[HTTPServer] = []

    def start(body: Any) -> str:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing on the terminal."""

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def stopped(reason: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"candidates": [{"finishReason": reason, "content": {"role": "model", "parts": list(parts)}}]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"candidates": []},
        {"candidates": [{}]},
        {"candidates": [{"content": {}}]},
        stopped("STOP", {"text": "I'm sorry, but I can't help with that."}),
        stopped("IMAGE_SAFETY"),
        stopped("SAFETY"),
        stopped("SOMETHING_NEW"),
        stopped("STOP", {"inlineData": {"mimeType": "image/png", "data": "aGk="}}),
        stopped("STOP", {"inlineData": {"mimeType": "image/png", "data": ""}}),
    ],
)
@pytest.mark.filterwarnings("ignore:SOMETHING_NEW is not a valid FinishReason")
def test_an_answer_without_a_picture_is_unusable(answering: Callable[[Any], str], body: dict[str, Any]) -> None:
    with pytest.raises(UnusableAnswer):
        asked(editor(answering(body)))


@pytest.mark.parametrize("reason", ["PROHIBITED_CONTENT", "BLOCKLIST", "SPII"])
def test_some_reasons_to_stop_are_final(answering: Callable[[Any], str], reason: str) -> None:
    with pytest.raises(Declined, match=reason):
        asked(editor(answering(stopped(reason))))


@pytest.mark.parametrize("body", [b"<html>", b'{"candidates": [', b"\xff\xfe"])
def test_what_is_no_json_is_asked_for_again(answering: Callable[[Any], str], body: bytes) -> None:
    with pytest.raises(Transient, match="no answer of the Gemini API"):
        asked(editor(answering(body)))


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"candidates": "x"}', b'{"candidates": [{"content": 3}]}', b"3"])
def test_other_json_is_no_fault_of_the_plugin(answering: Callable[[Any], str], body: bytes) -> None:
    with pytest.raises((Transient, UnusableAnswer)):
        asked(editor(answering(body)))


def test_words_beside_the_picture_and_thoughts_are_kept_and_the_key_in_them_is_not(
    answering: Callable[[Any], str],
) -> None:
    body = stopped("STOP", {"text": f"Here you are, {KEY}."})
    with collecting() as receipt, pytest.raises(UnusableAnswer):
        editor(answering(body)).edit(SOURCE, WARM, 0)
    assert "Here you are, ***." in receipt.replies[0]


def test_many_threads_share_one_editor_and_get_their_own_edits(address: str) -> None:
    made = editor(address)
    texts = [f"Warm it {n}." for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        edits = list(pool.map(lambda text: asked(made, text)[0], texts))
    assert [e.tobytes() for e in edits] == [edited(SOURCE, text, MODEL).tobytes() for text in texts]


def test_the_identity_is_what_an_edit_depends_on_and_holds_no_address_or_key(address: str) -> None:
    made = editor(address)
    assert made.identity("edit") == editor("http://elsewhere:1", timeout=9).identity("edit")
    assert made.identity("edit") != editor(address, parameters={"temperature": 0.1}).identity("edit")
    assert KEY not in json.dumps(made.identity("edit"))
    assert made.largest_usage("edit").images == 1
