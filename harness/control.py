"""`python -m harness cancel` and `retry`: take cells of an out folder out of SLURM's queue, run failed ones again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from harness import cli, plan, record, scheduler
from harness.errors import UserError

OF_LAUNCHERS = ("profile", "resource", "cells_per_job", "array_parallelism", "workers", "device", "threads")
AT_ONCE = 500  # job ids in one call of scancel


def matching(keys: Iterable[str], patterns: str | None) -> list[str]:
    """The keys that one of the comma-separated patterns names (`toy/*/0`); all without patterns. None is a UserError."""
    keys = list(keys)
    if patterns is None:
        return keys
    words = patterns.split(",")
    if idle := [word for word in words if not any(fnmatchcase(key, word) for key in keys)]:
        some = ", ".join(keys[:5]) + (" ..." if len(keys) > 5 else "")
        raise UserError(f"--cells {idle[0]!r} names none of these {len(keys)} cells: {some or '(there are none)'}")
    return [key for key in keys if any(fnmatchcase(key, word) for word in words)]


def check_folder(out: Path) -> None:
    """The folder is one of a run."""
    if not out.is_dir():
        raise UserError(f"no folder {out}: nothing was run with this --out")


def cancel(argv: list[str]) -> int:
    """Cancel queued and running cells, and those that need them. What they have saved stays."""
    parser = cli.Parser(
        prog="python -m harness cancel", description="Take cells out of SLURM's queue; what is saved stays."
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--cells", help="comma-separated patterns, such as 'toy/vdd_*/*' (default: all that are not done)"
    )
    args = parser.parse_args(argv)
    check_folder(args.out)
    states = scheduler.jobs(args.out)
    if unknown := [key for key, job in states.items() if job.state == "unknown"]:
        raise UserError(f"cannot cancel: {states[unknown[0]].detail}")
    active = [key for key, job in states.items() if job.state in scheduler.ACTIVE]
    if not active:
        print(f"no cell of {args.out} is in SLURM's queue (a run of --launcher pool or local stops with Ctrl-C)")
        return 0
    chosen = with_dependents(matching(active, args.cells), args.out)
    gone = set(chosen) & set(active)
    shared: list[str] = []
    whole: list[str] = []
    for table in scheduler.tables(args.out):
        for job, keys in table.jobs.items():
            mine = [key for key in keys if key in gone and states[key].job_id == job]
            if mine:
                scheduler.note_cancelled(args.out, table.name, mine)
                rest = [key for key in keys if key not in mine and not scheduler.has_record(args.out, key)]
                (shared if rest else whole).append(job)
    scancel(whole)
    scancel(
        [job for job in shared if any(states[key].job_id == job and states[key].state == "running" for key in gone)],
        "USR2",
    )
    for key in sorted(gone):
        print(f"cancelled {key}" + ("" if key in matching(active, args.cells) else " (needs a cancelled one)"))
    return 0


def with_dependents(keys: Collection[str], out: Path) -> set[str]:
    """The cells and those that need them."""
    chosen = set(keys)
    for key, cell in plan.saved_cells(out).items():
        if chosen & set(cell["needs"]):
            chosen.add(key)
    return chosen


def scancel(jobs: list[str], signal: str | None = None) -> None:
    """Cancel jobs, or send them a signal."""
    for first in range(0, len(jobs), AT_ONCE):
        option = [] if signal is None else [f"--signal={signal}"]
        run = subprocess.run(
            ["scancel", *option, *jobs[first : first + AT_ONCE]], capture_output=True, text=True, check=False
        )
        if run.returncode != 0 and "already" not in run.stderr:
            raise UserError(f"scancel: {' '.join(run.stderr.split())[:300]}")


def failures(out: Path) -> list[str]:
    """Cells with a failed record, and those without any whose job failed; not those that are in the queue again."""
    jobs = scheduler.jobs(out)
    failed = []
    for key, cell in plan.saved_cells(out).items():
        job = jobs.get(key)
        if job is not None and job.state in scheduler.ACTIVE:
            continue
        found = record.state(out, key, cell["config_hash"])
        if found.name == "failed" or (found.name == "missing" and job is not None and job.state == "failed"):
            failed.append(key)
    return failed


def retry(argv: list[str]) -> int:
    """Run the failed cells of a folder again, each with the options that it was run with, or with other ones."""
    from harness import run

    parser = cli.run_parser("python -m harness retry")
    parser.description = (
        "Run failed cells again, as they were run; any option given here takes the place of the old one."
    )
    parser.add_argument("--cells", help="comma-separated patterns, such as 'toy/vdd_*/*' (default: all that failed)")
    parser.set_defaults(launcher=None)  # None: that of the run
    args = parser.parse_args(argv)
    if args.out is None:
        raise UserError("retry needs --out, the folder of the run")
    out = Path(args.out)
    check_folder(out)
    failed = failures(out)
    if not failed:
        print(f"no cell of {out} failed")
        return 0
    chosen = matching(failed, args.cells)
    latest = {key: table for table in scheduler.tables(out) for key in table.cells}
    if strangers := [key for key in chosen if key not in latest]:
        raise UserError(
            f"it is not known how {strangers[0]} was run: repeat the run's command, which tries failed cells again"
        )
    groups: dict[str, list[str]] = {}  # by the options that they were run with
    for key in chosen:
        groups.setdefault(json.dumps(latest[key].options, sort_keys=True), []).append(key)
    codes = []
    for text, keys in groups.items():
        options = json.loads(text)
        if args.launcher not in (None, options["launcher"]):  # what only fits the old one
            options = {name: value for name, value in options.items() if name not in OF_LAUNCHERS}
        codes.append(run.run(parser.parse_args(argv, cli.restored(options)), only=keys))
    return max(codes)
