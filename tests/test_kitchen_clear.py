"""Kitchen: steps in open space compare less and change nothing."""

import mujoco
import numpy as np
import pytest

from envs import _kitchen_clear
from envs.demonstrators import kitchen as expert
from envs.kitchen import FAR, START, KitchenBatch
from tests.test_env_kitchen import wander


def compared(model):
    """Pairs of geoms (i < j) that a model's bits admit, of different bodies of which one moves."""
    bits = (model.geom_contype[:, None] & model.geom_conaffinity) != 0
    body, fixed = model.geom_bodyid, model.body_weldid[model.geom_bodyid] == 0
    found = (bits | bits.T) & (body[:, None] != body) & ~(fixed[:, None] & fixed)
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(found)), strict=True)}


@pytest.fixture(scope="module")
def left_out():
    """Geoms that open space's model does not compare, the kettle with furniture aside: it has to sleep."""
    model, opened = KitchenBatch.model(), _kitchen_clear.clear(KitchenBatch.model())
    assert compared(opened) < compared(model)
    arm = [model.body(b).name.startswith("panda0_") for b in model.geom_bodyid]
    return [(i, j) for i, j in compared(model) - compared(opened) if arm[i] or arm[j]]


def test_clearance_is_a_lower_bound(left_out):
    """Wherever the robot and the furniture are, what is not compared is no nearer than `clearance` says."""
    model, rng = KitchenBatch.model(), np.random.default_rng(0)
    data, bounds = mujoco.MjData(model), _kitchen_clear.bounds(model)
    low, high = model.jnt_range[:23].T
    excess = []
    for n in range(150):
        share = rng.uniform(size=23)
        data.qpos[:] = START
        data.qpos[:23] = low + (share if n % 3 else np.round(share)) * (high - low)
        if n % 3 == 1:  # as in an episode
            data.qpos[:9] = START[:9] + 0.4 * rng.normal(size=9)
        data.qpos[23:26] += 0.2 * rng.normal(size=3)
        mujoco.mj_kinematics(model, data)
        bound = _kitchen_clear.clearance(bounds, data.xpos, data.xmat, data.geom_xpos, data.geom_xmat, FAR)
        gap = FAR
        for i, j in left_out:
            if np.linalg.norm(data.geom_xpos[i] - data.geom_xpos[j]) < gap + model.geom_rbound[[i, j]].sum():
                gap = min(gap, mujoco.mj_geomDistance(model, data, i, j, FAR, None))
        assert bound <= max(gap, 0.0) + 1e-9  # how deep they overlap does not matter
        excess.append(max(gap, 0.0) - bound)
    assert np.median(excess) < 0.05  # and not a useless one


def test_nothing_moves_farther_than_its_lever_says():
    """Of each joint, over random states of the others: the way of all corners of what it moves."""
    model, rng = KitchenBatch.model(), np.random.default_rng(1)
    data, step = mujoco.MjData(model), 1e-4
    low, high = model.jnt_range[:23].T
    hulls = [
        _kitchen_clear._points(model, np.flatnonzero(model.geom_bodyid == b))
        if (model.geom_bodyid == b).any()
        else None
        for b in range(model.nbody)
    ]

    def corners(qpos):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        return np.concatenate(
            [
                data.xpos[b] + hull @ data.xmat[b].reshape(3, 3).T
                for b, hull in enumerate(hulls)
                if hull is not None and b
            ]
        )

    for n in range(40):
        qpos, share = START.copy(), rng.uniform(size=23)
        qpos[:23] = low + (share if n % 2 else np.round(share)) * (high - low)
        before = corners(qpos)
        for joint, lever in enumerate(_kitchen_clear.LEVERS):
            qpos[joint] += step
            way = np.linalg.norm(corners(qpos) - before, axis=1).max() / step
            qpos[joint] -= step
            assert way < lever + 1e-6, (joint, way)


@pytest.mark.parametrize("actions", ["wander", "expert"])
def test_open_space_changes_nothing(actions):
    """With and without it, among furniture too: the same states to the last bit."""
    if actions == "wander":
        seeds, rows = [3, 4], wander(60, 2, seed=3)
    else:
        episode = next(e for k in range(4) for e, _ in expert._attempt([("kbls", 0, k)], 0) if e is not None)
        seeds, rows = [int(episode.context[0])], episode.actions[:, None]
    batches = [KitchenBatch(len(seeds)), KitchenBatch(len(seeds))]
    batches[1].sims.models[2:] = batches[1].sims.models[:2]
    for env in batches:
        env.reset(seeds=seeds)
    for row in rows:
        for env in batches:
            env.step(row)
        for one, other in zip(batches[0].sims.data, batches[1].sims.data, strict=True):
            np.testing.assert_array_equal(
                np.r_[one.qpos, one.qvel, one.qacc, one.ncon], np.r_[other.qpos, other.qvel, other.qacc, other.ncon]
            )
    if actions == "expert":
        assert str(batches[0].mode[0]) == "kbls"
