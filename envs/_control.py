"""The original's Cartesian controller, alternating with MuJoCo's `mj_step`, compiled to machine code.

One call of `cartesian_steps` advances a set of simulations by one control step (35 physics steps) without holding the
GIL. Everything is written for one simulation at a time, so a result depends neither on the batch nor on the threads.

Controller (source: the D3IL benchmark's Cartesian position/quaternion controller, as it acts after every reset):
  inverse kinematics, three iterations every millisecond, whose state is the previous *desired* joints, then joint PD
  with bias compensation. `qpos`, `qvel` and `qfrc_bias` are those available before `mj_step`: the bias forces are thus
  one physics step old.
"""

from __future__ import annotations

import ctypes
import math
import pathlib

import llvmlite.binding
import mujoco
import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

DT = 0.001  # s, physics and controller
IK_ITERATIONS = 3
POSITION_GAIN = np.array([200.0, 200.0, 800.0])  # 1/s
ROTATION_GAIN = 30.0
MAX_POSITION_ERROR = 0.01  # m, per axis
MAX_ROTATION_ERROR = 0.1  # of the quaternion's vector part
REGULARISATION = 1e-12
MIN_SINGULAR, MAX_SINGULAR = 1e-2, 1e2  # of J J^T
NULL_GAIN, MAX_NULL_ERROR = 40.0, 0.2
REST = np.array([0.0, 0.174, 0.0, -0.872, 0.0, 1.222, 0.785])  # rad, posture that the null space is drawn to
MAX_JOINT_SPEED = 3.0  # rad/s, norm over the seven joints
JOINT_MIN = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_MAX = np.array([2.8973, 1.7628, 2.0, -0.0698, 2.8973, 3.7525, 2.8973])  # 2.0 for joint 3: as in the original
P_GAIN = np.array([120.0, 120.0, 120.0, 120.0, 50.0, 30.0, 10.0])  # N m / rad
D_GAIN = np.array([10.0, 10.0, 10.0, 10.0, 6.0, 5.0, 3.0])  # N m s / rad
WRIST_OPEN = 2.1  # rad, of joint 6; beyond, `_panda.WRIST` stay more than 5 mm apart (tested) and are not compared
FINGER_OPEN = 0.04  # m, each finger

# Kinematic chain: each joint turns about z after a shift (m) and a turn of TWIST * 90 degrees about x.
SHIFT = np.array(
    [[0, 0, 0.333], [0, 0, 0], [0, -0.316, 0], [0.0825, 0, 0], [-0.0825, 0.384, 0], [0, 0, 0], [0.088, 0, 0]], float
)
TWIST = np.array([0, -1, 1, 1, -1, 1, 1], float)
TCP_OFFSET = 0.212  # m along the last joint's axis: flange 0.107 + grasp point 0.105
HAND_TURN = -math.pi / 4  # about the last joint's axis
LINKS = tuple(
    map(tuple, np.column_stack([SHIFT, TWIST]).tolist())
)  # the chain and its end as `envs.base.Geometry` has them
TOOL = (TCP_OFFSET, HAND_TURN)


def _library() -> ctypes.CDLL:
    folder = pathlib.Path(mujoco.__file__).parent
    found = [p for pattern in ("libmujoco.so*", "libmujoco*.dylib", "mujoco.dll") for p in sorted(folder.glob(pattern))]
    if not found:
        raise ImportError(f"MuJoCo's shared library is not in {folder}")
    return ctypes.CDLL(str(found[0]))


def stop_clock() -> None:
    """Takes away MuJoCo's own stopwatch, whose readings (`MjData.timer`) nobody uses and which takes 3 to 10 % of the time.

    Its Python package puts it back with every new MjData, and `set_mjcb_time(None)` does not take it away. A clock that a
    program has set itself stays.
    """
    if mujoco.get_mjcb_time() is None:
        _CLOCK.value = None


