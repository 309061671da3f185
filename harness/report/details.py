"""Where each number comes from: what the page shows of a record on a click, as plain, bounded JSON.

A record may come from anyone. Its text is cut to a length, its depth is bounded, its numbers are finite or become words; the
page puts it on the screen as text alone.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from harness.errors import printable
from harness.record import Record, key_of, record_path
from harness.report.gather import Run

LONGEST = 2000  # characters of a text
ITEMS = 60  # values of a list or section
DEPTH = 6
MODES = 64  # behaviours that are told apart
Json = Any


def plain(value: Any, depth: int = DEPTH) -> Json:
    """A value that JSON has, cut where it is too long or too deep."""
    if isinstance(value, dict):
        return {short(str(k), 120): plain(v, depth - 1) for k, v in list(value.items())[:ITEMS]} if depth else "…"
    if isinstance(value, list):
        return [plain(v, depth - 1) for v in value[:ITEMS]] if depth else "…"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return short(hex(value), 80)
    return value if value is None or isinstance(value, (bool, int, float)) else short(str(value), LONGEST)


def short(text: str, longest: int) -> str:
    """Printable text of at most `longest` characters."""
    text = printable(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def flat(value: Any, name: str = "", depth: int = DEPTH) -> dict[str, Json]:
    """Nested sections as `section.key` -> value; lists as text."""
    if isinstance(value, dict) and depth:
        found: dict[str, Json] = {}
        for key, inner in list(value.items())[:ITEMS]:
            found |= flat(inner, f"{name}.{key}" if name else str(key), depth - 1)
        return dict(list(found.items())[: 4 * ITEMS])
    return {short(name, 120): short(str(plain(value)), LONGEST) if isinstance(value, (dict, list)) else plain(value)}


def part(record: Record, name: str) -> dict[str, Any]:
    """A section of a record; {} where it has none or something else."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def sections(run: Run, record: Record) -> list[tuple[str, dict[str, Json]]]:
    """A record's sections in the order in which a reader asks for them."""
    path = record_path(run.out, key_of(**record["cell"]))
    made = {k: v for k, v in part(record, "provenance").items() if k != "versions"}
    versions = part(record, "provenance").get("versions")
    training = {k: v for k, v in part(record, "training").items() if k not in ("curve", "val")}
    weights = record["weights"] or {}
    named = [
        ("error", flat(record["error"]) if record["error"] else {}),
        ("metrics", flat(record["metrics"])),
        ("held-out demonstrations", flat(part(record, "likelihood")) | flat(part(record, "quality"))),
        ("time", flat(part(record, "timings"))),
        ("configuration", {"budget": record["budget"], "backend": record["backend"]} | flat(record["config"])),
        ("training", flat(training) | {"parameters": plain(record.get("parameters"))}),
        ("demonstrations", flat(record["data"])),
        ("teacher", flat(record["teacher"]) if record["teacher"] else {}),
        ("code and machine", flat(made)),
        ("versions", flat(versions) if isinstance(versions, dict) else {}),
        ("file", {
            "path": short(str(path), LONGEST), "SHA-256 (checksum)": record["checksum"],
            "configuration hash": record["config_hash"], "weights SHA-256": plain(weights.get("sha256")),
            "schema": record["schema"], "metric version": plain(record["metric_version"]),
        }),
    ]  # fmt: skip
    return [(title, {k: v for k, v in values.items() if v is not None}) for title, values in named if values]


class Blocks:
    """Sections that many records share, each once: `index` gives a section's place in `found`."""

    def __init__(self) -> None:
        self.found: list[dict[str, Json]] = []
        self.places: dict[str, int] = {}

    def index(self, block: dict[str, Json]) -> int:
        name = repr(block)
        if name not in self.places:
            self.places[name] = len(self.found)
            self.found.append(block)
        return self.places[name]


def detail(run: Run, record: Record, blocks: Blocks) -> dict[str, Json]:
    """What the page keeps of one record."""
    times, metrics = part(record, "timings"), record["metrics"]
    return {
        "seed": record["cell"]["seed"], "status": record["status"],
        "success": number(metrics.get("success")), "entropy": number(metrics.get("entropy")),
        "return": number(metrics.get("return")), "length": number(metrics.get("length")),
        "train": number(times.get("train_s")), "path": short(str(record_path(run.out, key_of(**record["cell"]))), LONGEST),
        "sections": [[title, blocks.index(values)] for title, values in sections(run, record)],
    }  # fmt: skip


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None


def numbers(value: Any) -> list[float]:
    """A list of finite numbers; [] for anything else."""
    found = [number(v) for v in value] if isinstance(value, list) else []
    return [v for v in found if v is not None] if None not in found else []


def routes(records: list[Record]) -> Counter[str]:
    """How often each behaviour occurs among the successes of some records."""
    counts: Counter[str] = Counter()
    for record in records:
        episodes = part(record, "episodes")
        success, mode = episodes.get("success"), episodes.get("mode")
        if isinstance(success, list) and isinstance(mode, list) and len(success) == len(mode):
            counts.update(
                short(str(m), 40) for s, m in zip(success, mode, strict=True) if s is True and m not in ("", None)
            )
    return counts
