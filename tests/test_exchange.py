"""Things that look alike change places (harness/exchange.py)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from envs.base import Geometry
from envs.sorting import SortingBatch
from envs.stacking import StackingBatch
from harness.config import resolve
from harness.errors import UserError
from harness.exchange import Exchange
from harness.job import exchange_of
from harness.registry import load_suites
from harness.train import Trainer, augment
from harness.windows import Windows
from methods.base import Shape
from methods.scaler import Scaler
from tests.method_cases import GPT, assemble, train_config


def observations(n: int = 200) -> np.ndarray:
    """(n, 16) of made-up Sortings, no two values distributed alike."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-0.4, 0.6, (n, 16)) * rng.uniform(0.5, 2.0, 16) + rng.uniform(-0.3, 0.3, 16)
    obs[:, [6, 9, 12, 15]] *= 3.0  # tangents, within what is not cut off
    return obs


def fitted(obs: np.ndarray) -> Scaler:
    return Scaler.fit(obs, obs[:, :2], None, SortingBatch.geometry)


def test_every_way_to_number_the_cubes_gives_what_the_renumbered_observation_gives():
    obs = observations()
    scaler = fitted(obs)
    exchange = Exchange.of(SortingBatch.geometry.alike, scaler)
    assert len(exchange.index) == 4
    scaled = scaler.scale_obs(torch.from_numpy(obs).float())
    red, blue = [7, 8, 9, 4, 5, 6], [13, 14, 15, 10, 11, 12]
    orders = [[*range(4), *r, *b] for r in ([*range(4, 10)], red) for b in ([*range(10, 16)], blue)]
    found = [
        scaled[:, index] * f + o for index, f, o in zip(exchange.index, exchange.factor, exchange.offset, strict=True)
    ]
    for order in orders:
        wanted = scaler.scale_obs(torch.from_numpy(obs[:, order]).float())
        assert sum(torch.allclose(wanted, way, atol=1e-4) for way in found) == 1


def test_a_sample_keeps_its_way_along_its_history_and_its_padding():
    obs = observations(10)
    scaler = fitted(observations())
    scaled = scaler.scale_obs(torch.from_numpy(obs).float()).view(2, 5, -1)
    last = torch.tensor([4, 1])
    scaled = scaled * (torch.arange(5) <= last[:, None])[..., None]
    exchange = Exchange.of(SortingBatch.geometry.alike, scaler)
    ways = set()
    for seed in range(20):
        moved = exchange.draw(scaled, last, torch.Generator().manual_seed(seed))
        assert not moved[1, 2:].any()
        options = [
            k for k in range(4)
            if torch.allclose(moved[0], scaled[0][:, exchange.index[k]] * exchange.factor[k] + exchange.offset[k], atol=1e-5)
        ]  # fmt: skip
        assert len(options) == 1
        ways.add(options[0])
    assert ways == {0, 1, 2, 3}


def test_the_relations_of_an_arm_have_names_too():
    scaler = Scaler.fit(*[np.random.default_rng(1).normal(size=(50, d)) for d in (20, 8)], None, StackingBatch.geometry)
    assert scaler.relations is not None
    assert len(scaler.relations.names()) == len(set(scaler.relations.names())) == scaler.added
    assert scaler.moved(list(range(20))) == list(range(20 + scaler.added))


def test_what_is_not_alike_is_refused():
    scaler = Scaler.fit(
        np.random.default_rng(0).normal(size=(50, 6)), np.ones((50, 2)), None, Geometry(((0, 2),), 0.02)
    )
    with pytest.raises(UserError, match=r"values \(0, 2\) have no equal"):
        Exchange.of((((2,), (3,)),), scaler)
    with pytest.raises(UserError, match="set it to false"):
        Exchange.of((), scaler)


def test_tasks_with_goals_are_refused():
    with pytest.raises(UserError, match="set exchange = false"):
        exchange_of({"task": "kitchen", "task_block": {"goal_tokens": 2}}, fitted(observations()))


def test_a_cell_of_sorting_trains_with_it():
    """Its task asks for it, in every budget but the published one."""
    suites = load_suites()
    for budget in suites.budgets:
        config = resolve(suites, "sorting", "beso", budget)
        assert config["train"]["exchange"] == (budget != "paper")
        assert (
            len(exchange_of({"task": "sorting", "task_block": suites.tasks["sorting"]}, fitted(observations())).index)
            == 4
        )


@pytest.mark.parametrize("exchange", [False, True])
def test_training_draws_the_ways_and_without_them_the_random_numbers_of_before(exchange):
    rows = observations(300)
    scaler = fitted(rows)
    shape = Shape(16, 2)
    obs = scaler.scale_obs(torch.from_numpy(rows[: 60 * GPT.window]).float()).view(60, GPT.window, -1)
    data = Windows(obs, torch.full((60,), GPT.window - 1), torch.from_numpy(rows[:60, :2]).float())
    config = train_config("beso", exchange=exchange, obs_noise=0.1)
    ways = Exchange.of(SortingBatch.geometry.alike, scaler)
    method = assemble("beso", GPT, shape, scaler, None)
    run = Trainer(method.train(), data, data, config, 3, ways if exchange else None)
    drawn = torch.Generator()
    drawn.set_state(run.indices.get_state())
    run.iterate()
    batch = data.batch(torch.randint(60, (config.batch,), generator=drawn))
    if exchange:
        batch = replace(batch, obs=ways.draw(batch.obs, batch.last, drawn))
    augment(batch, config, drawn)
    assert torch.equal(run.indices.get_state(), drawn.get_state())
