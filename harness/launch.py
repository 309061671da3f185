"""Run a plan's cells: in this process, or in a pool of local processes, a cell's needs always before the cell.

One failed cell does not stop the others; the cells that need it are marked failed with the reason. Each cell of the pool
has its own process, which ends with its parent, so that nothing keeps running behind a killed run.

Several runs may share a folder: a cell is claimed where it runs (`run_logged`, harness/lease.py). One that another run holds
is looked at from time to time, while the others go on, until its record appears or its lease expires.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import record as records
from harness import stop
from harness.errors import UserError
from harness.lease import LeaseLost, Watch, clock, held, ttl_setting
from harness.registry import resolve_class

Spec = dict[str, Any]
OnEvent = Callable[[str, str, str], None]  # (event, cell key, detail); event: start, done, failed, wait, tick
TARGET = "harness.job:run_cell"
POLL = 0.2  # seconds
HELD, IN_THE_WAY = 75, 76  # exit codes of a cell's process: another run has the cell; its record must not be replaced


class Held(Exception):
    """Another run has the cell; the message says who."""


class Runner(Protocol):
    """What runs the cells that are ready: Inline and Pool here, Jobs in harness/local.py."""

    @property
    def running(self) -> Collection[str]: ...
    def free(self) -> int: ...
    def start(self, spec: Spec, expired: bytes | None = None) -> None: ...
    def finished(self) -> list[tuple[str, str | None]]: ...
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
    queue = Queue(specs, needs)
    pool: Runner = runner or (Inline(target, on_event) if workers < 1 else Pool(target, workers))
    started: dict[str, Elsewhere] = {}

    def settle(key: str, why: str, detail: str = "") -> None:
        on_event("failed" if why else "done", key, why or detail)
        for blocked in queue.settle(key, why):
            on_event("failed" if queue.results[blocked] else "done", blocked, queue.results[blocked])

    def put_off(key: str, other: Elsewhere) -> None:
        if queue.put_off(key, other):
            on_event("wait", key, other.watch.holder)

    def attempt(key: str, other: Elsewhere) -> None:
        if (outcome := other.outcome()) is not None:
            settle(key, outcome, "by another run")
        elif not other.watch.free() or not pool.free():
            put_off(key, other)
        else:
            started[key] = queue.elsewhere.pop(key, other)
            on_event("start", key, "")
            pool.start(queue.specs[key], other.watch.expired)

    try:
        while queue.left or pool.running:
            for key in queue.due():
                attempt(key, queue.elsewhere[key])
            while queue.ready and pool.free():
                key = queue.ready.popleft()
                attempt(key, Elsewhere(queue.specs[key]))
            for key, why in pool.finished():
                other = started.pop(key)
                if why is None:
                    other.watch.free()  # who has it
                    put_off(key, other)
                else:
                    settle(key, why)
            on_event("tick", "", "")
            if queue.left and not pool.running and not queue.ready:
                time.sleep(POLL)  # everything left is held by other runs
    finally:
        pool.stop()
    return queue.results


@dataclass
class Elsewhere:
    """A cell that another run may have: its lease, and what its record was when we first looked."""

    spec: Spec
    before: str | None = None  # checksum of the failed record that was there
    next: float = 0.0  # when to look again
    pause: float = POLL

    def __post_init__(self) -> None:
        self.watch = Watch(records.work_path(Path(self.spec["out"]), self.spec["key"]))
        self.first = True

    def outcome(self) -> str | None:
        """ "" where the cell's record is there by now, why where it has failed since the first look, else None."""
        state = state_of(self.spec)
        checksum = state.record["checksum"] if state.record is not None else None
        if self.first:
            self.first, self.before = False, checksum
        if state.name == "done":
            return ""
        ours = (state.record or {}).get("config_hash") == self.spec["config_hash"]
        if state.name == "failed" and ours and checksum != self.before:
            return f"{state.why} (in another run)"
        return None


