"""From a request's body to decoded images: `multipart/form-data` or JSON, within limits, nothing written to disk."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from redaes.decoding import DecodeError, decode_image
from redaes.inference.listing import printable
from redaes.serve.problems import ImageFault, Problem
from redaes.serve.schema import FIELD, ImagesInJson
from redaes.serve.settings import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What is decoded, by Pillow's names; it reads others too, some by starting a program (EPS)."""

_LONGEST_NAME = 100
_DATA_URL = re.compile(r"^data:[\w.+/-]*;base64,")


@dataclass(frozen=True)
class Upload:
    """One image as it was sent.

    Attributes:
        name: its file name, printable and short; None in JSON.
        data: encoded, of any content.
    """

    name: str | None
    data: bytes


class Uploads:
    """Reads and decodes what clients send.

    Args:
        settings: the limits.
        view_side: longer side of what is decoded, at most, in pixels.
    """

    def __init__(self, settings: Settings, *, view_side: int) -> None:
        self.settings = settings
        self.view_side = view_side
        self.threads = ThreadPoolExecutor(settings.decode_threads, "redaes-decode")
        self._held = 0

    @contextmanager
    def body(self, request: Request) -> Iterator["Body"]:
        """A request's body, whose bytes are counted as held while the block runs."""
        body = Body(self, request)
        try:
            yield body
        finally:
            self._held -= body.size

    def hold(self, size: int) -> None:
        """Count bytes of a body as held.

        Raises:
            Problem: 503, too many are.
        """
        if self._held + size > 4 * self.settings.max_body:
            raise Problem(503, "too many bytes are being uploaded; try again in 1 s", headers={"Retry-After": "1"})
        self._held += size

    async def decode(self, uploads: list[Upload]) -> list[Image.Image]:
        """Decode a request's images, as many at a time as there are threads.

        Raises:
            Problem: 422, naming each that cannot be used.
        """
        loop = asyncio.get_running_loop()
        turns = asyncio.Semaphore(self.settings.decode_threads)  # so that others' images come between those of one

        async def one(upload: Upload) -> Image.Image | str:
            async with turns:
                return await loop.run_in_executor(self.threads, self._decode, upload.data)

        images: list[Image.Image] = []
        faults = []
        for index, image in enumerate(await asyncio.gather(*map(one, uploads))):
            if isinstance(image, str):
                faults.append(ImageFault(index=index, name=uploads[index].name, reason=image))
            else:
                images.append(image)
        if faults:
            raise unusable(faults)
        return images

    def _decode(self, data: bytes) -> Image.Image | str:
        if not data:
            return "is empty (0 bytes)"
        try:
            pixels = int(self.settings.max_megapixels * 1e6)
            return decode_image(data, max_pixels=pixels, max_side=self.view_side, formats=FORMATS)
        except DecodeError as error:
            return str(error)


def unusable(faults: list[ImageFault]) -> Problem:
    """The answer to a request with images that cannot be used."""
    first = faults[0]
    name = f" ({first.name})" if first.name else ""
    more = f", and {len(faults) - 1} more cannot be used" if len(faults) > 1 else ""
    return Problem(422, f"image {first.index}{name} {first.reason}{more}", faults)


class Body:
    """One request's body.

    Args:
        uploads: to count its bytes in.
        request: not read yet.
    """

    def __init__(self, uploads: Uploads, request: Request) -> None:
        self.uploads = uploads
        self.request = request
        self.size = 0

    async def images(self) -> list[Upload]:
        """Read it whole.

        Raises:
            Problem: of a kind that is not read, too large, malformed, or with too many images or none.
        """
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        length = self.request.headers.get("content-length", "")
        if length.isdecimal():
            self._refuse_above_limit(int(length))
        if kind == "multipart/form-data":
            found = await self._parts()
        elif kind == "application/json":
            found = await self._json()
        else:
            raise Problem(415, "send multipart/form-data or application/json")
        if not found:
            raise Problem(422, f"there is no image; send at least one as {FIELD!r}")
        return found

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.request.stream()) as stream:
            async for chunk in stream:
                self._refuse_above_limit(self.size + len(chunk))
                self.uploads.hold(len(chunk))
                self.size += len(chunk)
                yield chunk

    def _refuse_above_limit(self, size: int) -> None:
        if size > self.uploads.settings.max_body:
            raise Problem(413, f"the body is larger than the limit of {self.uploads.settings.max_body_mb:g} MiB")

    async def _parts(self) -> list[Upload]:
        limit = self.uploads.settings.max_images
        async with aclosing(self._chunks()) as chunks:
            parser = MultiPartParser(self.request.headers, chunks, max_files=limit, max_fields=0)
            parser.spool_max_size = self.uploads.settings.max_body + 1  # photographs stay out of temporary files
            try:
                form = await parser.parse()
            except MultiPartException as error:
                raise _malformed_form(error.message, limit) from error
            except UnicodeError as error:  # a charset that makes no text
                raise _malformed_form("its charset cannot be used", limit) from error
        found = []
        for field, part in form.multi_items():
            assert isinstance(part, UploadFile)
            if field != FIELD:
                raise Problem(422, f"send images as {FIELD!r}; there is no field {_short(field)!r}")
            found.append(Upload(_short(part.filename or "") or None, await part.read()))
        await form.close()
        return found

    async def _json(self) -> list[Upload]:
        text = b"".join([chunk async for chunk in self._chunks()])
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.uploads.threads, _images_in_json, text, self.uploads.settings.max_images)


def _images_in_json(text: bytes, limit: int) -> list[Upload]:
    try:
        sent = ImagesInJson.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(400, "the body is not JSON") from error
        place = ".".join(map(str, first["loc"])) or "the body"
        raise Problem(422, f"{_short(place)}: {first['msg']}") from error
    if len(sent.images) > limit:
        raise _too_many(limit)
    found, faults = [], []
    for index, word in enumerate(sent.images):
        try:
            found.append(Upload(None, base64.b64decode(_DATA_URL.sub("", word, count=1), validate=True)))
        except (binascii.Error, ValueError):
            reason = "is not base64; send the image itself, URLs and paths are never opened"
            faults.append(ImageFault(index=index, name=None, reason=reason))
    if faults:
        raise unusable(faults)
    return found


def _malformed_form(message: str, limit: int) -> Problem:
    if message.startswith("Too many files"):
        return _too_many(limit)
    if message.startswith("Too many fields"):
        return Problem(422, f"send images as files of the field {FIELD!r}, and nothing else")
    return Problem(400, f"the form cannot be read: {message}")


def _too_many(limit: int) -> Problem:
    return Problem(422, f"there are too many images; the limit of a request is {limit}")


def _short(text: str) -> str:
    return printable(text)[:_LONGEST_NAME]
