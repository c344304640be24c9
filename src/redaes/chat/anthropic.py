"""Anthropic's Messages: pictures as blocks, the answer's form by `output_config.format` where the model has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from redaes.calls import Transient
from redaes.chat import Turn
from redaes.chat.pictures import PictureFormat
from redaes.chat.remote import RemoteChat, Reply


@dataclass(frozen=True)
class AnthropicDialect:
    """Whether the answer's form is asked for by schema; else in words alone."""

    structured: bool = True

    def without(self, refused: str) -> Self | None:
        """The dialect without a schema, if that was refused."""
        named = any(word in refused.casefold() for word in ("output_config", "structured output", "output_format"))
        return replace(self, structured=False) if self.structured and named else None


class _Block(BaseModel):
    type: str
    text: str = ""


class _Usage(BaseModel):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Answer(BaseModel):
    """As much of a message as is read here."""

    model: str = ""
    content: list[_Block] = []
    stop_reason: str | None = None
    usage: _Usage = _Usage()


class Anthropic(RemoteChat[AnthropicDialect]):
    """A Claude model at Anthropic, or at a server that speaks its protocol. Its models are sent no temperature.

    Args:
        model: as the server names it.
        base_url: of the server, without `/v1`; `$NAME` takes it from an environment variable, and keeps it out of the
            dataset.
        key_variable: environment variable that holds the key; empty: the server wants none.
        endpoint: name that limits are set for; None: the address's host and port, or the variable's name.
        max_tokens: of one answer, thinking included.
        parameters: more that is sent with each request as it stands, such as `{thinking: {type: adaptive}}`.
        timeout: seconds to wait for an answer.
        longer_side: pixels that a picture has at most.
        picture_format: `jpeg` or `png`.

    Raises:
        UserError: an address or a setting that cannot be.
    """

    sdk = "anthropic"

    def __init__(
        self,
        model: str,
        base_url: str = "https://api.anthropic.com",
        key_variable: str = "ANTHROPIC_API_KEY",
        endpoint: str | None = None,
        max_tokens: int = 2048,
        parameters: Mapping[str, Any] | None = None,
        timeout: float = 180.0,
        longer_side: int = 1024,
        picture_format: PictureFormat = "jpeg",
    ) -> None:
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
            AnthropicDialect(),
        )

    def _open(self, address: str, key: str, http: Any) -> Any:
        from anthropic import Anthropic as Client

        return Client(api_key=key or "none", base_url=address, max_retries=0, http_client=http)

    def _send(self, client: Any, turns: Sequence[Turn], form: type[BaseModel], dialect: AnthropicDialect) -> bytes:
        from anthropic import transform_schema

        request: dict[str, Any] = {}
        if dialect.structured:
            request["output_config"] = {"format": {"type": "json_schema", "schema": transform_schema(form)}}
        response = client.messages.with_raw_response.create(
            model=self.model,
            max_tokens=self.max_tokens,
            messages=[{"role": turn.side, "content": [self._part(part) for part in turn.parts]} for turn in turns],
            extra_body=self.extra,
            timeout=self.timeout,
            **request,
        )
        body: bytes = response.http_response.content
        return body

    def _part(self, part: Any) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        media_type, data = self.preparation.encoded(part)
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}

    def _reply(self, body: bytes) -> Reply:
        try:
            read = _Answer.model_validate_json(body)
        except ValidationError:
            raise Transient(f"{self.endpoint}: the body is no message ({len(body)} bytes)") from None
        usage, ending = read.usage, read.stop_reason
        cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        return Reply(
            text="".join(block.text for block in read.content if block.type == "text"),
            model=read.model or self.model,
            read=usage.input_tokens + cached,
            written=usage.output_tokens,
            ending="refusal" if ending == "refusal" else "length" if ending == "max_tokens" else "stop",
        )
