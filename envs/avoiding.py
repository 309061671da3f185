"""Avoiding: steer the rod between six cylinders, past the finish line, by one of 24 routes.

Original: the Avoiding task of the D3IL benchmark (Jia et al., ICLR 2024), state observations: a simulated Franka Panda
whose Cartesian controller follows a desired position in the plane at constant height; no contexts, one start.

Observation (4,) m: desired xy, actual xy of the tool centre point. Action (2,) m: change of the desired xy.
Episode: ends when the rod touches a cylinder, when y > 0.35 (success), or after 250 steps of 35 ms.
Mode (9,): one bit for the side on which each row of cylinders is passed: 2 + 3 + 4 bits, one-hot per row: 24 routes.

Timing. Step k sets desired_k = desired_{k-1} + action and returns (desired_k, actual_k), where actual_k is the position
*before* the motion towards desired_k: row k of a demonstration. The original returns actual_k alone and its evaluation
loop puts the desired position in front of it; here the environment does that.

Differences from the original
 1. The observation contains the desired position and the action is its change (both live in the original's evaluation
    loop); `step_absolute` takes the poses that the original's `step` takes.
 2. The collision test works for any number of environments in one process (the original's only for the first one).
 3. What cannot be touched is drawn but absent from the physics: floor, table frame, finish line.
 4. The reset state is the recorded one instead of being recomputed by offline inverse kinematics.
 5. Reward: 1 at the step that notices success, else 0 (the benchmark evaluates success and mode, not reward).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import mujoco
import numpy as np

from envs._gym import SingleEnv, VectorEnv
from envs._panda import add_robot, new_scene
from envs.base import BatchEnv
from harness.errors import UserError

# name, x, y (m), radius (m), half-height (m); the centres are at z = 0
OBSTACLES = (
    ("l1_obs", 0.5, -0.1, 0.03, 0.07),
    ("l2_top_obs", 0.425, 0.08, 0.025, 0.1),
    ("l2_bottom_obs", 0.575, 0.08, 0.025, 0.1),
    ("l3_top_obs", 0.35, 0.26, 0.025, 0.1),
    ("l3_mid_obs", 0.5, 0.26, 0.025, 0.1),
    ("l3_bottom_obs", 0.65, 0.26, 0.025, 0.1),
)
ROD_RADIUS = 0.01  # m
FINISH_Y = 0.35  # m
# Rows of cylinders: where a row is judged (low, high) in y, and the x positions that separate its passages.
LEVELS = (
    (-0.1 - 0.03, -0.1 + 0.03, (0.5,)),
    (0.08 - 0.03, 0.08 + 0.03, (0.425, 0.575)),
    (0.26, np.inf, (0.35, 0.5, 0.65)),
)
MODES = tuple("".join("1" if i == j else "0" for n, j in zip((2, 3, 4), c, strict=True) for i in range(n))
              for c in product(range(2), range(3), range(4)))  # fmt: skip
START_XY = (0.52492847, -0.27973673)  # m, TCP after a reset
# Joints (rad) and fingers (m), with their rates, after a reset: TCP at (0.52493, -0.27974, 0.12236) m, fingers closed.
START_QPOS = np.array([
    -0.35640868475918691, 0.42944545402621526, -0.135010595225244, -2.0546518930360969, 0.093578222949801976,
    2.4807179406706452, 0.23250675904771786, 2.2859196749570503e-05, 2.2856819535335017e-05,
])  # fmt: skip
START_QVEL = np.array([
    -4.0042467328868802e-08, -1.063840511204004e-08, 7.5530745439832331e-08, -1.5399954959018383e-08,
    3.4040890525214609e-08, -3.0691735436753864e-08, 1.9827228496614771e-07, 0.022859196749570501, 0.022856819535335016,
])  # fmt: skip


def update_mode(mode: np.ndarray, tcp_pos: np.ndarray) -> None:
    """Sets, in mode (n, 9), the bits of rows of cylinders that tcp_pos (n, 3) m is passing; a row is set only once.

    A position exactly on a separating line leaves its row unset, as in the original.
    """
    x, y = tcp_pos[:, 0], tcp_pos[:, 1]
    first = 0
    for low, high, edges in LEVELS:
        bits = mode[:, first : first + len(edges) + 1]  # view
        judged = (bits == 0).all(1) & (y >= low) & (y <= high)
        bounds = (-np.inf, *edges, np.inf)
        for b in range(len(edges) + 1):
            bits[judged & (x > bounds[b]) & (x < bounds[b + 1]), b] = 1.0
        first += len(edges) + 1


class AvoidingBatch(BatchEnv):
    """N simulations of Avoiding (see `envs.base.BatchEnv` for the interface)."""

    obs_dim, act_dim = 4, 2
    mode_shape, mode_dtype, first_mode = (9,), np.float64, 0.0
    max_steps = 250
    start_qpos, start_qvel = START_QPOS, START_QVEL

    def __init__(self, num_envs: int = 1, num_threads: int = 1, max_steps: int | None = None):
        super().__init__(num_envs, num_threads, max_steps)
        model = self.sims.model
        self._rod = model.geom("rod").id
        self._obstacles = np.array(sorted(model.geom(name).id for name, *_ in OBSTACLES))

    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """Robot with rod, table and the six cylinders; visual: also the finish line."""
        spec = new_scene(visual)
        for name, x, y, radius, half in OBSTACLES:
            spec.worldbody.add_geom(
                name=name, type=mujoco.mjtGeom.mjGEOM_CYLINDER, pos=[x, y, 0], size=[radius, half, 0], rgba=[1, 0, 0, 1]
            )
        if visual:
            spec.worldbody.add_geom(
                name="finish_line", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0.4, FINISH_Y, 0], size=[0.5, 0.01, 0.005],
                rgba=[0, 1, 0, 0.3], contype=0, conaffinity=0,
            )  # fmt: skip
        add_robot(spec, rod=True, visual=visual)
        return spec

    @staticmethod
    def mode_name(mode_row: np.ndarray) -> str:
        """The route as nine digits, e.g. "101001000"; "" while a row of cylinders has not been passed."""
        bits = np.asarray(mode_row).reshape(-1) > 0.5
        complete = bits[:2].any() and bits[2:5].any() and bits[5:].any()
        return "".join("1" if b else "0" for b in bits) if complete else ""

    def _contexts(self, ids: np.ndarray, contexts: Sequence | None, seeds: Sequence[int] | None) -> None:
        for context in contexts if contexts is not None else ():
            if context is not None and (isinstance(context, bool) or context != 0):
                raise UserError(f"Avoiding has a single context, 0 (or None); got {context!r}")

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        return np.concatenate([self.setpoint[ids, :2], tcp[:, :2]], 1, dtype=np.float32, casting="same_kind")

    def _finish(self, ids: np.ndarray) -> np.ndarray:
        self.success[ids] |= self.tcp_pos[ids, 1] > FINISH_Y
        hit = np.array([self.sims.touching(i, self._rod, self._obstacles) for i in ids], bool)
        return hit | self.success[ids]

    def _update_mode(self, ids: np.ndarray) -> None:
        mode = self.mode[ids]
        update_mode(mode, self.tcp_pos[ids])
        self.mode[ids] = mode


class AvoidingEnv(SingleEnv):
    """One Avoiding environment with the Gymnasium interface."""

    batch_class = AvoidingBatch


class AvoidingVectorEnv(VectorEnv):
    """N Avoiding environments with Gymnasium's vector interface."""

    batch_class = AvoidingBatch
