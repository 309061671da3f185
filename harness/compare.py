"""`python -m harness compare A B`: two methods task by task, and over all tasks. Pure functions of records.

Per task the difference of means with a 95 % interval. It is paired where it can be: cells of one task with the same seeds and
the same contexts (tasks with evaluation contexts: every method meets each of them equally often) are compared within seed
and context. Elsewhere seeds are drawn independently: a cell's random numbers derive from its name, so two methods share none.
Over all tasks: interquartile means and the probability that A improves on B (harness/statistics.py).
"""

from __future__ import annotations

import statistics as basic
from dataclasses import dataclass
from typing import Any

from harness import record, statistics, tables
from harness.errors import UserError
from harness.registry import Suites

METRICS = {"success": "1a", "entropy": "1b"}
KITCHEN = 4.0  # tasks of a demonstration: a return is divided by it where tasks are put together
OF_EPISODES = {"success": "success", "return": "return"}  # metrics that are means over rollouts


@dataclass(frozen=True)
class Row:
    """One task: A's and B's values by seed, the difference of means, its interval and what that is over."""

    row: str
    title: str
    metric: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    difference: float
    interval: tuple[float, float] | None
    how: str


def scores(found: tables.Found, suites: Suites, methods: list[str], metric: str) -> dict[str, dict[str, list[float]]]:
    """method -> row of Table 1 -> one value a seed, on one scale: what the functions over several tasks take."""
    block = suites.tables[METRICS[metric]]
    made: dict[str, dict[str, list[float]]] = {method: {} for method in methods}
    for row in [*block["rows"], *tables.other_rows(suites, block, found)]:
        scale = KITCHEN if row["metric"] == "return" else 1.0
        for method in methods:
            if values := values_of(found, row, method):
                made[method][row["row"]] = [value / scale for value in values.values()]
    return {method: rows for method, rows in made.items() if rows}


def values_of(found: tables.Found, row: dict[str, Any], method: str) -> dict[int, float]:
    """seed -> the row's metric."""
    by_seed = found.get((row["task"], method), {})
    return {
        s: float(by_seed[s]["metrics"][row["ours"]]) for s in sorted(by_seed) if row["ours"] in by_seed[s]["metrics"]
    }


def compare(source: tables.Source, suites: Suites, a: str, b: str, metric: str) -> list[Row]:
    """The rows that both methods have records of."""
    found, _ = tables.read_records(source.out)
    block = suites.tables[METRICS[metric]]
    rows = []
    for row in [*block["rows"], *tables.other_rows(suites, block, found)]:
        ours, theirs = values_of(found, row, a), values_of(found, row, b)
        if ours and theirs:
            interval, how = interval_of(source, suites, row, a, b, ours, theirs)
            values = tuple(ours.values()), tuple(theirs.values())
            difference = basic.fmean(values[0]) - basic.fmean(values[1])
            rows.append(Row(row["row"], row["title"], row["metric"], *values, difference, interval, how))
    return rows


def interval_of(
    source: tables.Source,
    suites: Suites,
    row: dict[str, Any],
    a: str,
    b: str,
    ours: dict[int, float],
    theirs: dict[int, float],
) -> tuple[tuple[float, float] | None, str]:
    """The interval of a row's difference and what it is over."""
    if row["ours"] in OF_EPISODES and "contexts" in suites.tasks.get(row["task"], {}) and ours.keys() == theirs.keys():
        by_context = [
            [means_by_context(source, row["task"], method, seed, OF_EPISODES[row["ours"]]) for seed in ours]
            for method in (a, b)
        ]
        first = by_context[0][0]
        if first and all(means.keys() == first.keys() for method in by_context for means in method):
            differences = [[x[c] - y[c] for c in first] for x, y in zip(*by_context, strict=True)]
            return statistics.paired_interval(differences), f"paired: {len(ours)} seed(s), {len(first)} contexts"
    interval = statistics.difference_interval(list(ours.values()), list(theirs.values()))
    return interval, "seeds" if interval else "one seed: no interval"


def means_by_context(source: tables.Source, task: str, method: str, seed: int, key: str) -> dict[str, float]:
    """context -> mean over its rollouts."""
    cell = record.key_of(task, method, seed)
    episodes = record.read(record.record_path(source.out, cell), cell)["episodes"]
    groups = statistics.units(episodes.get("context", []))
    return {str(episodes["context"][rows[0]]): basic.fmean(episodes[key][i] for i in rows) for rows in groups}


def overall(source: tables.Source, suites: Suites, a: str, b: str, metric: str) -> dict[str, Any]:
    """Over the rows that both have: interquartile means and the probability of improvement, with 95 % intervals over seeds."""
    found, _ = tables.read_records(source.out)
    made = scores(found, suites, [a, b], metric)
    shared = [row for row in made.get(a, {}) if row in made.get(b, {})]
    ours, theirs = ({row: made[name][row] for row in shared} for name in (a, b))
    return {
        "tasks": len(shared),
        "iqm": {a: statistics.iqm(ours), b: statistics.iqm(theirs)},
        "iqm_interval": {
            a: statistics.stratified(statistics.iqm, ours),
            b: statistics.stratified(statistics.iqm, theirs),
        },
        "improvement": statistics.probability_of_improvement(ours, theirs),
        "improvement_interval": statistics.stratified(statistics.probability_of_improvement, ours, theirs),
    }


def lines(source: tables.Source, suites: Suites, a: str, b: str, metric: str) -> list[str]:
    """The comparison as text. Raises UserError where there is nothing to compare."""
    rows = compare(source, suites, a, b, metric)
    if not rows:
        raise UserError(f"{source.out} has no task with records of both {a} and {b} and the metric {metric}")
    text = [f"{a} against {b}, {metric}: mean over seeds, difference, 95 % interval"]
    for r in rows:
        span = "" if r.interval is None else f" [{r.interval[0]:+.3f}, {r.interval[1]:+.3f}]"
        text.append(
            f"  {r.title:18} {basic.fmean(r.a):.3f} (n={len(r.a)})  {basic.fmean(r.b):.3f} (n={len(r.b)})  "
            f"{r.difference:+.3f}{span}  {r.how}"
        )
    whole = overall(source, suites, a, b, metric)

    def spanned(value: float, interval: tuple[float, float]) -> str:
        return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"

    text += [f"over {whole['tasks']} row(s):"]
    text += [f"  interquartile mean of {m}: {spanned(whole['iqm'][m], whole['iqm_interval'][m])}" for m in (a, b)]
    better = spanned(whole["improvement"], whole["improvement_interval"])
    return [*text, f"  probability that a seed of {a} is above one of {b}: {better}"]
