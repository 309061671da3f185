"""Block Push: interface, determinism, reward and behaviours, goals, the demonstrator and the published files."""

import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401  (registers the tasks)
from envs import blockpush_files, datasets
from envs.block_push import BlockPushBatch, draw_context, wrapped
from envs.datasets import load_demonstrations
from envs.demonstrators.block_push import Pusher, generate
from harness.errors import UserError

AT = {"target": (0.28, 0.2), "target2": (0.52, 0.2)}
FAR = (0.3, -0.2), (0.5, -0.25)


def scene(block=FAR[0], block2=FAR[1], flipped=False):
    """(4, 3): blocks where said, targets in their places."""
    targets = [AT["target2"], AT["target"]] if flipped else [AT["target"], AT["target2"]]
    return np.array([[*place, yaw] for place, yaw in zip((block, block2, *targets), (1.2, 2.0, 3.1, 3.1), strict=True)])


def put(env, i, block, place):
    """Moves a block of simulation i to a place at rest."""
    qpos = env.sims.data[i].qpos
    qpos[4 * block : 4 * block + 2] = place


def random_run(n, seeds, threads=1, steps=40):
    env = BlockPushBatch(n, num_threads=threads)
    env.reset(seeds=seeds)
    rngs = [np.random.default_rng(s) for s in seeds]
    rows = []
    for _ in range(steps):
        away = env.blocks[:, 0, :2] - env.tcp_pos[:, :2]  # towards block 1, so that something is pushed
        noise = np.stack([rng.normal(0, 0.004, 2) for rng in rngs])
        obs, reward, *_ = env.step(0.1 * away + 0.01 * np.sign(away) + noise)
        rows.append(np.c_[obs, env.whole_obs, reward])
    env.close()
    return np.stack(rows, 1)


def test_results_depend_on_the_seed_alone():
    seeds = [5, 6, 7, 8, 9]
    many = random_run(5, seeds)
    assert np.abs(np.diff(many[..., :2], axis=1)).max() > 0.003  # a block was pushed
    np.testing.assert_array_equal(many, random_run(5, seeds, threads=3))
    for i in (0, 3):
        np.testing.assert_array_equal(many[i], random_run(1, seeds[i : i + 1])[0])
    assert not np.array_equal(many[0], random_run(1, [50])[0])


def test_an_environment_can_be_used_again_and_left_alone():
    env = BlockPushBatch(2)
    first = env.reset(seeds=[1, 2])
    for _ in range(12):
        env.step(np.full((2, 2), 0.02))
    again = env.reset(seeds=[1, 2])
    np.testing.assert_array_equal(first, again)
    env.step(np.zeros((2, 2)))
    other = env.obs[1].copy()
    env.reset(seeds=[9], ids=[0])
    assert np.array_equal(env.obs[1], other) and not np.array_equal(env.obs[0], first[0])


def test_observation_layout():
    env = BlockPushBatch(1)
    context = scene()
    obs = env.reset([context])[0]
    np.testing.assert_allclose(obs[:6], context[:2].reshape(-1), atol=1e-6)
    np.testing.assert_allclose(obs[6:], [0.30025, -0.39859, 0.3, -0.4], atol=1e-6)
    np.testing.assert_allclose(env.whole_obs[0, 10:], context[2:].reshape(-1), atol=1e-6)
    obs = env.step(np.array([[0.01, 0.02]]))[0][0]
    np.testing.assert_allclose(obs[8:], [0.31, -0.38], atol=1e-6)
    for _ in range(60):  # the target stays in the workspace, the effector follows it
        obs = env.step(np.array([[-0.1, 0.0]]))[0][0]
    assert obs[8] == pytest.approx(0.15) and np.abs(obs[6:8] - obs[8:]).max() < 0.0015


