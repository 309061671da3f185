"""The claims of the paper with what our records say of them, where this version has `harness.claims`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.registry import Suites
from harness.report.gather import Run


def read(runs: list[Run], studies: Path, suites: Suites) -> dict[str, Any]:
    """{"rows": …, "why": why there are none}."""
    return {"rows": [], "why": "This version has no harness.claims."}
