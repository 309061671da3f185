"""The one exception that a user is meant to see, and the did-you-mean suggestion that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something asked for is impossible; the message is printed as one line and the exit code is 2."""


def printable(text: str) -> str:
    """Text that changes nothing on a terminal: control characters, such as those that move the cursor, become visible."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def unknown(kind: str, name: str, options: Iterable[str], where: str = "") -> UserError:
    """The error for a name that does not exist: what was asked, what is possible, and the closest match."""
    options = sorted(options)
    close = difflib.get_close_matches(str(name), options, 1, 0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    at = f" {where}" if where else ""
    return UserError(f"unknown {kind} {str(name)[:80]!r}{at}.{hint} Possible: {', '.join(options) or 'none'}")
