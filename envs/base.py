"""What all tasks share: a batch of simulations stepped together, in the original's order of events.

One step of a simulation (source: the original's `env.step`):

    set-point -> observation and end of episode, from the state BEFORE the physics -> physics -> counter -> mode AFTER

So the observation that step k returns is the state in which set-point k was given: together with set-point k it is row
k of a demonstration. A goal reached by the physics of step k is noticed by step k + 1, which still executes its action.

Letters: n simulations, D numbers an observation, A numbers an action, G goal tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np

from envs import _control, _pairs
from envs._panda import WRIST
from envs._sim import Simulations
from harness.errors import UserError


class Geometry(NamedTuple):
    """What follows from an observation and decides what to do, for networks that ask for it (`relative` in tasks.toml).

    pairs: of its values, (i, j), whose difference matters most where it is small, in units of `near`. angles: of its values,
    in rad, those of things that look the same after a `symmetry`-th of a turn. tangents: of its values, those of angles.
    links, tool, offsets: the arm whose joint angles are its first values, see `methods.relations.Relations`; the tool's
    position is then D, D + 1, D + 2 in `pairs`. pointing: whether the tool's axis, which may point anywhere, is seen.
    landmarks: places (m) where the tool has something to do. alike: groups of things that are told apart by nothing but their
    order, a thing given by its values: a task in which they change places is the same (`harness/exchange.py`). square: those of
    the tangents whose things look the same after a quarter turn, not only after half of one.
    """

    pairs: tuple[tuple[int, int], ...]
    near: float
    angles: tuple[int, ...] = ()
    symmetry: int = 1
    tangents: tuple[int, ...] = ()
    links: tuple[tuple[float, ...], ...] = ()
    tool: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    pointing: bool = False
    landmarks: tuple[tuple[float, float, float], ...] = ()
    alike: tuple[tuple[tuple[int, ...], ...], ...] = ()
    square: tuple[int, ...] = ()


StepResult = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]


class BatchEnv:
    """N simulations of a task. A task sets the constants and implements the hooks; the controller is the Cartesian one
    unless `_simulate` is another. Tasks with loose objects and contexts start from `envs._objects.ObjectBatch`."""

    obs_dim: int
    obs_dtype: type = np.float32
    obs_shape: tuple[int, ...] | None = None  # as Gymnasium's interfaces give it; None: (obs_dim,)
    act_dim: int
    setpoint_dim = 7  # xyz m, quaternion wxyz
    mode_shape: tuple[int, ...] = ()  # of one simulation's mode
    mode_dtype: type | str = np.int64
    first_mode: float | str = -1  # after a reset
    recording_keys: tuple[str, ...] = ("qpos", "qvel", "tcp_pos", "ctrl_des_q", "ctrl_des_qd")  # T + 1 rows each
    action_bound: float | np.ndarray = 0.01  # m; the original's action space says so and enforces nothing
    goal_tokens: int = 0  # G: observations that say what an episode is to reach; 0: the task has no goals
    goal_mask: np.ndarray | None = None  # (D,) bool: what a goal shows of an observation; None: everything
    geometry: Geometry | None = None  # None: nothing can be added to observations
    max_steps: int
    wrist: tuple[tuple[str, str], ...] = WRIST  # bodies that only need comparing while joint 6 is bent
    robot_joint: str = "joint1"  # name of the robot's first joint in the scene
    substeps: int = 35  # physics steps of 1 ms a control step
    start_qpos: np.ndarray  # (9,) robot joints and fingers after a reset
    start_qvel: np.ndarray

    def __init__(self, num_envs: int = 1, num_threads: int = 1, max_steps: int | None = None):
        self.sims = Simulations(self.model(), num_envs, num_threads, self.robot_joint, self.open_wrist())
        n = self.num_envs = len(self.sims)
        if max_steps is not None:
            if int(max_steps) != max_steps or max_steps < 1:
                raise UserError(f"max_steps must be a positive integer, got {max_steps!r}")
            self.max_steps = int(max_steps)
        self.active = np.zeros(n, bool)
        self.success = np.zeros(n, bool)
        self.terminated = np.zeros(n, bool)
        self.truncated = np.zeros(n, bool)
        self.count = np.zeros(n, np.int64)  # control steps since the reset
        self.mode = np.full((n, *self.mode_shape), self.first_mode, self.mode_dtype)
        self.tcp_pos = np.zeros((n, 3))
        self.setpoint = np.zeros((n, self.setpoint_dim))
        self.obs: np.ndarray = np.zeros((n, self.obs_dim), self.obs_dtype)
        self.goal = np.zeros((n, self.goal_tokens, self.obs_dim), np.float32)  # what a policy is to be given
        self._desired = np.zeros((n, 7))
        self._desired_velocity = np.zeros((n, 7))
        self._started = np.zeros(n, bool)
        self._was_reset = np.zeros(n, bool)

    # ---- hooks of a task -------------------------------------------------------------------------------------------
    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """The task's scene."""
        raise NotImplementedError

    def _contexts(self, ids: np.ndarray, contexts: Sequence | None, seeds: Sequence[int] | None) -> None:
        """Chooses one context for each of ids, before they are placed; raises UserError for a bad one."""
        raise NotImplementedError

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        """(len(ids), D) observations; tcp (len(ids), 3) m is the tool centre point, `self.setpoint` the desired one."""
        raise NotImplementedError

    def _finish(self, ids: np.ndarray) -> np.ndarray:
        """(len(ids),) bool: early end of the episode, judged before the physics."""
        raise NotImplementedError

    def _update_mode(self, ids: np.ndarray) -> None:
        """Recomputes `self.mode` after the physics."""
        raise NotImplementedError

    def _set_goals(self, ids: np.ndarray, goals: np.ndarray | None) -> None:
        """Tasks with goals: sets `self.goal[ids]` from goals (len(ids), G, D or more), None for the task's own default.

        Such a task adds "goal_return" (n,) to `info`: what counts towards the goal so far.
        """
        raise NotImplementedError

    def _target(self, actions: np.ndarray) -> np.ndarray:
        """(n, 7) set-points that the policy's actions (n, A) ask for; here changes of the first A coordinates."""
        target = self.setpoint.copy()
        target[:, : self.act_dim] += actions
        return target

    # ---- the same for every task -----------------------------------------------------------------------------------
    @classmethod
    @functools.cache
    def model(cls) -> mujoco.MjModel:
        """The compiled scene, without what is only drawn; one for all instances of the process."""
        return _pairs.compiled(cls.build_spec())

    @classmethod
    @functools.cache
    def open_wrist(cls) -> mujoco.MjModel:
        """`model` without the comparisons of `wrist`, for steps that begin with an open one: the same contacts in less time."""
        return _pairs.without(cls.model(), cls.wrist) if cls.wrist else cls.model()

    def reset(
        self, contexts: Sequence | None = None, seeds: Sequence[int] | None = None, ids=None,
        goals: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Starts new episodes in all simulations (or in those of `ids`); returns the observations (n, D).

        goals, for tasks that have them: (n, G, D or more), the last observations of a demonstration, unscaled; None: the task's
        own default. What a policy is to be given of them is then in `goal`.
        """
        ids = np.arange(self.num_envs) if ids is None else np.asarray(ids, np.int64).reshape(-1)
        for what, given in (("contexts", contexts), ("seeds", seeds), ("goals", goals)):
            if given is not None and len(given) != len(ids):
                raise UserError(f"reset of {len(ids)} environments needs as many {what}, got {len(given)}")
        if goals is not None:
            goals = np.asarray(goals, np.float32)
            if not self.goal_tokens:
                raise UserError(f"{type(self).__name__} has no goals: reset it without them")
            if goals.ndim != 3 or goals.shape[1] != self.goal_tokens or goals.shape[2] < self.obs_dim:
                raise UserError(f"goals must have shape (n, {self.goal_tokens}, {self.obs_dim}), got {goals.shape}")
        self._contexts(ids, contexts, seeds)
        for i in ids:
            self._place(i)
        self._begin(ids)
        if self.goal_tokens:
            self._set_goals(ids, goals)
        return self.obs.copy()

    def step(self, actions: np.ndarray) -> StepResult:
        """One control step with the policy's actions (n, A): see the module's head for the order of events.

        Returns observations (n, D), reward (n,), terminated (n,), truncated (n,), info. Simulations that have
        ended are not stepped; they keep their last values.
        """
        return self._step(self._target(self._checked(actions, self.act_dim, "actions")))

    def step_absolute(self, setpoints: np.ndarray) -> StepResult:
        """One control step towards absolute set-points (n, 7): xyz in m, quaternion wxyz, as the original's `step` takes."""
        return self._step(self._checked(setpoints, self.setpoint_dim, "set-points"))

    def restore(self, i: int, recording: Any, k: int) -> np.ndarray:
        """Puts simulation i into row k of a recording (a path or a mapping of arrays); returns its observation (D,).

        The recording's keys are those of the reference traces: actions (T, 7) set-points, qpos, qvel, tcp_pos,
        ctrl_des_q, ctrl_des_qd (T + 1 rows; row k is the state in which action k is given), success and mode (T); for
        tasks with objects also obj_pose (T + 1, k, 7).
        """
        if not (0 <= i < self.num_envs and int(i) == i):
            raise UserError(f"no environment {i!r}: the batch has 0 to {self.num_envs - 1}")
        rec = read_recording(recording, self.recording_keys)
        last = len(rec["qpos"]) - 1
        if not (0 <= k <= last and int(k) == k):
            raise UserError(f"no row {k!r} in this recording: it has rows 0 to {last}")
        width, mode = self.sims.model.nq, rec["mode"].shape[1:]
        if rec["qpos"].shape[1] != width or mode != self.mode_shape:
            raise UserError(
                f"the recording is of another task: {rec['qpos'].shape[1]} positions and modes of shape "
                f"{mode}, expected {width} and {self.mode_shape}"
            )
        self.sims.place(i, rec["qpos"][k], rec["qvel"][k])
        self._recall_scene(i, rec)
        ids = np.array([i])
        self._begin(ids)
        self.count[i] = k
        if k > 0:
            self.setpoint[i] = rec["actions"][k - 1]
            self._recall_mode(i, rec, k)
            self._recall(i, rec, k - 1)
            self.obs[i] = self._observe(ids, self.tcp_pos[ids])[0]
            self._read(ids)
        if np.isfinite(rec["ctrl_des_q"][k]).all():
            self._desired[i], self._desired_velocity[i] = rec["ctrl_des_q"][k], rec["ctrl_des_qd"][k]
            self._started[i] = True
        return self.obs[i].copy()

    def info(self) -> dict[str, np.ndarray]:
        """success (n,) so far, mode (n, …) so far, tcp_pos (n, 3) m after the last physics."""
        return {"success": self.success.copy(), "mode": self.mode.copy(), "tcp_pos": self.tcp_pos.copy()}

    def scene_poses(self, i: int) -> dict[str, np.ndarray]:
        """Poses (7,) of the bodies without physics that simulation i's context moves, by name; for pictures."""
        return {}

    def close(self) -> None:
        """Ends the threads of the batch."""
        self.sims.close()

    def _place(self, i: int) -> None:
        """Puts simulation i into the state that a reset leaves behind."""
        self.sims.place(i, self.start_qpos, self.start_qvel)

    def _begin(self, ids: np.ndarray) -> None:
        """Book-keeping of an episode's start, from the state that ids are in."""
        self._read(ids)
        self._first_setpoint(ids)
        self.active[ids] = self._was_reset[ids] = True
        self.success[ids] = self.terminated[ids] = self.truncated[ids] = self._started[ids] = False
        self.count[ids] = 0
        self.mode[ids] = self.first_mode
        self._desired[ids] = self._desired_velocity[ids] = 0.0
        self.obs[ids] = self._observe(ids, self.tcp_pos[ids])

    def _first_setpoint(self, ids: np.ndarray) -> None:
        """The set-point before the first action: where the tool is, pointing straight down."""
        self.setpoint[ids, :3], self.setpoint[ids, 3:] = self.tcp_pos[ids], (0.0, 1.0, 0.0, 0.0)

    def _read(self, ids: np.ndarray) -> None:
        """Reads from the simulations what observations, success and mode are made of."""
        self.tcp_pos[ids] = self.sims.tcp_positions(ids)

    def _recall(self, i: int, rec: Mapping[str, np.ndarray], row: int) -> None:
        """As `_read`, from a recording's row."""
        self.tcp_pos[i] = rec["tcp_pos"][row]

    def _recall_scene(self, i: int, rec: Mapping[str, np.ndarray]) -> None:
        """Takes over from a recording what a context decides besides the joints."""

    def _recall_mode(self, i: int, rec: Mapping[str, np.ndarray], k: int) -> None:
        """Success, mode and what they remember, as of row k > 0."""
        self.success[i] = rec["success"][k - 1]
        self.mode[i] = rec["mode"][k - 1]

    def _simulate(self, ids: np.ndarray) -> None:
        """The physics of one control step."""
        self.sims.run(
            _control.cartesian_steps, ids, self.sims.robot_qpos, self.sims.robot_qvel, self.setpoint,
            self._desired, self._desired_velocity, self._started, self.substeps,
        )  # fmt: skip

    def _checked(self, rows: np.ndarray, width: int, what: str) -> np.ndarray:
        """rows as an (n, width) float array, or a clear error."""
        if not self._was_reset.all():
            raise UserError("step before reset: call reset() first")
        rows = np.asarray(rows, float)
        if rows.shape != (self.num_envs, width):
            raise UserError(f"{what} must have shape ({self.num_envs}, {width}), got {rows.shape}")
        bad = self.active & ~np.isfinite(rows).all(1)
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise UserError(f"{what} must be finite; environment {i} got {rows[i].tolist()}")
        return rows

    def _step(self, target: np.ndarray) -> StepResult:
        ids = np.flatnonzero(self.active)
        before = self.success.copy()
        self.setpoint[ids] = target[ids]
        self.obs[ids] = self._observe(ids, self.tcp_pos[ids])
        self.terminated[ids] = self._finish(ids)
        self.truncated[ids] = ~self.terminated[ids] & (self.count[ids] >= self.max_steps - 1)
        self._simulate(ids)
        self.count[ids] += 1
        self._read(ids)
        self._update_mode(ids)
        self.active &= ~(self.terminated | self.truncated)
        reward = (self.success & ~before).astype(np.float32)
        return self.obs.copy(), reward, self.terminated.copy(), self.truncated.copy(), self.info()


def read_recording(recording: Any, states: Sequence[str]) -> Mapping[str, np.ndarray]:
    """The arrays of a recording given as a path to an .npz file, an open one, or a mapping; `states`: keys it needs."""
    if isinstance(recording, (str, Path)):
        if not Path(recording).is_file():
            raise UserError(f"no recording at {recording}")
        with np.load(recording, allow_pickle=False) as file:
            recording = {key: file[key] for key in file.files}
    needed = ("actions", *states, "success", "mode")
    missing = [key for key in needed if key not in recording]
    if missing:
        raise UserError(f"the recording lacks {', '.join(missing)}; needed: {', '.join(needed)}")
    return {key: np.asarray(recording[key]) for key in needed}
