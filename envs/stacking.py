"""Stacking: pick up three boxes and stack them in the target zone, in one of six orders.

Original: the Stacking task of the D3IL benchmark (Jia et al., ICLR 2024), state observations: a simulated Franka Panda
with a gripper, controlled in joint space; red and green cubes, a longer blue box; 100 evaluation contexts, of which the
evaluation uses the first 60.

Observation (20,): desired joints 7 (rad), commanded gripper width (m), then red, green, blue box, each xyz (m) and
tan(yaw). Action (8,): change of the desired joints 7 (rad), and the absolute gripper width (m).
Episode: ends when all three boxes are stacked, or after 1000 steps of 30 ms.
Mode: the boxes in the order in which they came within 0.06 m of the target's centre, e.g. "gbr".
Success: all three boxes within 0.06 m of the target's centre in xy, and no two within 0.03 m of each other in height.

Timing. Step k sets desired_k = desired_{k-1} + action and returns (desired_k, boxes *before* the motion towards
desired_k): row k of a demonstration. Success and mode are computed after the physics; a success of step k ends the
episode at step k + 1, which still executes its action and computes success again.

Surprises of the original, kept
 1. Mode ignores height and grasp: a box carried over the target counts, and is never removed. One box a step is
    counted, the nearest first.
 2. Success looks at positions alone: not at release, nor contact, nor the blue box's attitude. It can fire while the
    last box is still in the gripper. It does not latch: the step that ends the episode may lose it again.
 3. Success at one or two boxes (`success_1`, `success_2`) is the number of boxes in the mode, stacked or not.
 4. The contexts hold a pose of the target that is never applied: it lies at (0.5, 0.2) in all of them.
 5. Boxes start 11 mm inside the table and are pushed out in the first steps.
 6. The gripper opens above a commanded width of 0.075 m and otherwise closes with 20 N a finger, whatever the width.
    The fingers stand closed after a reset, though the reset's one physics step already opens them.
 7. tan(yaw) jumps at +-90 degrees, and is the tangent of whatever the last Euler angle of a tilted box is.
 8. What the observation holds of the gripper is the measured width after a reset, then the policy's own command.

Differences from the original
 1. The observation contains the desired joints and gripper width and the action is their change (both live in the
    original's evaluation loop); `step_absolute` takes what the original's `step` takes.
 2. What the robot cannot touch is drawn but absent from the physics: target zone, table frame.
 3. Reward: 1 at the step that first stacks all three boxes, else 0 (the original's is always 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from envs import _joint_control
from envs._gym import SingleEnv, VectorEnv
from envs._panda import add_robot, new_scene
from envs.base import BatchEnv
from harness.errors import UserError

# name, half-sizes (m), colour; in the order of observations and recordings
BOXES = (
    ("red_box", (0.03, 0.03, 0.03), (1, 0, 0, 1)),
    ("green_box", (0.03, 0.03, 0.03), (0, 1, 0, 1)),
    ("blue_box", (0.03, 0.05, 0.03), (0, 0, 1, 1)),
)
BOX_MASS = 0.05  # kg
TARGET = (0.5, 0.2)  # m, xy of the target zone's centre
NEAR = 0.06  # m, in xy from the target's centre: counted as there
APART = 0.03  # m, smallest difference in height of two stacked boxes
LETTERS = "rgb"
MODES = ("rgb", "rbg", "grb", "gbr", "brg", "bgr")
# Joints (rad) of the pose that a reset beams the robot to: TCP at (0.52498, 0, 0.30151) m; fingers closed.
START_JOINTS = np.array([
    -1.1708457375828848e-08, -0.043618586668494344, 1.3201479763094901e-08, -2.188421166999035,
    -5.946522359587349e-09, 2.149904161053818, 0.7853981672117105,
])  # fmt: skip


def update_mode(mode: np.ndarray, boxes: np.ndarray) -> None:
    """Appends, in mode (n, 3), the nearest box not yet counted that is near the target; boxes (n, 3, 3) xyz in m.

    A mode holds 1, 2, 3 for red, green, blue in the order of arrival, then zeros.
    """
    distance = np.linalg.norm(boxes[:, :, :2] - TARGET, axis=2)  # (n, 3)
    distance[(mode[:, :, None] == np.arange(1, 4)).any(1)] = np.inf
    nearest = distance.argmin(1)
    row = np.flatnonzero(distance[np.arange(len(mode)), nearest] <= NEAR)
    mode[row, (mode[row] > 0).sum(1)] = nearest[row] + 1


def stacked(boxes: np.ndarray) -> np.ndarray:
    """(n,) bool: success as the original computes it from the boxes' positions (n, 3, 3) in m."""
    near = (np.linalg.norm(boxes[:, :, :2] - TARGET, axis=2) <= NEAR).all(1)
    z = boxes[:, :, 2]
    return near & (np.abs(z - np.roll(z, 1, axis=1)).min(1) > APART)


