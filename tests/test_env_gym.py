"""Gymnasium's interfaces: registration, checker, vector environment, pictures."""

import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401  (registers the tasks)
from envs.avoiding import AvoidingBatch
from harness.errors import UserError

TRACE = Path(__file__).parent / "data" / "traces" / "avoiding_8.npz"
TASKS = (
    "vdd/Avoiding-v0", "vdd/Aligning-v0", "vdd/Pushing-v0", "vdd/Sorting-v0", "vdd/Stacking-v0", "vdd/BlockPush-v0",
    "vdd/Kitchen-v0", "vdd/SortingImage-v0", "vdd/StackingImage-v0",
)  # fmt: skip


@pytest.fixture
def env():
    env = gymnasium.make("vdd/Avoiding-v0")
    yield env
    env.close()


def test_importing_envs_is_light():
    code = "import sys, envs; sys.exit(any(m in sys.modules for m in ('mujoco', 'torch', 'numba')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


@pytest.mark.parametrize("task", TASKS)
def test_checker(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space.*infinity.*")
        try:
            check_env(gymnasium.make(task).unwrapped, skip_render_check=True)
        except UserError as error:
            if "Image" not in task or "no OpenGL library" not in str(error):
                raise
            pytest.skip(str(error))


def test_same_seed_same_episode(env):
    def episode():
        env.action_space.seed(5)
        rows = [env.reset(seed=3)[0]]
        for _ in range(20):
            obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
            rows.append(np.r_[obs, reward, terminated, truncated, info["tcp_pos"], info["mode"]])
        return np.concatenate(rows)

    np.testing.assert_array_equal(episode(), episode())


def test_single_environment_replays_and_restores(env):
    rec = dict(np.load(TRACE))
    env.reset(options={"context": 0})
    for setpoint in rec["actions"]:
        obs, reward, terminated, truncated, info = env.unwrapped.step_absolute(setpoint)
        assert env.observation_space.contains(obs)
    assert terminated and not truncated and reward == 1.0 and info["success"] is True
    assert AvoidingBatch.mode_name(info["mode"]) == "010010001"
    last = len(rec["actions"]) - 1
    obs, info = env.unwrapped.restore(TRACE, last - 2)
    np.testing.assert_allclose(obs, np.r_[rec["actions"][last - 3, :2], rec["obs"][last - 2]], atol=1e-6)
    assert info["mode"].sum() == 3 and info["success"] is False


def test_vector_environment_equals_single_ones():
    actions = np.random.default_rng(0).normal([0.0, 0.009], [0.005, 0.003], (70, 3, 2)).astype(np.float32)
    vector = gymnasium.make_vec("vdd/Avoiding-v0", num_envs=3)
    assert vector.unwrapped.batch.num_envs == 3
    singles = [gymnasium.make("vdd/Avoiding-v0") for _ in range(3)]
    obs, _ = vector.reset(seed=1)
    for i, single in enumerate(singles):
        np.testing.assert_array_equal(single.reset()[0], obs[i])
    ended, resets = [False] * 3, 0
    for a in actions:
        obs, reward, terminated, truncated, info = vector.step(a)
        assert obs in vector.observation_space and info["tcp_pos"].shape == (3, 3)
        for i, single in enumerate(singles):
            if ended[i]:  # the vector environment starts the next episode in the step after an end
                expected, ended[i], resets = single.reset()[0], False, resets + 1
                assert reward[i] == 0 and not terminated[i] and not truncated[i]
            else:
                expected, r, term, trunc, _ = single.step(a[i])
                assert (reward[i], terminated[i], truncated[i]) == (r, term, trunc)
                ended[i] = term or trunc
            np.testing.assert_array_equal(obs[i], expected)
    assert resets > 0
    vector.close()


def test_several_instances_do_not_disturb_each_other():
    """Collisions count in every instance of a process (in the original only in the first)."""
    for _ in range(2):
        env = AvoidingBatch(1)
        env.reset()
        rec = np.load(TRACE.with_name("avoiding_5.npz"))
        ends = [env.step_absolute(setpoint[None])[2][0] for setpoint in rec["actions"]]
        assert ends == [False] * (len(ends) - 1) + [True]


def test_bad_input_is_named(env):
    with pytest.raises(UserError, match="before reset"):
        env.unwrapped.step(np.zeros(2))
    with pytest.raises(UserError, match=r"single context, 0 .* got 'left'"):
        env.reset(options={"context": "left"})
    with pytest.raises(UserError, match="unknown reset option 'contxt'; possible: 'context'"):
        env.reset(options={"contxt": 0})
    env.reset()
    with pytest.raises(UserError, match="must have shape"):
        env.unwrapped.step(np.zeros(3))
    with pytest.raises(UserError, match="finite"):
        env.unwrapped.step(np.array([np.inf, 0.0]))


@pytest.mark.parametrize("task", ["avoiding", "aligning", "pushing", "sorting", "stacking", "block_push"])
def test_picture(tmp_path, task):
    from envs.render import render_task

    try:
        path = render_task(task, tmp_path / "scene.png", width=320, height=240)
    except UserError as error:
        assert "no OpenGL library" in str(error)
        pytest.skip(str(error))
    from PIL import Image

    pixels = np.asarray(Image.open(path)).astype(int)
    assert pixels.shape == (240, 320, 3)
    red = (pixels[..., 0] > 120) & (pixels[..., 1:].max(-1) < 70)
    assert red.sum() > 20  # cylinders, a wall of the tray, cubes


def test_drawing_needs_a_known_task(tmp_path):
    from envs.render import draw_avoiding_paths, render_task

    with pytest.raises(UserError, match=r"'avoidng'.* Did you mean 'avoiding'"):
        render_task("avoidng", tmp_path / "x.png")
    assert draw_avoiding_paths([], tmp_path / "paths.png").stat().st_size > 1000
