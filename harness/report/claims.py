"""The paper's claims and what its own numbers and our records say of them, where this version has `harness.claims`."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from harness.registry import Suites
from harness.report.details import plain
from harness.report.gather import Run

TONES = {"supported": "holds", "not supported": "fails"}  # else open
HEADS = {"printed": "paper, as printed", "paper": "paper, with errors", "ours": "our records"}


def read(run: Run, suites: Suites) -> dict[str, Any]:
    """Claims with a verdict for each side, where the paper disagrees with itself, or why there are none."""
    if importlib.util.find_spec("harness.claims") is None:
        return {"rows": [], "findings": [], "why": "This version has no harness.claims."}
    module = importlib.import_module("harness.claims")
    results = module.evaluate(run.source, suites)
    return {
        "rows": [row(claim) for claim in module.as_json(results)],
        "findings": plain(module.findings(results)),
        "why": "",
    }


def row(claim: dict[str, Any]) -> dict[str, Any]:
    """A claim as the template shows it: for each side its verdict, the count behind it and the numbers that decide."""
    sides = [
        {"head": head, "tone": TONES.get(claim["sides"][side]["verdict"], "open"), **claim["sides"][side]}
        for side, head in HEADS.items()
    ]
    return {name: claim[name] for name in ("id", "section", "statement", "rule")} | {"sides": sides}
