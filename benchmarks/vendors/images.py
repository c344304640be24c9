"""Images endpoints as OpenAI has them, and as Seedream's compatible one has them: pictures edited on request.

An edit is a pure function of the source's pixels, the instruction and the model: a mild change of light and colour.
What can befall an edit beside the faults of any answer is listed in PICTURES.
"""

import base64
import hashlib
import io
import json
import struct
import zlib
from collections import OrderedDict
from typing import Any

from benchmarks.vendors import world
from benchmarks.vendors.faults import TRANSPORT
from benchmarks.vendors.state import Vendors
from fastapi import APIRouter, Request
from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

# What can befall a picture that a model made.
PICTURES = ("wrong_size", "wrong_format", "corrupt_image", "truncated_image", "bomb")
KEPT_PICTURES = 256


class Refused(Exception):
    """A request that the vendor answers with an error."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def edited(source: Image.Image, instruction: str, model: str) -> Image.Image:
    """The edit: each channel gets a gain and an offset, so that it can be seen and the picture is still itself.

    Args:
        source: RGB.
        instruction: and
        model: decide which.
    """
    pixels = world.pixels_of(source)

    def amount(what: str, channel: int) -> float:
        return world.chance(what, pixels, instruction, model, channel) - 0.5

    table = []
    for channel in range(3):
        gain, offset = 1 + 0.4 * amount("gain", channel), 30 * amount("offset", channel)
        table += [min(255, max(0, round(level * gain + offset))) for level in range(256)]
    return source.convert("RGB").point(table)


def encoded(picture: Image.Image, fault: str | None) -> bytes:
    """A picture as a PNG, or what is sent in its place."""
    width, height = picture.size
    if fault == "bomb":
        return bomb(30_000, 30_000)
    if fault == "wrong_size":
        picture = picture.resize((2 * width, height))
    data = io.BytesIO()
    picture.save(data, "GIF" if fault == "wrong_format" else "PNG", compress_level=1)
    whole = data.getvalue()
    if fault == "truncated_image":
        return whole[: len(whole) // 2]
    if fault == "corrupt_image":
        middle = len(whole) // 2
        return whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 64]) + whole[middle + 64 :]
    return whole


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that says it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def opened(data: bytes) -> Image.Image:
    """A picture that came with a request."""
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise Refused(400, "Invalid image file or mode for image.", "invalid_image_file") from error


def key_of(model: str, instruction: str, source: Image.Image) -> str:
    """Equal for equal questions."""
    return hashlib.sha256("\0".join((model, instruction, world.pixels_of(source))).encode()).hexdigest()[:24]


def check(vendors: Vendors, key: str, model: str) -> None:
    """The key and the model are such as the vendor knows."""
    if vendors.key and key != vendors.key:
        raise Refused(401, f"Incorrect API key provided: {key}.", "invalid_api_key")
    if model.startswith("missing"):
        raise Refused(404, f"The model '{model}' does not exist.", "model_not_found")


def router(vendors: Vendors) -> APIRouter:
    """The endpoints."""
    routes = APIRouter()
    pictures: OrderedDict[str, bytes] = OrderedDict()

    async def answer(request: Request, path: str, read: Any) -> Response:
        async with vendors.answering(path):
            try:
                fields, source = await read(request)
                key = request.headers.get("authorization", "").removeprefix("Bearer ")
                check(vendors, key, fields["model"])
                if "forbidden" in fields["prompt"]:
                    raise Refused(400, "Your request was rejected by the safety system.", "moderation_blocked")
            except Refused as refusal:
                return _error(refusal.status, refusal.message, refusal.code)
            question = key_of(fields["model"], fields["prompt"], source)
            fault = vendors.faults.draw(question, (*TRANSPORT, *PICTURES))
            data = encoded(_sized(edited(source, fields["prompt"], fields["model"]), fields.get("size")), fault)
            body = json.dumps(_body(request, fields, source, data, pictures)).encode()
            if fault in TRANSPORT:
                return await vendors.faults.transport(fault, body, _error)
            if fault is None:
                vendors.answered[question] += 1
            return Response(body, media_type="application/json")

    @routes.post("/v1/images/edits")
    async def edits(request: Request) -> Response:
        return await answer(request, "/v1/images/edits", _read_form)

    @routes.post("/v1/images/generations")
    async def generations(request: Request) -> Response:
        return await answer(request, "/v1/images/generations", _read_json)

    @routes.get("/pictures/{name}")
    async def picture(name: str) -> Response:
        return Response(pictures[name], media_type="image/png") if name in pictures else Response(status_code=404)

    return routes


async def _read_form(request: Request) -> tuple[dict[str, str], Image.Image]:
    form = await request.form()
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    upload = form.get("image")
    if not isinstance(upload, UploadFile) or not fields.get("prompt") or not fields.get("model"):
        raise Refused(400, "Missing required parameter: 'image', 'prompt' or 'model'.", "missing_required_parameter")
    return fields, opened(await upload.read())


async def _read_json(request: Request) -> tuple[dict[str, str], Image.Image]:
    try:
        fields = json.loads(await request.body())
        head, _, data = str(fields["image"]).partition(";base64,")
        known = head.removeprefix("data:") in ("image/png", "image/jpeg") and fields["prompt"] and fields["model"]
        picture = base64.b64decode(data, validate=True)
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(400, "The request's image, prompt or model cannot be read.", "InvalidParameter") from error
    if not known:
        raise Refused(400, "The image is no base64 data URL of a PNG or JPEG.", "InvalidParameter")
    return fields, opened(picture)


def _sized(picture: Image.Image, size: str | None) -> Image.Image:
    width, _, height = (size or "").partition("x")
    return picture.resize((int(width), int(height))) if width.isdigit() and height.isdigit() else picture


def _body(
    request: Request, fields: dict[str, str], source: Image.Image, data: bytes, pictures: OrderedDict[str, bytes]
) -> dict[str, Any]:
    read, written = world.tokens(fields["prompt"], [source.size]), world.tokens("", [source.size])
    first = {"b64_json": base64.b64encode(data).decode()}
    if fields.get("response_format") == "url":
        name = hashlib.sha256(data).hexdigest()
        pictures[name] = data
        if len(pictures) > KEPT_PICTURES:
            pictures.popitem(last=False)
        first = {"url": f"{request.base_url}pictures/{name}"}
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {"created": 0, "model": fields["model"], "data": [first], "usage": usage}


def _error(status: int, message: str, code: str | None = None) -> Response:
    kind = "invalid_request_error" if status < 429 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)
