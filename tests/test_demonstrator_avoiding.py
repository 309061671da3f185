"""The scripted demonstrations of Avoiding: what they promise, and that they hold in the simulation."""

from collections import Counter

import numpy as np
import pytest

from envs.avoiding import MODES, OBSTACLES, ROD_RADIUS, AvoidingBatch
from envs.demonstrators import avoiding as demonstrator


@pytest.fixture(scope="module")
def episodes():
    return demonstrator.generate(seed=0)


def test_four_of_each_route(episodes):
    assert Counter(e.mode for e in episodes) == dict.fromkeys(MODES, 4)


def test_shapes_lengths_and_speed_are_within_the_human_ones(episodes):
    for e in episodes:
        assert e.obs.dtype == e.actions.dtype == np.float32
        assert e.obs.shape == (len(e.actions), 4) and e.actions.shape[1] == 2
        assert 61 <= len(e.obs) + 1 <= 107  # rows, of which the last has no action
        assert np.abs(e.actions).max() <= 0.0125 + 1e-8
        np.testing.assert_allclose(np.diff(e.obs[:, :2], axis=0), e.actions[:-1], atol=1e-6)
        assert e.actions[:, 1].min() >= 0
    rows = np.array([len(e.obs) + 1 for e in episodes])
    assert 72 <= rows.mean() <= 84 and rows.std() > 7
    assert 0.0115 <= np.median(np.linalg.norm(np.concatenate([e.actions for e in episodes]), axis=1)) <= 0.0135


def test_varied(episodes):
    """Runs of one route differ by centimetres; no two are alike."""
    for k in range(0, len(episodes), 4):
        crossings = [[np.interp(y, e.obs[:, 3], e.obs[:, 2]) for y in (-0.1, 0.08, 0.26)] for e in episodes[k : k + 4]]
        assert np.ptp(crossings, axis=0).max() > 0.01
    assert len({e.obs.tobytes() for e in episodes}) == len(episodes)


def test_clearance(episodes):
    for e in episodes:
        for _, x, y, radius, _ in OBSTACLES:
            gap = np.hypot(e.obs[:, 2] - x, e.obs[:, 3] - y).min() - radius - ROD_RADIUS
            assert gap >= demonstrator.CLEARANCE


def test_they_succeed_when_replayed(episodes):
    """Set-points rebuilt from the first row and the actions; each run succeeds in its mode, seeing the same rows."""
    env = AvoidingBatch(len(episodes))
    env.reset()
    setpoints = env.setpoint.copy()
    for k in range(max(len(e.obs) for e in episodes)):
        running = env.active.copy()
        for i, e in enumerate(episodes):
            setpoints[i, :2] = e.obs[min(k, len(e.obs) - 1), :2]
        obs = env.step_absolute(setpoints)[0]
        for i, e in enumerate(episodes):
            if running[i]:
                np.testing.assert_allclose(obs[i], e.obs[k], atol=1e-4)
    assert env.success.all()
    assert [env.mode_name(m) for m in env.mode] == [e.mode for e in episodes]


def test_same_seed_same_episodes():
    calls = []
    first = demonstrator.generate(3, per_mode=1, progress=lambda done, total: calls.append((done, total)))
    second, other = demonstrator.generate(3, per_mode=1), demonstrator.generate(4, per_mode=1)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.actions, b.actions)
    assert any(a.obs.shape != b.obs.shape or (a.obs != b.obs).any() for a, b in zip(first, other, strict=True))
    assert calls[0] == (0, 24) and calls[-1] == (24, 24)
