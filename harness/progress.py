"""Progress of a running cell: a small JSON file that anyone may read while it runs, and TensorBoard event files.

`<out>/work/<cell>/progress.json`: phase, step, total, values, pid, host, started,
phase_started, phase_from, updated, seconds_left. Times are seconds since the epoch. The file never affects a result.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.lease import LeaseLost
from harness.record import write_atomic

FILE = "progress.json"
EVERY = 0.5  # seconds between two writes of the file
SILENT = 600.0  # seconds without a write after which a cell counts as stopped


class Progress:
    """Writes one cell's progress. `train`, `rollout` etc. are its phases; `report` is called from within a phase."""

    def __init__(self, workdir: Path, tensorboard: bool = True):
        self.path = workdir / FILE
        self.workdir, self.tensorboard = workdir, tensorboard
        self.writer: Any = None
        now = time.time()
        self.state: dict[str, Any] = {
            "phase": "start", "step": 0, "total": 0, "values": {}, "pid": os.getpid(), "host": socket.gethostname(),
            "started": now, "phase_started": now, "phase_from": None, "updated": now, "seconds_left": None,
        }  # fmt: skip
        self.written = 0.0
        self.save(force=True)

    def phase(self, name: str, total: int = 0) -> None:
        """Begin a phase of `total` steps."""
        self.state |= {"phase": name, "step": 0, "total": total, "phase_started": time.time(), "phase_from": None}
        self.state["seconds_left"] = None
        self.save(force=True)

    def report(self, step: int, total: int, values: Mapping[str, float] | None = None) -> None:
        """`step` of `total` is done; `values`, such as {"loss": 0.3}, go to the event file. The `on_progress` of a phase."""
        now, state = time.time(), self.state
        first = state["phase_from"] is None
        if first:  # a resumed phase does not begin at 0
            state |= {"phase_from": step, "phase_started": now}
        done = step - state["phase_from"]
        left = (now - state["phase_started"]) / done * (total - step) if done > 0 else None
        state |= {"step": int(step), "total": int(total), "seconds_left": left}
        if values:
            numbers = {name: float(value) for name, value in values.items()}
            state["values"] = numbers
            self.log(state["phase"], step, numbers)
        kept = state["phase"] == "rollout" and bool(values)  # a chunk is finished: what a resumed run begins with
        self.save(force=first or step >= total or kept)

    def log(self, phase: str, step: int, numbers: dict[str, float]) -> None:
        """Append to the cell's TensorBoard event file."""
        if not self.tensorboard:
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # imported late: it takes a second

            self.writer = SummaryWriter(str(self.workdir / "tensorboard"))
        for name, value in numbers.items():
            self.writer.add_scalar(f"{phase}/{name}", value, step)

    def save(self, force: bool = False) -> None:
        """Write the file, at most every `EVERY` seconds unless forced."""
        now = time.time()
        if force or now - self.written >= EVERY:
            self.written = self.state["updated"] = now
            write_atomic(self.path, json.dumps(self.state, default=str) + "\n", durable=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The cell has ended: close the event file and remove the file, which an interrupted cell leaves for `status`."""
        if self.writer is not None:
            self.writer.close()
        if kind is None or not issubclass(
            kind, (KeyboardInterrupt, LeaseLost)
        ):  # LeaseLost: the file is another runner's by now
            self.path.unlink(missing_ok=True)


def read(workdir: Path) -> dict[str, Any] | None:
    """A cell's progress file, or None where there is none (or it is not one)."""
    try:
        state = json.loads((workdir / FILE).read_bytes())
        return state if state.keys() >= {"phase", "step", "total", "values", "pid", "host", "updated"} else None
    except (OSError, ValueError, AttributeError):
        return None


def alive(state: dict[str, Any]) -> bool:
    """Whether the process that wrote this state still runs: by its last write, and by its id if it is on this machine."""
    if time.time() - float(state["updated"]) > SILENT:
        return False
    if state["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(state["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def line(state: dict[str, Any]) -> str:
    """One line for people: `train 1200/20000 · loss 0.31 · 12 min left`."""
    parts = [f"{state['phase']} {state['step']}/{state['total']}" if state["total"] else str(state["phase"])]
    parts += [f"{name} {value:.4g}" for name, value in list(state["values"].items())[:2]]
    if state.get("seconds_left") is not None:
        parts.append(f"{duration(state['seconds_left'])} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """42 -> `42 s`, 900 -> `15 min`, 7300 -> `2.0 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
