"""Goals: drawn from an episode's own future in training, from training demonstrations in evaluation; nothing leaks."""

import dataclasses

import numpy as np
import pytest
import torch

from envs.datasets import Demonstrations, Episode
from harness import films, metrics, rollout
from harness.backends import Backend
from harness.errors import UserError
from harness.seeds import derive
from harness.train import CHECKPOINT, Trainer, train
from harness.windows import final_goals, fit_scaler, make_windows, split
from methods import policy
from methods.base import Batch
from methods.policy import Policy
from methods.scaler import Scaler
from tests.method_cases import GOAL_MASK, GOAL_SHAPE, GPT, METHODS, build, train_config, trained_teacher, windows

every_method = pytest.mark.parametrize("name", METHODS)
LENGTHS = [3, 8, 1, 5]
WIDE = Scaler(np.zeros(4), np.full(4, 64.0), np.zeros(2), np.ones(2), np.full(2, -np.inf), np.full(2, np.inf))  # exact


def numbered(lengths=LENGTHS, width=4):
    """Episodes whose every value is 100 (episode + 1) + row."""
    rows = [np.arange(n, dtype=np.float32) + 100 * (i + 1) for i, n in enumerate(lengths)]
    episodes = [Episode(np.stack([r] * width, 1), np.stack([r] * 2, 1), None, "m") for r in rows]
    return Demonstrations("avoiding", "scripted", "test", "id", "digest", episodes)


