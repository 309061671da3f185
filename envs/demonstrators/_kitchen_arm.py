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
MAX_CHANGE = 0.09  # rad a step, of the reference
WRIST_SLACK = np.array([1.0] * 4 + [2.5] * 3)  # the wrist's actuators are softer
REACH = 0.16  # rad or m, what an action of 1 adds to the observed position
DAMPING = 0.02  # of the least squares, m
TURN_GAIN, MAX_TURN = 0.35, 0.10  # share of the remaining angle and rad, a step
TURN_WEIGHT = 0.3  # m, of an angle's error against a position's
NULL_GAIN, MAX_NULL = 0.06, 0.03
REST = np.array([0.15, -1.4, 1.7, -2.2, 0.2, 0.7, 1.6])  # rad, posture that the null space is drawn to


@dataclass
class Motion:
    """What a hand wants of a step: move the fingertips by `step` (3,) m, point them (yaw to the left, tilt down; rad),
    fingers at `grip` m."""

    step: np.ndarray
    yaw: float = 0.0
    tilt: float = 0.0
    roll: float = 0.0
    grip: float = 0.0
    slack: float = 0.06


def pointing(yaw: float, tilt: float, roll: float = 0.0) -> np.ndarray:
    """(3, 3) orientation of fingers that point forward (world y), turned left by yaw, then down by tilt; opening sideways."""
    forward = np.array([-np.sin(yaw) * np.cos(tilt), np.cos(yaw) * np.cos(tilt), -np.sin(tilt)])
    side = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    up = np.cross(side, forward)
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * up + s * side, c * side - s * up, forward], 1)


class Arm:
    """The robot of simulation i of a batch, as an expert sees and moves it.

    The hand that is moved is a reference; the arm is drawn to it by its actuators, by at most `slack` a joint, so that
    it presses against what resists. ghost: data of the model to compute the reference's pose with.
    """

    def __init__(self, env: Any, i: int, ghost: mujoco.MjData):
        self.data, self.model, self.ghost = env.sims.data[i], env.sims.model, ghost
        self.seen = env.seen[i]  # view
        self.reference = self.data.qpos[:7].copy()
        self._site = self.model.site("tcp").id
        self._body = int(self.model.site_bodyid[self._site])
        self._jacobian = np.zeros((6, self.model.nv))
        self._low, self._high = self.model.jnt_range[:7].T + np.array([[0.02], [-0.02]])
        self._look()

    motion = Motion  # so that who moves an arm need not import the simulator

    def _look(self) -> None:
        """Pose and Jacobian of the reference."""
        self.ghost.qpos[:7] = self.reference
        mujoco.mj_kinematics(self.model, self.ghost)
        mujoco.mj_comPos(self.model, self.ghost)
        self._rotation = self.ghost.site_xmat[self._site].reshape(3, 3).copy()
        self.hand = self.ghost.site_xpos[self._site] + TIP * self._rotation[:, 2]  # (3,) m, the reference's fingertips
        mujoco.mj_jac(self.model, self.ghost, self._jacobian[:3], self._jacobian[3:], self.hand, self._body)

    @property
    def tip(self) -> np.ndarray:
        """(3,) m where the closed fingers touch."""
        return self.data.site_xpos[self._site] + TIP * self.data.site_xmat[self._site].reshape(3, 3)[:, 2]

    def site(self, name: str) -> np.ndarray:
        """(3,) m of a site of the kitchen."""
        return self.data.site(name).xpos.copy()

    def action(self, motion: Motion) -> np.ndarray:
        """(9,) in [-1, 1] for this step."""
        change = self._change(motion)
        q = self.data.qpos[:7]
        before = self.reference
        slack = np.minimum(motion.slack * WRIST_SLACK, 0.14)
        self.reference = np.clip(np.clip(before + change, q - slack, q + slack), self._low, self._high)
        lead = (LEAD - 1.0) * np.clip(self.reference - before, -MAX_CHANGE, MAX_CHANGE)
        self._look()
        setpoint = np.r_[self.reference + lead + self.data.qfrc_bias[:7] / STIFFNESS, motion.grip, motion.grip]
        return np.clip((setpoint - self.seen[:9]) / REACH, -1.0, 1.0)

    def _change(self, motion: Motion) -> np.ndarray:
        """(7,) rad, of the reference: damped least squares; joints at a limit are left out, the others make up for them."""
        facing = pointing(motion.yaw, motion.tilt, motion.roll)
        turn = 0.5 * sum(np.cross(self._rotation[:, k], facing[:, k]) for k in range(3))
        turn *= min(TURN_GAIN, MAX_TURN / max(float(np.linalg.norm(turn)), 1e-9))
        wanted, q = np.r_[motion.step, TURN_WEIGHT * turn], self.reference
        jacobian = self._jacobian[:, :7] * np.r_[np.ones(3), np.full(3, TURN_WEIGHT)][:, None]
        rest, free = np.clip(NULL_GAIN * (REST - q), -MAX_NULL, MAX_NULL), np.ones(7)
        for _ in range(3):
            held = jacobian * free
            inverse = held.T @ np.linalg.inv(held @ held.T + DAMPING**2 * np.eye(6))
            change = inverse @ wanted + free * rest - inverse @ (held @ rest)
            soon = q + np.clip(change, -0.04, 0.04)
            over = ((soon < self._low) & (change < 0)) | ((soon > self._high) & (change > 0))
            if not (over & (free > 0)).any():
                break
            free[over] = 0.0
        return change * min(1.0, MAX_CHANGE / max(float(np.abs(change).max()), 1e-9))
