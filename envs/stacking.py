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
 2. What the robot cannot touch is drawn but absent from the physics: target zone, table frame, floor. (A box that is
    thrown off the table falls on.)
 3. The robot's reset state is the recorded one instead of being recomputed by offline inverse kinematics.
 4. Random contexts are reproducible by seed (the original's generator is not seeded).
 5. Contacts are those of MuJoCo 2.3, with which the original runs (`_gripper_as_recorded`, `envs._objects`).
 6. Reward: 1 at the step that first stacks all three boxes, else 0 (the original's is always 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from envs import _joint_control, _labels
from envs._control import LINKS, TOOL
from envs._gym import SingleEnv, VectorEnv
from envs._objects import ObjectBatch, add_box, contacts_as_recorded
from envs._panda import add_robot, new_scene
from envs.base import Geometry

# name, half-sizes (m), colour; in the order of observations and recordings
BOXES = (
    ("red_box", (0.03, 0.03, 0.03), (1, 0, 0, 1)),
    ("green_box", (0.03, 0.03, 0.03), (0, 1, 0, 1)),
    ("blue_box", (0.03, 0.05, 0.03), (0, 0, 1, 1)),
)
BOX_MASS = 0.05  # kg
MODES = ("rgb", "rbg", "grb", "gbr", "brg", "bgr")
# Joints (rad) and fingers (m), with their rates, after a reset: TCP at (0.52498, 0, 0.30151) m; the fingers start to open.
START_QPOS = np.array([
    -1.170804698420485e-08, -0.04361858666682642, 1.320113370884489e-08, -2.1884211669965983, -5.946992024257426e-09,
    2.149904161055545, 0.78539816824299, 0.00011940184451901097, 0.00011940184454647978,
])  # fmt: skip
START_QVEL = np.array([
    4.103916239970944e-10, 1.667921698763213e-09, -3.460542500119179e-10, 2.4369285256315186e-09,
    -4.696646700764147e-10, 1.7270198273929076e-09, 1.0312795326562782e-06, 0.11940184451901097, 0.11940184454647977,
])  # fmt: skip


class StackingBatch(ObjectBatch):
    """N simulations of Stacking (see `envs.base.BatchEnv` for the interface; set-points are (n, 8)).

    info's obj_pos (n, 4, 3) ends with the target zone, as the recordings do.
    """

    task = "stacking"
    loose = tuple(name for name, *_ in BOXES)
    drop_height = 0.0
    obs_dim, act_dim = 20, 8
    setpoint_dim = 8  # joints 7 (rad), gripper width (m)
    mode_dtype, first_mode = "<U3", ""
    geometry = Geometry(
        pairs=tuple((20 + k, 8 + 4 * box + k) for box in range(3) for k in range(3)),
        near=0.02, tangents=(11, 15, 19), links=LINKS, tool=TOOL, square=(11, 15),
    )  # fmt: skip
    action_bound = np.array([0.2] * 7 + [0.08], np.float32)  # rad and m; the original has two numbers here
    max_steps = 1000
    substeps = 30
    start_qpos, start_qvel = START_QPOS, START_QVEL

    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """Table, three boxes, robot without rod; visual: also the target zone."""
        spec = new_scene(visual)
        for name, half, rgba in BOXES:
            add_box(spec, name, half, rgba, BOX_MASS)
        if visual:
            zone = add_box(spec, "target_box", (0.05, 0.05, 0.04), (1, 0.65, 0, 0.3), pos=(*_labels.ZONE, 0))
            zone.geoms[0].contype = zone.geoms[0].conaffinity = 0
        contacts_as_recorded(spec, cls.loose)
        add_robot(spec, rod=False, visual=visual)
        _gripper_as_recorded(spec, cls.loose)
        return spec

    @staticmethod
    def mode_name(mode_row: Any) -> str:
        """The boxes counted so far, e.g. "gbr" or "g"; "" for none."""
        return str(mode_row)

    def info(self) -> dict[str, np.ndarray]:
        """As for every task with objects, and success_1, success_2 (n,): at least one and two boxes counted."""
        found = super().info()
        counted = np.char.str_len(self.mode)
        target = np.tile([*_labels.ZONE, 0.0], (self.num_envs, 1, 1))
        found["obj_pos"] = np.concatenate([found["obj_pos"], target], 1)
        return {**found, "success_1": counted > 0, "success_2": counted > 1}

    def _target(self, actions: np.ndarray) -> np.ndarray:
        return np.concatenate([self.setpoint[:, :7] + actions[:, :7], actions[:, 7:]], 1)

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        boxes = self.object_pose[ids]
        features = np.concatenate([boxes[:, :, :3], _labels.tan_yaw(boxes[:, :, 3:])[:, :, None]], 2).reshape(-1, 12)
        return np.concatenate([self.setpoint[ids], features], 1, dtype=np.float32, casting="same_kind")

    def _finish(self, ids: np.ndarray) -> np.ndarray:
        return _labels.stacked(self.object_pose[ids])

    def _update_mode(self, ids: np.ndarray) -> None:
        self.success[ids] = _labels.stacked(self.object_pose[ids])
        mode = self.mode[ids]
        _labels.update_stacking(mode, self.object_pose[ids])
        self.mode[ids] = mode

    def _first_setpoint(self, ids: np.ndarray) -> None:
        a = self.sims.robot_qpos
        for i in ids:
            qpos = self.sims.data[i].qpos
            self.setpoint[i] = [*qpos[a : a + 7], qpos[a + 7] + qpos[a + 8]]

    def _simulate(self, ids: np.ndarray) -> None:
        self.sims.run(
            _joint_control.joint_steps, ids, self.sims.robot_qpos, self.sims.robot_qvel, self.setpoint, self.substeps
        )

    def _recall_mode(self, i: int, rec: Mapping[str, np.ndarray], k: int) -> None:
        self.success[i], self.mode[i] = rec["success"][k - 1], rec["mode"][k - 1]  # the mode remembers everything


def _gripper_as_recorded(spec: mujoco.MjSpec, loose: Sequence[str]) -> None:
    """Makes the gripper's contacts what they were in MuJoCo 2.3 (see `envs._objects.contacts_as_recorded`).

    The finger pads are boxes, so their distance to boxes counted half there: found at 1 mm, it was taken for 0.5 mm and held
    against the margin of 1 mm. Here: a margin of 2 mm that begins to act at 1 mm. And 2.3 took the larger of two margins,
    not their sum, which matters where finger meets finger.
    """
    # solref, solimp, friction of a finger pad, a box, a finger's mesh; MuJoCo mixes them by mean and by maximum
    pad = np.array([0.01, 0.5]), np.array([0.998, 0.999, 0.001, 0.5, 2.0]), np.array([2.0, 2.0, 0.05, 1e-4, 1e-4])
    box = np.array([0.02, 1.0]), np.array([0.9, 0.95, 0.001, 0.5, 2.0]), np.array([1.0, 1.0, 0.005, 1e-4, 1e-4])
    mesh = box[0], pad[1], box[2]
    pads, meshes = ("leftfinger_tip", "rightfinger_tip"), ("leftfinger", "rightfinger")

    def add(a: str, b: str, of_a: tuple, of_b: tuple, **distance: float) -> None:
        solref, solimp = (of_a[0] + of_b[0]) / 2, (of_a[1] + of_b[1]) / 2
        if "gap" in distance:  # half the depth counts: softer, and twice as deep until it is stiff
            solref, solimp = solref * [1.0, np.sqrt(2.0)], solimp * [1.0, 1.0, 2.0, 1.0, 1.0]
        friction = np.maximum(of_a[2], of_b[2])
        spec.add_pair(geomname1=a, geomname2=b, condim=4, friction=friction, solref=solref, solimp=solimp, **distance)

    for name in loose:
        for finger in pads:
            add(name, finger, box, pad, margin=0.002, gap=-0.001)
    add(*pads, pad, pad, margin=0.002, gap=-0.001)
    add(*meshes, mesh, mesh, margin=0.001)
    add(meshes[0], pads[1], mesh, pad, margin=0.001)
    add(meshes[1], pads[0], mesh, pad, margin=0.001)


class StackingEnv(SingleEnv):
    """One Stacking environment with the Gymnasium interface."""

    batch_class = StackingBatch


class StackingVectorEnv(VectorEnv):
    """N Stacking environments with Gymnasium's vector interface."""

    batch_class = StackingBatch
