"""Aligning: push a hollow tray into the pose of a target, by its inner or by its outer walls.

Original: the Aligning task of the D3IL benchmark (Jia et al., ICLR 2024), state observations: a simulated Franka Panda
whose Cartesian controller follows a desired position in space; contexts give the poses of tray and target.

Observation (20,) m: desired xyz, actual xyz of the tool centre point, tray xyz and quaternion wxyz, target xyz and quaternion.
Action (3,) m: change of the desired xyz.
Episode: ends one step after success, or after 400 steps of 35 ms.
Success: tray and target at most 18 mm apart *in space*, of which the tray, resting 9.2 mm deeper than the target is drawn,
always uses 9.2 mm (15.5 mm are left in the plane), and turned against each other by at most 0.048 pi (8.64 degrees).
Mode (): 0 inside, when tool and tray's centre are less than 51 mm apart in the plane, else 1 outside: as of the last step, not
latched; -1 before the first.

Timing. As in `envs.avoiding`: the observation is the state before the motion. Success and mode are computed after it, anew at
every step: the step after success ends the episode, still executes its action, and a success lost by it does not count.

Differences from the original
 1. The observation contains the desired position and the action is its change (both live in the original's evaluation
    loop); `step_absolute` takes the poses that the original's `step` takes.
 2. What cannot be touched is drawn but absent from the physics: floor, table frame, target.
 3. The reset state of the robot is the recorded one instead of being recomputed by offline inverse kinematics.
 4. Random contexts are reproducible by seed (the original's generator is not seeded).
 5. A turn of exactly zero is zero, where rounding can make it NaN, and so no success, in the original.
 6. Reward: 1 at a step that brings success about, else 0 (the benchmark evaluates success and mode, not reward).
"""

from __future__ import annotations

import mujoco
import numpy as np

from envs._gym import SingleEnv, VectorEnv
from envs._labels import aligned, number_text, side_of
from envs._objects import ObjectBatch, contacts_as_recorded
from envs._panda import add_robot, new_scene

# name, centre (m), half-sizes (m), colour, of tray and target; the tray's bottom first
PARTS = (
    ("bottom", (0.0, 0.0, 0.0), (0.05, 0.05, 0.01), (0.8, 0.655, 0.45)),
    ("front", (0.05, 0.0, 0.0485), (0.005, 0.05, 0.045), (0.0, 0.0, 1.0)),
    ("left", (0.0, 0.05, 0.0485), (0.05, 0.005, 0.045), (0.0, 1.0, 0.0)),
    ("back", (-0.05, 0.0, 0.0485), (0.005, 0.05, 0.045), (1.0, 0.0, 0.0)),
    ("right", (0.0, -0.05, 0.0485), (0.05, 0.005, 0.045), (0.0, 1.0, 1.0)),
)
BOTTOM = {"friction": [0.3, 0.001, 0.0001], "priority": 1}
MASS, CENTRE_Z = 1.004, 0.0001932270916  # kg, m: bottom 1 kg, walls 1 g each
INERTIA_QUAT, INERTIA = (0.5, 0.5, -0.5, 0.5), (0.001680033333, 0.0008854215139, 0.0008854215139)  # kg m^2
# Joints (rad) and fingers (m), with their rates, after a reset: TCP at (0.52496, -0.34882, 0.25160) m, fingers closed.
START_QPOS = np.array([
    -0.39275835988506125, 0.3217781233900686, -0.21250285249542178, -1.8435813567188455,
    0.08314888040365256, 2.16034405826473, 0.1447952183967013, 2.2858326105355166e-05,
    2.2857320244059845e-05,
])  # fmt: skip
START_QVEL = np.array([
    -1.432767729100101e-08, -5.638698551892479e-09, 2.8336189627174816e-08, -6.643206012128782e-09,
    1.725246764264164e-08, -1.734186176893406e-08, 1.9990246828839504e-07, 0.022858326105355167,
    0.022857320244059846,
])  # fmt: skip


class AligningBatch(ObjectBatch):
    """N simulations of Aligning (see `envs.base.BatchEnv` for the interface)."""

    task = "aligning"
    loose, moved = ("aligning_box",), ("target_box",)
    drop_height = 0.0
    obs_dim, act_dim = 20, 3
    max_steps = 400
    start_qpos, start_qvel = START_QPOS, START_QVEL

    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """Robot with rod, table and tray; visual: also the target."""
        spec = new_scene(visual)
        tray = spec.worldbody.add_body(name="aligning_box")
        tray.explicitinertial = True
        tray.mass, tray.ipos = MASS, [0.0, 0.0, CENTRE_Z]
        tray.iquat, tray.inertia = INERTIA_QUAT, INERTIA
        tray.add_freejoint(name="aligning_box")
        for name, pos, half, rgb in PARTS:
            contact = BOTTOM if name == "bottom" else {}
            tray.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos, size=half, rgba=[*rgb, 1.0], **contact)
        if visual:
            target = spec.worldbody.add_body(name="target_box")
            for name, pos, half, rgb in PARTS:
                rgba = [*rgb, 0.3 if name == "bottom" else 0.5]
                target.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos, size=half, rgba=rgba, contype=0, conaffinity=0)
        contacts_as_recorded(spec, cls.loose)
        add_robot(spec, rod=True, visual=visual)
        return spec

    @staticmethod
    def mode_name(mode_row: np.ndarray) -> str:
        """ "0" inside, "1" outside; "" before the first step."""
        return number_text(mode_row)

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        poses = self.object_pose[ids].reshape(len(ids), 14)
        return np.concatenate([self.setpoint[ids, :3], tcp, poses], 1, dtype=np.float32, casting="same_kind")

    def _finish(self, ids: np.ndarray) -> np.ndarray:
        return aligned(self.object_pose[ids])

    def _update_mode(self, ids: np.ndarray) -> None:
        self.success[ids] = aligned(self.object_pose[ids])
        self.mode[ids] = side_of(self.tcp_pos[ids], self.object_pose[ids])


class AligningEnv(SingleEnv):
    """One Aligning environment with the Gymnasium interface."""

    batch_class = AligningBatch


class AligningVectorEnv(VectorEnv):
    """N Aligning environments with Gymnasium's vector interface."""

    batch_class = AligningBatch