class Queue:
    """Which cells may start: those whose needs are done. Constant work an event, whatever the number of cells."""

    def __init__(self, specs: list[Spec], needs: dict[str, tuple[str, ...]]):
        self.specs = {spec["key"]: spec for spec in specs}
        self.results: dict[str, str] = {}
        self.elsewhere: dict[str, Elsewhere] = {}  # held by other runs
        self.unmet: dict[str, int] = {}
        self.dependents: dict[str, list[str]] = {}
        for key in self.specs:
            open_needs = [need for need in needs.get(key, ()) if need in self.specs]
            self.unmet[key] = len(open_needs)
            for need in open_needs:
                self.dependents.setdefault(need, []).append(key)
        self.ready = deque(key for key, count in self.unmet.items() if not count)

    @property
    def left(self) -> bool:
        return len(self.results) < len(self.specs)

    def due(self) -> list[str]:
        """The cells of other runs whose time has come to be looked at again."""
        now = clock()
        return [key for key, other in self.elsewhere.items() if other.next <= now]

    def put_off(self, key: str, other: Elsewhere) -> bool:
        """Another run has the cell: look again later, less and less often. Returns whether that is news."""
        news = key not in self.elsewhere
        other.pause = min(
            other.pause * 1.5, max(POLL, ttl_setting() / 8)
        )  # a lease must be seen several times in a TTL
        other.next = clock() + other.pause
        self.elsewhere[key] = other
        return news

    def settle(self, key: str, why: str) -> list[str]:
        """A cell has ended. Returns the cells that end with it because they need it, each with a failed record."""
        self.elsewhere.pop(key, None)
        self.results[key] = why
        ended = []
        for dependent in self.dependents.get(key, ()):
            self.unmet[dependent] -= 1
            if dependent in self.results:
                continue
            if why:
                message = f"needs {key}, which failed"
                outcome = "" if give_up(self.specs[dependent], "Blocked", message) == "" else message
                ended += [dependent, *self.settle(dependent, outcome)]
            elif not self.unmet[dependent]:
                self.ready.append(dependent)
        return ended


def give_up(spec: Spec, kind: str, message: str, log: str | None = None) -> str | None:
    """Leave a failed record, unless another run has the cell or has finished it: None or "" then, else `message`."""
    lease = Watch(records.work_path(Path(spec["out"]), spec["key"])).take()
    if lease is None:
        return None
    with held(lease):
        state = state_of(spec)
        if state.name == "done":
            return ""
        if state.name != "other":
            write_failure(spec, kind, message, log)
    return message


def state_of(spec: Spec) -> records.State:
    """What the cell's record says now."""
    return records.state(Path(spec["out"]), spec["key"], spec["config_hash"])


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


def run_logged(target: str, spec: Spec, wait: bool = True, expired: bytes | None = None) -> str:
    """Claim the cell and call the target; on an exception write traceback and failed record. Returns "" or why it failed.

    A cell that another run holds is waited for; with wait=False it raises Held. A record that is there once the cell is
    claimed counts: another run was faster. `expired`: a lease that the caller saw expire.
    """
    other = Elsewhere(spec)
    other.watch.expired = expired
    while True:
        if (outcome := other.outcome()) is not None:
            return outcome
        try:
            check_inside(spec)
        except UserError as error:
            return f"refused: {error}"
        lease = other.watch.take()
        if lease is None:
            if not wait:
                raise Held(other.watch.holder)
            stop.check()
            time.sleep(POLL)
            continue
        try:
            with held(lease):
                if (outcome := other.outcome()) is not None:
                    return outcome
                if lease.after_death:
                    tidy(spec)
                return run_claimed(target, spec)
        except LeaseLost as error:
            note(spec, f"stopped: {error}")
            if not wait:
                raise Held(str(error)) from None


