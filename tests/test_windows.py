"""From demonstrations to windows: split, scaler, and one sample a row with the history that acting has."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from envs.base import Geometry
from envs.datasets import Demonstrations, Episode
from harness.errors import UserError
from harness.windows import fit_scaler, make_windows, split
from methods._transformer import GPTConfig
from methods.base import Method, Shape
from methods.policy import Policy
from methods.relations import LATER
from methods.scaler import FIELDS, Scaler
from tests.method_cases import demonstrations


def test_every_row_is_one_sample():
    demos = demonstrations([5, 9, 2])
    scaler = fit_scaler(demos)
    got = make_windows(demos, 5, scaler)
    assert len(got) == 5 + 9 + 2
    assert (got.obs.shape, got.last.shape, got.action.shape, got.goal) == ((16, 5, 4), (16,), (16, 2), None)
    assert (got.obs.dtype, got.last.dtype, got.action.dtype) == (torch.float32, torch.int64, torch.float32)
    assert torch.isfinite(got.obs).all()
    actions = np.concatenate([e.actions for e in demos.episodes])
    assert torch.equal(got.action, scaler.scale_act(torch.tensor(actions)))


def test_histories_equal_a_plain_loop():
    demos = demonstrations([5, 9, 2])
    scaler = fit_scaler(demos)
    got = make_windows(demos, 5, scaler)
    n = 0
    for episode in demos.episodes:
        rows = scaler.scale_obs(torch.tensor(episode.obs))
        for k in range(len(rows)):
            history = rows[max(0, k - 4) : k + 1]
            assert got.last[n] == len(history) - 1
            assert torch.equal(got.obs[n, : len(history)], history)
            assert not got.obs[n, len(history) :].any()  # zeros behind the newest row
            n += 1
    assert n == len(got)


def test_histories_grow_at_the_start_of_every_episode():
    got = make_windows(demonstrations([4, 6]), 3, Scaler.identity(4, 2))
    assert got.last.tolist() == [0, 1, 2, 2, 0, 1, 2, 2, 2, 2]


def test_no_history_reaches_beyond_its_row_or_its_episode():
    """Numbered rows: each sample holds its own row, the ones before it, and nothing of the future or another episode."""
    lengths = [3, 8, 4]
    rows = [
        (np.arange(n, dtype=np.float32) + 16 * (i + 1)) / 8 for i, n in enumerate(lengths)
    ]  # below the scaler's limit
    episodes = [Episode(np.stack([r] * 4, 1), np.stack([r] * 2, 1), None, "m") for r in rows]
    got = make_windows(
        Demonstrations("avoiding", "scripted", "test", "id", "digest", episodes), 5, Scaler.identity(4, 2)
    )
    for obs, last, action in zip(got.obs[..., 0], got.last, got.action[:, 0], strict=True):
        assert obs[last] == action  # the newest row is the one whose action is asked for
        held = obs[: last + 1]
        assert (held // 2 == action // 2).all()
        assert torch.equal(8 * held, torch.arange(len(held)) + 8 * action - last)
        assert not obs[last + 1 :].any()


class Recorder(Method):
    """A method without weights that acts with zeros and keeps the inputs it was given."""

    def __init__(self, window, scaler):
        super().__init__(None, Shape(4, 2), GPTConfig(layers=1, heads=1, embed=4, window=window), scaler)
        self.unused = nn.Parameter(torch.zeros(1))
        self.seen = []

    @property
    def noise_dim(self):
        return 0

    def act(self, obs, last, noise, uniform, goal=None):
        self.seen.append((obs.clone(), last.clone()))
        return obs.new_zeros(len(obs), self.shape.act)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_histories_are_those_that_a_policy_has_when_it_acts(window):
    demos = demonstrations([2, 11, 7])
    method = Recorder(window, fit_scaler(demos))
    policy = Policy(method)
    for episode in demos.episodes:
        policy.reset([0])
        for row in episode.obs:
            policy.act(row[None])
    got = make_windows(demos, window, method.scaler)
    obs, last = (torch.cat(parts) for parts in zip(*method.seen, strict=True))
    assert torch.equal(got.last, last)
    torch.testing.assert_close(got.obs, obs, rtol=0, atol=0)


def test_a_window_of_one_is_every_row():
    demos = demonstrations([3, 4])
    got = make_windows(demos, 1, Scaler.identity(4, 2))
    np.testing.assert_array_equal(got.obs[:, 0].numpy(), np.concatenate([e.obs for e in demos.episodes]))
    assert not got.last.any()


def test_batch_takes_rows():
    windows = make_windows(demonstrations([9]), 5, Scaler.identity(4, 2))
    index = torch.tensor([3, 0, 3])
    batch = windows.batch(index)
    assert len(batch) == 3
    assert torch.equal(batch.obs, windows.obs[index])
    assert torch.equal(batch.last, windows.last[index])
    assert torch.equal(batch.action, windows.action[index])
    assert batch.goal is None
    goals = replace(windows, goal=torch.arange(9.0).view(9, 1, 1))
    assert goals.batch(index).goal.flatten().tolist() == [3, 0, 3]


def test_windows_refuse_nothing_and_no_window():
    with pytest.raises(UserError, match="one episode"):
        make_windows(demonstrations([]), 5, Scaler.identity(4, 2))
    with pytest.raises(UserError, match="window of at least 1"):
        make_windows(demonstrations([5]), 0, Scaler.identity(4, 2))


MODES = [f"{i:02d}" for i in range(24) for _ in range(4)]


def test_split_is_by_trajectory_and_stratified():
    demos = demonstrations([6] * 96, MODES)
    train, val = split(demos, seed=0)
    assert (len(train.episodes), len(val.episodes)) == (91, 5)
    assert len({e.mode for e in val.episodes}) == 5
    assert {id(e) for e in train.episodes} | {id(e) for e in val.episodes} == {id(e) for e in demos.episodes}
    assert (train.identity, val.identity, train.sha256) == ("id", "id", "digest")
    _, third = split(demos, seed=0, fraction=0.3)  # 29 episodes over 24 modes
    assert Counter(Counter(e.mode for e in third.episodes).values()) == {1: 19, 2: 5}


def test_split_depends_on_the_seed_alone():
    demos = demonstrations([6] * 96, MODES)
    held = [[demos.episodes.index(e) for e in split(demos, seed=s)[1].episodes] for s in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_split_keeps_at_least_one_on_either_side():
    for count in (2, 3):
        train, val = split(demonstrations([6] * count), seed=0)
        assert (len(train.episodes), len(val.episodes)) == (count - 1, 1)
    with pytest.raises(UserError, match="two episodes"):
        split(demonstrations([6]), seed=0)
    with pytest.raises(UserError, match="fraction"):
        split(demonstrations([6] * 9), seed=0, fraction=1.0)


def test_scaler_gives_unit_scores_and_bounds():
    demos = demonstrations([50, 60])
    scaler = fit_scaler(demos)
    obs = torch.tensor(np.concatenate([e.obs for e in demos.episodes]))
    act = torch.tensor(np.concatenate([e.actions for e in demos.episodes]))
    scaled_obs, scaled_act = scaler.scale_obs(obs), scaler.scale_act(act)
    for scaled in (scaled_obs, scaled_act):
        torch.testing.assert_close(scaled.mean(0), torch.zeros(scaled.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(scaled.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled_act.min(0).values, scaler.act_low)
    torch.testing.assert_close(scaled_act.max(0).values, scaler.act_high)
    torch.testing.assert_close(scaler.unscale_obs(scaled_obs), obs)
    torch.testing.assert_close(scaler.unscale_act(scaled_act), act)


def test_scaler_only_centres_constant_dimensions():
    obs = np.stack([np.full(20, 0.1), np.zeros(20), np.linspace(0, 1e-3, 20)], axis=1).astype(np.float32)
    scaler = Scaler.fit(obs, obs)
    scaled = scaler.scale_obs(torch.tensor(obs))
    assert torch.isfinite(scaled).all()
    torch.testing.assert_close(scaled[:, :2], torch.zeros(20, 2), atol=1e-6, rtol=0)
    assert scaled[:, 2].std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    assert scaler.scale_obs(torch.tensor([0.2, 0.1, 0.0]))[:2].abs().max() < 1.0


def test_scaler_is_not_blinded_by_single_outliers():
    rng = np.random.default_rng(0)
    angle = rng.uniform(-np.pi / 2, np.pi / 2, 5000)
    angle[7] = np.pi / 2  # tangent 1.6e16
    rare = np.where(np.arange(5000) < 5, 1.0, 0.0)  # an event in 1 row of 1000 is no outlier
    obs = np.stack([np.tan(angle), rng.standard_normal(5000), rare], axis=1)
    scaler = Scaler.fit(obs, obs)
    scaled = scaler.scale_obs(torch.tensor(obs, dtype=torch.float32))
    assert scaled.abs().max() <= 10.0
    slope = scaler.scale_obs(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))[:, 0]
    assert (slope[0] - slope[1]).item() > 0.2  # +45 and -45 degrees can be told apart
    np.testing.assert_allclose(scaler.obs_std[1:].numpy(), obs[:, 1:].std(axis=0), rtol=1e-6)
    assert scaler.act_std[0] > 1e10  # actions keep the original's scale: their bounds come from it


def test_scaler_adds_what_a_geometry_says():
    rng = np.random.default_rng(0)
    obs, act = rng.normal(0.3, 0.1, (500, 5)), rng.normal(size=(500, 2))
    geometry = Geometry(pairs=((0, 3), (1, 4)), near=0.02, angles=(2,), symmetry=4)
    mask = np.array([True, True, False, False, False])
    scaler, plain = Scaler.fit(obs, act, mask, geometry), Scaler.fit(obs, act, mask)
    assert (scaler.obs_dim, scaler.added, plain.added) == (5, 4, 0)
    rows = torch.tensor(obs, dtype=torch.float32)
    seen = scaler.scale_obs(rows)
    assert seen.shape == (500, 9)
    torch.testing.assert_close(seen[:, :5], plain.scale_obs(rows))
    unscaled = seen * scaler.obs_std + scaler.obs_mean
    torch.testing.assert_close(unscaled[:, 5], torch.asinh((rows[:, 0] - rows[:, 3]) / 0.02))
    torch.testing.assert_close(unscaled[:, 6], torch.asinh((rows[:, 1] - rows[:, 4]) / 0.02))
    torch.testing.assert_close(unscaled[:, 7:], torch.stack([torch.cos(4 * rows[:, 2]), torch.sin(4 * rows[:, 2])], 1))
    quarter = rows.clone()
    quarter[:, 2] += np.pi / 2  # a square looks the same after a quarter of a turn
    torch.testing.assert_close(scaler.scale_obs(quarter)[:, 5:], seen[:, 5:], atol=1e-4, rtol=0)
    torch.testing.assert_close(scaler.unscale_obs(seen), rows)
    goal = scaler.scale_goal(rows)  # shows nothing that is derived from what it hides
    assert goal.shape == (500, 9) and not goal[:, 2:].any() and goal[:, :2].any()
    copy = Scaler.from_state(json.loads(json.dumps(scaler.to_dict())))
    torch.testing.assert_close(copy.scale_obs(rows), seen, atol=0, rtol=0)
    loaded = Scaler.from_state(scaler.state_dict())
    torch.testing.assert_close(loaded.scale_obs(rows), seen, atol=0, rtol=0)


def test_a_geometry_may_have_no_angles():
    obs = np.random.default_rng(0).normal(size=(50, 3))
    scaler = Scaler.fit(obs, obs, geometry=Geometry(pairs=((0, 1),), near=0.1, angles=(), symmetry=1))
    assert scaler.scale_obs(torch.tensor(obs, dtype=torch.float32)).shape == (50, 4)


def test_a_geometry_may_have_nothing_but_an_arm():
    joints = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    straight = Geometry(pairs=(), near=1.0, links=((0, 0, 0.3, 0), (0.1, 0, 0, 1)), tool=(0.2, 0.0))
    scaler = Scaler.fit(joints, joints, geometry=straight)
    assert scaler.added == 5
    rows = torch.zeros(1, 2)
    seen = (scaler.scale_obs(rows) * scaler.obs_std + scaler.obs_mean)[0, 2:]
    torch.testing.assert_close(seen, torch.tensor([0.1, -0.2, 0.3, 1.0, 0.0]), atol=1e-5, rtol=0)
    rows[0, 0] = np.pi / 4  # all of it turned by 45 degrees
    seen = (scaler.scale_obs(rows) * scaler.obs_std + scaler.obs_mean)[0, 2:]
    torch.testing.assert_close(seen, torch.tensor([0.3 * 0.5**0.5, -0.1 * 0.5**0.5, 0.3, 0.0, 1.0]), atol=1e-5, rtol=0)
    older = {
        k: v for k, v in scaler.state_dict().items() if k.removeprefix("relations.") not in LATER
    }  # files of before
    for state in (scaler.state_dict(), older):
        loaded = Scaler.from_state(state)
        loaded.load_state_dict(state)
        torch.testing.assert_close(loaded.scale_obs(rows), scaler.scale_obs(rows), atol=0, rtol=0)


def test_directions_of_tangents_do_not_jump():
    yaw = np.deg2rad(np.array([[89.0], [91.0], [0.0], [45.0]]))
    scaler = Scaler.fit(np.tan(yaw), np.zeros((4, 1)), geometry=Geometry(pairs=(), near=1.0, tangents=(0,)))
    seen = scaler.relations(torch.tensor(np.tan(yaw)))
    np.testing.assert_allclose(seen, np.hstack([np.cos(2 * yaw), np.sin(2 * yaw)]), atol=1e-12)


def test_scaler_survives_json_and_state_dict_exactly():
    scaler = fit_scaler(demonstrations([30]))
    copy = Scaler.from_state(json.loads(json.dumps(scaler.to_dict())))
    loaded = Scaler.identity(4, 2)
    loaded.load_state_dict(scaler.state_dict())
    assert list(scaler.state_dict()) == list(FIELDS)
    for name in FIELDS:
        assert torch.equal(getattr(copy, name), getattr(scaler, name))
        assert torch.equal(getattr(loaded, name), getattr(scaler, name))


def test_scaler_refuses_unusable_rows():
    with pytest.raises(UserError, match="equal N"):
        Scaler.fit(np.zeros((3, 4)), np.zeros((2, 2)))
    with pytest.raises(UserError, match="equal N"):
        Scaler.fit(np.zeros((0, 4)), np.zeros((0, 2)))
    with pytest.raises(UserError, match="no episodes"):
        fit_scaler(demonstrations([]))
