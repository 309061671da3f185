"""Measurements: one JSON file each, written by `python -m harness bench inference`, read by Table 3 and the claims.

    {"schema": 1, "kind": "inference", "task", "predictions": int,
     "cases": [{"method": "beso" | "ddpm" | "vdd", "nfe": int, "device": "cpu" | "cuda", "mode": "eager" | "compiled",
                "copies": bool, "ms": [float]}],
     "provenance": {git_commit, git_dirty, versions, device, processor, threads, load, clock, when}}

`ms`: milliseconds an action, one number a turn (the median of its actions); `copies`: averaged weights copied in and out at
every call, as the original teachers do; `clock`: `processor` or `wall` time. The file holds its SHA-256 (harness/sealed.py);
nothing in it names a machine or a person.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harness import sealed

SCHEMA = 1
CASE = {"method": str, "nfe": int, "device": str, "mode": str, "copies": bool, "ms": list}

Measurement = dict[str, Any]


def write(path: Path, content: Measurement) -> None:
    """Write a measurement; ValueError where it is none."""
    if why := wrong(content):
        raise ValueError(f"a measurement {why}")
    sealed.write_json(path, content)


def wrong(content: Any) -> str:
    """What a measurement lacks; "" for a right one."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return f"has another schema than {SCHEMA}"
    named = all(isinstance(content.get(key), str) for key in ("kind", "task"))
    if not named or not isinstance(content.get("provenance"), dict) or not isinstance(content.get("cases"), list):
        return "lacks kind, task, provenance or cases"
    for case in content["cases"]:
        if not isinstance(case, dict) or any(type(case.get(key)) is not kind for key, kind in CASE.items()):
            return "has a malformed case"
        times = case["ms"]
        if not times or not all(type(t) in (int, float) and math.isfinite(t) and t > 0 for t in times):
            return "has times that are no positive numbers"
    return ""


def read(folder: Path, kind: str = "inference") -> tuple[list[Measurement], list[str]]:
    """The measurements of a kind in a folder, by file name; and a line for each file that is none."""
    found, bad = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = sealed.read_json(path)
            why = wrong(content)
        except (OSError, sealed.Damaged) as error:
            why = str(error)
        if why:
            bad.append(f"left out: {path.name} {why}")
        elif content["kind"] == kind:
            found.append(content)
    return found, bad
