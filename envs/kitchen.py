"""Relay Kitchen: a Franka Panda opens, turns and moves what is in a kitchen; the goal shows four of seven tasks done.

Original: the kitchen of relay policy learning (Gupta et al., CoRL 2019) as the play-to-policy and BESO evaluations use it
(`kitchen-all-v0`); scene: gymnasium-robotics (`envs._kitchen_scene`).

Observation (30,): nine joints of the robot (rad; fingers m), then 21 of the kitchen: four knobs (rad) with their burners (m),
light switch and light, sliding door (m), left and right hinged door, microwave door (rad), pose of the kettle (m, wxyz).
Action (9,) in [-1, 1] (clipped): joint velocities, 1 = 2 rad/s (fingers: 2 m/s). The set-point of the position
actuators is the last OBSERVED joint position plus velocity times 0.08 s, within the joints' limits.
Task: one of seven; done when its elements in the observation come closer than 0.3 (Euclidean) to their goal values.
Reward: +1 for each of the seven tasks at its first completion, whether the goal asks for it or not.
Episode: ends when all seven are done, or after 279 actions of 40 physics steps of 2 ms.
Mode: the tasks in order of completion, a letter each (`LETTERS`), e.g. "mkbl".

Noise: uniform, added to every observed value; a tenth of the amplitudes of the robot's configuration file. It is drawn
at the reset for the whole episode from the episode's seed, so it depends on nothing else. It reaches the motion, because
set-points start from observed joints, as in the original.

Goals (n, 2, 30): the two last observations of a demonstration; the tasks that count are those done in the last of them.

Differences from the original
 1. The goal is not part of the observation (the original appends 30 numbers that its evaluation discards).
 2. 279 actions: the evaluation loop of 280 rounds gives no action in its last one; here that is the episode's length.
 3. The completed tasks are judged on the observation rounded to float32, so that a file of observations has the same ones.
 4. The noise has the original's distribution but not its random number generator; that of velocities, observed by
    nobody, is not drawn. No picture is drawn at each step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np
from numba import carray, njit

from envs import _kitchen_clear, _kitchen_scene
from envs._control import LINKS, _int_pointer, _mj_step, _pointer
from envs._gym import SingleEnv, VectorEnv
from envs._kitchen_clear import LEVERS, SAFETY, clearance
from envs._kitchen_tasks import ELEMENTS, LETTERS, TASKS, completed
from envs.base import BatchEnv, Geometry, StepResult, read_recording
from harness.errors import UserError

SUBSTEPS = 40  # physics steps an action
PHYSICS_STEP = 0.002  # s
STEP = 0.08  # s an action
SPEED = 2.0  # rad/s and m/s of an action of 1
WRIST_OPEN = -0.7  # rad, of joint 6; beyond, `_kitchen_scene.WRIST` stay more than 5 mm apart (tested)
FAR, LOOK = 0.25, 0.005  # m: farther clearances are not told apart; looking again pays after this much motion
NOISE = 0.1  # share of the amplitudes below
START = np.array([
    1.48388023e-01, -1.76848573e00, 1.84390296e00, -2.47685760e00, 2.60252026e-01, 7.12533105e-01, 1.59515394e00,
    4.79267505e-02, 3.71350919e-02, -2.66279850e-04, -5.18043486e-05, 3.12877220e-05, -4.51199853e-05, -3.90842156e-06,
    -4.22629655e-05, 6.28065475e-05, 4.04984708e-05, 4.62730939e-04, -2.26906415e-04, -4.65501369e-04, -6.44129196e-03,
    -1.77048263e-03, 1.08009684e-03, -2.69397440e-01, 3.50383255e-01, 1.61944683e00, 1.00618764e00, 4.06395120e-03,
    -6.62095997e-03, -2.68278933e-04,
])  # fmt: skip
LOW = np.array([-2.9, -1.8, -2.9, -3.1, -2.9, 0.0, -2.9, 0.0, 0.0])  # of set-points, rad (fingers m)
HIGH = np.array([2.9, 1.8, 2.9, 0.0, 2.9, 3.8, 2.9, 0.04, 0.04])
# Amplitudes of the noise by observed value, from the original's configuration file (read by number, not by meaning).
AMPLITUDE = np.array(
    [0.1] * 9 + [0.005] * 2 + [0.0005] * 6 + [0.005] * 3 + [0.1] * 3 + [0.005] * 3 + [0.1] * 3 + [0.005]
)
# The arm as observed: it stands 1.8 m high and is turned to the left; its angles count from elsewhere than D3IL's.
ARM = ((0.0, 0.0, 1.8 + 0.333, 0.0), *LINKS[1:])
ARM_OFFSETS = (np.pi / 2, 0.0, 0.0, 0.0, 0.0, np.pi / 2, np.pi / 4)  # rad
FINGERTIPS = (0.245, 0.0)  # m from the last joint's frame to where closed fingers touch
HANDLES = (  # m, the first six of `SITES` at the start; the kettle's place is observed
    (-0.256, 0.6399, 2.2264), (-0.256, 0.6399, 2.3404), (-0.3685, 0.6157, 2.28), (-0.1085, 0.607, 2.6),
    (-0.5262, 0.5825, 2.6), (-0.6419, 0.4926, 1.792),
)  # fmt: skip
DEFAULT_GOAL = ("microwave", "kettle", "bottom burner", "light switch")  # the original's default
SITES = ("knob2_site", "knob4_site", "light_site", "slide_site", "hinge_site2", "microhandle_site", "kettle_site")


@njit(cache=True, nogil=True, error_model="numpy")
def position_steps(models, table, ids, setpoints, substeps, bounds, sizes):
    """Advances simulations ids by `substeps` physics steps, with setpoints (n, 9) of the position actuators.

    models (4,): addresses of the MjModel, of that for an open wrist, and of both in open space (`_kitchen_clear`); sizes:
    numbers of bodies and geoms, the kettle's tree. The first step compares everything, so that what a caller did to a
    simulation is known.
    """
    bodies, geoms, kettle = sizes
    for i in ids:
        ctrl = carray(_pointer(table[i, 4]), 9)  # type: ignore[call-arg]  # an intrinsic takes no context
        for j in range(9):
            ctrl[j] = setpoints[i, j]
        qpos, qvel = carray(_pointer(table[i, 1]), 9), carray(_pointer(table[i, 2]), 23)
        xpos, xmat = carray(_pointer(table[i, 5]), (bodies, 3)), carray(_pointer(table[i, 7]), (bodies, 9))
        geom_xpos, geom_xmat = carray(_pointer(table[i, 8]), (geoms, 3)), carray(_pointer(table[i, 9]), (geoms, 9))
        asleep = carray(_int_pointer(table[i, 10]), kettle + 1)
        is_clear, way = False, 0.0  # until something has moved so far
        for step in range(substeps):
            if asleep[kettle] < 0:
                is_clear, way = False, 0.0
            which = 1 if qpos[5] > WRIST_OPEN else 0
            _mj_step(models[which + 2 if is_clear else which], table[i, 0])
            moved = 0.0
            for j in range(23):
                moved += abs(qvel[j]) * LEVERS[j]
            moved *= PHYSICS_STEP
            way -= moved
            if not way > 0.0 and asleep[kettle] >= 0 and step < substeps - 1:
                # the poses are those before this step's motion
                gap = clearance(bounds, xpos, xmat, geom_xpos, geom_xmat, FAR) - SAFETY - moved
                is_clear = gap > LOOK
                way = gap if is_clear else max(LOOK, LOOK - gap)


class KitchenBatch(BatchEnv):
    """N simulations of the kitchen (see `envs.base.BatchEnv` for the interface, `reset` for goals).

    noise: share of the noise's amplitudes, 0 for none. `goal` (n, 2, 30) float32 is what a policy is to be given.
    """

    obs_dim, act_dim = 30, 9
    setpoint_dim = 9  # joints rad, fingers m
    goal_tokens = 2
    goal_mask = np.ones(30, bool)  # a goal shows everything
    geometry = Geometry(
        pairs=tuple((30 + k, 23 + k) for k in range(3)), near=0.05, links=ARM, tool=FINGERTIPS, offsets=ARM_OFFSETS,
        pointing=True, landmarks=HANDLES,
    )  # fmt: skip
    mode_dtype, first_mode = "<U7", ""
    recording_keys = ("qpos", "qvel", "obs")
    action_bound = 1.0
    max_steps = 279
    substeps = SUBSTEPS
    wrist = _kitchen_scene.WRIST
    start_qpos, start_qvel = START, np.zeros(29)
    view: ClassVar[dict] = {"lookat": (-0.2, 0.5, 2.0), "distance": 2.2, "azimuth": 70.0, "elevation": -35.0}

    def __init__(self, num_envs: int = 1, num_threads: int = 1, max_steps: int | None = None, noise: float = NOISE):
        super().__init__(num_envs, num_threads, max_steps)
        n, model = self.num_envs, self.sims.model
        self._bounds, opened = self._open_space()
        self.sims.models = np.array([*self.sims.models, *(m._address for m in opened)])
        self._sizes = (model.nbody, model.ngeom, int(model.body_treeid[model.body("kettle").id]))
        self.noise = float(noise)
        self.done = np.zeros((n, len(TASKS)), bool)  # tasks completed so far
        self.wanted = np.zeros((n, len(TASKS)), bool)  # tasks that the goal shows
        self.seen = np.zeros((n, self.obs_dim))  # the observation before rounding
        self._stream = np.zeros((n, self.max_steps + 1, self.obs_dim))  # noise of a whole episode
        self._sites = 3 * np.array([model.site(name).id for name in SITES])[:, None] + np.arange(3)

    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """The kitchen; visual: as the package ships it, with all that is only drawn."""
        return _kitchen_scene.full_spec() if visual else _kitchen_scene.physical_spec(SITES)

    @classmethod
    @functools.cache
    def _open_space(cls) -> tuple[_kitchen_clear.Bounds, tuple[mujoco.MjModel, mujoco.MjModel]]:
        """What says whether the robot is in open space, and both models for it; one for all instances of the process."""
        model = cls.model()
        return _kitchen_clear.bounds(model), (_kitchen_clear.clear(model), _kitchen_clear.clear(cls.open_wrist()))

    @staticmethod
    def mode_name(mode_row: Any) -> str:
        """The tasks in order of completion, a letter each (`LETTERS`)."""
        return str(mode_row)

    def step(self, actions: np.ndarray) -> StepResult:
        """One control step of 0.08 s with actions (n, 9); returns what `BatchEnv.step` does, as observed after it."""
        actions = np.clip(self._checked(actions, self.act_dim, "actions"), -1.0, 1.0)
        return self._step(self.seen[:, :9] + actions * (SPEED * STEP))

    def step_absolute(self, setpoints: np.ndarray) -> StepResult:
        """One control step with set-points (n, 9) of the position actuators: joints (rad), fingers (m)."""
        return self._step(self._checked(setpoints, self.setpoint_dim, "set-points"))

    def restore(self, i: int, recording: Any, k: int) -> np.ndarray:
        """Puts simulation i into row k of a recording (a path or a mapping of arrays); returns its observation (30,).

        Keys: actions (T, 9), qpos (T + 1, 30), qvel (T + 1, 29), obs (T + 1, 30), success (T,), mode (T,). Row k is what
        action k is given in. Its noise from there on is that of the last reset.
        """
        if not (0 <= i < self.num_envs and int(i) == i):
            raise UserError(f"no environment {i!r}: the batch has 0 to {self.num_envs - 1}")
        rec = read_recording(recording, self.recording_keys)
        last = min(len(rec["qpos"]) - 1, self.max_steps)
        if not (0 <= k <= last and int(k) == k):
            raise UserError(f"no row {k!r} in this recording: it has rows 0 to {last}")
        if rec["qpos"].shape[1:] != (30,) or rec["qvel"].shape[1:] != (29,) or rec["obs"].shape[1:] != (30,):
            raise UserError("the recording is of another task: expected qpos and obs of width 30 and qvel of width 29")
        if not self._was_reset[i]:
            self.reset(ids=[i])
        self.set_state(i, rec["qpos"][k], rec["qvel"][k])
        ids = np.array([i])
        self._begin(ids)
        self.count[i] = k
        self.seen[i] = rec["obs"][k]
        self.obs[i] = self.seen[i]
        for row in range(1, k + 1):
            self._complete(ids, rec["obs"][row][None].astype(np.float32))
        return self.obs[i].copy()

    def set_state(self, i: int, qpos: np.ndarray, qvel: np.ndarray | None = None) -> None:
        """Puts simulation i into positions qpos (30,) and velocities qvel (29,; default at rest), as a reset does."""
        data = self.sims.data[i]
        mujoco.mj_resetData(self.sims.model, data)
        data.qpos[:], data.qvel[:] = qpos, 0.0 if qvel is None else qvel
        mujoco.mj_forward(self.sims.model, data)

    def info(self) -> dict[str, np.ndarray]:
        """Also obj_pos (n, 7, 3) m: knobs, switch, handles and the kettle's, in the order of `TASKS`, and goal_return (n,):
        how many of the goal's tasks are completed."""
        found = self.sims.read("site_xpos", np.arange(self.num_envs), self._sites)
        return {**super().info(), "obj_pos": found, "goal_return": (self.done & self.wanted).sum(1).astype(float)}

    def _contexts(self, ids: np.ndarray, contexts: Sequence | None, seeds: Sequence[int] | None) -> None:
        for context in contexts if contexts is not None else ():
            if context is not None and (isinstance(context, bool) or context != 0):
                raise UserError(f"Kitchen has a single context, 0 (or None); got {context!r}")
        for n, i in enumerate(ids):  # the noise of the episode; without seeds simulation i has seed i
            seed = int(i) if seeds is None else int(seeds[n])
            self._stream[i] = np.random.default_rng([seed, 0xC7]).uniform(-1.0, 1.0, self._stream.shape[1:])

    def _set_goals(self, ids: np.ndarray, goals: np.ndarray | None) -> None:
        """Unscaled observations; without them the start with the elements of `DEFAULT_GOAL` at their goal values."""
        if goals is not None and not np.isfinite(goals).all():
            raise UserError("goals must be finite")
        self.goal[ids] = default_goal() if goals is None else goals[..., : self.obs_dim]
        self.wanted[ids] = completed(self.goal[ids, -1])

    def _place(self, i: int) -> None:
        self.set_state(i, self.start_qpos)

    def _begin(self, ids: np.ndarray) -> None:
        self.done[ids] = False
        super()._begin(ids)

    def _first_setpoint(self, ids: np.ndarray) -> None:
        self.setpoint[ids] = self.sims.read("qpos", ids, np.arange(9))

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        exact = self.sims.read("qpos", ids, np.arange(30))
        self.seen[ids] = exact + self.noise * AMPLITUDE * self._stream[ids, self.count[ids]]
        return self.seen[ids].astype(np.float32)

    def _complete(self, ids: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """(len(ids),) how many tasks observations (len(ids), 30) show completed for the first time."""
        new = completed(obs) & ~self.done[ids]
        self.done[ids] |= new
        for n, i in enumerate(ids):
            self.mode[i] = str(self.mode[i]) + "".join(LETTERS[t] for t in np.flatnonzero(new[n]))
        self.success[ids] = (self.done[ids] | ~self.wanted[ids]).all(1)
        return new.sum(1)

    def _step(self, target: np.ndarray) -> StepResult:
        """As in the original: physics, then observation, tasks and end."""
        ids = np.flatnonzero(self.active)
        reward = np.zeros(self.num_envs, np.float32)
        if len(ids):
            self.setpoint[ids] = np.clip(target[ids], LOW, HIGH)
            self.sims.run(position_steps, ids, self.setpoint, self.substeps, self._bounds, self._sizes)
            self.count[ids] += 1
            self._read(ids)
            self.obs[ids] = self._observe(ids, self.tcp_pos[ids])
            reward[ids] = self._complete(ids, self.obs[ids])
            self.terminated[ids] = self.done[ids].all(1)
            self.truncated[ids] = ~self.terminated[ids] & (self.count[ids] >= self.max_steps)
            self.active &= ~(self.terminated | self.truncated)
        return self.obs.copy(), reward, self.terminated.copy(), self.truncated.copy(), self.info()


def default_goal() -> np.ndarray:
    """(2, 30) float32: the start with the elements of `DEFAULT_GOAL` at their goal values, twice."""
    row = START.copy()
    for task in DEFAULT_GOAL:
        places, values = ELEMENTS[task]
        row[list(places)] = values
    return np.stack([row, row]).astype(np.float32)


class KitchenEnv(SingleEnv):
    """One kitchen with the Gymnasium interface."""

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 12.5}  # type: ignore[misc]
    batch_class = KitchenBatch


class KitchenVectorEnv(VectorEnv):
    """N kitchens with Gymnasium's vector interface."""

    batch_class = KitchenBatch
