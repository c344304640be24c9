"""Keys never reach a record, a log or a message: they are blotted out of every text that may hold one.

What is blotted out: the values of the environment variables that plug-ins name (`key_variable`), as they are and as
JSON and URLs write them, and whatever looks like a key of the usual providers or follows `Bearer` or `api_key=`.
"""

import json
import os
import re
from urllib.parse import quote

BLOT = "[redacted]"

_SHORTEST = 6
_LOOKS_LIKE_A_KEY = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|r8|hf|ghp|AIza)(?:[-_]|(?<=AIza))[\w-]{16,}"
    r"|(?<=Bearer )[\w.~+/=-]{8,}"
    r"|(?<=Basic )[\w.~+/=-]{8,}",
)
_NAMED_KEY = re.compile(
    r"(?i)((?:api[-_ ]?key|authorization|access[-_]?token|secret)[\"']?\s*[:=]\s*[\"']?)[\w.~+/=-]{8,}"
)
_known: dict[str, str] = {}


def keep_secret(variable: str) -> None:
    """Blot out the value of this environment variable from now on; one of under six characters is no key."""
    value = os.environ.get(variable, "")
    if len(value) >= _SHORTEST:
        for form in (value, json.dumps(value)[1:-1], quote(value, safe="")):
            _known[form] = BLOT


def redact(text: str) -> str:
    """The text without keys.

    Example:
        >>> redact("401: Incorrect API key provided: sk-abcdefghijklmnopqrstuvwx")
        '401: Incorrect API key provided: [redacted]'
    """
    for form in _known:
        if form in text:
            text = text.replace(form, BLOT)
    text = _LOOKS_LIKE_A_KEY.sub(BLOT, text)
    return _NAMED_KEY.sub(rf"\1{BLOT}", text)