def test_the_effector_follows_as_in_the_original():
    """Steps of 30 mm: what is left of a step is 9.2 % of it, measured in the original."""
    env = BlockPushBatch(1)
    env.reset([scene()])
    for k in range(8):
        before = env.tcp_pos[0, 1]
        env.step(np.array([[0.0, 0.03]]))
        offset = 0.00032 + 0.0007 * 0.3 - 0.0025 * env.setpoint[0, 1]
        left = (env.setpoint[0, 1] + offset - env.tcp_pos[0, 1]) / (env.setpoint[0, 1] + offset - before)
        assert k == 0 or left == pytest.approx(0.092, abs=0.012)


def test_contexts_follow_the_original_distribution():
    drawn = np.stack([draw_context(np.random.default_rng(s)) for s in range(3000)])
    blocks, targets = drawn[:, :2], drawn[:, 2:]
    assert (np.abs(blocks[:, 0, 0] - blocks[:, 1, 0]) > 0.1).all()
    assert blocks[..., 0].min() > 0.3 and blocks[..., 0].max() < 0.5
    assert blocks[..., 1].min() > -0.35 and blocks[..., 1].max() < -0.05 and abs(blocks[..., 1].mean() + 0.2) < 0.01
    assert blocks[..., 2].min() > 1.0 and blocks[..., 2].max() < np.pi  # numpy's uniform(pi)
    flipped = targets[:, 0, 0] > 0.4
    assert 0.45 < flipped.mean() < 0.55
    np.testing.assert_allclose(np.sort(targets[..., 0]), [[0.28, 0.52]] * 3000, atol=0.0051)
    np.testing.assert_allclose(targets[..., 1], 0.2, atol=0.0076)
    np.testing.assert_allclose(targets[..., 2], np.pi, atol=np.pi / 30 + 1e-9)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("crossed", [False, True])
def test_every_pair_completes_its_behaviour(first, crossed):
    """Blocks are put into targets one after the other: 0.49, then 0.51 and the end; the mode tells order and target."""
    env = BlockPushBatch(1)
    env.reset([scene()])
    place = [AT["target2"], AT["target"]] if crossed else [AT["target"], AT["target2"]]
    still = np.zeros((1, 2))
    assert env.step(still)[1][0] == 0
    put(env, 0, first, place[first])
    _, reward, terminated, _, info = env.step(still)
    assert reward[0] == pytest.approx(0.49) and not terminated[0] and not info["success"][0]
    assert env.mode_name(info["mode"][0]) == "" and info["goal_return"][0] == (0.0 if crossed else 0.5)
    assert env.step(still)[1][0] == 0  # each pair counts once
    put(env, 0, 1 - first, place[1 - first])
    _, reward, terminated, truncated, info = env.step(still)
    assert reward[0] == pytest.approx(0.51) and terminated[0] and not truncated[0] and info["success"][0]
    assert env.mode_name(info["mode"][0]) == str(2 * first + (first ^ crossed))
    assert info["goal_return"][0] == (0.0 if crossed else 1.0)
    assert not env.active[0] and env.step(still)[1][0] == 0


def test_a_block_on_the_border_or_two_in_one_target_are_no_success():
    env = BlockPushBatch(3)
    x, y = AT["target"]
    env.reset([scene(), scene(), scene()])
    put(env, 0, 0, (x + 0.0503, y))
    put(env, 1, 0, (x + 0.0497, y))
    put(env, 2, 0, (x + 0.025, y))
    put(env, 2, 1, (x - 0.025, y + 0.02))
    _, reward, terminated, _, info = env.step(np.zeros((3, 2)))
    np.testing.assert_allclose(reward, [0.0, 0.49, 0.98], atol=1e-6)
    assert terminated.tolist() == [False, False, True] and not info["success"].any()
    assert [env.mode_name(m) for m in info["mode"]] == ["", "", ""]


def test_an_episode_has_299_actions():
    env = BlockPushBatch(1)
    env.reset(seeds=[0])
    for _ in range(299):
        assert env.active[0]
        _, _, terminated, truncated, _ = env.step(np.zeros((1, 2)))
    assert truncated[0] and not terminated[0] and not env.active[0]


