"""Keys never reach a record, a log or a message: they are blotted out of every text that may hold one.

What is blotted out: the values of the environment variables that plug-ins name (`key_variable`), as they are and as
JSON and URLs write them; and whatever looks like a key of the usual providers, or stands where a header or a URL has
one.
"""

import json
import os
import re
from urllib.parse import quote

BLOT = "[redacted]"

_SHORTEST = 6
_PREFIXES = ("sk-", "sk_", "gsk_", "xai-", "r8_", "hf_", "ghp_", "AIza")
_PLACES = ("bearer ", "basic ", "key", "authorization", "token", "secret")
_LOOKS_LIKE_A_KEY = re.compile(rf"\b(?:{'|'.join(_PREFIXES)})[\w-]{{16,}}")
_STANDS_LIKE_A_KEY = re.compile(
    # With a digit, or "a basic photograph" would lose its photograph.
    r"\b((?:bearer|basic)\s+(?=[\w.~+/-]*\d)"
    r"|(?:[\w-]*api[-_ ]?key|access[-_ ]?token|client[-_ ]?secret|authorization|[?&]key)[\"']?\s*[:=]\s*[\"']?"
    r"(?:(?:bearer|basic)\s+)?)[\w.~+/-]{8,}=*",
    re.IGNORECASE,
)
_known: set[str] = set()


def keep_secret(variable: str) -> None:
    """Blot out the value of this environment variable from now on; one of under six characters is no key."""
    value = os.environ.get(variable, "").strip()
    if len(value) >= _SHORTEST:
        escaped = json.dumps(value)[1:-1]
        # An error that quotes the body of an answer escapes it once more.
        _known.update((value, escaped, json.dumps(escaped)[1:-1], quote(value, safe=""), quote(value)))


def redact(text: str) -> str:
    """The text without keys.

    Example:
        >>> redact("401: Incorrect API key provided: sk-abcdefghijklmnopqrstuvwx")
        '401: Incorrect API key provided: [redacted]'
        >>> redact("{'x-api-key': 'd2f7c0ffee', 'accept': '*/*'}")
        "{'x-api-key': '[redacted]', 'accept': '*/*'}"
    """
    for form in sorted(_known, key=len, reverse=True):
        if form in text:
            text = text.replace(form, BLOT)
    # Looking for a word is ten times cheaper than the pattern, and this is done for every answer.
    if any(prefix in text for prefix in _PREFIXES):
        text = _LOOKS_LIKE_A_KEY.sub(BLOT, text)
    lower = text.lower()
    if any(place in lower for place in _PLACES):
        text = _STANDS_LIKE_A_KEY.sub(rf"\1{BLOT}", text)
    return text
