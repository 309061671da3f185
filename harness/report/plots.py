"""Small pictures drawn as SVG marks of the page itself: learning curves, and how often each behaviour occurs.

They take their colours from the page, so that they follow light and dark. Coordinates are computed here, text stays data.
"""

from __future__ import annotations

import math
from typing import Any

from harness.registry import Suites
from harness.report.details import MODES, numbers, part, routes
from harness.report.gather import Run

WIDTH, HEIGHT = 260, 78
LEFT, RIGHT, TOP, BOTTOM = 38, 6, 8, 18
SEEDS = 8  # curves of a panel
POINTS = 200  # of a curve


def title_of(suites: Suites, task: str) -> str:
    return str(suites.tasks[task].get("title", task)) if task in suites.tasks else task


def method_title(suites: Suites, method: str) -> str:
    return str(suites.methods[method]["title"]) if method in suites.methods else method


def curve(record: dict[str, Any], which: str) -> list[tuple[float, float]]:
    """(step, loss) of a record's training (`curve`) or validation (`val`); [] where there is none."""
    found = part(part(record, "training"), which)
    steps, values = numbers(found.get("step")), numbers(found.get("loss"))
    if len(steps) != len(values) or len(steps) < 2:
        return []
    stride = -(-len(steps) // POINTS)
    return list(zip(steps, values, strict=True))[::stride]


def learning(run: Run, suites: Suites) -> list[dict[str, Any]]:
    """A panel for each (task, method) whose records have curves: training and held-out loss, each on an axis of its own.

    They may be different quantities: a distilled mixture's held-out loss is its negative log-likelihood.
    """
    panels = []
    for (task, method), by_seed in sorted(run.records.items()):
        seeds = sorted(by_seed)[:SEEDS]
        parts = []
        for kind, name in (("curve", "training loss"), ("val", "held-out loss")):
            curves = {seed: curve(by_seed[seed], kind) for seed in seeds}
            curves = {seed: points for seed, points in curves.items() if points}
            if curves:
                parts.append(axis(name, kind, curves))
        if parts:
            title = f"{method_title(suites, method)}, {title_of(suites, task)}"
            panels.append({"title": title, "parts": parts, "more": len(by_seed) - len(seeds)})
    return panels


def axis(name: str, kind: str, curves: dict[int, list[tuple[float, float]]]) -> dict[str, Any]:
    """One line a seed in the units of the picture, and both axes' ends. The y axis leaves out the highest 2 % (first steps)."""
    values = sorted(y for points in curves.values() for _, y in points)
    low, high = values[0], values[min(len(values) - 1, math.ceil(0.98 * len(values)))]
    high = high if high > low else low + 1.0
    last = max(x for points in curves.values() for x, _ in points) or 1.0

    def place(point: tuple[float, float]) -> str:
        x = LEFT + point[0] / last * (WIDTH - LEFT - RIGHT)
        y = TOP + (1 - (min(point[1], high) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    lines = [
        {"points": " ".join(map(place, points)), "title": f"seed {seed}, {name}: ends at {points[-1][1]:.4g}"}
        for seed, points in curves.items()
    ]
    ticks = [(TOP + i * (HEIGHT - TOP - BOTTOM), f"{high - i * (high - low):.3g}") for i in range(2)]
    return {"name": name, "kind": kind, "lines": lines, "ticks": ticks, "last": f"{last:,.0f} steps"}


def behaviours(run: Run, suites: Suites) -> list[dict[str, Any]]:
    """For each task, a strip for each method: the share of each behaviour among its successes, all seeds together."""
    found = []
    for task in dict.fromkeys(task for task, _ in run.records):
        counts = {m: routes(run.done((t, m))) for t, m in run.records if t == task}
        counts = {m: c for m, c in counts.items() if c}
        modes = sorted({mode for c in counts.values() for mode in c})
        if not counts or not 2 <= len(modes) <= MODES:
            continue
        order = [m for m in suites.methods if m in counts] + sorted(set(counts) - set(suites.methods))
        strips = [strip(method_title(suites, m), counts[m], modes) for m in order]
        known = suites.tasks[task]["modes"] if task in suites.tasks else len(modes)
        found.append({"title": title_of(suites, task), "modes": len(modes), "known": known, "strips": strips})
    return found


def strip(title: str, counts: Any, modes: list[str]) -> dict[str, Any]:
    """One method's shares; `opacity` is 1 for a behaviour with three times its even share or more."""
    total = sum(counts.values())
    shares = {mode: counts[mode] / total for mode in modes}
    boxes = [
        {"mode": mode, "share": f"{share:.1%}", "opacity": round(min(1.0, share * len(modes) / 3), 3)}
        for mode, share in shares.items()
    ]
    return {"title": title, "boxes": boxes, "used": sum(1 for mode in modes if counts[mode]), "total": total}