def draws(data, count, seed=0):
    """`count` goals of every window, (count, N, G), by their first value."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(len(data))
    return torch.stack([data.batch(index, generator).goal[..., 0] * 64 for _ in range(count)])


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_goal_is_a_stretch_of_its_own_episodes_future(tokens):
    data = make_windows(numbered(), 3, WIDE, tokens)
    now = data.action[:, 0]
    ends = {e.obs[0, 0] // 100: e.obs[-1, 0] for e in numbered().episodes}
    for goals in draws(data, 40):
        assert (goals // 100 == (now // 100)[:, None]).all()  # never another episode
        for row, goal in zip(now, goals, strict=True):
            last = ends[float(row // 100)]
            if row + tokens <= last:  # room: strictly after the state, and consecutive
                assert goal[0] > row and goal[-1] <= last
                assert torch.equal(goal, goal[0] + torch.arange(tokens))
            else:  # the episode's last rows, never zeros
                begin = max(last - tokens + 1, 100 * (row // 100))
                assert goal[-1] == last and goal[0] == begin


def test_every_place_of_the_future_is_drawn_equally_often():
    data = make_windows(numbered([6]), 3, WIDE, 1)
    goals = draws(data, 3000)[:, 1, 0] - 100  # of the window at row 1: rows 2 to 5, the last one included
    count = torch.bincount(goals.long(), minlength=6)
    assert not count[:2].any() and (count[2:] - 750).abs().max() < 120  # 5 standard deviations


def test_goals_are_drawn_anew_in_training_and_fixed_in_validation():
    data = make_windows(numbered([40, 50]), 3, WIDE, 2)
    first, second = draws(data, 2)
    assert (first != second).any()
    fixed = data.with_fixed_goals(7)
    assert torch.equal(fixed.goal, data.with_fixed_goals(7).goal) and fixed.future is None
    assert not torch.equal(fixed.goal, data.with_fixed_goals(8).goal)
    index = torch.tensor([3, 0, 3])
    assert torch.equal(fixed.batch(index).goal, fixed.goal[index])


def test_windows_without_goals_draw_nothing():
    """The random numbers of tasks without goals, and so their results, are what they were."""
    data = make_windows(numbered([40]), 3, WIDE)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert data.batch(torch.arange(5), generator).goal is None
    assert torch.equal(before, generator.get_state())
    assert data.with_fixed_goals(0) is data


def test_the_future_holds_each_row_once():
    data = make_windows(numbered([40, 50]), 3, WIDE, 2)
    assert data.future.rows.shape == (90, 4)


def test_goals_are_scaled_then_masked_in_training_and_by_the_policy():
    rng = np.random.default_rng(0)
    episodes = [Episode(rng.normal(5, 2, (9, 6)).astype("f4"), rng.normal(size=(9, 2)).astype("f4"), None, "m")] * 2
    demos = Demonstrations("avoiding", "scripted", "test", "id", "digest", episodes)
    scaler = fit_scaler(demos, 4, np.array(GOAL_MASK))  # files of six values, of which a policy sees four
    data = make_windows(demos, 3, scaler, 2)
    assert data.obs.shape[-1] == 4
    last = final_goals(demos, 2)
    assert last.shape == (2, 2, 6) and np.array_equal(last[0], episodes[0].obs[-2:])
    trained = data.batch(torch.tensor([8]), torch.Generator()).goal
    expected = (torch.from_numpy(last[:1, :, :4]) - scaler.obs_mean) / scaler.obs_std * torch.tensor(GOAL_MASK)
    assert torch.equal(trained, expected) and (trained[..., 2] == 0).all() and (trained[..., 3] != 0).all()
    method = build("beso", shape=GOAL_SHAPE)
    method.scaler = scaler
    acting = Policy(method)
    acting.reset([0], last[:1, :, :4])
    assert torch.equal(acting._goal, expected)


def test_hidden_values_of_a_goal_change_nothing():
    method = build("vdd_ve", shape=GOAL_SHAPE)
    obs, goal = np.ones((1, 4), np.float32), np.ones((1, 2, 4), np.float32)
    other = goal.copy()
    other[..., 2] = 99.0
    actions = []
    for g in (goal, other):
        p = Policy(method)
        p.reset([0], g)
        actions.append(p.act(obs))
    assert np.array_equal(*actions)


def test_files_of_tasks_without_goals_hold_no_mask(tmp_path):
    from safetensors import safe_open

    for name, shape in (("plain", None), ("goals", GOAL_SHAPE)):
        policy.save(build("beso", **({"shape": shape} if shape else {})), tmp_path / name, "beso")
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            assert ("scaler.goal_mask" in file.keys()) == (shape is not None)  # noqa: SIM118 - no mapping


def goal_data(seed=0):
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(rng.normal(size=(n, 4)).astype("f4"), rng.normal(size=(n, 2)).astype("f4"), None, "m")
        for n in (30, 20, 25, 3)
    ]
    return Demonstrations("avoiding", "scripted", "test", "id", "digest", episodes)


def test_resumed_training_draws_the_same_goals(tmp_path):
    demos = goal_data()
    scaler = fit_scaler(demos, 4, np.array(GOAL_MASK))
    data = make_windows(demos, GPT.window, scaler, GOAL_SHAPE.goal)
    val, config = data.with_fixed_goals(0), train_config("beso", steps=30, batch=16)
    whole = build("beso", shape=GOAL_SHAPE)
    train(whole, data, val, config, 3, tmp_path / "whole")
    broken = build("beso", shape=GOAL_SHAPE)
    first = Trainer(broken.train(), data, val, config, 3)
    for _ in range(11):
        first.iterate()
    first.save(tmp_path / CHECKPOINT)
    again = build("beso", seed=5, shape=GOAL_SHAPE)
    train(again, data, val, config, 3, tmp_path)
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@every_method
def test_every_method_learns_from_goals_and_acts_by_them(name, tmp_path):
    """On a goal-conditioned shape: the loss falls, the file gives the same actions, and the goal decides the behaviour."""
    method, data = build(name, shape=GOAL_SHAPE), windows(shape=GOAL_SHAPE)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(1)
        losses.append(method.validation_loss(Batch(data.obs, data.last, data.action, data.goal)).item())
    val = windows(64, 1, GOAL_SHAPE)
    train(method, data, val, train_config(name, steps=60, batch=32, lr=3e-3), 0, tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        losses.append(method.validation_loss(Batch(data.obs, data.last, data.action, data.goal)).item())
    assert losses[1] < losses[0]
    policy.save(method, tmp_path / "p", name)
    loaded, rng = policy.load(tmp_path / "p"), np.random.default_rng(0)
    goals = rng.normal(size=(64, GOAL_SHAPE.goal, GOAL_SHAPE.obs)).astype(np.float32)
    obs = rng.normal(size=(3, 64, GOAL_SHAPE.obs)).astype(np.float32)
    both = [Policy(method), Policy(loaded)]
    for p in both:
        p.reset(range(64), goals)
    actions = []
    for o in obs:
        a, b = (p.act(o) for p in both)
        np.testing.assert_array_equal(a, b)
        actions.append(a)
    flipped = Policy(loaded)
    flipped.reset(range(64), -goals)
    assert not np.allclose(flipped.act(obs[0]), actions[0], atol=1e-3)  # same seeds, other goals
    one, traced = Policy(loaded), Policy(loaded, compiled="trace")
    for p in (one, traced):
        p.reset([17], goals[17:18])
        for o, a in zip(obs, actions, strict=True):
            np.testing.assert_allclose(p.act(o[17:18])[0], a[17], atol=3e-5)
    mixture = method.mixture(data.obs, data.last, data.goal)
    if mixture is not None:
        assert Policy(method).gating(obs[0][:, None], goals).shape[0] == 64


def test_a_policy_wants_the_goals_of_its_task():
    with pytest.raises(UserError, match=r"expects goals of shape \(1, 2, 4\), got none"):
        Policy(build("beso", shape=GOAL_SHAPE)).reset([0])
    with pytest.raises(UserError, match=r"got \(1, 1, 4\)"):
        Policy(build("beso", shape=GOAL_SHAPE)).reset([0], np.zeros((1, 1, 4), np.float32))
    with pytest.raises(UserError, match="expects no goals"):
        Policy(build("beso")).reset([0], np.zeros((1, 2, 4), np.float32))


def test_goals_of_evaluation_episodes_are_training_demonstrations_last_rows():
    demos = numbered([4] * 40)
    kept, held = split(demos, seed=0)
    goals = final_goals(kept, 2)
    chosen = rollout.goals_of(goals, 11, range(100))
    assert chosen.shape == (100, 2, 4)
    # each once, then again
    assert {float(g) for g in chosen[:38, 1, 0]} == {float(e.obs[-1, 0]) for e in kept.episodes}
    assert not {float(g) for g in chosen[:, 1, 0]} & {float(e.obs[-1, 0]) for e in held.episodes}
    parts = [rollout.goals_of(goals, 11, range(a, a + 20)) for a in range(0, 100, 20)]
    assert np.array_equal(np.concatenate(parts), chosen)  # whatever the chunks
    assert not np.array_equal(rollout.goals_of(goals, 12, range(100)), chosen)
    assert rollout.goals_of(None, 11, range(5)) is None


class GoalEnv:
    """Moves by the action; success is to be within 1 of the goal's first value. Keeps what it was given."""

    obs_dim, act_dim, goal_tokens, goal_mask = 4, 2, 2, np.array(GOAL_MASK)
    max_steps = 8
    kept: tuple = ()
    disturb = None  # at this step, all observations change

    def __init__(self, num_envs, num_threads=1):
        self.n = num_envs

    def reset(self, contexts=None, seeds=None, goals=None):
        self.goal, self.k, self.active = goals[..., :4], 0, np.ones(self.n, bool)
        self.obs = np.stack([np.random.default_rng(s).normal(size=4) for s in seeds]).astype(np.float32)
        GoalEnv.kept = (self.goal.copy(), [])
        return self.obs

    def step(self, actions):
        GoalEnv.kept[1].append(actions.copy())
        self.k += 1
        self.obs[:, :2] += actions
        if self.k == self.disturb:
            self.obs += 5.0
        self.active[:] = self.k < 8
        reached = np.abs(self.obs[:, 0] - self.goal[:, -1, 0]) < 1
        info = {"success": reached, "mode": np.zeros(self.n, int), "goal_return": reached * 0.5}
        zeros = np.zeros(self.n)
        return self.obs.copy(), zeros, zeros.astype(bool), ~self.active, info

    @staticmethod
    def mode_name(row):
        return str(int(row))

    def close(self):
        pass


