"""Cells for tests on the cluster: the real ones, struck once in a chosen phase, and ones that do nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from standins import stand_in_cell, write_record

from harness import record, stop
from harness.progress import Progress
from harness.slurm_job import own_id

WAIT = 240  # seconds until a strike counts as missed


def order(out: Path, key: str, fault: str, phase: str) -> None:
    """Have cell `key` struck. fault: kill, usr2, term, preempt or wait (for a time limit); phase: train, rollout or write."""
    path = out / "faults" / f"{key.replace('/', '-')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"fault": fault, "phase": phase}))


def struck_cell(spec: dict[str, Any]) -> None:
    """harness.job.run_cell in small chunks, hit as `order` says, once."""
    from harness import job, rollout, train

    rollout.CHUNK = 4
    path = Path(spec["out"]) / "faults" / f"{spec['key'].replace('/', '-')}.json"
    path.parent.mkdir(exist_ok=True)
    fault = json.loads(path.read_text()) if path.exists() else {}
    if fault.get("phase") == "train":
        iterate = train.Trainer.iterate

        def struck_iterate(self: train.Trainer) -> None:
            iterate(self)
            if self.step == 10:
                strike(path, fault["fault"])

        train.Trainer.iterate = struck_iterate  # type: ignore[method-assign]
    load = train.Trainer.load

    def noted_load(self: train.Trainer, checkpoint: Path) -> None:
        load(self, checkpoint)
        path.with_suffix(".resumed").write_text(str(self.step))

    train.Trainer.load = noted_load  # type: ignore[method-assign]
    if fault.get("phase") == "rollout":
        read = rollout.read_chunk

        def struck_read(chunk: Path, *what: Any) -> Any:
            if chunk.name == "4.json":
                strike(path, fault["fault"])
            return read(chunk, *what)

        rollout.read_chunk = struck_read
    elif fault.get("phase") == "write":
        replace = Path.replace

        def struck_replace(self: Path, target: Any) -> Path:
            if "records" in Path(target).parts:
                strike(path, fault["fault"])
            return replace(self, target)

        Path.replace = struck_replace  # type: ignore[method-assign]
    job.run_cell(spec)


def strike(path: Path, fault: str) -> None:
    """Let the fault happen to this process: die, or return once it was asked to stop."""
    path.rename(path.with_suffix(".struck"))
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault in ("usr2", "term"):
        subprocess.Popen(["scancel", f"--signal={fault.upper()}", own_id()])  # itself of those that get the signal
    if fault == "preempt":
        subprocess.run(["sbatch", "-p", "high", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"], check=True)
    end = time.monotonic() + WAIT
    while stop.requested() is None:
        if time.monotonic() > end:
            raise TimeoutError(f"no signal within {WAIT} s")
        time.sleep(0.05)


def light_cell(spec: dict[str, Any]) -> None:
    """A cell that does what `<out>/light/<method>.json` says (see standins.stand_in_cell) and leaves a record."""
    path = Path(spec["out"]) / "light" / f"{spec['method']}.json"
    options = json.loads(path.read_text()) if path.exists() else {}
    with Progress(record.work_path(Path(spec["out"]), spec["key"]), tensorboard=False):
        end = time.monotonic() + options.pop("until_stopped", 0)
        while time.monotonic() < end:
            stop.check()
            time.sleep(0.05)
    if "exit" in options:
        os._exit(options["exit"])
    stand_in_cell(spec | {"options": options})
    write_record(Path(spec["out"]), spec["task"], spec["method"], spec["seed"], spec["config_hash"])