def tan_yaw(quat: np.ndarray) -> np.ndarray:
    """Tangent of the last Euler angle (the original's convention) of quaternions wxyz (..., 4)."""
    w, x, y, z = np.moveaxis(quat, -1, 0)
    s = 2.0 / (quat * quat).sum(-1)
    m00, m01 = 1.0 - s * (y * y + z * z), s * (x * y - w * z)
    m10, m11 = s * (x * y + w * z), 1.0 - s * (x * x + z * z)
    m12, m22 = s * (y * z - w * x), 1.0 - s * (x * x + y * y)
    upright = np.hypot(m22, m12) > 4.0 * np.finfo(float).eps
    return np.tan(np.where(upright, -np.arctan2(m01, m00), -np.arctan2(-m10, m11)))


class StackingBatch(BatchEnv):
    """N simulations of Stacking (see `envs.base.BatchEnv` for the interface; set-points are (n, 8))."""

    obs_dim, act_dim, mode_dim = 20, 8, 3
    setpoint_dim = 8  # joints 7 (rad), gripper width (m)
    max_steps = 1000
    substeps = 30
    start_qpos = np.concatenate([np.tile([0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], 3), START_JOINTS, [0.0, 0.0]])
    start_qvel = np.zeros(27)

    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """Table, three boxes, robot without rod; visual: also the target zone."""
        spec = new_scene(visual)
        for name, size, rgba in BOXES:
            body = spec.worldbody.add_body(name=name)
            body.add_freejoint()
            body.explicitinertial, body.mass = True, BOX_MASS
            x, y, z = np.square(size)
            body.inertia = BOX_MASS / 3.0 * np.array([y + z, x + z, x + y])
            body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=size, rgba=rgba)
        if visual:
            spec.worldbody.add_geom(
                name="target", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[*TARGET, 0], size=[0.05, 0.05, 0.04],
                rgba=[1, 0.65, 0, 0.3], contype=0, conaffinity=0,
            )  # fmt: skip
        add_robot(spec, rod=False, visual=visual)
        return spec

    @staticmethod
    def mode_name(mode_row: Any) -> str:
        """The boxes counted so far, e.g. "gbr" or "g"; "" for none."""
        if isinstance(mode_row, str):
            return str(mode_row)
        return "".join(LETTERS[int(m) - 1] for m in np.asarray(mode_row).reshape(-1) if m > 0)

    def info(self) -> dict[str, np.ndarray]:
        """As for every task, with the mode as text, and success_1, success_2 (n,): one and two boxes counted."""
        mode = np.array([self.mode_name(row) for row in self.mode], "<U3")
        counted = np.char.str_len(mode)
        return {**super().info(), "mode": mode, "success_1": counted > 0, "success_2": counted > 1}

    def boxes(self, ids: np.ndarray) -> np.ndarray:
        """(len(ids), 3, 7): poses of the boxes, xyz (m) and quaternion wxyz."""
        return np.array([self.sims.data[i].qpos[:21] for i in ids]).reshape(-1, 3, 7)

    def _contexts(self, ids: np.ndarray, contexts: Sequence | None, seeds: Sequence[int] | None) -> None:
        for n, i in enumerate(ids):
            self.sims.data[i].qpos[:21] = poses(contexts[n]).reshape(-1)
        self.setpoint[ids] = [*START_JOINTS, 0.08]  # the reset's single physics step opens the fingers
        self._advance(ids, 1)

    def _initial_setpoint(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        robot = np.array([self.sims.data[i].qpos[21:30] for i in ids]).reshape(-1, 9)
        return np.concatenate([robot[:, :7], robot[:, 7:].sum(1, keepdims=True)], 1)

    def _target(self, actions: np.ndarray) -> np.ndarray:
        return np.concatenate([self.setpoint[:, :7] + actions[:, :7], actions[:, 7:]], 1)

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        boxes = self.boxes(ids)
        features = np.concatenate([boxes[:, :, :3], tan_yaw(boxes[:, :, 3:])[:, :, None]], 2).reshape(-1, 12)
        return np.concatenate([self.setpoint[ids], features], 1, dtype=np.float32, casting="same_kind")

    def _advance(self, ids: np.ndarray, substeps: int) -> None:
        self.sims.run(
            _joint_control.joint_steps, ids, self.sims.robot_qpos, self.sims.robot_qvel, self.setpoint, substeps
        )

    def _finish(self, ids: np.ndarray) -> np.ndarray:
        return stacked(self.boxes(ids)[:, :, :3])

    def _update_mode(self, ids: np.ndarray) -> None:
        boxes = self.boxes(ids)[:, :, :3]
        self.success[ids] = stacked(boxes)
        mode = self.mode[ids]
        update_mode(mode, boxes)
        self.mode[ids] = mode


def poses(context: Any) -> np.ndarray:
    """(3, 7) poses (xyz m, quaternion wxyz) of red, green and blue box that a context in the original's form asks for."""
    return np.array([[p[0], p[1], 0.0, *q] for p, q in context[:3]], float)


class StackingEnv(SingleEnv):
    """One Stacking environment with the Gymnasium interface."""

    batch_class = StackingBatch


class StackingVectorEnv(VectorEnv):
    """N Stacking environments with Gymnasium's vector interface."""

    batch_class = StackingBatch
