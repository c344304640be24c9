"""OpenAI's chat completions and Anthropic's messages, as far as questions with images need them.

The shapes of requests, answers and errors are those of the vendors' API references: a request that the vendor would
refuse is refused here with the same status and body, so that what a client does about it is put to the test.
"""

import base64
import binascii
import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.vendors import world
from benchmarks.vendors.faults import TRANSPORT, WORDS, spoil
from benchmarks.vendors.state import Vendors
from fastapi import APIRouter, Request
from PIL import Image, UnidentifiedImageError
from starlette.responses import JSONResponse, Response

_PNG_AND_JPEG = ("image/png", "image/jpeg")


class Refused(Exception):
    """A request that the vendor answers with an error."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


class Picture(NamedTuple):
    """An image that came: what `pixels_of` says of it, and its width and height."""

    pixels: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Said:
    """What a model said.

    Attributes:
        words: of the answer.
        refused: it is a refusal.
        read: tokens.
        written: tokens.
    """

    words: str
    refused: bool
    read: int
    written: int


def router(vendors: Vendors) -> APIRouter:
    """The endpoints."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(request: Request) -> Response:
        listed = [{"id": "loopback", "object": "model", "created": 0, "owned_by": "redaes"}]
        return JSONResponse({"object": "list", "data": listed})

    @routes.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        async with vendors.answering("/v1/chat/completions"):
            try:
                _check_key(vendors, _bearer(request))
                body = _json(await request.body())
                _check_openai(body, vendors)
                question, sizes = _question(body, _openai_part)
            except Refused as refusal:
                said = refusal.message + (f" Your key: {_bearer(request)}" if vendors.echo else "")
                return _openai_error(refusal.status, said, refusal.param, refusal.code)
            return await _respond(vendors, question, sizes, _openai_answer, _openai_error)

    @routes.post("/v1/messages")
    async def messages(request: Request) -> Response:
        async with vendors.answering("/v1/messages"):
            try:
                _check_key(vendors, request.headers.get("x-api-key") or _bearer(request))
                body = _json(await request.body())
                _check_anthropic(body, request.headers.get("anthropic-version"))
                question, sizes = _question(body, _anthropic_part)
            except Refused as refusal:
                said = refusal.message + (f" Your key: {_bearer(request)}" if vendors.echo else "")
                return _anthropic_error(refusal.status, said)
            return await _respond(vendors, question, sizes, _anthropic_answer, _anthropic_error)

    return routes


async def _respond(
    vendors: Vendors, question: world.Question, sizes: list[tuple[int, int]], render: Any, error: Any
) -> Response:
    """The answer, or what became of it."""
    try:
        role = question.role
        right = world.answer(question)
        if role in vendors.answers:
            right = {"reference": question.reference, **vendors.answers[role]}
    except ValueError as problem:
        return error(400, str(problem))
    fault = vendors.faults.draw(question.key, (*TRANSPORT, *WORDS))
    # The same question to another model has the same reference.
    astray = next((a for a in vendors.previous[role] if a["reference"] != question.reference), None)
    words, refused = spoil(fault, right, astray) if fault in WORDS else (json.dumps(right), False)
    said = Said(words, refused, world.tokens(question.words, sizes), world.tokens(words))
    body = json.dumps(render(question.model, said)).encode()
    if fault in TRANSPORT:
        return await vendors.faults.transport(fault, body, error)
    vendors.previous[role].append(right)
    if fault is None or fault == "number_as_text":
        vendors.answered[question.key] += 1
    return Response(body, media_type="application/json")


def _json(body: bytes) -> dict[str, Any]:
    try:
        read = json.loads(body)
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise Refused(400, "We could not parse the JSON body of your request.")
    return read


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _check_key(vendors: Vendors, key: str) -> None:
    if vendors.key and key != vendors.key:
        raise Refused(401, f"Incorrect API key provided: {key}.", code="invalid_api_key")


def _question(body: dict[str, Any], part: Any) -> tuple[world.Question, list[tuple[int, int]]]:
    """The first turn is the question; what follows is its repair."""
    if str(body["model"]).startswith("missing"):
        raise Refused(404, f"The model '{body['model']}' does not exist.", code="model_not_found")
    content = body["messages"][0].get("content")
    parts = [part(p) for p in ([{"type": "text", "text": content}] if isinstance(content, str) else content)]
    images = [p for p in parts if not isinstance(p, str)]
    words = "\n".join(p for p in parts if isinstance(p, str))
    return world.Question(body["model"], words, tuple(i.pixels for i in images)), [i.size for i in images]


