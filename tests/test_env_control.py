"""The compiled controller against plain NumPy and MuJoCo."""

import mujoco
import numpy as np
import pytest

from envs import _control
from envs.avoiding import START_QPOS, AvoidingBatch

LOW, HIGH = _control.JOINT_MIN, _control.JOINT_MAX


def kinematics(q):
    """Rotation (3, 3), Jacobian (6, 7), position (3,) from the compiled chain (its hand turn is 3e-7 rad off the model's)."""
    rotation, jacobian, position = np.zeros((3, 3)), np.zeros((6, 7)), np.zeros(3)
    _control.forward(q, rotation, jacobian, position)
    return rotation, jacobian, position


def plain_inverse_kinematics(q, target):
    """One millisecond of the controller as its description reads, without shortcuts."""
    q = q.copy()
    for _ in range(3):
        rotation, jacobian, position = kinematics(q)
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, rotation.reshape(-1))
        goal = target[3:] if quat @ target[3:] >= 0 else -target[3:]
        turn = quat[0] * goal[1:] - goal[0] * quat[1:] - np.cross(goal[1:], quat[1:])
        shift = np.clip(target[:3] - position, -0.01, 0.01)
        error = np.r_[np.array([200, 200, 800]) * shift, 30 * np.clip(turn, -0.1, 0.1)]
        u, s, vt = np.linalg.svd(jacobian @ jacobian.T + 1e-12 * np.eye(6))
        inverse = jacobian.T @ np.linalg.inv(u @ np.diag(np.clip(s, 1e-2, 1e2)) @ vt)
        null = 40 * np.clip(_control.REST - q, -0.2, 0.2)
        velocity = inverse @ error + (np.eye(7) - inverse @ jacobian) @ null
        velocity *= min(1.0, 3.0 / np.linalg.norm(velocity))
        q = np.clip(q + 0.001 * velocity, LOW, HIGH)
    return q


@pytest.fixture(scope="module")
def configurations():
    return np.random.default_rng(0).uniform(LOW, HIGH, (40, 7))


def test_chain_is_the_models(configurations):
    model = AvoidingBatch.model()
    data = mujoco.MjData(model)
    for q in configurations:
        data.qpos[:7] = q
        mujoco.mj_forward(model, data)
        rotation, jacobian, position = kinematics(q)
        linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, linear, angular, model.site("tcp").id)
        np.testing.assert_allclose(position, data.site("tcp").xpos, atol=1e-9)
        np.testing.assert_allclose(rotation.reshape(-1), data.site("tcp").xmat, atol=1e-5)
        np.testing.assert_allclose(jacobian, np.vstack([linear, angular])[:, :7], atol=1e-8)


def test_inverse_kinematics_equals_its_plain_form(configurations):
    rng = np.random.default_rng(1)
    work, clipped = np.zeros((26, 7)), 0
    for q in [*configurations, START_QPOS[:7]]:
        _, jacobian, position = kinematics(q)
        clipped += np.linalg.eigvalsh(jacobian @ jacobian.T)[0] < 1e-2
        target = np.r_[position + rng.normal(0, 0.02, 3), 0.0, 1.0, 0.0, 0.0]
        ours = q.copy()
        _control.inverse_kinematics(ours, target, work)
        np.testing.assert_allclose(ours, plain_inverse_kinematics(q, target), atol=1e-9)
    assert 5 < clipped < 41  # both branches of the solver were used


def test_clipped_solve():
    rng = np.random.default_rng(2)
    for spread in ([1e-9, 1e-3, 0.1, 1, 2, 3], [0.02, 0.1, 0.5, 1, 2, 3], [0.02, 0.1, 1, 5, 50, 400.0]):
        basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
        a, b, x = basis @ np.diag(spread) @ basis.T, rng.normal(size=6), np.zeros(6)
        a = 0.5 * (a + a.T)
        _control.solve_clipped(a, b, x, np.zeros((6, 6)))
        expected = basis @ ((basis.T @ b) / np.clip(spread, 1e-2, 1e2))
        np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-10)


def test_mujocos_own_clock_does_not_run_and_a_programs_own_does():
    env = AvoidingBatch(1)
    env.reset()
    mujoco.MjData(env.sims.model)  # MuJoCo's package sets its clock again
    ran = env.sims.data[0].timer[0].duration
    env.step(np.zeros((1, 2)))
    assert env.sims.data[0].timer[0].duration == ran
    calls = []
    mujoco.set_mjcb_time(lambda: calls.append(1) or 0.0)
    try:
        env.step(np.zeros((1, 2)))
    finally:
        mujoco.set_mjcb_time(None)
    assert calls
