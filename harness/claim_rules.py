"""How numbers decide a claim: comparisons that are true, false or open, and what follows from several of them.

Two numbers are told apart where they differ by more than `errors` combined standard errors; `errors` = 0 takes them as they
are printed. What is missing, or closer than that, is open. A claim about several tasks is supported when it holds however the
open ones turn out, not supported when it fails however they turn out, and else there are too few data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.claim_numbers import Numbers, Value

Truth = bool | None
SURE = 2.0  # combined standard errors
VERDICTS: dict[Truth, str] = {True: "supported", False: "not supported", None: "too few data"}
TINY = 1e-9  # of a margin: 0.26 - 0.16 is 0.10


@dataclass(frozen=True)
class Step:
    """A comparison: how it came out, the numbers, and where it is one of several, those. `count`: how many of them hold."""

    truth: Truth
    text: str
    parts: tuple[Step, ...] = field(default=())

    @property
    def count(self) -> int:
        return sum(part.truth is True for part in self.parts)


def every(steps: Sequence[Step], text: str = "") -> Step:
    """All hold."""
    truths = [step.truth for step in steps]
    return Step(False if False in truths else None if None in truths else True, text, tuple(steps))


def some(steps: Sequence[Step], text: str = "") -> Step:
    """At least one holds."""
    truths = [step.truth for step in steps]
    return Step(True if True in truths else None if None in truths else False, text, tuple(steps))


def at_least(k: int, steps: Sequence[Step], text: str = "") -> Step:
    """At least k hold."""
    truths = [step.truth for step in steps]
    yes, open_ = truths.count(True), truths.count(None)
    whole = f"{text + ': ' if text else ''}{yes} of {len(steps)} hold, {open_} open; needs {k}"
    return Step(True if yes >= k else False if yes + open_ < k else None, whole, tuple(steps))


def shown(value: Value | None) -> str:
    """`0.95 ± 0.01` with the standard error, `--` without a number."""
    if value is None:
        return "--"
    digits = 0 if abs(value.mean) >= 1000 else 2
    return f"{value.mean:,.{digits}f}" + (f" ± {value.se:.{digits}f}" if value.se else "")


@dataclass(frozen=True)
class Judge:
    """Compares numbers of one side; `errors`: combined standard errors that tell two apart."""

    numbers: Numbers
    errors: float

    def _gap(self, a: Value | None, b: Value | None) -> tuple[float, float] | None:
        """(difference, what it is uncertain by); None where a number or an error is missing."""
        if a is None or b is None:
            return None
        if self.errors == 0:
            return a.mean - b.mean, 0.0
        if a.se is None or b.se is None:
            return None
        return a.mean - b.mean, self.errors * math.hypot(a.se, b.se)

    def more(self, a: Value | None, b: Value | None, text: str = "{} > {}") -> Step:
        """a > b."""
        line, gap = text.format(shown(a), shown(b)), self._gap(a, b)
        if gap is None:
            return Step(None, line)
        return Step(True if gap[0] > gap[1] else False if gap[0] <= -gap[1] else None, line)

    def not_below(self, a: Value | None, b: Value | None, margin: float, text: str = "{} >= {} - margin") -> Step:
        """a >= b - margin."""
        line, gap = text.format(shown(a), shown(b)), self._gap(a, b)
        if gap is None:
            return Step(None, line)
        low, high = gap[0] - gap[1], gap[0] + gap[1]
        return Step(True if low >= -margin - TINY else False if high < -margin - TINY else None, line)

    def near(self, a: Value | None, b: Value | None, margin: float, text: str = "{} = {} within margin") -> Step:
        """|a - b| <= margin."""
        both = [self.not_below(a, b, margin, text), self.not_below(b, a, margin)]
        return Step(every(both).truth, both[0].text)
