"""What SLURM says of an out folder's cells: the job tables written at submission, and one question to the scheduler.

`<out>/jobs/<submission>.json` keeps what was submitted: launcher, options, and for every job its cells and its log. It is
written by every launcher, so that `retry` knows how a cell was run; only SLURM's tables have job ids to ask for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import progress, record
from harness.errors import UserError

SCHEMA = 1
CANCELLED = "cancelled.txt"  # in a submission's folder: keys of cells that are not wanted any more
TIMEOUT = 60  # seconds that SLURM may take to answer
STATES = ("queued", "running", "failed", "cancelled", "ended", "unknown")
ACTIVE = ("queued", "running")
# SLURM's states; those that are not here mean "failed"
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


@dataclass(frozen=True)
class JobState:
    """How the job of a cell stands.

    state: `queued`, `running`, `failed`, `cancelled`, `ended` (well, or SLURM has forgotten it) or `unknown` (SLURM cannot
    be asked here). A cell with a record is never `queued` or `running`: records of earlier tries are set aside at
    submission. The other states matter only where there is no record. log: the job's output, which exists once it has started.
    """

    state: str
    detail: str
    job_id: str
    log: Path


@dataclass
class Table:
    """One submission. jobs: job id -> its cells' keys; options: those of the command line; log: file name below folder."""

    name: str
    launcher: str
    submitted: float
    options: dict[str, Any]
    jobs: dict[str, list[str]] = field(default_factory=dict)
    cells: list[str] = field(default_factory=list)

    def write(self, out: Path) -> None:
        content = {"schema": SCHEMA, **{k: v for k, v in vars(self).items() if k != "name"}}
        record.write_atomic(out / "jobs" / f"{self.name}.json", json.dumps(content, indent=1) + "\n")


def new_name() -> str:
    """A submission's name, which sorts by time."""
    return datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]


def folder(out: Path, name: str) -> Path:
    """Where a submission's scripts and logs lie."""
    return out / "jobs" / name


def log_of(out: Path, name: str, job_id: str) -> Path:
    """The output of a job."""
    return folder(out, name) / f"{job_id}_0_log.out"


def tables(out: Path) -> list[Table]:
    """The submissions of an out folder, oldest first. A file that is no job table is a UserError."""
    found = []
    for path in (out / "jobs").glob("*.json"):
        try:
            content = json.loads(path.read_bytes())
            if content.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            table = Table(path.stem, **content)
            if not all(isinstance(keys, list) for keys in [table.cells, *table.jobs.values()]):
                raise ValueError("cells are no list")
            found.append((float(table.submitted), table.name, table))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a job table that this version wrote ({error!r}): move it away") from None
    return [table for *_, table in sorted(found, key=lambda entry: entry[:2])]


def jobs(out: Path) -> dict[str, JobState]:
    """Cell key -> the state of the newest SLURM job that has it; {} for a folder that no SLURM job works for.

    Asks `squeue` once, and `sacct` once where squeue has forgotten jobs of cells without a record. Never raises for a
    SLURM that is absent, does not answer or keeps no accounts.
    """
    submitted = [table for table in tables(out) if table.launcher == "slurm"]
    if not submitted:
        return {}
    told, names, why = None, {}, "there is no squeue here to ask SLURM with"
    if shutil.which("squeue") is not None:
        told, names = ask_squeue() or (None, {})
        why = "SLURM does not answer"
    adopt(out, submitted, names)
    newest = {key: (table, job) for table in submitted for job, keys in table.jobs.items() for key in keys}
    if told is None:
        return {
            key: JobState("unknown", why, job, log_of(out, table.name, job)) for key, (table, job) in newest.items()
        }
    forgotten = {job for key, (_, job) in newest.items() if job not in told and not has_record(out, key)}
    if forgotten:
        told |= ask_sacct(forgotten)
    states = {}
    unwanted = {table.name: cancelled(folder(out, table.name)) for table in submitted}
    for key, (table, job) in newest.items():
        state, detail = told.get(job, ("ended", "SLURM no longer knows its job"))
        if state in ACTIVE and has_record(out, key):
            state, detail = "ended", "has a record; its job goes on"
        elif key in unwanted[table.name] and not has_record(out, key):
            state, detail = "cancelled", "cancelled"
        elif state == "running" and len(table.jobs[job]) > 1 and progress.read(record.work_path(out, key)) is None:
            state, detail = "queued", "waits for its turn in a job that runs"
        states[key] = JobState(state, detail, job, log_of(out, table.name, job))
    return states


