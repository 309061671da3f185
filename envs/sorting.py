"""Sorting: push two red and two blue cubes over the edge of a platform into the bin of their colour, in any order.

Original: the Sorting task of the D3IL benchmark (Jia et al., ICLR 2024) with four boxes, state observations: a simulated Franka
Panda whose Cartesian controller follows a desired position in the plane at constant height; contexts give the cubes' poses.

Observation (16,): desired xy, actual xy of the tool centre point, then xy and tan(yaw) of red 1, red 2, blue 1, blue 2 (m).
Action (2,) m: change of the desired xy.
Episode: ends one step after success, or after 700 steps of 35 ms.
Success: the centres of both red cubes over the red bin's rectangle and those of both blue over the blue one's. Heights are not
looked at: a cube on a rim counts.
Mode (): the order of colours as a byte. At every step, of the cubes not yet counted, the one nearest to the centre of its own
bin is counted if it is inside: red 0, blue 1, at most one a step, never taken back. The first four entries are the highest
bits; entries still missing count as 1: 240 at first, 80 for red, blue, red, blue. Six orders are complete: 2 of 4 are red.

Timing. As in `envs.aligning`.

Differences from the original
 1. The observation contains the desired position and the action is its change (both live in the original's evaluation
    loop); `step_absolute` takes the poses that the original's `step` takes.
 2. What cannot be touched is drawn but absent from the physics: floor, table frame.
 3. The reset state of the robot is the recorded one instead of being recomputed by offline inverse kinematics.
 4. Random contexts are reproducible by seed (the original's generator is not seeded).
 5. The original also looks for the third red and third blue cube, which this scene lacks, and reads a finger's offset in their
    place: a point far from both bins, which never counts; here there are only four.
 6. Reward: 1 at a step that brings success about, else 0 (the benchmark evaluates success and mode, not reward).
"""

from __future__ import annotations

import mujoco
import numpy as np

from envs._gym import SingleEnv, VectorEnv
from envs._labels import ORDERS, inside, order_byte, update_order
from envs._objects import ObjectBatch, add_box, contacts_as_recorded
from envs._panda import add_robot, new_scene
from envs.base import Geometry
from envs.pushing import plane_observation

CUBE = 0.03  # m, half a side
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
# centre xy and half-sizes xy of the red bin's walls (m), 0.1 high above and below z = 0; the blue ones lie 0.225 further in x
WALLS = (
    ((0.4, 0.41), (0.1, 0.01)), ((0.3, 0.32), (0.005, 0.1)), ((0.5, 0.32), (0.005, 0.1)), ((0.4, 0.22), (0.1, 0.005)),
)  # fmt: skip
PLATFORM: dict = {"friction": [0.3, 0.001, 0.0001], "priority": 1}
# Joints (rad) and fingers (m), with their rates, after a reset: TCP at (0.52496, -0.29929, 0.25161) m, fingers closed.
START_QPOS = np.array([
    -0.32682662581109306, 0.24562566192312055, -0.203252767118861, -1.952193734603906,
    0.06315052039561479, 2.1955061347754374, 0.22457584524856625, 2.2858609312652556e-05,
    2.2857406972252598e-05,
])  # fmt: skip
START_QVEL = np.array([
    -2.0564535144767463e-08, -6.062940589928834e-09, 3.747291713728282e-08, -7.328838703548456e-09,
    2.4559706775178946e-08, -1.8258765639071267e-08, 1.9844167716393488e-07, 0.022858609312652555,
    0.022857406972252598,
])  # fmt: skip


class SortingBatch(ObjectBatch):
    """N simulations of Sorting (see `envs.base.BatchEnv` for the interface)."""

    task = "sorting"
    loose = ("red_1", "red_2", "blue_1", "blue_2")
    drop_height = 0.05
    first_mode = 240
    obs_dim, act_dim = 16, 2
    geometry = Geometry(
        pairs=tuple((2 + k, 4 + 3 * cube + k) for cube in range(4) for k in range(2)),
        near=0.02,
        tangents=(6, 9, 12, 15),
        alike=(((4, 5, 6), (7, 8, 9)), ((10, 11, 12), (13, 14, 15))),
    )
    max_steps = 700
    start_qpos, start_qvel = START_QPOS, START_QVEL

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._order = np.full((self.num_envs, 4), -1)
        self._counted = np.zeros((self.num_envs, 4), bool)

    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """Robot with rod, table, platform, bins and cubes."""
        spec = new_scene(visual)
        for name, rgb in zip(cls.loose, (RED, RED, BLUE, BLUE), strict=True):
            add_box(spec, name, [CUBE] * 3, [*rgb, 1.0], mass=0.05)
        for colour, rgb, shift in (("red", RED, 0.0), ("blue", BLUE, 0.225)):
            for n, ((x, y), half) in enumerate(WALLS):
                add_box(
                    spec, f"{colour}_wall_{n}", [*half, 0.1], [*rgb, 0.5], pos=[x + shift, y, 0.0], quat=[0, 1, 0, 0]
                )
        add_box(spec, "platform", [0.3, 0.3, 0.1], [0.5, 0.5, 0.5, 0.5], pos=[0.5, -0.1, 0.0], **PLATFORM)
        contacts_as_recorded(spec, cls.loose)
        add_robot(spec, rod=True, visual=visual)
        return spec

    @staticmethod
    def mode_name(mode_row: np.ndarray) -> str:
        """The colours' order, e.g. "rbrb"; "" while a cube is missing."""
        return ORDERS.get(int(np.asarray(mode_row).reshape(())), "")

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        return plane_observation(self.setpoint[ids], tcp, self.object_pose[ids])

    def _begin(self, ids: np.ndarray) -> None:
        self._order[ids], self._counted[ids] = -1, False
        super()._begin(ids)

    def _finish(self, ids: np.ndarray) -> np.ndarray:
        return np.all(inside(self.object_pose[ids]), 1)

    def _update_mode(self, ids: np.ndarray) -> None:
        order, counted = self._order[ids], self._counted[ids]
        update_order(order, counted, self.object_pose[ids])
        self._order[ids], self._counted[ids] = order, counted
        self.mode[ids] = order_byte(order)
        self.success[ids] = inside(self.object_pose[ids]).all(1)


class SortingEnv(SingleEnv):
    """One Sorting environment with the Gymnasium interface."""

    batch_class = SortingBatch


class SortingVectorEnv(VectorEnv):
    """N Sorting environments with Gymnasium's vector interface."""

    batch_class = SortingBatch
