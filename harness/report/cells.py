"""One entry of a table as the page shows it: text, what is best, how far from the paper, the command that fills it."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import Any

from harness.record import Record
from harness.registry import Suites
from harness.report.gather import Group, Run
from harness.table_text import number, signed
from harness.tables import Entry, Table

EVEN = 0.02  # a difference up to here is shown as none; relative to the paper's number where that exceeds 1
LARGE = 0.10
SHARES = ("success", "return", "entropy")  # metrics of which more is better
ROLES = {"teacher": "teacher", "one_step": "teacher, 1 step", "student": "distilled", "scratch": "from scratch"}


@dataclass(frozen=True)
class View:
    """What a cell of a table shows. `state`: done, part (fewer seeds than planned), failed, or missing."""

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
    tone: str = ""
    seeds: str = ""
    best: bool = False
    top: bool = False


def tone(entry: Entry) -> str:
    """`even`, or `up`/`down` with 1 or 2 for the size of the difference to the paper; "" where there is none."""
    if entry.diff is None or entry.paper_mean is None:
        return ""
    size = abs(entry.diff) / max(1.0, abs(entry.paper_mean))
    if size <= EVEN:
        return "even"
    return ("up" if entry.diff > 0 else "down") + ("2" if size > LARGE else "1")


def view(run: Run, task: str, title: str, method_title: str, entry: Entry, best: bool, top: bool) -> View:
    """An entry of the row titled `title`, with a label that reads well aloud."""
    group = (task, entry.method)
    failed, mean = run.failed(group), entry.mean
    planned = max(entry.planned, run.planned.get(group, 0), len(entry.values) + len(failed))
    state = "missing" if mean is None else "part" if len(entry.values) < planned else "done"
    state = "failed" if mean is None and failed else state
    ours = "" if mean is None else number(mean)
    std = "" if entry.std is None else number(entry.std)
    paper = "" if entry.paper_mean is None else number(entry.paper_mean)
    said = f"{title}, {method_title}, {entry.metric}: " + (f"{ours}" if ours else "failed" if failed else "no record")
    said += f" plus or minus {std}" if std else ""
    said += f", paper {paper}" if paper else ""
    return View(
        task, entry.method, entry.metric, state, said, "" if mean is None else repr(mean), ours, std, paper,
        "" if entry.paper_std is None else number(entry.paper_std), "" if entry.diff is None else signed(entry.diff),
        tone(entry), f"{len(entry.values)}/{planned}" if state == "part" else "", best, top,
    )  # fmt: skip


def leaders(table: Table, row: str, methods: list[str]) -> set[str]:
    """Those of `methods` with the highest mean of a row, to the two decimals that are printed."""
    means = {m: table.entries[row][m].mean for m in methods}
    known = {m: round(mean, 2) for m, mean in means.items() if mean is not None and math.isfinite(mean)}
    return {m for m, mean in known.items() if mean == max(known.values())} if known else set()


def rows(run: Run, table: Table, suites: Suites, block: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table. As in the paper: bold, the best distilled; underlined, the best that is no original teacher.

    A table without distilled methods' baselines (Table 2) has the best of the row bold.
    """
    tasks = {row["row"]: row["task"] for row in block["rows"]}
    names = [m for m, _ in table.columns]
    role = {m: suites.methods[m]["role"] if m in suites.methods else "" for m in names}
    teachers = any(r == "teacher" for r in role.values())
    distilled = [m for m in names if role[m] == "student"] if teachers else names
    others = [m for m in names if role[m] != "teacher"] if teachers else []
    shown = []
    for row, title in table.rows:
        entries = table.entries[row]
        marked = entries[names[0]].metric in SHARES if names else False
        best = leaders(table, row, distilled) if marked else set()
        top = leaders(table, row, others) if marked else set()
        views = [view(run, tasks[row], title, t, entries[m], m in best, m in top) for m, t in table.columns]
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


def group_of(view: View) -> Group:
    """The (task, method) that a cell is of."""
    return (view.task, view.method)