TASK = {"obs_dim": 4, "act_dim": 2, "goal_tokens": 2, "modes": 4, "entropy": "pooled", "rollouts": 6, "env": "x:y"}


def test_episodes_of_a_task_with_goals_have_goal_return(tmp_path, monkeypatch):
    monkeypatch.setattr(Backend, "batch_class", lambda _self, _task: GoalEnv)
    goals = final_goals(goal_data(), 2)
    method = build("beso", shape=GOAL_SHAPE).eval()
    got = rollout.evaluate(method, TASK, 6, 3, 1, tmp_path, goals=goals)
    assert set(got) == {*metrics.KEYS, "goal_return"} and set(got["goal_return"]) <= {0.0, 0.5}
    computed = metrics.compute(TASK, got)
    assert computed["goal_return"] == pytest.approx(np.mean(got["goal_return"]))
    told = []
    again = rollout.evaluate(method, TASK, 6, 3, 1, tmp_path, lambda *done: told.append(done), goals=goals)
    assert again == got and [(done, total) for done, total, _ in told] == [(6, 6)]  # from the finished chunk
    assert metrics.METRIC_VERSION == 1
    with pytest.raises(UserError, match="lack goal_return"):
        metrics.compute(TASK, {k: v for k, v in got.items() if k != "goal_return"})
    assert "goal_return" not in metrics.compute({**TASK, "goal_tokens": 0}, got)


