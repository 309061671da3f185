"""Run a plan's cells: in this process, or in a pool of local processes, a cell's needs always before the cell.

One failed cell does not stop the others; the cells that need it are marked failed with the reason. Each cell of the pool
has its own process, which ends with its parent, so that nothing keeps running behind a killed run.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

from harness import record as records
from harness.registry import resolve_class

Spec = dict[str, Any]
OnEvent = Callable[[str, str, str], None]  # (event, cell key, detail); event: start, done, failed, tick
TARGET = "harness.job:run_cell"
POLL = 0.2  # seconds


class Runner(Protocol):
    """What runs the cells that are ready: Inline and Pool here, Jobs in harness/local.py."""

    @property
    def running(self) -> Collection[str]: ...
    def free(self) -> int: ...
    def start(self, spec: Spec) -> None: ...
    def finished(self) -> list[tuple[str, str]]: ...
    def stop(self) -> None: ...


def launch(
    specs: list[Spec],
    needs: dict[str, tuple[str, ...]],
    workers: int,
    on_event: OnEvent,
    target: str = TARGET,
    runner: Runner | None = None,
) -> dict[str, str]:
    """Run every spec; `workers` processes at once, 0 = in this process. Returns key -> "" (done) or why it failed.

    `needs`: key -> keys that must be done before; those that are not among the specs are done already. `runner`: what
    runs them instead of this process or a pool.
    """
    waiting = {spec["key"]: spec for spec in specs}
    results: dict[str, str] = {}
    pool: Runner = runner or (Inline(target, on_event) if workers < 1 else Pool(target, workers))
    try:
        while waiting or pool.running:
            for key in block(waiting, needs, results):
                on_event("failed", key, results[key])
            ready = [k for k in waiting if all(n not in waiting and n not in pool.running for n in needs.get(k, ()))]
            for key in ready[: pool.free()]:
                on_event("start", key, "")
                pool.start(waiting.pop(key))
            for key, why in pool.finished():
                results[key] = why
                on_event("failed" if why else "done", key, why)
            on_event("tick", "", "")
    finally:
        pool.stop()
    return results


def block(waiting: dict[str, Spec], needs: dict[str, tuple[str, ...]], results: dict[str, str]) -> list[str]:
    """Give up the cells that need a failed one: each gets a failed record that says so."""
    given_up = []
    for key in list(waiting):
        failed = [need for need in needs.get(key, ()) if results.get(need)]
        if failed:
            results[key] = f"needs {failed[0]}, which failed"
            write_failure(waiting.pop(key), "Blocked", results[key])
            given_up.append(key)
    return given_up


def write_failure(spec: Spec, kind: str, message: str, log: str | None = None) -> None:
    """Leave a record that says why a cell has no result."""
    out = Path(spec["out"])
    record = {
        "schema": records.SCHEMA,
        "cell": {"task": spec["task"], "method": spec["method"], "seed": spec["seed"]},
        "status": "failed",
        "error": {"type": kind, "message": message, "log": log},
        "budget": spec["budget"], "backend": spec["backend"],
        "config": spec["config"], "config_hash": spec["config_hash"], "metric_version": spec["metric_version"],
        "data": spec["data"], "teacher": None, "weights": None, "metrics": {}, "episodes": {}, "training": {},
        "parameters": None, "provenance": {}, "timings": {},
    }  # fmt: skip
    records.write(records.record_path(out, spec["key"]), record)


def log_path(spec: Spec) -> Path:
    """Where a cell's output and traceback go."""
    return records.work_path(Path(spec["out"]), spec["key"]) / "log.txt"


def run_logged(target: str, spec: Spec) -> str:
    """Call the target; on an exception write traceback and failed record. Returns "" or why it failed."""
    log = log_path(spec)
    try:
        resolve_class(target)(spec)
        return ""
    except Exception as error:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            traceback.print_exc(file=file)
        kind, message = type(error).__name__, " ".join(str(error).split())[:500]
        write_failure(spec, kind, message, os.path.relpath(log, spec["out"]))
        return f"{kind}: {message} (log: {log})"


class Inline:
    """Runs cells one after the other in this process."""

    def __init__(self, target: str, on_event: OnEvent):
        self.target, self.on_event = target, on_event
        self.running: dict[str, Spec] = {}
        self.results: list[tuple[str, str]] = []

    def free(self) -> int:
        return 1

    def start(self, spec: Spec) -> None:
        stopped = threading.Event()

        def tick() -> None:  # keeps the display alive while this thread computes
            while not stopped.wait(POLL):
                self.on_event("tick", "", "")

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            self.results.append((spec["key"], run_logged(self.target, spec)))
        finally:
            stopped.set()
            thread.join()

    def finished(self) -> list[tuple[str, str]]:
        results, self.results = self.results, []
        return results

    def stop(self) -> None:
        """Nothing runs behind this object."""


class Pool:
    """Runs up to `workers` cells at once, each in a fresh process (spawned: forking breaks OpenGL and torch threads)."""

    def __init__(self, target: str, workers: int):
        self.target, self.workers = target, workers
        self.context = multiprocessing.get_context("spawn")
        self.running: dict[str, tuple[Any, Spec]] = {}

    def free(self) -> int:
        return self.workers - len(self.running)

    def start(self, spec: Spec) -> None:
        process = self.context.Process(target=work, args=(self.target, spec), name=spec["key"])
        process.start()
        self.running[spec["key"]] = (process, spec)

    def finished(self) -> list[tuple[str, str]]:
        """The cells whose process has ended; waits a moment for one to end."""
        if self.running:
            sentinels = [process.sentinel for process, _ in self.running.values()]
            multiprocessing.connection.wait(sentinels, POLL)
        ended = [(key, *entry) for key, entry in self.running.items() if not entry[0].is_alive()]
        results = []
        for key, process, spec in ended:
            process.join()
            results.append((key, self.outcome(spec, process.exitcode)))
            process.close()
            del self.running[key]
        return results

    def outcome(self, spec: Spec, code: int) -> str:
        """ "" for a cell that ended well; otherwise why not. A process that died without a word gets a failed record."""
        state = records.state(Path(spec["out"]), spec["key"], spec["config_hash"])
        if code == 0 and state.name == "done":
            return ""
        if code == 1 and state.name == "failed":
            return f"{state.why} (log: {log_path(spec)})"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        message = f"the cell's process {how} and left no result"
        write_failure(spec, "WorkerDied", message, os.path.relpath(log_path(spec), spec["out"]))
        return f"{message} (log: {log_path(spec)})"

    def stop(self) -> None:
        """End what still runs; it resumes from its checkpoints on the next run."""
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self.running.clear()


def work(target: str, spec: Spec) -> None:
    """A pool process: output into the cell's log, Ctrl-C left to the parent, and no life without it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()
    log = log_path(spec)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.exit(1 if run_logged(target, spec) else 0)


def die_with_parent() -> None:
    """Exit at once when the parent process is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
