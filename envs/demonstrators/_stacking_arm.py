"""From planned poses of Stacking's tools to joint set-points that the weakly damped arms follow."""

from __future__ import annotations

from typing import Any

import numpy as np

ROW = 0.03  # s
MAX_LEAD = 0.09  # s; the wrist follows later than that, but does not swing


class Arms:
    """The arms of a batch, moved row after row.

    poses (n, 4): where each tool is to be, xyz (m) and yaw (rad).
    """

    def __init__(self, env: Any, start: np.ndarray):
        from envs.stacking import START_QPOS

        self.env, self.rest = env, START_QPOS[:7].copy()
        self.poses = np.tile(start, (env.num_envs, 1))
        self.rows = [np.tile(self.rest, (env.num_envs, 1)) for _ in range(3)]  # planned joints, the newest last

    def begin(self, i: int) -> None:
        """Arm i is at rest where a reset puts it."""
        for row in self.rows:
            row[i] = self.rest

    def setpoints(self) -> np.ndarray:
        """Joints (n, 7) to command in the next row."""
        from envs._joint_control import joint_targets

        _, older, old = self.rows
        new = old.copy()
        joint_targets(new, self.poses, self.rest)
        self.rows = [older, old, new]
        return new + lead(self.env, older, old, new)

    def width(self, i: int) -> float:
        """Measured width of gripper i, m."""
        a = self.env.sims.robot_qpos
        left, right = self.env.sims.data[i].qpos[a + 7 : a + 9]
        return float(left + right)


def lead(env: Any, older: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """How far ahead (n, 7) of the planned joints of three rows (n, 7 each) the weakly damped arm's set-points have to be.

    The controller's torque is P (set-point - q) - D qd; what the planned motion needs is M qdd. Without this the arm swings
    at about 1 Hz for a second after each motion, and a box is put down beside its place.
    """
    import mujoco

    from envs._control import D_GAIN, P_GAIN

    velocity, acceleration = (new - older) / (2 * ROW), (new - 2 * old + older) / ROW**2
    model, v = env.sims.model, env.sims.robot_qvel
    mass = np.zeros((model.nv, model.nv))
    torque = P_GAIN * np.minimum(D_GAIN / P_GAIN, MAX_LEAD) * velocity
    for i in np.flatnonzero(env.active):
        mujoco.mj_fullM(model, env.sims.data[i], mass)
        torque[i, :4] += mass[v : v + 4, v : v + 7] @ acceleration[i]
    return torque / P_GAIN
