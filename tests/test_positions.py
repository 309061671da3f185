"""Encoders that learn where things are: the values fitted, things that look alike, what has no positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from envs.base import Geometry
from envs.sorting import SortingBatch
from envs.stacking import StackingBatch
from harness import positions
from harness.errors import UserError
from harness.exchange import Exchange
from harness.train import TrainConfig, train
from methods.base import Batch
from methods.scaler import Scaler
from tests.image_cases import IMAGE_GPT, IMAGE_SHAPE, demonstrations

CONFIG = TrainConfig(
    steps=150, batch=32, optimizer="adamw", lr=3e-3, lr_final=3e-4, warmup=5, weight_decay=0.0, history_cut=0.0,
    obs_noise=0.0, ema=0.0, grad_clip=1.0, precision="fp32", compile="off", checkpoint_seconds=60.0, validations=1,
)  # fmt: skip


def test_positions_of_frames_never_seen_are_learned(tmp_path):
    torch.manual_seed(0)
    kept, held = demonstrations([40] * 8), demonstrations([30] * 2, seed=50)
    reader, data, val = positions.pretraining(kept, held, IMAGE_GPT, None)
    assert data.obs.raw and data.action.shape == (320, 2) and len(val) == 60
    result = train(reader, data, val, CONFIG, 1, tmp_path)
    assert result.val["loss"][-1] < 0.2  # of the variance of a dot's place in other episodes


def reader_of(geometry, width):
    rng = np.random.default_rng(0)
    scaler = Scaler.fit(rng.normal(size=(60, width)) * 0.1, rng.normal(size=(60, 2)), geometry=geometry)
    ways = Exchange.of(geometry.alike, scaler) if geometry.alike else None
    torch.manual_seed(0)
    config = positions.PositionConfig(*positions.chosen(scaler, geometry), ways)
    return positions.PositionReader(config, replace(IMAGE_SHAPE, act=len(scaler.obs_mean)), IMAGE_GPT, scaler), rng


@pytest.mark.parametrize("alike", [True, False])
def test_things_that_look_alike_may_be_numbered_either_way(alike):
    """One frame, two truths that differ by which of two things is called the first: told apart where they do not look alike."""
    geometry = Geometry(((0, 2), (1, 2)), 0.05, alike=(((0,), (1,)),) if alike else ())
    reader, rng = reader_of(geometry, 3)
    truth = torch.from_numpy(rng.normal(size=(6, 3)).astype(np.float32)) * 0.1
    obs = torch.from_numpy(demonstrations([6]).episodes[0].obs)[:, None]
    last = torch.zeros(6, dtype=torch.int64)
    one, other = (
        reader.errors(Batch(obs, last, reader.scaler.scale_obs(rows))).square().mean(-1)
        for rows in (truth, truth[:, [1, 0, 2]])
    )
    assert torch.allclose(one, other, atol=1e-5) == alike


@pytest.mark.parametrize("task", [SortingBatch, StackingBatch])
def test_what_is_fitted_in_a_task(task):
    """Where things are, and where they are from one another; directions of boxes where there is a tool to grasp them with."""
    demos = demonstrations([5, 6])
    rng = np.random.default_rng(0)
    episodes = [
        replace(e, positions=rng.normal(size=(len(e.obs), task.obs_dim)).astype(np.float32)) for e in demos.episodes
    ]
    reader, data, _ = positions.pretraining(
        replace(demos, episodes=episodes), replace(demos, episodes=episodes[:1]), IMAGE_GPT, task.geometry
    )
    seen = [k for k in reader.config.fitted if k < task.obs_dim]
    between = len(reader.config.fitted) - len(seen)
    assert seen == [k for k in range(task.obs_dim) if k not in task.geometry.tangents]
    assert between == len(task.geometry.pairs) + (
        5 + 8 if task is StackingBatch else 0
    )  # two of a cube, four of a longer box
    assert data.action.shape[1] == len(reader.scaler.obs_mean)
    ways = reader.config.ways
    assert (4 if task is SortingBatch else None) == (None if ways is None else len(ways.index))


def test_errors_of_lengths_weigh_by_millimetres_whatever_their_spread():
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(400, 4)) * [0.1, 0.2, 0.1, 1.0]
    scaler = Scaler.fit(obs, rng.normal(size=(400, 2)), geometry=Geometry(((0, 1), (0, 2)), 0.05))
    fitted, weights, apart = positions.chosen(scaler, Geometry(((0, 1), (0, 2)), 0.05))
    assert fitted == (0, 1, 2, 3, 4, 5) and apart == (None,) * 6
    expected = np.r_[scaler.obs_std[:3] / positions.LENGTH, 1.0, scaler.obs_std[4:]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_directions_count_where_the_tool_is_close():
    """The red box 3 cm from where the tool is, the others 30 cm."""
    geometry = StackingBatch.geometry
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 20)) * 0.1
    scaler = Scaler.fit(states, rng.normal(size=(200, 2)), geometry=geometry)
    config = positions.PositionConfig(*positions.chosen(scaler, geometry), None)
    reader = positions.PositionReader(config, replace(IMAGE_SHAPE, act=len(scaler.obs_mean)), IMAGE_GPT, scaler)
    state = torch.from_numpy(states[:1].astype(np.float32))
    position = scaler.relations(state)[0, scaler.relations.names().index(("tool", (), 0)) :][:3]
    for box, away in enumerate((0.03, 0.3, 0.3)):
        state[0, 8 + 4 * box : 11 + 4 * box] = position + torch.tensor([away, 0.0, -0.1])
    counts = reader.counts(scaler.scale_obs(state))[0]
    names = scaler.relations.names()
    directions = {
        k: names[v - 20][1][0]
        for k, v in enumerate(config.fitted)
        if v >= 20 and names[v - 20][0] in positions.HALF_TURN + positions.QUARTER_TURN
    }
    assert {geometry.tangents.index(box) for k, box in directions.items() if counts[k]} == {0}
    assert all(counts[k] == 1 for k in range(len(counts)) if k not in directions)
    assert counts.sum() == len(counts) - 6


@pytest.mark.parametrize("most", [1000, 30])
def test_of_many_frames_every_few_are_used(most, monkeypatch):
    monkeypatch.setattr(positions, "MOST", most)
    demos = demonstrations([40, 25, 1])
    scaler = Scaler.fit(np.concatenate([e.positions for e in demos.episodes]), np.zeros((66, 1)))
    found = positions.frames(demos, scaler)
    every = 1 if most == 1000 else 3
    rows = [
        (n, k) for n, e in enumerate(demos.episodes) for k in range(min(n % every, len(e.obs) - 1), len(e.obs), every)
    ]
    batch = found.batch(torch.arange(len(rows)))
    assert len(found) == len(rows)
    for k, (episode, row) in enumerate(rows):
        np.testing.assert_array_equal(batch.obs[k, 0], demos.episodes[episode].obs[row])
        wanted = scaler.scale_obs(torch.from_numpy(demos.episodes[episode].positions[row]))
        assert torch.allclose(batch.action[k], wanted)


def test_demonstrations_of_images_alone_are_refused():
    demos = demonstrations([5, 6])
    without = replace(demos, episodes=[replace(e, positions=None) for e in demos.episodes])
    with pytest.raises(UserError, match="no positions beside its images: set encoder_target = loss"):
        positions.pretraining(without, demos, IMAGE_GPT, None)
