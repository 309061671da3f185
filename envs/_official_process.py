"""Processes of the original simulator: where it is installed, starting one, asking it with a time limit, using it again.

What a process that dies, hangs or speaks nonsense leaves behind is one UserError with the end of what it wrote to stderr.
Imports neither MuJoCo nor torch.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs import _official_worker as protocol
from harness.errors import UserError

PYTHON, CHECKOUT = "VDD_OFFICIAL_PYTHON", "VDD_D3IL"  # environment variables
START_S, ANSWER_S = 300.0, 60.0  # s, time limits of a start (3 s alone) and of a reset or step (0.03 s)
TAIL = 600  # characters of stderr in a message
HOW = (
    "make a Python environment of its own, pip install -r requirements-d3il.txt there, git clone "
    f"https://github.com/ALRhub/d3il, and name them by --official-python (or ${PYTHON}) and ${CHECKOUT} "
    "(docs/environments.md, The original simulator)"
)
Answer = tuple[dict[str, Any], dict[str, np.ndarray]]  # content, arrays


@dataclass(frozen=True)
class Installation:
    """python: the interpreter that has the original's packages; d3il: root of its checkout, "" where it is installed."""

    python: str
    d3il: str = ""


def find_installation(python: str | None = None, d3il: str | None = None) -> Installation:
    """What the arguments, else the environment variables name. Raises UserError where there is nothing."""
    python = python or os.environ.get(PYTHON)
    d3il = d3il or os.environ.get(CHECKOUT) or ""
    if not python:
        raise UserError(f"the original simulator is not installed, as far as is known: {HOW}")
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise UserError(f"no Python interpreter {python[:200]} for the original simulator: {HOW}")
    if d3il:
        d3il = os.path.abspath(os.path.expanduser(d3il))
        if not os.path.isdir(os.path.join(d3il, "environments", "d3il", "d3il_sim")):
            raise UserError(f"{d3il[:200]} is no checkout of D3IL, it has no environments/d3il/d3il_sim: {HOW}")
    return Installation(os.path.abspath(found), d3il)  # not its real path: a virtual environment is known by its link


class Worker:
    """One process with one environment. `ask`, then `answer`; the first answer is waited for by `ready`."""

    def __init__(self, installation: Installation, task: str, max_steps: int):
        self.key = (installation, task, max_steps)
        self.task, self.python = task, installation.python
        self.versions: dict[str, Any] | None = None  # None until it has started
        self._doing = ""  # what it was asked and has not answered
        self._scratch = tempfile.mkdtemp(prefix="vdd-original-")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # until `close`
        settings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        settings |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            self._process = subprocess.Popen(
                [installation.python, os.path.abspath(protocol.__file__), installation.d3il, self._scratch],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=settings,
                start_new_session=True,  # Ctrl-C is ours to handle
                cwd=self._scratch,  # where MuJoCo leaves its log
            )  # fmt: skip
        except OSError as error:
            self._clean()
            raise UserError(f"{installation.python} cannot be run: {error.strerror}. To install: {HOW}") from None
        _alive.add(self)
        self.ask("start", {"task": task, "max_steps": max_steps})

    def __str__(self) -> str:
        return f"process {self._process.pid} of the original simulator ({self.task}, {self.python})"

    @property
    def usable(self) -> bool:
        """It has started, owes no answer and is alive."""
        return self.versions is not None and not self._doing and self._process.poll() is None

    def ready(self) -> dict[str, Any]:
        """Waits until it has started; the versions of what simulates."""
        if self.versions is None:
            self.versions = self.answer(START_S)[0]["versions"]
        assert self.versions is not None
        return self.versions

    def ask(self, what: str, content: Mapping[str, Any] | None = None, **arrays: np.ndarray) -> None:
        """Sends a request; one at a time."""
        self._doing = what
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: the answer, which is not there, will tell
            self._process.stdin.write(protocol.pack({"do": what, **(content or {})}, arrays))
            self._process.stdin.flush()

    def answer(self, limit: float | None = None) -> Answer:
        """What it answers, within `limit` s (default `ANSWER_S`). Raises UserError, and ends the process, otherwise."""
        deadline = time.monotonic() + (ANSWER_S if limit is None else limit)
        try:
            text, data = protocol.head(self._read(protocol.HEAD.size, deadline))
            content, arrays = protocol.unpack(self._read(text, deadline), self._read(data, deadline))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise self._failed("answers what is no message: is it a Python interpreter?") from None
        if "error" in content:
            raise self._refused(content)
        self._doing = ""
        return content, arrays

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        fd, parts = self._process.stdout.fileno(), []
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLHUP)
        while size > 0:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                raise self._failed("does not answer in time")
            part = os.read(fd, size)
            if not part:
                raise self._failed("ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _failed(self, how: str) -> UserError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0 if how == "ended" else 0.0)
        code = self._process.returncode
        status = "" if code is None else f", exit code {code}" if code >= 0 else f", signal {-code}"
        where = f"{self} {how}{status}, asked to {self._doing}"
        words = self.last_words()
        self.close()
        return UserError(f"{where}. " + (f"Its last words: {words}" if words else "It wrote nothing to stderr"))

    def _refused(self, content: Mapping[str, Any]) -> UserError:
        said, starting = str(content["error"])[:TAIL], self.versions is None
        missing = str(content.get("missing", ""))[:80]
        words = "" if missing or not starting else self.last_words()
        self.close()
        if starting and missing:
            return UserError(f"the original simulator does not start: {self.python} lacks {missing} ({said}). {HOW}")
        if starting:
            return UserError(f"the original simulator does not start with {self.python}: {said}. {HOW}")
        return UserError(f"{self}, asked to {self._doing}: {said}. {words}")

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        size = os.fstat(self._stderr.fileno()).st_size
        data = os.pread(self._stderr.fileno(), 4 * TAIL, max(0, size - 4 * TAIL))
        return " ".join(data.decode(errors="replace").split())[-TAIL:]

    def close(self) -> None:
        """Ends the process."""
        if self not in _alive:
            return
        _alive.discard(self)
        if self.usable:
            self.ask("end")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2.0)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._clean()

    def _clean(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)


# A process takes three seconds to start, and a used one behaves as a fresh one (tests/test_official.py): they are kept.
_alive: set[Worker] = set()
_idle: list[Worker] = []


def acquire(installation: Installation, task: str, max_steps: int) -> Worker:
    """An idle process for the task, or a new one that is starting."""
    for worker in _idle:
        if worker.key == (installation, task, max_steps) and worker.usable:
            _idle.remove(worker)
            return worker
    return Worker(installation, task, max_steps)


def release(worker: Worker, keep: int) -> None:
    """Keeps a process for the next batch, at most `keep` in all; ends what cannot be used again."""
    if not worker.usable:
        worker.close()
        return
    _idle.append(worker)
    while len(_idle) > keep:
        _idle.pop(0).close()


def end_all() -> None:
    """Ends every process that this one has started."""
    _idle.clear()
    for worker in tuple(_alive):
        worker.close()


atexit.register(end_all)


def check(installation: Installation, task: str) -> dict[str, Any]:
    """Versions of what simulates; starts one environment where none is idle. Raises UserError where it does not start."""
    for idle in _idle:
        if idle.key[:2] == (installation, task) and idle.versions is not None:
            return idle.versions
    worker = Worker(installation, task, 1)
    try:
        return worker.ready()
    finally:
        worker.close()
