"""The toy of Figure 2: density, score, environment, teacher, and VDD on it."""

import gymnasium
import numpy as np
import pytest
import torch

import envs  # noqa: F401 (registers)
from envs import toy
from envs.demonstrators import toy as demonstrator
from harness.distribution import FirstAction
from harness.errors import UserError
from harness.figures.toy import build
from harness.plan import Data, Request
from harness.plan import build as build_plan
from harness.registry import load_suites
from harness.train import Trainer
from harness.windows import Windows
from methods.scaler import Scaler

SUITES = load_suites()


def scaler() -> Scaler:
    return Scaler(
        torch.zeros(1), torch.ones(1), torch.tensor([0.1, 0.0]), torch.tensor([1.5, 1.4]), torch.full((2,), -3.0),
        torch.full((2,), 3.0),
    )  # fmt: skip


def samples(count: int, scaled_by: Scaler) -> Windows:
    points = torch.from_numpy(toy.sample(np.random.default_rng(1), count)[0]).float()
    return Windows(torch.zeros(count, 1, 1), torch.zeros(count, dtype=torch.long), scaled_by.scale_act(points))


def test_density_is_normalised_and_score_is_its_gradient():
    line = np.linspace(-5, 5, 400)
    grid = np.stack([g.ravel() for g in np.meshgrid(line, line)], 1)
    assert np.exp(toy.log_density(grid)).sum() * (line[1] - line[0]) ** 2 == pytest.approx(1, abs=1e-4)
    points, step = np.random.default_rng(0).normal(0, 2, (50, 2)), 1e-5
    for i, unit in enumerate(np.eye(2)):
        slope = (toy.log_density(points + step * unit) - toy.log_density(points - step * unit)) / (2 * step)
        np.testing.assert_allclose(toy.score(points)[:, i], slope, atol=1e-5)


def test_exact_teacher_is_the_environments_density():
    own = scaler()
    method, _ = build(SUITES, "exact", own)
    points = np.random.default_rng(0).normal(0, 2, (50, 2))
    first = FirstAction(method, np.zeros(1, np.float32))
    np.testing.assert_allclose(first.log_prob(points), toy.log_density(points), atol=1e-3)
    scaled = own.scale_act(torch.from_numpy(points).float())[None]
    score = method.score(scaled, torch.zeros(1, 1), [], torch.zeros(1).long())[0]
    np.testing.assert_allclose(score, toy.score(points) * own.act_std.numpy(), rtol=1e-3, atol=1e-3)
    metrics = toy.ToyBatch.extra_metrics(first)
    assert metrics["modes_covered"] == 8
    assert abs(metrics["kl_reverse"]) < 1e-3 and abs(metrics["kl_forward"]) < 1e-3


def test_environment_judges_points():
    env = toy.ToyBatch(3)
    with pytest.raises(UserError, match="before reset"):
        env.step(np.zeros((3, 2)))
    obs = env.reset(seeds=[0, 1, 2])
    assert obs.shape == (3, 1) and obs.dtype == np.float32 and env.active.all()
    _, reward, terminated, truncated, info = env.step(np.array([[2.0, 0.1], [0.0, 0.0], [0.0, -2.9]]))
    assert info["success"].tolist() == [True, False, True] and reward.tolist() == [1, 0, 1]
    assert [env.mode_name(m) for m in info["mode"]][::2] == ["0", "6"]
    assert terminated.all() and not truncated.any() and not env.active.any()
    with pytest.raises(UserError, match="shape"):
        env.step(np.zeros((3, 3)))


def test_gymnasium_interface():
    env = gymnasium.make("vdd/Toy-v0")
    env.reset(seed=0)
    assert env.step(np.array([2.0, 0.0]))[1:4] == (1.0, True, False)


def test_demonstrations_repeat_and_cover_all_modes():
    first, second = demonstrator.generate(3), demonstrator.generate(3)
    assert len(first) == demonstrator.COUNT and len({e.mode for e in first}) == 8
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(first, second, strict=True))


def test_exact_is_for_the_toy_alone(tmp_path):
    request = Request(["avoiding"], ["exact"], [0], "smoke", {}, tmp_path)
    with pytest.raises(UserError, match="exact exists for toy alone"):
        build_plan(SUITES, request, {"avoiding": Data("scripted", "i")}, 1)


def trained(name, seed, steps=None, **hyper):
    """A method of the toy after its training, or `steps` of it."""
    own = scaler()
    torch.manual_seed(seed)
    teacher = build(SUITES, "exact", own)[0] if name == "vdd_ve" else None
    method, config = build(SUITES, name, own, teacher, **hyper)
    run = Trainer(method.train(), samples(4000, own), samples(8, own), config, seed)
    for _ in range(steps or config.steps):
        run.iterate()
    return method.eval()


@pytest.mark.parametrize("seed, learned", [(0, True), (1, False)])  # with wide or early starts these lose modes
def test_vdd_covers_all_modes(seed, learned):
    method = trained("vdd_ve", seed, learn_gating=learned)
    metrics = toy.ToyBatch.extra_metrics(FirstAction(method, np.zeros(1, np.float32)))
    assert metrics["modes_covered"] == 8 and metrics["kl_reverse"] < 0.01


def test_imc_experts_concentrate_on_one_mode_where_ems_share_several():
    """Three experts for eight modes: the largest share that one mode has in what an expert learns from."""
    points, mode = toy.sample(np.random.default_rng(5), 2000)
    shares = {}
    for name in ("imc", "em"):
        method = trained(name, 0, steps=500, components=3)
        action = method.scaler.scale_act(torch.from_numpy(points).float())
        with torch.no_grad():
            mixture = method.mixture(torch.zeros(2000, 1, 1), torch.zeros(2000, dtype=torch.long))
            weight = (method.curricula if name == "imc" else method.e_step)(mixture, action)  # (N, Z)
        weight = (weight / weight.sum(0)).numpy()
        shares[name] = [np.bincount(mode, weights=w, minlength=8).max() for w in weight.T]
    assert min(shares["imc"]) > 0.6 and max(shares["em"]) < 0.5


def test_em_reaches_the_exact_density():
    method = trained("em", 0)
    metrics = toy.ToyBatch.extra_metrics(FirstAction(method, np.zeros(1, np.float32)))
    assert 0 < metrics["kl_forward"] < 0.02
