"""`python -m harness status`: every cell that was planned or has a record, and how it stands.

Answers at once for ten thousand cells: of a record only the keys in question are parsed (`record.head`, verified by its
seal), and what it says is kept in `<out>/.status.json` for as long as the file's times, size and inode stay the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import lease, progress, record, scheduler
from harness.errors import UserError, printable
from harness.plan import saved

ORDER = (
    "running", "failed", "interrupted", "cancelled", "corrupt", "outdated", "queued", "waiting", "missing", "done",
)  # fmt: skip
OVER = ("done", "failed", "corrupt", "outdated", "cancelled")  # a cell that stands so is waited for no longer
INDEX = ".status.json"
RACY = 2e9  # nanoseconds: a file that changed later than this before it was read may change once more within one tick
MANY = 200  # cells, from which on those that need no attention are told by method
Found = dict[str, tuple[str, str]]  # cell key -> (state, detail)


def states(out: Path) -> Found:
    """Cell key -> (state, detail); the states are those of ORDER.

    `interrupted`: began, has no record, and its process is gone. `outdated`: its record is of another configuration than
    the last plan's. `queued`: SLURM has it. `waiting`: planned, without a record, while others run; `missing`: planned, without
    a record, and nothing runs.
    """
    return look(out)[0]


def look(out: Path) -> tuple[Found, list[tuple[Path, str]]]:
    """The states, and the damaged plans with why."""
    if not out.is_dir():
        raise UserError(f"no folder {out}: nothing was run with this --out")
    planned, damaged = saved(out)
    recorded = summaries(out)
    jobs = scheduler.jobs(out)
    keys = dict.fromkeys([*planned, *recorded])
    found = {key: state_of(out, key, planned.get(key), recorded.get(key), jobs.get(key)) for key in keys}
    busy = any(state in ("running", "queued") for state, _ in found.values())
    for key, (state, _) in found.items():
        if state == "missing" and busy:
            open_needs = [n for n in planned[key]["needs"] if found.get(n, ("",))[0] != "done"]
            found[key] = ("waiting", f"needs {', '.join(map(str, open_needs))}" if open_needs else "")
    return found, damaged


def state_of(
    out: Path, key: str, planned: dict[str, Any] | None, recorded: list[Any] | None, job: scheduler.JobState | None
) -> tuple[str, str]:
    """One cell. A live progress file comes first: a cell that runs again still has its old record."""
    live = None
    if os.path.lexists(f"{out}/work/{key}/{progress.FILE}"):  # no Path: this is done for every cell
        workdir = record.work_path(out, key)
        live = progress.read(workdir)
    if live is not None and running(workdir, live):
        log = workdir / "log.txt" if job is None else job.log
        return "running", f"{progress.line(live)} (log: {log})"
    if job is not None and job.state in scheduler.ACTIVE:
        return job.state, f"{job.detail} (log: {job.log})"
    if recorded is not None:
        state, config_hash, detail, log = recorded
        if state == "done" and planned is not None and config_hash != planned["config_hash"]:
            return "outdated", "made with another configuration, data or teacher than the last plan's"
        return state, detail + (f" (log: {out / log})" if log else "")
    if job is not None and job.state in ("failed", "cancelled"):
        return job.state, f"{job.detail} (log: {job.log})"
    if live is not None:
        return "interrupted", f"{progress.line(live)} (log: {workdir / 'log.txt'})"
    return "missing", ""


def running(workdir: Path, live: dict[str, Any]) -> bool:
    """Whether the process that wrote the progress still has the cell: by its lease where that tells, else by its last write."""
    said = lease.parsed(lease.content(lease.path_of(workdir, lease.newest(workdir))) or b"")
    if said.get("state") == "released" or lease.dead(said):
        return False
    return bool(said and said["machine"] == lease.machine()) or progress.alive(live)


def summaries(out: Path) -> dict[str, list[Any]]:
    """Cell key -> [state, config hash, detail, log] of every record, from the index where the file has not changed."""
    index = read_index(out)
    now = time.time_ns()
    found, kept = {}, {}
    changed = False
    for key, path, stat in record_files(out):
        stamp = [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino]
        known = index.get(key)
        if known is None or known[0] != stamp:
            changed = True
            try:
                known = [stamp, summary(path, key)]
            except FileNotFoundError:  # set aside just now
                continue
        found[key] = known[1]
        if now - max(stamp[:2]) > RACY:
            kept[key] = known
    if changed or len(kept) != len(index):
        try:
            content = json.dumps({"schema": 1, "records": kept})
            record.write_atomic(out / INDEX, content + "\n", durable=False)
        except OSError:
            pass  # a folder that may only be read
    return found


def record_files(out: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """Cell key, path and own (not a link's target's) stat of every record, in order."""
    for task in folders(str(out / "records")):
        for method in folders(task):
            entries = [e for e in os.scandir(method) if e.name.endswith(".json") and not e.name.startswith(".")]
            start = "/".join(method.split(os.sep)[-2:])
            for entry in sorted(entries, key=lambda e: (len(e.name), e.name)):
                try:
                    yield f"{start}/{entry.name[:-5]}", entry.path, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue


def folders(path: str) -> list[str]:
    """The folders in a folder, by name; links are not followed."""
    try:
        return sorted(entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def summary(path: str, key: str) -> list[Any]:
    """What `status` tells of one record."""
    try:
        found = record.head(Path(path), key)
    except record.InvalidRecord as error:
        return ["corrupt", None, str(error), None]
    if found["status"] == "failed":
        why = found["error"]
        return ["failed", found["config_hash"], f"{why['type']}: {why['message']}", why.get("log")]
    metrics = " · ".join(f"{k} {v:.2f}" for k, v in found["metrics"].items() if k in ("success", "entropy"))
    return ["done", found["config_hash"], metrics, None]


def read_index(out: Path) -> dict[str, list[Any]]:
    """The index, {} where there is none or it is not one."""
    try:
        content = json.loads(record.read_bytes(out / INDEX))
        entries = content["records"] if content["schema"] == 1 else {}
        whole = all(len(stamp) == len(told) == 4 for stamp, told in entries.values())
        return entries if whole else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def lines(out: Path, everything: bool = False) -> list[str]:
    """The report: one line a cell, what needs attention first, then the counts.

    From MANY cells on, those that need no attention are one line a method, unless `everything` is asked for.
    """
    found, bad = look(out)
    damaged = [f"damaged plan, left out: {path} {why}" for path, why in bad]
    if not found:
        return [*damaged, f"nothing planned in {out}"]
    rows = sorted(found.items(), key=lambda item: ORDER.index(item[1][0]))
    report = []
    if len(found) > MANY and not everything:
        report = [f"{state:11}  {text}" for state, text in grouped(found)]
        rows = [row for row in rows if row[1][0] not in ("queued", "waiting", "missing", "done")]
    width = max((len(key) for key, _ in rows), default=0)
    report = [f"{state:11}  {key:{width}}  {detail}".rstrip() for key, (state, detail) in rows] + report
    return [printable(line) for line in [*damaged, *report, counts(found)]]


def counts(found: Found) -> str:
    """`1 running, 2 done of 3 cells`."""
    numbers = dict.fromkeys(ORDER, 0)
    for state, _ in found.values():
        numbers[state] += 1
    return ", ".join(f"{n} {name}" for name, n in numbers.items() if n) + f" of {len(found)} cells"


def grouped(found: Found) -> list[tuple[str, str]]:
    """The cells that need no attention: (state, `task/method  seeds 0-99 (100 cells)`)."""
    from harness.display import ranges

    groups: dict[tuple[str, str], list[int]] = {}
    for key, (state, _) in found.items():
        if state in ("queued", "waiting", "missing", "done"):
            name, _, seed = key.rpartition("/")
            groups.setdefault((state, name), []).append(int(seed) if seed.isdecimal() else -1)
    ordered = sorted(groups.items(), key=lambda item: ORDER.index(item[0][0]))
    return [(state, f"{name}  seeds {ranges(seeds)} ({len(seeds)} cells)") for (state, name), seeds in ordered]


def watch(out: Path, every: float) -> int:
    """Show the cells that run and what failed, live, until none is left to wait for; Ctrl-C ends it sooner."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    found = states(out)
    try:
        with Live(live_table(out, found), console=console, auto_refresh=False, transient=False) as live:
            while not all(state in OVER for state, _ in found.values()):
                time.sleep(every)
                found = states(out)
                live.update(live_table(out, found), refresh=True)
    except KeyboardInterrupt:
        pass
    return 0


def live_table(out: Path, found: Found) -> Any:
    """Running, failed and interrupted cells, as many as fit, under the counts."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{out}: {counts(found)}", title_justify="left", expand=True)
    for name in ("state", "cell", "detail"):
        table.add_column(name, overflow="fold")
    colours = {"running": "cyan", "failed": "red", "interrupted": "yellow", "corrupt": "red"}
    rows = [(state, key, detail) for key, (state, detail) in found.items() if state in colours]
    for state, key, detail in sorted(rows, key=lambda row: ORDER.index(row[0]))[:40]:
        table.add_row(Text(state, colours[state]), Text(key), Text(detail))  # Text: no markup in what cells say
    if len(rows) > 40:
        table.add_row("", Text(f"and {len(rows) - 40} more"), "")
    return table
