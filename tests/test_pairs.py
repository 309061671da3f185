"""What is not compared, and until when: the same contacts in less time."""

import mujoco
import numpy as np
import pytest

from envs import _control, kitchen
from envs.kitchen import KitchenBatch
from envs.stacking import StackingBatch

OPEN = {StackingBatch: ("joint6", _control.WRIST_OPEN), KitchenBatch: ("robot:panda0_joint6", kitchen.WRIST_OPEN)}
TASKS = pytest.mark.parametrize("task", OPEN)


def comparable(model, excluded):
    """(ngeom, ngeom): which geoms a model's bits and its exclusions, given by body, admit."""
    bits = (model.geom_contype[:, None] & model.geom_conaffinity) != 0
    found = bits | bits.T
    for a, b in excluded:
        found[np.ix_(model.geom_bodyid == a, model.geom_bodyid == b)] = False
        found[np.ix_(model.geom_bodyid == b, model.geom_bodyid == a)] = False
    np.fill_diagonal(found, False)
    return found


@TASKS
def test_bits_say_what_the_exclusions_said(task):
    plain, model, opened = task.build_spec().compile(), task.model(), task.open_wrist()
    listed = [(int(s) >> 16, int(s) & 0xFFFF) for s in plain.exclude_signature]
    wrist = [(plain.body(a).id, plain.body(b).id) for a, b in task.wrist]
    other_bodies = plain.geom_bodyid[:, None] != plain.geom_bodyid
    assert len(listed) > 10 and len(wrist) > 0
    for made, pairs in ((model, listed), (opened, [*listed, *wrist])):
        np.testing.assert_array_equal(comparable(made, []) & other_bodies, comparable(plain, pairs) & other_bodies)
        for body in range(made.nbody):
            geoms = made.geom_bodyid == body
            assert made.body_contype[body] == np.bitwise_or.reduce(made.geom_contype[geoms])
            assert made.body_conaffinity[body] == np.bitwise_or.reduce(made.geom_conaffinity[geoms])


@TASKS
def test_open_wrist_keeps_its_bodies_apart(task):
    """Their distance depends on joints 6 and 7 alone: 5 mm wherever joint 6 is beyond the threshold."""
    model, (joint, threshold) = task.model(), OPEN[task]
    data, first = mujoco.MjData(model), int(model.joint(joint).qposadr[0])
    data.qpos[:] = model.qpos0
    high, turn = model.joint(joint).range[1] + 0.02, model.jnt_range[model.joint(joint).id + 1]
    geoms = [[np.flatnonzero(model.geom_bodyid == model.body(name).id) for name in pair] for pair in task.wrist]
    for bend in np.linspace(threshold, high, 12):
        for last in np.linspace(turn[0] - 0.02, turn[1] + 0.02, 12):
            data.qpos[first : first + 2] = bend, last
            mujoco.mj_kinematics(model, data)
            for a, b in geoms:
                assert min(mujoco.mj_geomDistance(model, data, i, j, 0.1, None) for i in a for j in b) > 0.005


@TASKS
def test_where_the_wrist_opens_changes_nothing(task):
    """Across the threshold, with and without the second model: the same states to the last bit."""
    batches = [task(2), task(2)]
    batches[1].sims.models[:] = batches[1].model()._address
    at = batches[0].sims.robot_qpos + 5
    bends = []
    for env in batches:
        env.reset(seeds=[0, 1])
        if task is KitchenBatch:  # whose set-points never bend it that far
            env.set_state(0, np.r_[kitchen.START[:5], kitchen.WRIST_OPEN - 0.3, kitchen.START[6:]])
    for k in range(20):
        for env in batches:
            goal = env.sims.read("qpos", np.arange(2), np.arange(9) + env.sims.robot_qpos)
            goal[:, 5] = OPEN[task][1] + (-0.4 if k < 10 else 0.4)
            env.step_absolute(goal[:, : env.setpoint_dim])
        bends += [env.sims.data[0].qpos[at] for env in batches]
        for one, other in zip(batches[0].sims.data, batches[1].sims.data, strict=True):
            np.testing.assert_array_equal(
                np.r_[one.qpos, one.qvel, one.qacc], np.r_[other.qpos, other.qvel, other.qacc]
            )
    assert min(bends) < OPEN[task][1] < max(bends)
