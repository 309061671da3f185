"""Pushing: push a red and a green cube, one after the other, into a red and a green area, in any of four ways.

Original: the Pushing task of the D3IL benchmark (Jia et al., ICLR 2024), state observations: a simulated Franka Panda whose
Cartesian controller follows a desired position in the plane at constant height; contexts give the poses of both cubes.

Observation (10,): desired xy, actual xy of the tool centre point, red cube's xy and tan(yaw), green cube's xy and tan(yaw) (m).
Action (2,) m: change of the desired xy.
Episode: ends one step after success, or after 400 steps of 35 ms.
Success: each cube at most 50 mm from its own area's centre, or each from the other's, *in space*: the cubes' resting height
(11 mm over the areas' centres) counts, so that 48.8 mm are left in the plane.
Mode (): which cube reached which area first, and then the other: 0 red-red, green-green; 1 green-green, red-red;
2 red-green, green-red; 3 green-red, red-green; else -1. The first pair is remembered for good. The second is looked at anew at
every step, so that a mode can return to -1; of several pairs the first in the order rr, rg, gr, gg counts.

Timing. As in `envs.aligning`.

Differences from the original
 1. The observation contains the desired position and the action is its change (both live in the original's evaluation
    loop); `step_absolute` takes the poses that the original's `step` takes.
 2. What cannot be touched is drawn but absent from the physics: floor, table frame, target areas.
 3. The reset state of the robot is the recorded one instead of being recomputed by offline inverse kinematics.
 4. Random contexts are reproducible by seed (the original's generator is not seeded).
 5. Reward: 1 at a step that brings success about, else 0 (the benchmark evaluates success and mode, not reward).
"""

from __future__ import annotations

import mujoco
import numpy as np

from envs._gym import SingleEnv, VectorEnv
from envs._labels import AREAS, number_text, pushed, update_pushing
from envs._objects import ObjectBatch, add_box, contacts_as_recorded
from envs._panda import add_robot, new_scene
from envs.avoiding import START_QPOS, START_QVEL  # the same pose: TCP at (0.52493, -0.27974, 0.12236) m
from envs.d3il_files import plane_columns

CUBE = 0.03  # m, half a side
RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


class PushingBatch(ObjectBatch):
    """N simulations of Pushing (see `envs.base.BatchEnv` for the interface)."""

    task = "pushing"
    loose = ("push_box", "push_box2")
    drop_height = 0.0
    obs_dim, act_dim = 10, 2
    max_steps = 400
    start_qpos, start_qvel = START_QPOS, START_QVEL

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._first = np.full(self.num_envs, -1)

    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """Robot with rod, table and cubes; visual: also the areas."""
        spec = new_scene(visual)
        for name, rgb in zip(cls.loose, (RED, GREEN), strict=True):
            add_box(spec, name, [CUBE] * 3, [*rgb, 1.0], mass=0.05)
        contacts_as_recorded(spec, cls.loose)
        if visual:
            for name, pos, rgb in zip(("red_area", "green_area"), AREAS, (RED, GREEN), strict=True):
                add_box(spec, name, [0.05, 0.05, 0.04], [*rgb, 0.3], pos=pos, contype=0, conaffinity=0)
        add_robot(spec, rod=True, visual=visual)
        return spec

    @staticmethod
    def mode_name(mode_row: np.ndarray) -> str:
        """ "0" to "3"; "" for -1."""
        return number_text(mode_row)

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        return plane_observation(self.setpoint[ids], tcp, self.object_pose[ids])

    def _begin(self, ids: np.ndarray) -> None:
        self._first[ids] = -1
        super()._begin(ids)

    def _finish(self, ids: np.ndarray) -> np.ndarray:
        return pushed(self.object_pose[ids])

    def _update_mode(self, ids: np.ndarray) -> None:
        first = self._first[ids]
        self.success[ids] = pushed(self.object_pose[ids])
        self.mode[ids] = update_pushing(first, self.object_pose[ids])
        self._first[ids] = first


def plane_observation(setpoint: np.ndarray, tcp: np.ndarray, object_pose: np.ndarray) -> np.ndarray:
    """(n, 4 + 3 k) float32: desired xy, actual xy, then xy and tan(yaw) of each of k cubes."""
    return plane_columns(setpoint, tcp, object_pose).astype(np.float32)


class PushingEnv(SingleEnv):
    """One Pushing environment with the Gymnasium interface."""

    batch_class = PushingBatch


class PushingVectorEnv(VectorEnv):
    """N Pushing environments with Gymnasium's vector interface."""

    batch_class = PushingBatch