_LIBRARY = _library()
_CLOCK = ctypes.c_void_p.in_dll(_LIBRARY, "mjcb_time")
# MuJoCo's C function, known to compiled code by name (a cached kernel finds it again in a new process)
llvmlite.binding.add_symbol("mj_step", ctypes.cast(_LIBRARY.mj_step, ctypes.c_void_p).value)
_mj_step = types.ExternalFunction("mj_step", types.void(types.intp, types.intp))


@intrinsic
def _pointer(typingctx, address):
    """An integer address as a pointer to double."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float64)(types.intp), codegen


@intrinsic
def _int_pointer(typingctx, address):
    """An integer address as a pointer to C int."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.intc)(types.intp), codegen


@njit(cache=True, error_model="numpy")
def forward(q, rotation, jacobian, position):
    """TCP pose at joints q (7,): fills rotation (3, 3), jacobian (6, 7; world axes) and position (3,) in m."""
    origin = np.empty((7, 3))
    r = np.eye(3)
    px, py, pz = 0.0, 0.0, 0.0
    for i in range(7):
        sx, sy, sz = SHIFT[i, 0], SHIFT[i, 1], SHIFT[i, 2]
        px += r[0, 0] * sx + r[0, 1] * sy + r[0, 2] * sz
        py += r[1, 0] * sx + r[1, 1] * sy + r[1, 2] * sz
        pz += r[2, 0] * sx + r[2, 1] * sy + r[2, 2] * sz
        c, s, twist = math.cos(q[i]), math.sin(q[i]), TWIST[i]
        for k in range(3):
            x, y, z = r[k, 0], r[k, 1], r[k, 2]
            if twist != 0.0:
                y, z = twist * z, -twist * y
            r[k, 0], r[k, 1], r[k, 2] = c * x + s * y, c * y - s * x, z
            jacobian[3 + k, i] = z
        origin[i, 0], origin[i, 1], origin[i, 2] = px, py, pz
    position[0] = px + TCP_OFFSET * r[0, 2]
    position[1] = py + TCP_OFFSET * r[1, 2]
    position[2] = pz + TCP_OFFSET * r[2, 2]
    for i in range(7):
        dx, dy, dz = position[0] - origin[i, 0], position[1] - origin[i, 1], position[2] - origin[i, 2]
        ax, ay, az = jacobian[3, i], jacobian[4, i], jacobian[5, i]
        jacobian[0, i] = ay * dz - az * dy
        jacobian[1, i] = az * dx - ax * dz
        jacobian[2, i] = ax * dy - ay * dx
    c, s = math.cos(HAND_TURN), math.sin(HAND_TURN)
    for k in range(3):
        x, y = r[k, 0], r[k, 1]
        rotation[k, 0], rotation[k, 1], rotation[k, 2] = c * x + s * y, c * y - s * x, r[k, 2]


@njit(cache=True, error_model="numpy")
def to_quaternion(r, quat):
    """Unit quaternion wxyz of rotation r (3, 3), by its largest component."""
    trace = r[0, 0] + r[1, 1] + r[2, 2]
    if trace > 0.0:
        s = math.sqrt(trace + 1.0) * 2.0
        quat[0], quat[1] = 0.25 * s, (r[2, 1] - r[1, 2]) / s
        quat[2], quat[3] = (r[0, 2] - r[2, 0]) / s, (r[1, 0] - r[0, 1]) / s
    elif r[0, 0] >= r[1, 1] and r[0, 0] >= r[2, 2]:
        s = math.sqrt(1.0 + r[0, 0] - r[1, 1] - r[2, 2]) * 2.0
        quat[0], quat[1] = (r[2, 1] - r[1, 2]) / s, 0.25 * s
        quat[2], quat[3] = (r[0, 1] + r[1, 0]) / s, (r[0, 2] + r[2, 0]) / s
    elif r[1, 1] >= r[2, 2]:
        s = math.sqrt(1.0 + r[1, 1] - r[0, 0] - r[2, 2]) * 2.0
        quat[0], quat[1] = (r[0, 2] - r[2, 0]) / s, (r[0, 1] + r[1, 0]) / s
        quat[2], quat[3] = 0.25 * s, (r[1, 2] + r[2, 1]) / s
    else:
        s = math.sqrt(1.0 + r[2, 2] - r[0, 0] - r[1, 1]) * 2.0
        quat[0], quat[1] = (r[1, 0] - r[0, 1]) / s, (r[0, 2] + r[2, 0]) / s
        quat[2], quat[3] = (r[1, 2] + r[2, 1]) / s, 0.25 * s


