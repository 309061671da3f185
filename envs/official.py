"""The original D3IL simulator behind the interface of our tasks, where it is installed: the back end `official`.

The original (github.com/ALRhub/d3il, measured at commit 0046bec) needs another Python environment than this project (mujoco
below 3.0, numpy 1, pinocchio). So every environment is a process of that environment's interpreter, running
`envs/_official_worker.py`, which says what in the original makes one process each necessary. Scene, physics, controller,
observation, success, mode and end of an episode are the original's; contexts are chosen here, as for our own simulation.

A class here is the task's own with the physics replaced by processes. Our own MuJoCo model is still there, as a shadow: its
state is set to the original's after every step, for what experts and pictures read of it. No episode depends on it.

Speed: 33 to 42 environment steps a second and core, Stacking 140, of which next to nothing is spent here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from envs import _official_process as process
from envs._objects import ObjectBatch
from envs.aligning import AligningBatch
from envs.avoiding import AvoidingBatch
from envs.base import BatchEnv, StepResult
from envs.pushing import PushingBatch
from envs.sorting import SortingBatch
from envs.stacking import StackingBatch
from harness.errors import UserError

KEPT = 4  # idle processes, 0.3 GB each: as many as a roll-out steps together (harness/backends.py)


class OfficialBatch(BatchEnv):
    """N environments of the original, to be put in front of a task's own class (see `envs.base.BatchEnv`).

    num_threads: how many processes compute at once. installation: default what the environment variables name.
    """

    original: str  # the task's name there

    def __init__(
        self, num_envs: int = 1, num_threads: int = 1, max_steps: int | None = None,
        installation: process.Installation | None = None, **more: Any,
    ):  # fmt: skip
        installation = installation or process.find_installation()
        self.workers: list[process.Worker] = []
        super().__init__(num_envs, num_threads, max_steps, **more)
        self._said: list[process.Answer] = [({}, {})] * self.num_envs
        if isinstance(self, ObjectBatch):  # poses are the original's, not the shadow's
            self._positions = np.zeros((self.num_envs, len(self._bodies), 3))
        self.workers = [process.acquire(installation, self.original, self.max_steps) for _ in range(self.num_envs)]

    @property
    def versions(self) -> dict[str, Any]:
        """What simulates: versions of Python, its packages and the original's commit."""
        return self.workers[0].ready()

    def close(self) -> None:
        """Gives the processes back; those that owe an answer are ended."""
        super().close()
        for worker in self.workers:
            process.release(worker, max(KEPT, self.num_envs))
        self.workers = []

    def restore(self, i: int, recording: Any, k: int) -> np.ndarray:
        raise UserError("the original cannot be put into the middle of a recording: reset it, then step_absolute")

    def _exchange(self, ids: Sequence[int] | np.ndarray, ask: Callable[[int], None]) -> None:
        """Asks environments ids, `num_threads` at once, and keeps what they answer."""
        waiting: deque[int] = deque()

        def take() -> None:
            i = waiting.popleft()
            content, arrays = self.workers[i].answer()
            self._check(arrays)
            self._said[i] = content, arrays
            self.sims.place(i, arrays["qpos"], arrays["qvel"])

        for i in map(int, ids):
            if len(waiting) == self.sims.num_threads:
                take()
            self.workers[i].ready()
            ask(i)
            waiting.append(i)
        while waiting:
            take()

    def _check(self, arrays: dict[str, np.ndarray]) -> None:
        """The original is the one that this adapter knows."""
        model = self.sims.model
        wanted = {"obs": self.obs_dim - self.act_dim, "tcp_pos": 3, "qpos": model.nq, "qvel": model.nv}
        for name, size in wanted.items():
            if name not in arrays or arrays[name].shape != (size,):
                got = arrays[name].shape if name in arrays else None
                raise UserError(f"the original's {name} of {self.original} has shape {got}, expected {(size,)}")

    # ---- hooks of a task -------------------------------------------------------------------------------------------
    def _place(self, i: int) -> None:
        context = self.context[i] if isinstance(self, ObjectBatch) else np.zeros((0, 7))
        self._exchange([i], lambda n: self.workers[n].ask("reset", context=context))

    def _step(self, target: np.ndarray) -> StepResult:
        ids = np.flatnonzero(self.active)
        self._exchange(ids, lambda n: self.workers[n].ask("step", setpoint=target[n]))
        found = super()._step(target)
        if any(bool(self._said[i][0]["done"]) == bool(self.active[i]) for i in ids):
            raise RuntimeError("the original ends an episode where its adapter does not, or the reverse")
        return found

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        theirs = np.array([self._said[i][1]["obs"] for i in ids]).reshape(len(ids), self.obs_dim - self.act_dim)
        return np.concatenate([self.setpoint[ids, : self.act_dim], theirs], 1, dtype=np.float32, casting="same_kind")

    def _finish(self, ids: np.ndarray) -> np.ndarray:
        return np.array([self._said[i][0]["terminated"] for i in ids], bool)

    def _simulate(self, ids: np.ndarray) -> None:
        """Nothing: the step was taken when it was asked for."""

    def _read(self, ids: np.ndarray) -> None:
        for i in ids:
            arrays = self._said[i][1]
            self.tcp_pos[i] = arrays["tcp_pos"]
            if isinstance(self, ObjectBatch):
                self.object_pose[i] = arrays["object_pose"]
                self._positions[i] = arrays["body_pos"][: len(self._bodies)]

    def _body_positions(self) -> np.ndarray:
        return self._positions

    def _update_mode(self, ids: np.ndarray) -> None:
        for i in ids:
            said = self._said[i][0]
            self.success[i], self.mode[i] = said["success"], said["mode"]


class OfficialAvoiding(OfficialBatch, AvoidingBatch):
    """Avoiding in the original simulator."""

    original = "avoiding"


class OfficialAligning(OfficialBatch, AligningBatch):
    """Aligning in the original simulator."""

    original = "aligning"


class OfficialPushing(OfficialBatch, PushingBatch):
    """Pushing in the original simulator."""

    original = "pushing"


class OfficialSorting(OfficialBatch, SortingBatch):
    """Sorting, four boxes, in the original simulator."""

    original = "sorting"


class OfficialStacking(OfficialBatch, StackingBatch):
    """Stacking in the original simulator."""

    original = "stacking"


# our own class of a task: the original's
CLASSES: dict[type, type[OfficialBatch]] = {
    AvoidingBatch: OfficialAvoiding,
    AligningBatch: OfficialAligning,
    PushingBatch: OfficialPushing,
    SortingBatch: OfficialSorting,
    StackingBatch: OfficialStacking,
}


def class_for(task_class: type) -> type:
    """The class that has the same task in the original simulator. Raises UserError where the original has none."""
    if task_class not in CLASSES:
        names = ", ".join(cls.original for cls in CLASSES.values())
        raise UserError(f"the original simulator has no {task_class.__name__}: it has {names}")
    return CLASSES[task_class]
