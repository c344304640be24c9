"""HTTP to a vLLM server: retries with growing pauses, and errors that say in one line what to do."""

import os
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from redaes.errors import UserError

HOW_TO_START = (
    "start one with `VLLM_SERVER_DEV_MODE=1 vllm serve CHECKPOINT --logprobs-mode processed_logprobs` "
    "and give its address as rollout.url"
)
CONNECT_SECONDS = 10.0
LONGEST_PAUSE = 30.0
BUSY = 429


class _Passing(Exception):
    """A failure that another attempt may not meet; its text is what the user reads if they all do."""


class Client:
    """Asks one server; safe to use from several threads.

    Args:
        url: of the server, as `http://host:port`.
        timeout: seconds that an answer may take.
        attempts: how often a request is made before giving up.
        pause: seconds before the second attempt; twice as long before each further one, 30 at most.

    A key that the server asks for (`vllm serve --api-key`) is read from the environment variable VLLM_API_KEY.
    """

    def __init__(self, url: str, timeout: float, attempts: int, pause: float) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.attempts = attempts
        key = os.environ.get("VLLM_API_KEY")
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS), pool=None),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # One request a prompt is under way; the caller's threads are the limit.
            limits=httpx.Limits(max_connections=None),
        )
        self._retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(multiplier=pause, max=LONGEST_PAUSE),
            reraise=True,
        )

    def get(self, path: str, **parameters: str) -> Any:
        """The JSON of a GET request."""
        return self._ask("GET", path, parameters, None)

    def post(self, path: str, body: Any = None, **parameters: str) -> Any:
        """The JSON of a POST request, None if the answer has no body."""
        return self._ask("POST", path, parameters, body)

    def _ask(self, method: str, path: str, parameters: dict[str, str], body: Any) -> Any:
        """Ask until it is answered.

        Raises:
            UserError: there is no server, it refuses, or it fails every time.
        """
        try:
            return self._retrying(self._once, method, path, parameters, body)
        except _Passing as error:
            raise UserError(f"{error} ({self.attempts} attempts)") from error

    def _once(self, method: str, path: str, parameters: dict[str, str], body: Any) -> Any:
        where = f"the vLLM server at {self.url}"
        try:
            response = self._http.request(method, path, params=parameters, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Passing(f"no vLLM server answers at {self.url}: {HOW_TO_START}") from error
        except httpx.TimeoutException as error:
            raise _Passing(
                f"{where} gave no answer to {path} within {self.timeout:g} s: raise rollout.timeout, or see its log"
            ) from error
        except httpx.TransportError as error:
            raise _Passing(f"{where} broke off at {path} ({type(error).__name__}): see its log") from error
        if response.is_server_error or response.status_code == BUSY:
            raise _Passing(f"{where} failed at {path}: {_complaint(response)}")
        if response.status_code == httpx.codes.NOT_FOUND and not path.startswith("/v1/"):
            raise UserError(f"{where} has no {path}, by which it takes weights: {HOW_TO_START}")
        if not response.is_success:
            raise UserError(f"{where} refused {path}: {_complaint(response)}")
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise UserError(f"{where} answered {path} with something that is not JSON: is it a vLLM server?") from error


def _complaint(response: httpx.Response) -> str:
    """Status and first line of what a server says went wrong."""
    try:
        said = response.json()
        said = said.get("error", said.get("detail", said))
        text = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, AttributeError):
        text = response.text
    first = next(iter(str(text).strip().splitlines()), "no reason given")
    return f"{response.status_code} {first[:300]}"
