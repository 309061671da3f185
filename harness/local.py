"""`--launcher local` and `debug`: submitit's executors without a cluster, for trying what a SLURM job would do.

local: every cell in a process of its own that outlives this one, with the job's signals and requeueing; the plan's order is
kept here. debug: every cell in this process.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from harness import scheduler, slurm_job
from harness.launch import POLL, TARGET, Spec, give_up, state_of

YEAR = 365 * 24 * 60  # minutes; no limit on time


class Jobs:
    """Runs cells as submitit jobs. A runner of harness.launch."""

    def __init__(self, launcher: str, out: Path, table: scheduler.Table, workers: int, target: str = TARGET):
        import submitit

        self.workers, self.target = workers, target
        self.folder = scheduler.folder(out, table.name).absolute()
        self.folder.mkdir(parents=True)
        self.debug = launcher == "debug"
        executor: Any = submitit.DebugExecutor if self.debug else submitit.LocalExecutor
        self.executor = executor(folder=self.folder)
        self.executor.update_parameters(timeout_min=YEAR, stderr_to_stdout=True)
        self.running: dict[str, tuple[Any, Spec]] = {}

    def free(self) -> int:
        return self.workers - len(self.running)

    def start(self, spec: Spec, expired: bytes | None = None) -> None:
        path = self.folder / f"{spec['key'].replace('/', '-')}.json"
        pack = {"target": self.target, "requeues": 0, "deaths": 0, "needs": {}, "specs": [spec]}
        path.write_text(json.dumps(pack))
        self.running[spec["key"]] = (self.executor.submit(slurm_job.run, str(path)), spec)

    def finished(self) -> list[tuple[str, str | None]]:
        """The cells whose job has ended; waits a moment where none has."""
        ended = [key for key, (job, _) in self.running.items() if self.debug or job.done()]
        if not ended:
            time.sleep(POLL)
        return [(key, self.outcome(*self.running.pop(key))) for key in ended]

    def outcome(self, job: Any, spec: Spec) -> str | None:
        """ "" for a cell with a finished record, otherwise why it has none; None: another run has it."""
        if self.debug:
            job.exception()  # runs it
        found = state_of(spec)
        if found.name == "done":
            return ""
        if found.name == "failed":
            return f"{found.why} (log: {job.paths.stdout})"
        message = "its job ended without a result"
        return give_up(spec, "WorkerDied", message) and f"{message} (log: {job.paths.stdout})"

    def stop(self) -> None:
        """End what still runs."""
        for job, _ in self.running.values():
            job.cancel(check=False)
        self.running.clear()