def run_claimed(target: str, spec: Spec) -> str:
    """Call the target for a cell that is ours."""
    log = log_path(spec)
    if state_of(spec).name == "other":
        return "meanwhile another run left a record of another configuration: choose another --out, or pass --overwrite"
    try:
        resolve_class(target)(spec)
        return ""
    except LeaseLost:
        raise
    except Exception as error:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            traceback.print_exc(file=file)
        kind, message = type(error).__name__, " ".join(str(error).split())[:500]
        write_failure(spec, kind, message, os.path.relpath(log, spec["out"]))
        return f"{kind}: {message} (log: {log})"


def note(spec: Spec, text: str) -> None:
    """A line in the cell's log."""
    with log_path(spec).open("a") as file:
        file.write(f"{text}\n")


def check_inside(spec: Spec) -> None:
    """A cell's folders are folders of the results, not links that lead elsewhere. Raises UserError."""
    out = Path(spec["out"])
    for path in (records.record_path(out, spec["key"]).parent, records.work_path(out, spec["key"])):
        for folder in (path, *path.parents):
            if folder == out:
                break
            if folder.is_symlink():
                raise UserError(f"{folder} is a symbolic link: a run writes into its own folder alone")


def tidy(spec: Spec) -> None:
    """Remove what a dead holder of the cell was about to write."""
    path = records.record_path(Path(spec["out"]), spec["key"])
    for part in path.parent.glob(f".{path.name}.*.part"):
        part.unlink(missing_ok=True)


class Inline:
    """Runs cells one after the other in this process."""

    def __init__(self, target: str, on_event: OnEvent):
        self.target, self.on_event = target, on_event
        self.running: dict[str, Spec] = {}
        self.results: list[tuple[str, str | None]] = []

    def free(self) -> int:
        return 1 - len(self.results)

    def start(self, spec: Spec, expired: bytes | None = None) -> None:
        stopped = threading.Event()

        def tick() -> None:  # keeps the display alive while this thread computes
            while not stopped.wait(POLL):
                self.on_event("tick", "", "")

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            self.results.append((spec["key"], run_logged(self.target, spec, False, expired)))
        except Held:
            self.results.append((spec["key"], None))
        finally:
            stopped.set()
            thread.join()

    def finished(self) -> list[tuple[str, str | None]]:
        """The cells that have ended: "" or why they failed; None: another run has the cell."""
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

    def start(self, spec: Spec, expired: bytes | None = None) -> None:
        process = self.context.Process(target=work, args=(self.target, spec, expired), name=spec["key"])
        process.start()
        self.running[spec["key"]] = (process, spec)

    def finished(self) -> list[tuple[str, str | None]]:
        """The cells whose process has ended, as Inline.finished; waits a moment for one to end."""
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

    def outcome(self, spec: Spec, code: int) -> str | None:
        """ "" for a cell that ended well; otherwise why not. A process that died without a word gets a failed record."""
        if code == HELD:
            return None
        state = state_of(spec)
        if code == 0 and state.name == "done":
            return ""
        if code == 1 and state.name == "failed":
            return f"{state.why} (log: {log_path(spec)})"
        if code == IN_THE_WAY:
            return f"its record or folder is in the way of this run (log: {log_path(spec)})"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        message = f"the cell's process {how} and left no result (log: {log_path(spec)})"
        return (
            give_up(spec, "WorkerDied", message.split(" (log")[0], os.path.relpath(log_path(spec), spec["out"]))
            and message
        )

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


def work(target: str, spec: Spec, expired: bytes | None = None) -> None:
    """A pool process: output into the cell's log, Ctrl-C left to the parent, and no life without it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()
    log = log_path(spec)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            why = run_logged(target, spec, False, expired)
        except Held:
            sys.exit(HELD)
        if not why:
            sys.exit(0)
        if state_of(spec).name == "failed":
            sys.exit(1)
        print(why, flush=True)
        sys.exit(IN_THE_WAY)


def die_with_parent() -> None:
    """Exit at once when the parent process is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
