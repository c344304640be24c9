"""The one exception that means "the user can fix this": shown as one line, exit code 2, no traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message says what was wrong, with the value, and what would be right."""


def nearest(value: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known value and the others.

    Example:
        >>> nearest("rrk", ["rrc", "mae"])
        "did you mean 'rrc'? known: mae, rrc"
    """
    names = sorted(known)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"
