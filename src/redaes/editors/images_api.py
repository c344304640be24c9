"""Editors behind an OpenAI-compatible images endpoint: gpt-image, Seedream-4.5, open models behind a server.

In: a picture and an instruction, sent through the `openai` SDK. Out: the edited picture at the source's size. Two
routes are spoken: `edits` (multipart, as OpenAI has it) and `generations` with the picture as an `image` field beside
the prompt, as Seedream's compatible endpoint has it. The picture comes back in base64, or as an address that is
fetched if the configuration allows its host.

Retries are the engine's: the SDK's own are off. A far side promises no pixels for a seed; that the same question gives
the same answer is the ledger's doing.
"""

import base64
import binascii
import json
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from redaes.calls import Transient, UnusableAnswer, Usage, note
from redaes.editors.answers import MAX_ANSWER_BYTES, png, read_answer, same_aspect
from redaes.errors import UserError, nearest
from redaes.registry import require

if TYPE_CHECKING:
    import openai
    from PIL.Image import Image

    from redaes.records import Instruction

ROUTES = ("edits", "generations")
PAUSES = (0.0, 1.0, 4.0)
"""Seconds before each try to fetch a picture [O]."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ImagesApiEditor:
    """`images_api`: asks an OpenAI-compatible images endpoint for every edit.

    Args:
        model: as the endpoint names it.
        base_url: of the endpoint, with its version; `$NAME` takes it from an environment variable, and keeps it out of
            the dataset.
        key_variable: of the environment, with the key in it; empty: the endpoint asks for none.
        endpoint: name that limits are set for; None: the address's host and port.
        route: `edits` sends a form with the picture as a file; `generations` sends JSON with it as a data address.
        size: asked for: `WIDTHxHEIGHT` in pixels, or a word of the endpoint such as `auto` or `2K`; None: not sent.
        quality: a word of the endpoint; None: not sent.
        parameters: more that is sent with each request as it stands, such as `{watermark: false}`.
        send_seed: send the seed, for endpoints that have such a field.
        url_hosts: hosts that a picture may be fetched from, where the endpoint answers with an address; `.example.com`
            stands for every host below it.
        timeout: seconds an answer may take.
        largest_tokens: at most so many are billed for one edit, read and written each; for the budget alone.
        name: under which edits are recorded; None: the model.

    Raises:
        UserError: an address or a route that cannot be.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        key_variable: str = "OPENAI_API_KEY",
        endpoint: str | None = None,
        route: str = "edits",
        size: str | None = None,
        quality: str | None = None,
        parameters: dict[str, Any] | None = None,
        send_seed: bool = False,
        url_hosts: Sequence[str] = (),
        timeout: float = 300.0,
        largest_tokens: int = 8192,
        name: str | None = None,
    ) -> None:
        require("openai")
        require("httpx2")
        from redaes.chat.http import endpoint_of

        if route not in ROUTES:
            raise UserError(f"unknown route {route!r} of an images endpoint ({nearest(route, ROUTES)})")
        self.name = name or model
        self.model = model
        self.base_url = base_url
        self.endpoint = endpoint or endpoint_of(base_url)
        self.key_variable = key_variable
        self.route = route
        self.size = size
        self.quality = quality
        self.parameters = dict(parameters or {})
        self.send_seed = send_seed
        self.url_hosts = tuple(url_hosts)
        self.timeout = timeout
        self.largest_tokens = largest_tokens
        self._client: openai.OpenAI | None = None
        self._opening = threading.Lock()

    def identity(self, role: str) -> dict[str, Any]:
        """What an edit depends on beside picture, instruction and seed."""
        asked = {"model": self.model, "route": self.route, "size": self.size, "quality": self.quality}
        return {**asked, "parameters": self.parameters, "send_seed": self.send_seed}

    def largest_usage(self, role: str) -> Usage:
        """At most this is paid for one edit."""
        return Usage(self.largest_tokens, self.largest_tokens, 1)

    def edit(self, image: "Image", instruction: "Instruction", seed: int) -> "Image":
        """Ask for an edit.

        Args:
            image: RGB.
            instruction: its text is the prompt.
            seed: sent only with `send_seed`, reduced to 31 bits.

        Returns:
            RGB at the source's size.

        Raises:
            Transient: the endpoint is busy, broken or unreachable.
            UnusableAnswer: it answered without a picture that can be taken for an edit of this one.
            Declined: it will not make this edit.
            UserError: no key, no such model, an exhausted account, or a fixed `size` of another aspect.
        """
        self._refuse_another_aspect(image)
        body = self._ask(image, instruction.text, seed)
        return read_answer(self._picture(body), image)

    def _refuse_another_aspect(self, image: "Image") -> None:
        """A fixed size would crop or stretch the picture; that is known before anything is paid."""
        width, _, height = (self.size or "").partition("x")
        if width.isdigit() and height.isdigit() and not same_aspect((int(width), int(height)), image.size):
            raise UserError(
                f"editor {self.name!r} asks for {self.size} pixels, but a source has {image.width} x {image.height}; "
                "set a size of the same aspect"
            )

    def _ask(self, image: "Image", prompt: str, seed: int) -> dict[str, Any]:
        """The body of the answer; it is noted before anything is made of it."""
        import httpx2
        import openai

        from redaes.chat.http import AnswerTooLarge, failure, key_from

        key = key_from(self.key_variable)
        try:
            text = self._request(self._opened(key), image, prompt, seed).text
        except (openai.APIError, httpx2.HTTPError, AnswerTooLarge) as error:
            raise failure(error, self.endpoint, self.model, key) from None
        body = _read_body(text)
        said, usage = _billed(body, text)
        named = str((body or {}).get("model") or self.model)
        note(said.replace(key, "***") if key else said, model=named, **usage._asdict())
        if body is None:
            raise Transient(f"{self.endpoint} answers with something that is not a JSON object: {said[:60]!r}")
        return body

    def _opened(self, key: str) -> "openai.OpenAI":
        import openai

        from redaes.chat.http import BoundedClient, address_from

        with self._opening:
            if self._client is None:
                self._client = openai.OpenAI(
                    api_key=key or "none",
                    base_url=address_from(self.base_url),
                    max_retries=0,
                    http_client=BoundedClient(self.timeout, MAX_ANSWER_BYTES),
                )
            return self._client

    def _request(self, client: "openai.OpenAI", image: "Image", prompt: str, seed: int) -> Any:
        """The raw response."""
        chosen = {"size": self.size, "quality": self.quality}
        asked: Any = {"model": self.model, "prompt": prompt, **{k: v for k, v in chosen.items() if v is not None}}
        extra = {**self.parameters, **({"seed": seed % 2**31} if self.send_seed else {})}
        images = client.images.with_raw_response
        if self.route == "edits":
            return images.edit(image=("source.png", png(image), "image/png"), extra_body=extra, **asked)
        address = "data:image/png;base64," + base64.b64encode(png(image)).decode()
        return images.generate(extra_body={"image": address, **extra}, **asked)

    def _picture(self, body: dict[str, Any]) -> bytes:
        data = body.get("data")
        first = data[0] if isinstance(data, list) and data else None
        if not isinstance(first, dict):
            raise UnusableAnswer("it answered without a picture")
        if isinstance(first.get("b64_json"), str):
            try:
                return base64.b64decode(first["b64_json"], validate=True)
            except (binascii.Error, ValueError) as error:
                raise UnusableAnswer("the picture it sent is not in base64") from error
        if isinstance(first.get("url"), str):
            return fetch(first["url"], self.url_hosts, self.timeout)
        raise UnusableAnswer("it answered without a picture")


