"""The paper's claims as the page shows them: a verdict for each side of harness/claims.py, and the numbers that decide."""

from __future__ import annotations

from typing import Any

from harness import claims
from harness.registry import Suites
from harness.report.details import plain
from harness.report.gather import Run

TONES = {"supported": "holds", "not supported": "fails"}  # else open
HEADS = {"printed": "paper, as printed", "paper": "paper, with errors", "ours": "our records"}


def read(run: Run, suites: Suites) -> dict[str, Any]:
    """The claims with a verdict for each side, and where the paper disagrees with itself."""
    results = claims.evaluate(run.source, suites)
    return {"rows": [row(claim) for claim in claims.as_json(results)], "findings": plain(claims.findings(results))}


def row(claim: dict[str, Any]) -> dict[str, Any]:
    """A claim as the template shows it: for each side its verdict, the count behind it and the numbers that decide."""
    sides = [
        {"head": head, "tone": TONES.get(claim["sides"][side]["verdict"], "open"), **claim["sides"][side]}
        for side, head in HEADS.items()
    ]
    return {name: claim[name] for name in ("id", "section", "statement", "rule")} | {"sides": sides}
