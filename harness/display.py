"""What a run shows: the plan before it, and while it runs a live table in a terminal or occasional plain lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from harness import progress, record
from harness.plan import Cell, Plan
from harness.registry import Suites

PLAIN_EVERY = 60.0  # seconds between two plain lines of one cell
LIVE_EVERY = 0.5  # seconds between two refreshes of the live table


def say(text: str) -> None:
    """One plain line, at once."""
    print(text, flush=True)


class Bar:
    """A bar on stderr for what takes minutes, from its first call on; plain lines where stderr is no terminal."""

    def __init__(self, what: str):
        self.what, self.last = what, 0.0
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` are there."""
        if not sys.stderr.isatty():
            if done == total or time.monotonic() - self.last >= PLAIN_EVERY:
                print(f"{self.what}: {done} of {total}", file=sys.stderr, flush=True)
                self.last = time.monotonic()
            return
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=total)
        self.bar.update(self.task, completed=done)

    def __exit__(self, *_error: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def plan_rows(plan: Plan, suites: Suites) -> list[list[str]]:
    """One row a (task, method): task, method, seeds, iterations, rollouts, teacher, what will be done."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.task, cell.method), []).append(cell)
    rows = []
    for (task, method), cells in groups.items():
        first = cells[0]
        title = method if first.requested else f"{method} (needed)"
        steps = "-" if first.evaluate_only else f"{first.config['train']['steps']:,}"
        teacher = "-" if first.teacher is None else f"{first.teacher.cell} ({first.teacher.origin})"
        seeds = ranges([cell.seed for cell in cells])
        rows.append([task, title, seeds, steps, f"{first.config['eval']['rollouts']}", teacher, doing(cells)])
    return rows


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 3] -> `0-3`; [3, 7] -> `3,7`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def doing(cells: list[Cell]) -> str:
    """`run 3, skip 1 (done)` and the like; for records in the way, why they do not count."""
    words = {
        "missing": "run", "done": "skip (done)", "failed": "run again (failed)",
        "corrupt": "run again (record set aside)", "other": "in the way: another configuration",
    }  # fmt: skip
    counts: dict[str, int] = {}
    for cell in cells:
        counts[words[cell.state.name]] = counts.get(words[cell.state.name], 0) + 1
    return ", ".join(f"{word} {n}" if len(cells) > 1 else word for word, n in counts.items())


def show_plan(plan: Plan, suites: Suites, where: str) -> None:
    """Print the plan: a table in a terminal, aligned plain lines otherwise. where: `2 at once, 1 thread(s) each`."""
    head = ["task", "method", "seeds", "iterations", "rollouts", "teacher", "to do"]
    rows = plan_rows(plan, suites)
    data = {cell.task: f"{cell.task}: {cell.data.source}" for cell in plan.cells}
    note = f"{len(plan.to_run)} of {len(plan.cells)} cells to run, {where} · budget {plan.budget} · out {plan.out}"
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title="Plan", caption=f"{note}\ndemonstrations: {', '.join(data.values())}", title_justify="left")
        for name in head:
            table.add_column(name)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    say(f"{note} · demonstrations: {', '.join(data.values())}")


class Display:
    """Receives the launcher's events and shows the running cells, read from their progress files."""

    def __init__(self, plan: Plan, workers: int):
        self.plan, self.total = plan, len(plan.to_run)
        self.running: dict[str, float] = {}  # key -> when it started
        self.plain_at: dict[str, float] = {}
        self.done = self.failed = 0
        self.began, self.refreshed = time.monotonic(), 0.0
        self.live: Any = None

    def __enter__(self) -> Display:
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(self.table(), auto_refresh=False, transient=True)
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.__exit__(kind, value, trace)

    def event(self, event: str, key: str, detail: str) -> None:
        """start, done, failed: a cell; wait: another run has it; tick: time has passed."""
        now = time.monotonic()
        if event == "start":
            self.running[key] = self.plain_at[key] = now
            self.line(f"start   {key}")
        elif event == "wait":
            self.running.pop(key, None)
            self.line(f"wait    {key} is held by {detail}")
        elif event in ("done", "failed"):
            took = progress.duration(now - self.running.pop(key, now))
            self.done, self.failed = self.done + (event == "done"), self.failed + (event == "failed")
            count = f"[{self.done + self.failed}/{self.total}]"
            self.line(f"{event:7} {key} {count} " + (detail if detail else f"in {took}{self.result(key)}"))
        if self.live is not None:
            if now - self.refreshed > LIVE_EVERY or event != "tick":
                self.refreshed = now
                self.live.update(self.table(), refresh=True)
        else:
            self.plain_lines(now)

    def result(self, key: str) -> str:
        """` · success 0.93 · entropy 0.81` of a finished cell."""
        try:
            found = record.read(record.record_path(self.plan.out, key), key)
        except (OSError, record.InvalidRecord):
            return ""
        metrics = found["metrics"]
        for remark in found["provenance"].get("remarks", []):
            self.line(f"        {key}: {remark}")
        return "".join(f" · {name} {metrics[name]:.2f}" for name in ("success", "entropy") if name in metrics)

    def line(self, text: str) -> None:
        if self.live is not None:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            say(text)

    def plain_lines(self, now: float) -> None:
        for key, last in self.plain_at.items():
            if key in self.running and now - last >= PLAIN_EVERY:
                self.plain_at[key] = now
                state = progress.read(record.work_path(self.plan.out, key))
                say(f"running {key} " + (progress.line(state) if state else "starting"))

    def table(self) -> Any:
        """The live table: one row a running cell."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        elapsed = progress.duration(time.monotonic() - self.began)
        failed = f", {self.failed} failed" if self.failed else ""
        title = f"{self.done} of {self.total} cells done{failed}, {len(self.running)} running, {elapsed}"
        table = Table(title=title, title_justify="left", expand=True)
        for name in ("cell", "phase", "", "step", "values", "left"):
            table.add_column(name)
        for key in list(self.running):
            state = progress.read(record.work_path(self.plan.out, key))
            if state is None:
                table.add_row(key, "starting")
                continue
            total = state["total"] or 1
            values = " ".join(f"{name} {value:.3g}" for name, value in list(state["values"].items())[:3])
            left = progress.duration(state["seconds_left"]) if state["seconds_left"] is not None else ""
            bar = ProgressBar(total=total, completed=state["step"], width=20)
            table.add_row(key, state["phase"], bar, f"{state['step']:,}/{state['total']:,}", values, left)
        return table
