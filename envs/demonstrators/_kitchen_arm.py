"""From wanted motions of the kitchen robot's fingertips to actions: differential inverse kinematics on the model.

The set-point of a step is the measured position plus a lead that makes the damped actuators arrive within the step, plus
what gravity needs. The action is the velocity that, from the OBSERVED joints, gives this set-point: so a demonstration's
actions answer the noise that the same row's observation shows.

Letters: n episodes of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

TIP = 0.035  # m from the model's tool centre point to where the closed fingers touch
STIFFNESS = np.array([870.0] * 4 + [120.0] * 3)  # N m/rad of the position actuators
LEAD = np.array([2.0] * 4 + [1.6] * 3)  # 1 / (1 - exp(-0.08 s stiffness / damping))
REACH = 0.16  # rad or m, what an action of 1 adds to the observed position
DAMPING = 0.03  # of the least squares, m
TURN_GAIN, MAX_TURN = 0.35, 0.16  # share of the remaining angle and rad, a step
NULL_GAIN = 0.04
REST = np.array([0.15, -1.4, 1.7, -2.2, 0.2, 0.7, 1.6])  # rad, posture that the null space is drawn to
OPEN, CLOSED = 0.04, 0.0  # m, each finger


@dataclass
class Motion:
    """What a hand wants of a step: move the fingertips by `step` (3,) m, point them (yaw to the left, tilt down; rad),
    fingers at `grip` m."""

    step: np.ndarray
    yaw: float = 0.0
    tilt: float = 0.0
    grip: float = CLOSED


def pointing(yaw: float, tilt: float) -> np.ndarray:
    """(3, 3) orientation of fingers that point forward (world y), turned left by yaw, then down by tilt; opening sideways."""
    forward = np.array([-np.sin(yaw) * np.cos(tilt), np.cos(yaw) * np.cos(tilt), -np.sin(tilt)])
    side = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    return np.stack([np.cross(side, forward), side, forward], 1)


class Arm:
    """The robot of simulation i of a batch, as an expert sees and moves it."""

    def __init__(self, env: Any, i: int):
        self.env, self.i, self.data, self.model = env, i, env.sims.data[i], env.sims.model
        self._site = self.model.site("tcp").id
        self._body = int(self.model.site_bodyid[self._site])
        self._jacobian = np.zeros((6, self.model.nv))
        self._low, self._high = self.model.jnt_range[:7].T + np.array([[0.02], [-0.02]])

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) orientation of the hand."""
        return self.data.site_xmat[self._site].reshape(3, 3)

    @property
    def tip(self) -> np.ndarray:
        """(3,) m where the closed fingers touch."""
        return self.data.site_xpos[self._site] + TIP * self.rotation[:, 2]

    def site(self, name: str) -> np.ndarray:
        """(3,) m of a site of the kitchen."""
        return self.data.site(name).xpos.copy()

    def action(self, motion: Motion) -> np.ndarray:
        """(9,) in [-1, 1] for this step."""
        mujoco.mj_jac(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self.tip, self._body)
        jacobian, now = self._jacobian[:, :7], self.rotation
        facing = pointing(motion.yaw, motion.tilt)
        turn = 0.5 * sum(np.cross(now[:, k], facing[:, k]) for k in range(3))
        turn *= min(TURN_GAIN, MAX_TURN / max(float(np.linalg.norm(turn)), 1e-9))
        q = self.data.qpos[:7]
        rest = NULL_GAIN * (REST - q)
        wanted = np.r_[motion.step, turn]
        free = np.ones(7)
        for _ in range(3):  # joints at a limit are left out, the others make up for them
            held = jacobian * free
            inverse = held.T @ np.linalg.inv(held @ held.T + DAMPING**2 * np.eye(6))
            change = inverse @ wanted + free * rest - inverse @ (held @ rest)
            over = ((q + 2 * change < self._low) & (change < 0)) | ((q + 2 * change > self._high) & (change > 0))
            if not (over & (free > 0)).any():
                break
            free[over] = 0.0
        change *= LEAD
        change *= min(1.0, 0.9 * REACH / max(float(np.abs(change).max()), 1e-9))
        setpoint = np.r_[q + change + self.data.qfrc_bias[:7] / STIFFNESS, motion.grip, motion.grip]
        return np.clip((setpoint - self.env.seen[self.i, :9]) / REACH, -1.0, 1.0)
