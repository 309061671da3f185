"""The image tasks: the state task's simulation, observed through the cameras."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401  (registers the tasks)
from envs.contexts import evaluation_contexts
from envs.frames import SHAPE, WIDTH
from envs.image_tasks import SortingImageBatch, StackingImageBatch
from envs.render import render_task
from envs.sorting import SortingBatch
from envs.stacking import StackingBatch
from harness.registry import load_suites, resolve_class
from tests.image_cases import skip_without_gl

TRACE = Path(__file__).parent / "data" / "traces" / "stacking_3.npz"
BATCHES = {"sorting": (SortingImageBatch, SortingBatch), "stacking": (StackingImageBatch, StackingBatch)}
every_task = pytest.mark.parametrize("task", sorted(BATCHES))


@pytest.fixture(autouse=True)
def needs_gl():
    skip_without_gl()


def actions(task, steps, n):
    width = BATCHES[task][0].act_dim
    found = np.random.default_rng(1).normal(0.0, 0.006, (steps, n, width))
    if task == "stacking":
        found[..., 7] = 0.08
    return found


@every_task
def test_a_batch_gives_what_single_environments_give(task):
    batch_class = BATCHES[task][0]
    batch, single = batch_class(3, num_threads=2), batch_class(1)
    first = batch.reset(contexts=[0, 5, 7])
    assert first.shape == (3, WIDTH) and first.dtype == np.uint8
    np.testing.assert_array_equal(single.reset(contexts=[5])[0], first[1])
    for action in actions(task, 6, 3):
        obs, *_ = batch.step(action)
        np.testing.assert_array_equal(single.step(action[1:2])[0][0], obs[1])
    assert len({row.tobytes() for row in (*first, *obs)}) == 6  # every context and every moment looks different
    batch.close()
    single.close()


@every_task
def test_only_the_observation_differs_from_the_state_task(task):
    image_class, state_class = BATCHES[task]
    seen, states = image_class(2), state_class(2)
    seen.reset(contexts=[1, 2])
    states.reset(contexts=[1, 2])
    for action in actions(task, 8, 2):
        _, *ours, info = seen.step(action)
        _, *theirs, expected = states.step(action)
        np.testing.assert_array_equal(ours, theirs)
        assert info.keys() == expected.keys()
        for key in info:
            np.testing.assert_array_equal(info[key], expected[key])
        np.testing.assert_array_equal(seen.setpoint, states.setpoint)
    assert (seen.max_steps, states.max_steps) == ((700, 700) if task == "sorting" else (1200, 1000))
    seen.close()
    states.close()


@every_task
def test_an_ended_simulation_is_drawn_no_more(task):
    env = BATCHES[task][0](2, max_steps=2)
    env.reset(contexts=[0, 1])
    for action in actions(task, 2, 2):
        last, _, _, truncated, _ = env.step(action)
    assert truncated.all() and not env.active.any()
    np.testing.assert_array_equal(env.step(actions(task, 1, 2)[0])[0], last)
    env.close()


def test_restored_rows_look_as_when_they_were_recorded():
    """Row k shows the state in which set-point k - 1 was given, as every observation does."""
    rec = dict(np.load(TRACE))
    env = StackingImageBatch(2)
    env.reset()
    for k in (1, 60):
        expected = env.renderers.draw(rec["qpos"][k - 1 : k])[0]
        np.testing.assert_array_equal(env.restore(0, rec, k), expected)
    env.close()


@pytest.mark.parametrize("name", ["sorting_image", "stacking_image"])
def test_suites_and_gymnasium_agree_with_the_batch(name):
    block = load_suites().tasks[name]
    batch = resolve_class(block["env"])
    assert (batch.obs_dim, batch.act_dim) == (block["obs_dim"], block["act_dim"]) == (WIDTH, block["act_dim"])
    assert evaluation_contexts(name).sha256 == evaluation_contexts(batch.task).sha256
    env = gymnasium.make_vec(block["gym_id"], num_envs=2)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (2, *SHAPE) and obs in env.observation_space
    assert env.single_observation_space == gymnasium.spaces.Box(0, 255, SHAPE, np.uint8)
    obs, *_ = env.step(env.action_space.sample())
    assert obs in env.observation_space
    env.close()


def test_picture_of_both_cameras(tmp_path):
    from PIL import Image

    pixels = np.asarray(Image.open(render_task("sorting_image", tmp_path / "x.png")))
    env = SortingImageBatch(1)
    expected = env.reset(contexts=[0])[0].reshape(SHAPE)
    env.close()
    np.testing.assert_array_equal(pixels[::4, ::4], np.concatenate(expected, 1))