@njit(cache=True, error_model="numpy")
def _clip(x, bound):
    return min(max(x, -bound), bound)


@njit(cache=True, error_model="numpy")
def pose_error(position, rotation, target, error):
    """Task-space velocity (6,) that the controller asks for: gains times the clipped pose error to target (7,)."""
    for k in range(3):
        error[k] = POSITION_GAIN[k] * _clip(target[k] - position[k], MAX_POSITION_ERROR)
    q = np.empty(4)
    to_quaternion(rotation, q)
    dw, dx, dy, dz = target[3], target[4], target[5], target[6]
    if q[0] * dw + q[1] * dx + q[2] * dy + q[3] * dz < 0.0:  # the nearer of the two signs
        dw, dx, dy, dz = -dw, -dx, -dy, -dz
    # Siciliano: e = w_c v_d - w_d v_c - v_d x v_c
    ex = q[0] * dx - dw * q[1] - (dy * q[3] - dz * q[2])
    ey = q[0] * dy - dw * q[2] - (dz * q[1] - dx * q[3])
    ez = q[0] * dz - dw * q[3] - (dx * q[2] - dy * q[1])
    error[3] = ROTATION_GAIN * _clip(ex, MAX_ROTATION_ERROR)
    error[4] = ROTATION_GAIN * _clip(ey, MAX_ROTATION_ERROR)
    error[5] = ROTATION_GAIN * _clip(ez, MAX_ROTATION_ERROR)


@njit(cache=True, error_model="numpy")
def _cholesky(a, shift, lower):
    """Factor of a - shift * I (6, 6) into lower; False when that is not positive definite."""
    for i in range(6):
        for j in range(i + 1):
            total = a[i, j] - (shift if i == j else 0.0)
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                lower[i, i] = math.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    return True


@njit(cache=True, error_model="numpy")
def solve_clipped(a, b, x, lower):
    """x = A'^-1 b, where A' is the symmetric a (6, 6) with its singular values clipped to [1e-2, 1e2].

    The clipping is inactive when a - 1e-2 I is positive definite and no eigenvalue is above 1e2 (the trace bounds them);
    then a Cholesky solve is enough. Otherwise the eigenvalues are computed.
    """
    trace = a[0, 0] + a[1, 1] + a[2, 2] + a[3, 3] + a[4, 4] + a[5, 5]
    if trace > MAX_SINGULAR or not _cholesky(a, MIN_SINGULAR, lower):
        values, vectors = np.linalg.eigh(a)
        for i in range(6):
            x[i] = 0.0
        for k in range(6):
            value = min(max(abs(values[k]), MIN_SINGULAR), MAX_SINGULAR)
            along = 0.0
            for i in range(6):
                along += vectors[i, k] * b[i]
            for i in range(6):
                x[i] += vectors[i, k] * along / value
        return
    _cholesky(a, 0.0, lower)
    for i in range(6):
        total = b[i]
        for k in range(i):
            total -= lower[i, k] * x[k]
        x[i] = total / lower[i, i]
    for i in range(5, -1, -1):
        total = x[i]
        for k in range(i + 1, 6):
            total -= lower[k, i] * x[k]
        x[i] = total / lower[i, i]