def demonstrated(context):
    """A goal: the last row of a run that ended with block 1 in target 1, block 2 in target 2."""
    return np.r_[0.29, 0.21, 0.5, 0.53, 0.18, 0.7, 0.3, 0.1, 0.31, 0.11, context[2:].reshape(-1)].astype(np.float32)


def test_goals_exchange_the_blocks_where_the_targets_lie_the_other_way_round():
    goal = demonstrated(scene())
    env = BlockPushBatch(2)
    env.reset([scene(), scene(flipped=True)], goals=np.stack([goal, goal])[:, None])
    assert env.goal.shape == (2, 1, 10) and env.goal.dtype == np.float32
    np.testing.assert_array_equal(env.goal[0, 0, [0, 1, 3, 4]], goal[[0, 1, 3, 4]])
    np.testing.assert_array_equal(env.goal[1, 0, [0, 1, 3, 4]], goal[[3, 4, 0, 1]])
    assert env.goal_mask.tolist() == [True, True, False, True, True, False, False, False, False, False]
    for i, flipped in ((0, False), (1, True)):  # the goal is reached by block 1 in target 1, wherever that lies
        put(env, i, 0, AT["target2"] if flipped else AT["target"])
    assert env.step(np.zeros((2, 2)))[4]["goal_return"].tolist() == [0.5, 0.5]
    with pytest.raises(UserError, match="all 16 numbers"):
        env.reset(goals=goal[None, None, :10].repeat(2, 0))
    with pytest.raises(UserError, match=r"goals must have shape \(n, 1, 10\)"):
        env.reset(goals=goal[None].repeat(2, 0))


def test_gymnasium_takes_a_goal():
    env = gymnasium.make("vdd/BlockPush-v0")
    goal = demonstrated(scene())
    env.reset(seed=0, options={"context": scene(), "goal": goal[None]})
    np.testing.assert_array_equal(env.unwrapped.batch.goal[0, 0], goal[:10])
    with pytest.raises(UserError, match="possible: 'context', 'goal'"):
        env.reset(options={"goals": goal})
    vector = gymnasium.make_vec("vdd/BlockPush-v0", num_envs=3)
    obs, info = vector.reset(seed=4)
    assert obs.shape == (3, 10) and info["goal_return"].shape == (3,) and info["obj_pos"].shape == (3, 2, 3)


def test_bad_contexts_are_named():
    for context in (1, -1, True, "left", np.zeros((2, 3)), np.full((4, 3), np.nan)):
        with pytest.raises(UserError, match="four rows"):
            BlockPushBatch(1).reset([context])


def test_a_row_of_a_demonstration_can_be_restored():
    env = BlockPushBatch(1)
    env.reset(seeds=[3])
    expert, rows = Pusher([0]), []
    for _ in range(30):
        rows.append(env.whole_obs[0].copy())
        env.step(expert.act(env.whole_obs.astype(float)))
    rows.append(env.whole_obs[0].copy())
    again = BlockPushBatch(1)
    np.testing.assert_allclose(again.restore(0, {"obs": rows}, 24), rows[24][:10], atol=1e-6)
    with pytest.raises(UserError, match="rows 0 to T - 1"):
        again.restore(0, {"obs": rows}, 31)


def test_the_expert_shows_every_behaviour():
    attempts: list[tuple[str, str]] = []
    episodes = generate(seed=1, per_mode=3, attempts=attempts)
    assert [e.mode for e in episodes] == [m for m in "0123" for _ in range(3)]
    assert sum(a == b for a, b in attempts) >= 0.9 * len(attempts)
    for e in episodes:
        assert e.obs.shape == (len(e.actions), 16) and e.obs.dtype == e.actions.dtype == np.float32
        shoves = np.linalg.norm(e.obs[1:, 8:10] - e.obs[:-1, 8:10] - e.actions[:-1], axis=1)  # not part of the actions
        assert 0.02 < (shoves > 0.006).mean() < 0.25 and (shoves < 1e-6).mean() > 0.2
        assert np.linalg.norm(e.actions, axis=1).max() <= 0.034 + 1e-6
        assert 70 < len(e.obs) < 250
        blocks, targets = e.obs[-1, [[0, 1], [3, 4]]], e.obs[-1, [[10, 11], [13, 14]]]  # goals are well within success
        assert np.linalg.norm(blocks[:, None] - targets[None], axis=-1).min(1).max() < 0.045
        assert blockpush_files.mode_of(e.obs) == e.mode  # files are labelled by the environment's own rule


