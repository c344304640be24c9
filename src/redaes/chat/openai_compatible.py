"""Chat completions: OpenAI, and every server that speaks its protocol (vLLM, SGLang, `transformers serve`, ...).

The answer's form is asked for by JSON schema, else as any JSON object, else in words alone, whatever the server takes.
Models that think refuse a temperature and call the limit `max_completion_tokens`; OpenAI's are known by name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError

from redaes.calls import Transient
from redaes.chat import Turn
from redaes.chat.pictures import PictureFormat
from redaes.chat.remote import RemoteChat, Reply
from redaes.errors import UserError

_THINKS = re.compile(r"(.*/)?(gpt-5(?!.*chat)|o\d)")
_FORM_WORDS = ("response_format", "json_schema", "json_object", "guided", "structured output")
_WEAKER: dict[str, Literal["schema", "json", "none"]] = {"schema": "json", "json": "none"}


@dataclass(frozen=True)
class OpenAIDialect:
    """What a server takes of a request.

    Attributes:
        structured: how the answer's form is asked for.
        temperature: whether it is sent.
        limit: what the limit of tokens is called.
        renamed: the limit has had the other name already.
    """

    structured: Literal["schema", "json", "none"] = "schema"
    temperature: bool = True
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    renamed: bool = False

    def without(self, refused: str) -> Self | None:
        """The next weaker dialect; the parameter that the refusal names first is the one that goes."""
        words = refused.casefold()
        places = {
            "form": min((words.find(w) for w in _FORM_WORDS if w in words), default=-1),
            "temperature": words.find("temperature") if self.temperature else -1,
            "limit": words.find(self.limit) if not self.renamed else -1,
        }
        if self.structured == "none":
            places["form"] = -1
        named = min((name for name, place in places.items() if place >= 0), key=lambda n: places[n], default=None)
        if named == "form":
            return replace(self, structured=_WEAKER[self.structured])
        if named == "temperature":
            return replace(self, temperature=False)
        if named == "limit":
            other: Literal["max_tokens", "max_completion_tokens"] = (
                "max_tokens" if self.limit == "max_completion_tokens" else "max_completion_tokens"
            )
            return replace(self, limit=other, renamed=True)
        return None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    """As much of a chat completion as is read here, so that servers may differ in the rest."""

    model: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None


class OpenAICompatible(RemoteChat[OpenAIDialect]):
    """A model at a server that speaks OpenAI's protocol.

    Args:
        model: as the server names it.
        base_url: of the server, up to and with `/v1`; `$NAME` takes it from an environment variable, and keeps it out
            of the dataset.
        key_variable: environment variable that holds the key; empty: the server wants none.
        endpoint: name that limits are set for; None: the address's host and port, or the variable's name.
        temperature: of sampling; None sends none. Models that are known to refuse one are sent none.
        max_tokens: of one answer, thinking included.
        parameters: more that is sent with each request as it stands, such as `{reasoning_effort: low}`.
        structured: how the answer's form is asked for: `auto` tries `schema`, then `json`, then `none`.
        timeout: seconds to wait for an answer.
        longer_side: pixels that a picture has at most.
        picture_format: `jpeg` or `png`.

    Raises:
        UserError: an address or a setting that cannot be.
    """

    sdk = "openai"

    def __init__(
        self,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        key_variable: str = "OPENAI_API_KEY",
        endpoint: str | None = None,
        temperature: float | None = 0.0,
        max_tokens: int = 2048,
        parameters: Mapping[str, Any] | None = None,
        structured: Literal["auto", "schema", "json", "none"] = "auto",
        timeout: float = 180.0,
        longer_side: int = 1024,
        picture_format: PictureFormat = "jpeg",
    ) -> None:
        if structured not in ("auto", "schema", "json", "none"):
            raise UserError(f"structured is {structured!r}; it must be auto, schema, json or none")
        thinks = _THINKS.match(model) is not None
        dialect = OpenAIDialect(
            structured="schema" if structured == "auto" else structured,
            temperature=temperature is not None and not thinks,
            limit="max_completion_tokens" if thinks else "max_tokens",
        )
        super().__init__(
            model,
            base_url,
            key_variable,
            endpoint,
            max_tokens,
            parameters,
            timeout,
            longer_side,
            picture_format,
            dialect,
        )
        self.temperature = temperature
        self.parameters = {"structured": structured, **self.parameters}
        if dialect.temperature:
            self.parameters["temperature"] = temperature

    def _open(self, address: str, key: str, http: Any) -> Any:
        from openai import OpenAI

        return OpenAI(api_key=key or "none", base_url=address, max_retries=0, http_client=http)

    def _send(self, client: Any, turns: Sequence[Turn], form: type[BaseModel], dialect: OpenAIDialect) -> bytes:
        request: dict[str, Any] = {dialect.limit: self.max_tokens}
        if dialect.temperature:
            request["temperature"] = self.temperature
        if dialect.structured == "schema":
            schema = {"name": form.__name__, "strict": True, "schema": form.model_json_schema()}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif dialect.structured == "json":
            request["response_format"] = {"type": "json_object"}
        response = client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[{"role": turn.side, "content": [self._part(part) for part in turn.parts]} for turn in turns],
            extra_body=self.extra,
            **request,
        )
        body: bytes = response.http_response.content
        return body

    def _part(self, part: Any) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        media_type, data = self.preparation.encoded(part)
        return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}

    def _reply(self, body: bytes) -> Reply:
        try:
            read = _Completion.model_validate_json(body)
        except ValidationError:
            raise Transient(f"{self.endpoint}: the body is no chat completion ({len(body)} bytes)") from None
        choice = read.choices[0] if read.choices else _Choice(message=_Message())
        usage = read.usage or _Usage()
        refused = choice.message.refusal or choice.finish_reason == "content_filter"
        return Reply(
            text=choice.message.refusal or choice.message.content or "",
            model=read.model or self.model,
            read=usage.prompt_tokens,
            written=usage.completion_tokens,
            ending="refusal" if refused else "length" if choice.finish_reason == "length" else "stop",
        )
