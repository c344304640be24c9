"""What is refused, and why: RFC 9457 problem details of one line, without paths, secrets or words of the scorer."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"
CLIENT_GONE = 499  # nginx's number; nobody reads this answer, it is only counted

_TITLES = {413: "Content Too Large", 422: "Unprocessable Content", CLIENT_GONE: "Client Closed Request"}


class ImageFault(BaseModel):
    """An image that a request was refused for."""

    index: int = Field(ge=0, description="place of the image in the request, from 0")
    name: str | None = Field(description="its file name as sent; null in JSON")
    reason: str


class ProblemDetails(BaseModel):
    """Every answer that is no success (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="one line: what was wrong, and what would be right")
    images: list[ImageFault] = Field(default=[], description="the images at fault, if it was images")


class Problem(Exception):
    """A request that gets no success.

    Args:
        status: of HTTP.
        detail: one line.
        images: those at fault.
        headers: of the answer.
    """

    def __init__(
        self, status: int, detail: str, images: Sequence[ImageFault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.images, self.headers = status, detail, images, headers

    def response(self) -> JSONResponse:
        """As the client sees it."""
        title = _TITLES.get(self.status) or HTTPStatus(self.status).phrase
        body = ProblemDetails(title=title, status=self.status, detail=self.detail, images=list(self.images))
        return JSONResponse(body.model_dump(), self.status, headers=self.headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Let every failure of an application be answered with problem details."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        details = {404: "there is nothing at this path", 405: "this path does not take this method"}
        return Problem(
            error.status_code, details.get(error.status_code, error.detail), headers=error.headers
        ).response()

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return Problem(500, "a fault in the server; its log says more").response()


def describe(app: FastAPI) -> None:
    """Put the shape of problem details into an application's OpenAPI schema, for `responses` to refer to."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        described = plain()
        own = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
        described["components"]["schemas"] |= own.pop("$defs") | {"ProblemDetails": own}
        return described

    app.openapi = openapi  # type: ignore[method-assign]


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses, for an OpenAPI schema."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


_MEANINGS = {
    400: "The body is not what its content type says.",
    401: "The bearer token is missing or wrong.",
    408: "The upload took too long.",
    413: "The body is larger than the limit.",
    415: "The content type is neither multipart/form-data nor application/json.",
    422: "No image, too many, or one that cannot be used; `images` says which.",
    500: "The scorer failed on an image; `images` says which.",
    501: "The scorer cannot compare two images.",
    503: "Too much to do at present; try again after `Retry-After` seconds.",
    504: "Not answered in time.",
}