def test_demonstrations_are_reproducible():
    one, two, other = (generate(seed=s, per_mode=1, num_threads=t) for s, t in ((2, 1), (2, 2), (3, 1)))
    assert datasets._digest(one) == datasets._digest(two) != datasets._digest(other)


# ---- the published files ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs():
    return generate(seed=4, per_mode=1)


def write(folder, runs, parts=("observations", "actions", "masks"), **changes):
    """The published layout, padded with values that must not be read."""
    rows = max(len(e.obs) for e in runs) + 3
    arrays = {
        "observations": np.full((len(runs), rows, 16), 7.0),
        "actions": np.full((len(runs), rows, 2), 7.0),
        "masks": np.zeros((len(runs), rows)),
    }
    for i, e in enumerate(runs):
        n = len(e.obs)
        arrays["observations"][i, :n], arrays["actions"][i, :n], arrays["masks"][i, :n] = e.obs, e.actions, 1
    folder.mkdir(parents=True)
    for part in parts:
        np.save(folder / f"multimodal_push_{part}.npy", changes.get(part, arrays[part]))
    return arrays


@pytest.mark.parametrize("folder", ["block_push", "multimodal_push_fixed_target"])
def test_published_files_are_read(tmp_path, runs, folder):
    write(tmp_path / folder, runs)
    demos = load_demonstrations("block_push", tmp_path)
    assert (demos.source, len(demos.episodes)) == ("official", 4)
    for read, made in zip(demos.episodes, runs, strict=True):
        np.testing.assert_array_equal(read.obs, made.obs)
        np.testing.assert_array_equal(read.actions, made.actions)
        assert read.mode == made.mode
    assert datasets.identify("block_push", tmp_path) == ("official", demos.identity)


def test_missing_files_are_named(tmp_path, runs):
    with pytest.raises(UserError, match=r"nothing for task 'block_push'.*multimodal_push_observations\.npy"):
        load_demonstrations("block_push", tmp_path)
    write(tmp_path / "block_push", runs, parts=("actions", "masks"))
    with pytest.raises(UserError, match=r"multimodal_push_observations\.npy: No such file.*needed beside it"):
        load_demonstrations("block_push", tmp_path)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("observations", lambda a: a[..., :10], r"expected shape .*16"),
        ("actions", lambda a: a[:2], "rows and episodes, but"),
        ("masks", lambda a: 1 - a, "all before the ones that do not exist"),
        ("masks", lambda a: a * 2, "zeros and ones only"),
        ("masks", lambda a: a * 0, "at least two rows"),
        ("actions", lambda a: a * np.nan, "holds NaN or infinity"),
        ("actions", lambda a: np.array([{}]), "not a readable array file"),  # pickled: refused
        ("observations", lambda a: a.astype(str), "expected an array of real numbers"),
    ],
)
def test_malformed_files_are_refused(tmp_path, runs, part, change, message):
    arrays = write(tmp_path / "a", runs)
    write(tmp_path / "block_push", runs, **{part: change(arrays[part])})
    with pytest.raises(UserError, match=message) as error:
        load_demonstrations("block_push", tmp_path)
    assert f"multimodal_push_{part}.npy" in str(error.value)


def test_wrapped():
    np.testing.assert_allclose(
        wrapped(np.array([0.0, 3.2, -3.2, 7.0])), [0, 3.2 - 2 * np.pi, 2 * np.pi - 3.2, 7 - 2 * np.pi]
    )
