"""What is waited for, what is read, and what an error's words are."""

import gzip
import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import openai
import pytest

from redaes.calls import Declined, Transient
from redaes.chat.http import AnswerTooLarge, BoundedClient, failure, key_from
from redaes.errors import UserError

STATUSES = {
    UserError: (307, 401, 402, 403, 404),
    Declined: (400, 413, 422),
    Transient: (408, 409, 429, 500, 504, 529),
}


def status_error(status, body=None, **headers):
    request = httpx2.Request("POST", "http://host/v1")
    response = httpx2.Response(status, headers=headers, request=request)
    return openai.APIStatusError(f"Error code: {status}", response=response, body=body)


def meaning(error):
    return failure(error, "host", "m", "sk-secret")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0.5", 0.5), ("-3", 0), ("99999", 3600), ("nan", None), ("inf", None), ("soon", None), ("", None)],
)
def test_the_time_to_wait_is_read_sensibly(value, seconds):
    assert meaning(status_error(429, **{"retry-after": value})).retry_after == seconds


def test_the_time_to_wait_may_be_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < meaning(status_error(503, **{"retry-after": later})).retry_after <= 30


@pytest.mark.parametrize(
    ("status", "kind"),
    [(status, kind) for kind, statuses in STATUSES.items() for status in statuses],
)
def test_a_status_says_what_to_do(status, kind):
    assert type(meaning(status_error(status))) is kind


def test_an_empty_account_is_not_waited_for():
    error = status_error(429, {"message": "You exceeded your current quota.", "code": "insufficient_quota"})
    assert isinstance(meaning(error), UserError)


@pytest.mark.parametrize(
    "body",
    [
        {"message": "too\nlong sk-secret", "code": None},
        {"type": "error", "error": {"type": "x", "message": "too long sk-secret"}},
        {"detail": "too long sk-secret"},
        {"error": "too long sk-secret"},
    ],
)
def test_a_servers_words_are_shown_in_one_line_without_the_key(body):
    assert str(meaning(status_error(400, body))) == "host answers 400: too long ***"


@pytest.mark.parametrize("length", range(262, 302, 4))
def test_no_part_of_an_escaped_key_is_left_where_a_long_message_is_cut(length, monkeypatch):
    monkeypatch.setenv("CUT_KEY", 'planted"key/with+odd=characters')
    key = key_from("CUT_KEY")
    said = str(failure(status_error(400, {"message": "x" * length + json.dumps(key)}), "host", "m", key))
    assert "planted" not in said


@contextmanager
def serving(send):
    """The address of a server that answers with what `send` does to its handler."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            send(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_body_is_bounded_as_it_is_unpacked():
    bomb = gzip.compress(bytes(64 * 2**20))

    def send(handler):
        handler.send_header("content-encoding", "gzip")
        handler.send_header("content-length", str(len(bomb)))
        handler.end_headers()
        handler.wfile.write(bomb)

    with serving(send) as address:
        with BoundedClient(10.0, 2**20) as client, pytest.raises(AnswerTooLarge, match="1048576"):
            client.get(address)
        with BoundedClient(10.0, 2**27) as client:
            assert len(client.get(address).content) == 64 * 2**20


def test_a_body_that_drips_is_not_waited_for():
    """Each byte comes in time; the whole would take ten seconds."""

    def send(handler):
        handler.send_header("content-length", "200")
        handler.end_headers()
        for _ in range(200):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.05)

    with serving(send) as address, BoundedClient(0.5, 2**20) as client:
        start = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match="too long"):
            client.get(address)
        assert time.monotonic() - start < 5
