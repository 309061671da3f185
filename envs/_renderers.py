"""The cameras' images of many states at once, drawn by processes of their own.

Processes, not threads: a process that has an OpenGL context must not be forked, and software OpenGL draws in the core of its
caller. They share memory with this one: states go in, images come out, nothing else is copied. Each draws any state alike.
"""

from __future__ import annotations

import mmap
import os
import select
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from envs import _render_worker as protocol
from envs._cameras import camera_model
from envs.frames import WIDTH
from harness.errors import UserError

SLOTS = 128  # states drawn in one round, over all workers
START_S, ANSWER_S = 120.0, 60.0  # s, time limits of a start (1 s alone) and of a round's part
STOP_S = 5.0  # s for a process to end by itself


class Renderers:
    """`workers` processes that draw states of the state task `task` ("sorting", "stacking"); started when first needed."""

    def __init__(self, task: str, workers: int = 1):
        if int(workers) != workers or workers < 1:
            raise UserError(f"the number of rendering processes must be a positive integer, got {workers!r}")
        self.task, self.workers = task, int(workers)
        self.processes: list[subprocess.Popen] = []
        self._close: Any = None

    def draw(self, states: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(N, 55296) uint8 images of states (N, Q), each state the simulation's qpos; written to `out` where given.

        Raises UserError where a process cannot draw, e.g. without an OpenGL library.
        """
        if out is None:
            out = np.empty((len(states), WIDTH), np.uint8)
        if not self.processes:
            self._start()
        try:
            for first in range(0, len(states), SLOTS):
                part = states[first : first + SLOTS]
                self._round(part)
                out[first : first + len(part)] = self._images[: len(part)]
        except (
            BaseException
        ):  # also Ctrl-C: an answer that nobody has read must not be taken for that of the next order
            self.close()
            raise
        return out

    def _round(self, states: np.ndarray) -> None:
        """Has states (n, Q), n <= `SLOTS`, drawn into the first n images."""
        self._states[: len(states)] = states
        bounds = np.linspace(0, len(states), min(self.workers, len(states)) + 1).astype(int)
        shares = list(zip(self.processes, bounds[:-1], bounds[1:], strict=False))
        for process, begin, end in shares:
            self._order(process, int(begin), int(end - begin))
        for process, begin, end in shares:
            if self._answer(process, ANSWER_S) != str(end - begin):
                raise self._failed(process, "gave a wrong answer")

    def close(self) -> None:
        """Ends the processes; the next `draw` starts new ones."""
        if self._close is not None:
            self._close()
        self.processes, self._close = [], None

    def _start(self) -> None:
        model = camera_model(self.task)
        size = mujoco.mj_sizeModel(model)
        scene = np.empty(size, np.uint8)
        mujoco.mj_saveModel(model, None, scene)
        images, begin = protocol.layout(SLOTS, model.nq, WIDTH)
        with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
            file.truncate(begin + size)
            memory = mmap.mmap(file.fileno(), begin + size)
            memory[begin:] = scene.tobytes()
            self._states = np.frombuffer(memory, np.float64, SLOTS * model.nq).reshape(SLOTS, model.nq)
            self._images = np.frombuffer(memory, np.uint8, SLOTS * WIDTH, images).reshape(SLOTS, WIDTH)
            numbers = (os.getpid(), file.fileno(), SLOTS, model.nq, size)
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the processes
            self.processes = [_spawn(numbers, self._stderr) for _ in range(self.workers)]
        self._close = weakref.finalize(self, _stop, list(self.processes), self._stderr, os.getpid())
        for process in self.processes:
            answer = self._answer(process, START_S)
            if not answer.startswith("ready"):
                self.close()
                raise UserError(
                    answer[1:] if answer.startswith("!") else f"the rendering process says {answer[:200]!r}"
                )

    def _order(self, process: subprocess.Popen, first: int, count: int) -> None:
        try:
            os.write(process.stdin.fileno(), protocol.ORDER.pack(first, count))  # type: ignore[union-attr]
        except OSError:
            raise self._failed(process, "has ended") from None

    def _answer(self, process: subprocess.Popen, limit: float) -> str:
        """A line of the process, within `limit` s."""
        deadline, line = time.monotonic() + limit, b""
        descriptor = process.stdout.fileno()  # type: ignore[union-attr]
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise self._failed(process, f"gave no answer within {limit:.0f} s")
            part = os.read(descriptor, 1000)
            if not part:
                raise self._failed(process, "has ended")
            line += part
        return line.decode(errors="replace").strip()

    def _failed(self, process: subprocess.Popen, what: str) -> UserError:
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        self.close()
        return UserError(
            f"process {process.pid}, which draws the cameras of {self.task}, {what}: {said[-1][:300] if said else 'no message'}"
        )


def _spawn(numbers: tuple[int, ...], stderr: Any) -> subprocess.Popen:
    """A worker; numbers: see `envs._render_worker`."""
    settings = dict(os.environ)
    root = str(Path(__file__).parents[1])
    settings["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [settings.get("PYTHONPATH")])])
    settings.setdefault("LP_NUM_THREADS", "0")  # Mesa's software renderer: no threads of its own, one core a process
    return subprocess.Popen(
        [sys.executable, "-m", "envs._render_worker", *map(str, numbers)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=settings, pass_fds=(numbers[1],),
        start_new_session=True,  # Ctrl-C is the parent's to handle
        cwd=tempfile.gettempdir(),  # where MuJoCo may leave its log
    )  # fmt: skip


def _stop(processes: list[subprocess.Popen], stderr: Any, owner: int) -> None:
    """Ends the processes, unless this one is but a fork of the one that started them."""
    if os.getpid() != owner:
        return
    for process in processes:
        process.stdin.close()  # type: ignore[union-attr]
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    stderr.close()
