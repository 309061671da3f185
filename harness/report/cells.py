"""One entry of a table as the page shows it: text, what is best, how far from the paper, the command that fills it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from harness.record import Record
from harness.registry import Suites
from harness.report.gather import Run
from harness.table_text import marks, number, signed
from harness.tables import Entry, Table

EVEN = 0.02  # a difference up to here is shown as none; relative to the paper's number where that exceeds 1
LARGE = 0.10
SHARES = ("success", "return", "entropy")  # metrics of which more is better
ROLES = {"teacher": "teacher", "one_step": "teacher, 1 step", "student": "distilled", "scratch": "from scratch"}


@dataclass(frozen=True)
class View:
    """What a cell of a table shows. `state`: done, part (fewer seeds than planned), failed, or missing. `z`: the difference in
    combined standard errors. `task` is empty where no single (task, method) stands behind the cell."""

    task: str
    method: str
    metric: str
    state: str
    label: str
    sort: str
    ours: str = ""
    std: str = ""
    paper: str = ""
    paper_std: str = ""
    diff: str = ""
    z: str = ""
    tone: str = ""
    seeds: str = ""
    best: bool = False
    top: bool = False


def tone(entry: Entry) -> str:
    """`even`, or `up`/`down` with 1 or 2 for the size of the difference to the paper; "" where there is none."""
    if entry.diff is None or entry.paper_mean is None:
        return ""
    size = abs(entry.diff) / max(1.0, abs(entry.paper_mean))
    if size <= EVEN or entry.metric not in SHARES:
        return "even"
    return ("up" if entry.diff > 0 else "down") + ("2" if size > LARGE else "1")


def view(run: Run, task: str, titles: tuple[str, str], entry: Entry, marks: tuple[bool, bool], digits: int = 2) -> View:
    """An entry of the row and column of these titles, with a label that reads well aloud."""
    group = (task, entry.method)
    failed, mean = run.failed(group), entry.mean
    planned = max(entry.planned, run.planned.get(group, 0), len(entry.values) + len(failed))
    state = "failed" if not entry.known and failed else "missing" if not entry.known else "done"
    state = "part" if 0 < len(entry.values) < planned else state
    ours = entry.text if mean is None else number(mean, digits)
    std = "" if entry.std is None else number(entry.std, digits)
    paper = entry.paper_text if entry.paper_mean is None else number(entry.paper_mean, digits)
    said = f"{titles[0]}, {titles[1]}, {entry.metric}: " + (ours or ("failed" if failed else "no record"))
    said += f" plus or minus {std}" if std else ""
    said += f", paper {paper}" if paper else ""
    return View(
        task, entry.method, entry.metric, state, said, ours if mean is None else repr(mean), ours, std, paper,
        "" if entry.paper_std is None else number(entry.paper_std, digits),
        "" if entry.diff is None else signed(entry.diff, digits), "" if entry.z is None else signed(entry.z, 1),
        tone(entry), f"{len(entry.values)}/{planned}" if state == "part" else "", *marks,
    )  # fmt: skip


def rows(run: Run, table: Table, block: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table, with the marks that the paper uses."""
    grid = block.get("kind", "grid") == "grid"
    tasks = {row["row"]: row["task"] for row in block["rows"]} if grid else {}
    shown = []
    for row, title in table.rows:
        views = [
            view(run, tasks.get(row, ""), (title, head), table.entries[row][c], marks(table, row, c), table.digits)
            for c, head in table.columns
        ]
        shown.append({"row": row, "title": title, "cells": views, "empty": not any(v.ours for v in views)})
    return shown


def reason(suites: Suites, task: str, method: str) -> str:
    """Why no command fills a cell; "" where one does."""
    for kind, name, blocks in (("task", task, suites.tasks), ("method", method, suites.methods)):
        if name not in blocks:
            return f"Not available: the {kind} {name} has no block in harness/suites/{kind}s.toml yet."
    allowed = suites.methods[method].get("tasks")
    return f"{method} exists for {', '.join(allowed)} alone." if allowed and task not in allowed else ""


def command(run: Run, suites: Suites, task: str, methods: list[str]) -> str:
    """The command that fills the cells of a task, with the budget and the kind of data that the folder has already."""
    done = list(run.all_done())
    budgets = sorted({found["budget"] for found in done})
    budget = budgets[0] if len(budgets) == 1 and budgets[0] in suites.budgets else "standard"
    seeds = max([4, *(len(run.done(group)) for group in run.records)])
    parts = ["python", "-m", "harness.run", "--methods", ",".join(methods), "--tasks", task, "--seeds", str(seeds)]
    parts += ["--budget", budget, "--out", str(run.out)]
    text = shlex.join(parts)
    return text + (" --data-root DATA" if any(found["data"]["source"] == "official" for found in done) else "")


def failure(found: Record) -> str:
    """What a failed record says, in one line."""
    return f"seed {found['cell']['seed']}: {found['error']['type']}: {found['error']['message']}"