def fetch(url: str, hosts: Iterable[str], timeout: float) -> bytes:
    """A picture behind an address that a far side named; nothing is followed from there.

    Args:
        url: as it came.
        hosts: that may be asked; `.example.com` stands for every host below it. Only https, or a host of this machine.
        timeout: seconds it may take.

    Raises:
        UserError: a host that is not allowed.
        Transient, UnusableAnswer: it cannot be had, or is too large.
    """
    import httpx2

    from redaes.chat.http import AnswerTooLarge, BoundedClient, failure

    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise UnusableAnswer("the address of the picture cannot be read") from error
    secure = parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)
    if not secure or not any(host == h or (h.startswith(".") and host.endswith(h)) for h in hosts):
        raise UserError(
            f"the picture is at {parts.scheme}://{host}, which is not allowed; ask for base64 (parameters: "
            "{response_format: b64_json}), or name a host with https in url_hosts"
        )
    for pause in PAUSES:
        # The picture is paid for: it is worth more than one try.
        time.sleep(pause)
        try:
            with BoundedClient(timeout, MAX_ANSWER_BYTES) as client:
                response = client.get(url)
        except (httpx2.HTTPError, httpx2.InvalidURL, AnswerTooLarge) as error:
            failed: Exception = failure(error, host, "", "")
        else:
            if response.status_code == httpx2.codes.OK:
                return response.content
            failed = Transient(f"{host} answers {response.status_code} for the picture")
        if not isinstance(failed, Transient):
            break
    raise failed


def _read_body(text: str) -> dict[str, Any] | None:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _billed(body: dict[str, Any] | None, text: str) -> tuple[str, Usage]:
    """What is kept of an answer beside its pictures, and what it costs."""
    if body is None:
        return text[:1000], Usage()
    listed, usage = body.get("data"), body.get("usage")
    pictures = listed if isinstance(listed, list) else []
    said = [{k: v for k, v in p.items() if k not in ("b64_json", "url")} for p in pictures if isinstance(p, dict)]
    counts = usage if isinstance(usage, dict) else {}
    read, written = (counts.get(f"{way}_tokens") for way in ("input", "output"))
    return json.dumps({**body, "data": said}, ensure_ascii=False), Usage(
        read if isinstance(read, int) else 0, written if isinstance(written, int) else 0, len(pictures)
    )
