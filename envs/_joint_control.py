"""The original's joint controller and gripper, alternating with MuJoCo's `mj_step`, compiled to machine code.

One call of `joint_steps` advances a set of simulations by one control step without holding the GIL. Everything is
written for one simulation at a time, so a result depends neither on the batch nor on the threads.

Controller (source: the D3IL benchmark's joint tracking controller, as Stacking uses it): PD towards desired joints that
are held for the whole control step, at rest (desired velocity 0), with bias compensation; no feed-forward, no limits but
the motors'. Gripper: open above `OPEN_ABOVE`, otherwise closed with the constant force of a grasp.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from envs._control import (
    D_GAIN,
    FINGER_OPEN,
    JOINT_MAX,
    JOINT_MIN,
    P_GAIN,
    WRIST_OPEN,
    _mj_step,
    _pointer,
    finger_forces,
    forward,
    solve_clipped,
    to_quaternion,
)

OPEN_ABOVE = 0.075  # m, commanded width (both fingers together) above which the gripper opens


@njit(cache=True, nogil=True, error_model="numpy")
def joint_steps(models, table, ids, qadr, vadr, target, substeps):
    """Advances simulations ids by `substeps` physics steps, towards target (n, 8): joints (rad), gripper width (m).

    models (2,): addresses of the MjModel and of that for an open wrist; table: `_sim.COLUMNS` of each simulation;
    qadr, vadr: where the robot's nine joints begin.
    """
    for i in ids:
        data = table[i, 0]
        qpos = carray(_pointer(table[i, 1] + 8 * qadr), 9)  # type: ignore[call-arg]  # an intrinsic takes no context
        qvel = carray(_pointer(table[i, 2] + 8 * vadr), 9)
        bias = carray(_pointer(table[i, 3] + 8 * vadr), 9)
        ctrl = carray(_pointer(table[i, 4]), 9)
        grasp = not target[i, 7] > OPEN_ABOVE
        width = 0.0 if grasp else FINGER_OPEN
        for _ in range(substeps):
            for j in range(7):
                ctrl[j] = P_GAIN[j] * (target[i, j] - qpos[j]) - D_GAIN[j] * qvel[j] + bias[j]
            finger_forces(qpos[7:], qvel[7:], ctrl[7:], width, grasp)
            _mj_step(models[1] if qpos[5] > WRIST_OPEN else models[0], data)


IK_STEPS = 8  # at most, each costs one Jacobian; a set-point a few millimetres away needs three
IK_TOLERANCE = 1e-7  # m and rad
NULL_SHARE = 0.05  # of the way to the rest posture, a call, in the null space


@njit(cache=True, nogil=True, error_model="numpy")
def joint_targets(q, poses, rest):
    """Moves joints q (n, 7) in place to TCP poses (n, 4): xyz (m) and yaw (rad) of a tool that points straight down.

    Gauss-Newton on the pose; the null space is drawn to the posture rest (7,). This is the demonstrators' own inverse
    kinematics: the task itself is commanded in joints.
    """
    rotation, jacobian, position = np.empty((3, 3)), np.empty((6, 7)), np.empty(3)
    a, lower, error, x, null, quat = (
        np.empty((6, 6)),
        np.empty((6, 6)),
        np.empty(6),
        np.empty(6),
        np.empty(7),
        np.empty(4),
    )
    for i in range(q.shape[0]):
        dx, dy = np.cos(0.5 * poses[i, 3]), np.sin(0.5 * poses[i, 3])  # wanted: (0, dx, dy, 0)
        for step in range(IK_STEPS):
            forward(q[i], rotation, jacobian, position)
            to_quaternion(rotation, quat)
            if quat[1] * dx + quat[2] * dy < 0.0:
                dx, dy = -dx, -dy
            largest = 0.0
            for k in range(3):
                error[k] = poses[i, k] - position[k]
            error[3] = 2.0 * (quat[0] * dx - dy * quat[3])  # the quaternion error of `_control.pose_error`
            error[4] = 2.0 * (quat[0] * dy + dx * quat[3])
            error[5] = 2.0 * (dy * quat[1] - dx * quat[2])
            for k in range(6):
                largest = max(largest, abs(error[k]))
            for j in range(7):
                null[j] = NULL_SHARE * (rest[j] - q[i, j]) if step == 0 else 0.0
            for r in range(6):
                for c in range(r + 1):
                    total = 0.0
                    for j in range(7):
                        total += jacobian[r, j] * jacobian[c, j]
                    a[r, c] = total
                    a[c, r] = total
                for j in range(7):
                    error[r] -= jacobian[r, j] * null[j]
            solve_clipped(a, error, x, lower)
            for j in range(7):
                total = null[j]
                for r in range(6):
                    total += jacobian[r, j] * x[r]
                q[i, j] = min(max(q[i, j] + total, JOINT_MIN[j]), JOINT_MAX[j])
            if largest < IK_TOLERANCE:
                break
