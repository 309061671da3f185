"""A request to stop, made by a signal and heard where a cell can be left without losing anything.

A handler that acted at once would interrupt an optimiser step or a write in the middle. This one takes a note; training
looks at it after every iteration and saves its state first, roll-outs look at it at every step and keep whole chunks.
"""

from __future__ import annotations

import signal
from types import FrameType

_noted: int | None = None


class Stopped(KeyboardInterrupt):
    """The cell was left on request and will continue where it was. No Exception: nothing may take it for a failure."""


def install(*signals: signal.Signals) -> None:
    """From now on these signals ask to stop. Call from the main thread."""
    for number in signals:
        signal.signal(number, note)


def note(number: int, _frame: FrameType | None = None) -> None:
    """The signal handler."""
    global _noted
    _noted = number


def requested() -> int | None:
    """The signal that asked to stop, or None."""
    return _noted


def clear() -> None:
    """Forget the request."""
    global _noted
    _noted = None


def check() -> None:
    """Raise Stopped if asked to. Call where everything worth keeping is saved."""
    if _noted is not None:
        raise Stopped(_noted)
