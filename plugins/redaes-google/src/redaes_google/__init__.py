"""Nano-Banana and other image models behind Google's Gemini API, through the google-genai SDK.

In: a picture and an instruction, as two parts of one turn. Out: the last picture that the model answers with, at the
source's size; what is refused, and why, is the business of `redaes.editors.answers`. A failure becomes one of
`redaes.calls`: the SDK retries nothing, the engine does.
"""

import json
import threading
from typing import TYPE_CHECKING, Any

from redaes.calls import CallError, Declined, Transient, UnusableAnswer, Usage, note
from redaes.chat.http import address_from, endpoint_of, key_from
from redaes.editors.answers import png, read_answer
from redaes.errors import UserError

if TYPE_CHECKING:
    from google.genai import Client
    from google.genai.errors import APIError
    from google.genai.types import GenerateContentResponse
    from PIL.Image import Image

    from redaes.records import Instruction

FINAL = {"PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "IMAGE_PROHIBITED_CONTENT"}
"""Reasons to stop that another try meets again; a model that stops for another reason draws otherwise next time."""

TOO_SOON = {408, 409, 429, 499}


class NanoBananaEditor:
    """`nano_banana`: asks an image model of Google's for every edit.

    Args:
        model: as Google names it; Nano-Banana is gemini-2.5-flash-image.
        base_url: of the API, without a version; `$NAME` takes it from an environment variable.
        key_variable: of the environment, with the key in it.
        endpoint: name that limits are set for; None: the address's host and port.
        parameters: fields of the SDK's `GenerateContentConfig`, such as `{temperature: 0.5}` or
            `{image_config: {aspect_ratio: "1:1"}}`.
        send_seed: send the seed; the same seed makes the same picture only most of the time.
        timeout: seconds an answer may take.
        largest_tokens: at most so many are billed for one edit, read and written each; for the budget alone.
        name: under which edits are recorded; None: the model.

    Raises:
        UserError: an address that cannot be.
    """

    def __init__(
        self,
        model: str = "gemini-2.5-flash-image",
        base_url: str = "https://generativelanguage.googleapis.com",
        key_variable: str = "GEMINI_API_KEY",
        endpoint: str | None = None,
        parameters: dict[str, Any] | None = None,
        send_seed: bool = False,
        timeout: float = 300.0,
        largest_tokens: int = 8192,
        name: str | None = None,
    ) -> None:
        self.name = name or model
        self.model = model
        self.base_url = base_url
        self.endpoint = endpoint or endpoint_of(base_url)
        self.key_variable = key_variable
        self.parameters = dict(parameters or {})
        self.send_seed = send_seed
        self.timeout = timeout
        self.largest_tokens = largest_tokens
        self._client: Client | None = None
        self._opening = threading.Lock()

    def identity(self, role: str) -> dict[str, Any]:
        """What an edit depends on beside picture, instruction and seed."""
        return {"model": self.model, "parameters": self.parameters, "send_seed": self.send_seed}

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
            Transient: Google is busy, broken or unreachable.
            UnusableAnswer: it answered without a picture that can be taken for an edit of this one.
            Declined: it will not make this edit.
            UserError: no key, no such model, or parameters that the SDK does not know.
        """
        key = key_from(self.key_variable)
        response = self._ask(key, image, instruction.text, seed)
        _note(response, self.model, key)
        return read_answer(_picture(response), image)

    def _ask(self, key: str, image: "Image", prompt: str, seed: int) -> "GenerateContentResponse":
        from google.genai.errors import APIError
        from google.genai.types import Part

        contents = [Part.from_bytes(data=png(image), mime_type="image/png"), Part.from_text(text=prompt)]
        client, config = self._opened(key), self._config(seed)
        try:
            return client.models.generate_content(model=self.model, contents=contents, config=config)
        except APIError as error:
            raise _failure(error, self.endpoint, key) from None
        except _transport_errors() as error:
            raise Transient(f"{self.endpoint}: {type(error).__name__}") from None
        except (ValueError, TypeError, AttributeError, KeyError):
            # What the SDK raises where the body is no answer of this API: none of them says so.
            raise Transient(f"{self.endpoint} answers with something that is no answer of the Gemini API") from None

    def _opened(self, key: str) -> "Client":
        from google.genai import Client
        from google.genai.types import HttpOptions

        with self._opening:
            if self._client is None:
                # Pictures are asked for in this version of the API; the SDK's own choice depends on its release.
                options = HttpOptions(
                    base_url=address_from(self.base_url), api_version="v1beta", timeout=round(1000 * self.timeout)
                )
                self._client = Client(vertexai=False, api_key=key, http_options=options)
            return self._client

    def _config(self, seed: int) -> Any:
        from google.genai.types import GenerateContentConfig
        from pydantic import ValidationError

        seeded = {"seed": seed % 2**31} if self.send_seed else {}
        try:
            return GenerateContentConfig(**{"response_modalities": ["IMAGE"], **seeded, **self.parameters})
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise UserError(f"editor {self.name!r}: parameters: {where}: {problem['msg']}") from error


def _picture(response: "GenerateContentResponse") -> bytes:
    """The last picture that is no thought."""
    feedback = response.prompt_feedback
    if feedback and feedback.block_reason:
        raise Declined(f"the question was blocked: {feedback.block_reason.value}")
    found = [p.inline_data.data for p in _parts(response) if p.inline_data and p.inline_data.data and not p.thought]
    if found:
        return bytes(found[-1])
    reason = _finish_reason(response)
    if reason in FINAL:
        raise Declined(f"the edit was blocked: {reason}")
    raise UnusableAnswer(f"it answered without a picture ({reason or 'no reason given'})")


def _parts(response: "GenerateContentResponse") -> list[Any]:
    candidate = response.candidates[0] if response.candidates else None
    return (candidate.content.parts or []) if candidate and candidate.content else []


def _finish_reason(response: "GenerateContentResponse") -> str:
    candidate = response.candidates[0] if response.candidates else None
    return str(candidate.finish_reason.value) if candidate and candidate.finish_reason else ""


def _note(response: "GenerateContentResponse", model: str, key: str) -> None:
    """Keep what came beside the pixels, and what it costs."""
    parts, usage = _parts(response), response.usage_metadata
    said = {
        "text": "".join(part.text for part in parts if part.text),
        "finish_reason": _finish_reason(response),
        "response_id": getattr(response, "response_id", None),
    }
    counted = [usage.candidates_token_count, usage.thoughts_token_count] if usage else []
    note(
        json.dumps(said, ensure_ascii=False).replace(key, "***"),
        model=response.model_version or model,
        input_tokens=(usage.prompt_token_count or 0) if usage else 0,
        output_tokens=sum(count or 0 for count in counted),
        images=sum(1 for part in parts if part.inline_data),
    )


def _failure(error: "APIError", endpoint: str, key: str) -> CallError | UserError:
    """What Google's status means: it says in the details what others say in headers and statuses."""
    body = error.details if isinstance(error.details, dict) else {}
    inner = body.get("error", body)
    details = [d for d in (inner.get("details") if isinstance(inner, dict) else None) or [] if isinstance(d, dict)]
    words = " ".join(str(error.message or "").replace(key, "***").split())[:300]
    said = f"{endpoint} answers {error.code} {error.status}: {words}"
    no_access = error.code in (401, 403) or error.status == "FAILED_PRECONDITION"
    if no_access or any(d.get("reason") == "API_KEY_INVALID" for d in details):
        return UserError(f"{said}; check the key, its account and where it may be used")
    if error.code == 404:
        return UserError(f"{said}; check model and base_url")
    if error.code in TOO_SOON or error.code >= 500:
        return Transient(said, next(filter(None, map(_seconds, details)), None))
    return Declined(said)


def _seconds(detail: dict[str, Any]) -> float | None:
    """The time to wait in a detail of the type RetryInfo, such as `34.07s`."""
    try:
        return max(0.0, float(str(detail["retryDelay"]).removesuffix("s")))
    except (KeyError, ValueError):
        return None


def _transport_errors() -> tuple[type[Exception], ...]:
    """What a broken connection raises, in whichever HTTP client this release of the SDK is built on."""
    from importlib import import_module
    from importlib.util import find_spec

    return tuple(import_module(name).HTTPError for name in ("httpx", "httpx2") if find_spec(name))
