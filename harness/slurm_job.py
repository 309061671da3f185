"""What runs inside a job: its cells one after the other, each resumed where an earlier life of the job left it.

A job's end means:
    0    every cell has a finished record
    1    a cell failed, or waited for one that did; its record says why
    75   saved on request, and back in the queue (or cancelled)
    128+ killed without a word: the batch script calls `died`, which puts the job back until a cell has died too often
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import launch, record, scheduler, stop

LEFT = 75  # exit code: temporary failure (sysexits.h)
REQUEUE_TRIES, REQUEUE_WAIT = 5, 2.0  # seconds; a busy slurmctld may refuse once

Pack = dict[str, Any]  # one job's share of a submission, as `harness.slurm` writes it


class CellsFailed(RuntimeError):
    """Some cells of a job have no result."""


def run(path: str) -> None:
    """Run the cells of the pack in file `path`. Raises CellsFailed; leaves with exit code 75 when asked to stop."""
    pack = json.loads(Path(path).read_bytes())
    if "SUBMITIT_DEBUG_JOB_ID" not in os.environ:  # in a process of its own
        stop.install(signal.SIGUSR2, signal.SIGTERM)
    failed = []
    for spec in pack["specs"]:
        key = spec["key"]
        if key in scheduler.cancelled(Path(path).parent):
            print(f"cancelled {key}", flush=True)
            continue
        try:
            why = outcome(pack, spec)
        except stop.Stopped:
            number = stop.requested() or signal.SIGTERM
            print(f"stopped   {key} on {signal.Signals(number).name}, saved", flush=True)
            if key not in scheduler.cancelled(Path(path).parent):
                leave(pack, number)
            stop.clear()
            continue
        print(f"failed    {key}: {why}" if why else f"done      {key}", flush=True)
        if why:
            failed.append(f"{key}: {why}")
    if failed:
        raise CellsFailed("; ".join(failed))


def outcome(pack: Pack, spec: dict[str, Any]) -> str:
    """Run a cell unless it has ended in an earlier life of this job, or cannot run. Returns "" or why it has no result."""
    found = launch.state_of(spec)
    if found.name == "done":
        return ""
    if found.name == "failed":  # records of earlier failures were moved away at submission
        return found.why
    stop.check()
    if why := blocked(pack, spec):
        launch.give_up(spec, "Blocked", why)
        return why
    print(f"start     {spec['key']}", flush=True)
    return launch.run_logged(pack["target"], spec)


def blocked(pack: Pack, spec: dict[str, Any]) -> str:
    """Why a cell cannot run: one that it needs has no result, and its job is over (else this job would not have started)."""
    for need, config_hash in pack["needs"].get(spec["key"], {}).items():
        found = record.state(Path(spec["out"]), need, config_hash)
        if found.name == "failed":
            return f"needs {need}, which failed"
        if found.name != "done":
            return f"needs {need}, whose job ended without a result"
    return ""


def leave(pack: Pack, number: int) -> None:
    """End this job, saved, so that it comes back: SLURM requeues it, or submitit's local controller starts it again.

    A TERM from `scancel` is meant to last. More comings back than the profile allows are a failure.
    """
    sys.stdout.flush()
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

        sys.exit(LOCAL_REQUEUE_RETURN_CODE if number == signal.SIGUSR2 else LEFT)
    job = own_id()
    if not job or (number == signal.SIGTERM and not scheduler.wanted_back(job)):
        sys.exit(LEFT)
    lives = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if lives >= pack["requeues"]:
        why = f"its job has come back {lives} times: allow more `requeues` in the profile, or more time"
        fail_unfinished(pack, "Requeued", why, only_first=False)
        raise CellsFailed(why)
    requeue(job)
    sys.exit(LEFT)


def own_id() -> str:
    """The id of the job that we are in; "" outside of one.

    SLURM_JOB_ID would do for a job alone, but the last element of an array has the id of the whole array.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


def requeue(job: str) -> bool:
    """Put a job back into the queue, which ends it here. False where SLURM will not."""
    for attempt in range(REQUEUE_TRIES):
        time.sleep(REQUEUE_WAIT * (attempt > 0))
        answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return True
        print(f"scontrol requeue {job}: {answer.stderr.strip()}", flush=True)
    return False


def died(path: str, code: int) -> None:
    """Called by the batch script when the process of a pack was killed: count it, and put the job back.

    The cell that was running when its process died more than `deaths` times gets a failed record; the others go on.
    """
    pack = json.loads(Path(path).read_bytes())
    unfinished = [
        spec
        for spec in pack["specs"]
        if not has_ended(spec) and spec["key"] not in scheduler.cancelled(Path(path).parent)
    ]
    if not unfinished:
        return
    key = unfinished[0]["key"]
    launch.tidy(unfinished[0])  # what the dead process was about to write
    ledger = Path(path).with_suffix(".deaths")
    with ledger.open("a") as file:
        file.write(f"{key}\n")
    count = ledger.read_text().split().count(key)
    print(f"killed    {key} (exit code {code}), death {count}", flush=True)
    if count > pack["deaths"]:
        how = signal.Signals(code - 128).name if code - 128 in {int(s) for s in signal.Signals} else f"code {code}"
        fail_unfinished(
            pack, "WorkerDied", f"the cell's process was killed {count} times, by {how} at last", only_first=True
        )
        if len(unfinished) == 1:
            return
    requeue(own_id())


def has_ended(spec: dict[str, Any]) -> bool:
    """Whether a cell has a record that counts."""
    return launch.state_of(spec).name in ("done", "failed")


def fail_unfinished(pack: Pack, kind: str, why: str, only_first: bool) -> None:
    """Leave failed records for the cells that have none (the first of them, or all)."""
    for spec in pack["specs"]:
        if not has_ended(spec):
            launch.give_up(spec, kind, why)
            if only_first:
                return


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] != "died":
        sys.exit("usage: python -m harness.slurm_job died PACK CODE (called by batch scripts)")
    died(sys.argv[2], int(sys.argv[3]))