_seen: dict[bytes, Picture] = {}


def _picture(data: str) -> Picture:
    """What is to be known of an image; each is decoded once."""
    digest = hashlib.sha256(data.encode()).digest()
    if digest not in _seen:
        try:
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            _seen[digest] = Picture(world.pixels_of(image), image.size)
        except (binascii.Error, UnidentifiedImageError, OSError) as error:
            raise Refused(400, "You uploaded an unsupported image.", "messages", "invalid_image_format") from error
    return _seen[digest]


def _check_openai(body: dict[str, Any], vendors: Vendors) -> None:
    for name in ("model", "messages"):
        if not body.get(name):
            raise Refused(400, f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if str(body["model"]).rpartition("/")[2].startswith(vendors.thinking):
        if "max_tokens" in body:
            raise Refused(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
                "instead.",
                "max_tokens",
                "unsupported_parameter",
            )
        if body.get("temperature", 1) != 1:
            raise Refused(
                400,
                "Unsupported value: 'temperature' does not support that value with this model. Only the default (1) "
                "value is supported.",
                "temperature",
                "unsupported_value",
            )
    kind = (body.get("response_format") or {}).get("type", "text")
    taken = {"schema": ("text", "json_object", "json_schema"), "json": ("text", "json_object"), "none": ("text",)}
    if kind not in taken[vendors.structured]:
        raise Refused(
            400,
            f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this model.",
            "response_format",
            "unsupported_parameter",
        )
    if kind == "json_schema":
        schema = body["response_format"].get("json_schema") or {}
        if not schema.get("name") or not isinstance(schema.get("schema"), dict):
            raise Refused(400, "Missing required parameter: 'response_format.json_schema.name'.", "response_format")


def _openai_part(part: dict[str, Any]) -> str | Picture:
    if part.get("type") == "text":
        return str(part["text"])
    url = str((part.get("image_url") or {}).get("url", ""))
    head, _, data = url.partition(";base64,")
    if part.get("type") != "image_url" or head.removeprefix("data:") not in _PNG_AND_JPEG:
        raise Refused(400, "Invalid image: expected a base64 data URL of a PNG or JPEG.", "messages", "invalid_image")
    return _picture(data)


def _openai_answer(model: str, said: Said) -> dict[str, Any]:
    message = {"role": "assistant", "content": said.words, "refusal": None}
    if said.refused:
        message |= {"content": None, "refusal": said.words}
    return {
        "id": "chatcmpl-loopback",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": said.read,
            "completion_tokens": said.written,
            "total_tokens": said.read + said.written,
        },
    }


def _openai_error(status: int, message: str, param: str | None = None, code: str | None = None) -> Response:
    kind = "invalid_request_error" if status < 429 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def _check_anthropic(body: dict[str, Any], version: str | None) -> None:
    if not version:
        raise Refused(400, "anthropic-version: header is required")
    for name in ("model", "messages", "max_tokens"):
        if not body.get(name):
            raise Refused(400, f"{name}: Field required")
    form = (body.get("output_config") or {}).get("format")
    if form is not None and (form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict)):
        raise Refused(400, "output_config.format: Input should be a JSON schema")
    if form is not None and "-3-" in str(body["model"]):
        raise Refused(400, f"output_config.format: '{body['model']}' does not support structured outputs.")


def _anthropic_part(part: dict[str, Any]) -> str | Picture:
    if part.get("type") == "text":
        return str(part["text"])
    source = part.get("source") or {}
    kinds = (part.get("type"), source.get("type"))
    if kinds != ("image", "base64") or source.get("media_type") not in _PNG_AND_JPEG:
        raise Refused(400, "messages.0.content: Input should be a text or an image of a supported type")
    return _picture(str(source.get("data")))


def _anthropic_answer(model: str, said: Said) -> dict[str, Any]:
    return {
        "id": "msg_loopback",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [] if said.refused else [{"type": "text", "text": said.words}],
        "stop_reason": "refusal" if said.refused else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": said.read, "output_tokens": said.written},
    }


def _anthropic_error(status: int, message: str, *_: Any) -> Response:
    names = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}
    kind = names.get(status, "invalid_request_error" if status < 500 else "api_error")
    return JSONResponse({"type": "error", "error": {"type": kind, "message": message}}, status)
