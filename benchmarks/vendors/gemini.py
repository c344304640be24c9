"""Google's generateContent, as far as editing a picture needs it; edits and their faults are those of `images`.

The shapes are those of the Gemini API reference: pictures as `inlineData` parts, errors with a status in words, and the
time to wait after a 429 in the error's details, not in a header.
"""

import base64
import json
from typing import Any

from benchmarks.vendors import world
from benchmarks.vendors.faults import TRANSPORT
from benchmarks.vendors.images import PICTURES, Refused, check, edited, encoded, key_of, opened
from benchmarks.vendors.state import Vendors
from fastapi import APIRouter, Request
from PIL import Image
from starlette.responses import JSONResponse, Response

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


def router(vendors: Vendors) -> APIRouter:
    """The endpoint."""
    routes = APIRouter()

    @routes.post("/v1beta/models/{model}:generateContent")
    async def generate(model: str, request: Request) -> Response:
        async with vendors.answering("/v1beta/models:generateContent"):
            try:
                words, source = _read(await request.body())
                key = request.headers.get("x-goog-api-key", "")
                check(vendors, key, model)
            except Refused as refusal:
                return _refused(refusal)
            if "forbidden" in words:
                return JSONResponse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": model})
            question = key_of(model, words, source)
            fault = vendors.faults.draw(question, (*TRANSPORT, *PICTURES))
            data = encoded(edited(source, words, model), fault)
            body = json.dumps(_body(model, words, source, data)).encode()
            if fault in TRANSPORT:
                return _waiting(await vendors.faults.transport(fault, body, _error))
            if fault is None:
                vendors.answered[question] += 1
            return Response(body, media_type="application/json")

    return routes


def _read(body: bytes) -> tuple[str, Image.Image]:
    try:
        asked = json.loads(body)
        parts = asked["contents"][0]["parts"]
        words = "\n".join(part["text"] for part in parts if "text" in part)
        (picture,) = (part["inlineData"] for part in parts if "inlineData" in part)
        wanted = asked["generationConfig"]["responseModalities"]
        # The SDK writes bytes with the alphabet for addresses.
        data = base64.urlsafe_b64decode(picture["data"].replace("+", "-").replace("/", "_"))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Refused(400, f"Invalid JSON payload received: {error!r}") from error
    # JSON for protocol buffers takes a field by either of its names.
    if "IMAGE" not in wanted or picture.get("mimeType", picture.get("mime_type")) not in ("image/png", "image/jpeg"):
        raise Refused(400, "This model answers with an image; send a PNG or a JPEG.")
    return words, opened(data)


def _body(model: str, words: str, source: Image.Image, data: bytes) -> dict[str, Any]:
    read, written = world.tokens(words, [source.size]), world.tokens("", [source.size])
    part = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}}
    return {
        "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": read,
            "candidatesTokenCount": written,
            "totalTokenCount": read + written,
        },
        "modelVersion": model,
    }


def _error(status: int, message: str, details: list[dict[str, Any]] | None = None) -> Response:
    error = {"code": status, "message": message, "status": STATUSES.get(status, "UNKNOWN"), "details": details or []}
    return JSONResponse({"error": error}, status)


def _refused(refusal: Refused) -> Response:
    """A wrong key is an invalid argument here."""
    if refusal.status != 401:
        return _error(refusal.status, refusal.message)
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    return _error(400, f"API key not valid. Please pass a valid API key. ({refusal.message})", [reason])


def _waiting(response: Response) -> Response:
    """The time to wait, moved from the header to where this vendor has it."""
    seconds = response.headers.get("retry-after")
    if seconds is None:
        return response
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds}s"}
    return _error(429, "You exceeded your current quota.", [wait])