@njit(cache=True, error_model="numpy")
def inverse_kinematics(q, target, work):
    """Moves joints q (7,) in place towards the TCP pose target (7,: m, wxyz): the three iterations of a millisecond.

    Joint velocity of an iteration: J^+ e + (I - J^+ J) 40 clip(rest - q), J^+ = J^T (J J^T + 1e-12 I)^-1 (clipped).
    """
    rotation, position = work[0:3, 0:3], work[3, 0:3]
    jacobian, a, lower = work[4:10, 0:7], work[10:16, 0:6], work[16:22, 0:6]
    error, x, null, velocity = work[22, 0:6], work[23, 0:6], work[24, 0:7], work[25, 0:7]
    for _ in range(IK_ITERATIONS):
        forward(q, rotation, jacobian, position)
        pose_error(position, rotation, target, error)
        for j in range(7):
            null[j] = NULL_GAIN * _clip(REST[j] - q[j], MAX_NULL_ERROR)
        for i in range(6):
            for k in range(i + 1):
                total = 0.0
                for j in range(7):
                    total += jacobian[i, j] * jacobian[k, j]
                a[i, k] = total
                a[k, i] = total
            a[i, i] += REGULARISATION
            for j in range(7):
                error[i] -= jacobian[i, j] * null[j]
        solve_clipped(a, error, x, lower)
        square = 0.0
        for j in range(7):
            total = null[j]
            for i in range(6):
                total += jacobian[i, j] * x[i]
            velocity[j] = total
            square += total * total
        norm = math.sqrt(square)
        scale = MAX_JOINT_SPEED / norm if norm > MAX_JOINT_SPEED else 1.0
        for j in range(7):
            q[j] = min(max(q[j] + DT * scale * velocity[j], JOINT_MIN[j]), JOINT_MAX[j])


@njit(cache=True, error_model="numpy")
def finger_forces(qpos, qvel, ctrl, width, grasp):
    """Forces (N) of both fingers towards the opening width (m, per finger); arrays start at the first finger."""
    mean = 0.5 * (qpos[0] + qpos[1])
    for i in range(2):
        force = 500.0 * (mean - qpos[i])
        if mean - width > 0.005:
            force += -20.0 if grasp else 10.0 * (-0.2 - qvel[i])
        else:
            force += _clip(500.0 * (width - qpos[i]) - 10.0 * qvel[i], 5.0)
        ctrl[i] = force


@njit(cache=True, nogil=True, error_model="numpy")
def cartesian_steps(models, table, ids, qadr, vadr, target, desired, desired_velocity, started, substeps):
    """Advances simulations ids by one control step of `substeps` physics steps, towards target (n, 7), held constant.

    models (2,): addresses of the MjModel and of that for an open wrist; table: `_sim.COLUMNS` of each simulation;
    qadr, vadr: where the robot's nine joints begin. desired, desired_velocity (n, 7): the controller's state, updated;
    started (n,): False until the controller has run after a reset (it then starts from the measured joints).
    """
    work = np.zeros((26, 7))
    for i in ids:
        data = table[i, 0]
        qpos = carray(_pointer(table[i, 1] + 8 * qadr), 9)
        qvel = carray(_pointer(table[i, 2] + 8 * vadr), 9)
        bias = carray(_pointer(table[i, 3] + 8 * vadr), 9)
        ctrl = carray(_pointer(table[i, 4]), 9)
        q, qd = desired[i], desired_velocity[i]
        if not started[i]:
            for j in range(7):
                q[j] = qpos[j]
            started[i] = True
        for _ in range(substeps):
            for j in range(7):
                qd[j] = q[j]
            inverse_kinematics(q, target[i], work)
            for j in range(7):
                qd[j] = (q[j] - qd[j]) / DT
                ctrl[j] = P_GAIN[j] * (q[j] - qpos[j]) + D_GAIN[j] * (qd[j] - qvel[j]) + bias[j]
            finger_forces(qpos[7:], qvel[7:], ctrl[7:], FINGER_OPEN, False)
            _mj_step(models[1] if qpos[5] > WRIST_OPEN else models[0], data)