def test_progress_is_told_at_every_step_of_a_chunk(tmp_path, monkeypatch):
    """A chunk of images takes longer than a cell may be silent before it counts as stopped."""
    monkeypatch.setattr(Backend, "batch_class", lambda _self, _task: GoalEnv)
    monkeypatch.setattr(rollout, "CHUNK", 4)
    told = []
    rollout.evaluate(
        build("beso", shape=GOAL_SHAPE).eval(), TASK, 6, 3, 1, tmp_path, lambda *done: told.append(done),
        goals=final_goals(goal_data(), 2),
    )  # fmt: skip
    assert [done for done, _, _ in told] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6]
    assert {total for _, total, _ in told} == {6}
    assert [k for k, (_, _, values) in enumerate(told) if values] == [8, 17]  # with the success so far


def test_nothing_of_an_evaluation_episodes_future_reaches_its_actions(tmp_path, monkeypatch):
    """Later observations are changed: the goal and all actions before that stay the same to the last bit."""
    monkeypatch.setattr(Backend, "batch_class", lambda _self, _task: GoalEnv)
    goals, method = final_goals(goal_data(), 2), trained_teacher("beso", GOAL_SHAPE).eval()
    found = []
    for disturb in (None, 5):
        monkeypatch.setattr(GoalEnv, "disturb", disturb)
        rollout.evaluate(method, TASK, 6, 3, 1, tmp_path / str(disturb), goals=goals)
        found.append(GoalEnv.kept)
    (goal_a, actions_a), (goal_b, actions_b) = found
    assert np.array_equal(goal_a, goal_b)
    assert all(np.array_equal(a, b) for a, b in zip(actions_a[:5], actions_b[:5], strict=True))
    assert not np.array_equal(actions_a[5], actions_b[5])


def test_validation_needs_fixed_goals():
    demos = goal_data()
    data = make_windows(demos, GPT.window, fit_scaler(demos), GOAL_SHAPE.goal)
    with pytest.raises(AssertionError, match="fixed goals"):
        Trainer(build("beso", shape=GOAL_SHAPE), data, data, train_config("beso", steps=2), 0)


def test_a_mask_has_one_value_an_observation():
    with pytest.raises(UserError, match="one value an observation, 4"):
        Scaler.fit(np.ones((3, 4)), np.ones((3, 2)), np.ones(3, bool))
    scaler = Scaler.fit(np.ones((3, 4)), np.ones((3, 2)), np.array(GOAL_MASK))
    assert dataclasses.asdict(GOAL_SHAPE) == {"obs": 4, "act": 2, "goal": 2}
    assert Scaler.from_state(scaler.to_dict()).goal_mask.tolist() == list(GOAL_MASK)


def test_a_film_shows_the_goal_of_the_records_own_episode(tmp_path, monkeypatch):
    """The goals of an evaluation, one by one, from what its record says; other demonstrations than the record's are refused."""
    demos, task, seed = goal_data(), {**TASK, "goal_tokens": 2}, derive("avoiding/beso/0", "rollout")
    monkeypatch.setattr(films, "load_demonstrations", lambda *_args, **_more: demos)
    found = {"cell": {"task": "avoiding"}, "data": {"identity": demos.identity}}
    kept, _ = split(demos, seed=derive("avoiding", "split"))
    asked = rollout.goals_of(final_goals(kept, 2), seed, range(12))
    for number in (0, 5, 11):
        assert np.array_equal(films.goals_of(found, task, seed, number, None), asked[number : number + 1])
    assert films.goals_of(found, {**task, "goal_tokens": 0}, seed, 0, None) is None
    with pytest.raises(UserError, match="give its --data-root"):
        films.goals_of({**found, "data": {"identity": "other"}}, task, seed, 0, None)