def note_cancelled(out: Path, name: str, keys: list[str]) -> None:
    """Have the jobs of a submission pass these cells over."""
    with (folder(out, name) / CANCELLED).open("a") as file:
        file.write("".join(f"{key}\n" for key in keys))


def cancelled(submission: Path) -> set[str]:
    """Keys of the cells that were cancelled, in a submission's folder."""
    try:
        return set((submission / CANCELLED).read_text().split())
    except FileNotFoundError:
        return set()


def has_record(out: Path, key: str) -> bool:
    """Whether a cell has a record, good or bad."""
    return record.record_path(out, key).exists()


def ask(command: list[str]) -> str | None:
    """The output of a SLURM command, or None where it fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout if run.returncode == 0 else None


def adopt(out: Path, submitted: list[Table], names: dict[str, str]) -> None:
    """Complete the tables of submissions that were broken off between `sbatch` and the table, by the names of jobs."""
    for table in submitted:
        if set(table.cells) <= {key for keys in table.jobs.values() for key in keys}:
            continue
        known = len(table.jobs)
        for job, name in names.items():
            submission, _, array = name.rpartition("-")
            if submission == table.name and job not in table.jobs:
                pack = folder(out, table.name) / f"{array}-{job.partition('_')[2] or 0}.json"
                table.jobs[job] = [spec["key"] for spec in json.loads(pack.read_bytes())["specs"]]
        if len(table.jobs) > known:
            table.write(out)


def ask_squeue() -> tuple[dict[str, tuple[str, str]], dict[str, str]] | None:
    """Of this user's jobs that slurmctld remembers (all that wait and run, and the latest ended): job id -> (state, detail),
    and job id -> name."""
    text = ask(["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%M|%R|%j"])
    if text is None:
        return None
    told, names = {}, {}
    for line in text.splitlines():
        job, word, elapsed, where, name = line.split("|", 4)
        names[job] = name
        where = where.strip().strip("()")
        state = state_of(word)
        detail = {"queued": where, "running": f"{elapsed} on {where}"}.get(state, word)
        told[job] = (state, f"{word.lower()}: {detail}" if state in ACTIVE else word.lower().replace("_", " "))
    return told, names


def ask_sacct(wanted: set[str]) -> dict[str, tuple[str, str]]:
    """The same of jobs that slurmctld has forgotten, from the accounts; {} where none are kept."""
    masters = ",".join(sorted({job.split("_")[0] for job in wanted}))
    text = ask(["sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode", "-j", masters])
    told = {}
    for line in (text or "").splitlines():
        job, words, code = line.split("|")[:3]
        if job in wanted:
            word = words.split()[0]  # "CANCELLED by 0"
            exit_code = f", exit code {code}" if state_of(word) == "failed" else ""
            told[job] = (state_of(word), word.lower().replace("_", " ") + exit_code)
    return told


def wanted_back(job: str) -> bool:
    """Whether a job that got a TERM, the one that we are in, should go back into the queue.

    Yes while it counts as running (a preemption with a time of grace) and once its time is over; not if it was cancelled: then
    SLURM shows it as completing, and would requeue it without a word.
    """
    state, _, reason = (ask(["squeue", "-h", "-t", "all", "-j", job, "-o", "%T|%r"]) or "").strip().partition("|")
    return state == "RUNNING" or reason == "TimeLimit"


def state_of(word: str) -> str:
    """SLURM's word -> ours."""
    if word in QUEUED:
        return "queued"
    if word in RUNNING:
        return "running"
    return {"COMPLETED": "ended", "CANCELLED": "cancelled", "REVOKED": "cancelled"}.get(word, "failed")
