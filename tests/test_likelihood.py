"""Densities: mixtures in closed form, teachers by their probability flow against teachers whose density is known."""

import json
import math

import numpy as np
import pytest
import torch
from test_method_math import MEAN, SD, GaussianBeso
from torch import Tensor, distributions

from harness.errors import UserError
from harness.likelihood import likelihood
from harness.windows import spread
from methods import flow
from methods.base import Batch
from methods.policy import Policy
from tests.method_cases import GPT, SHAPE, build, windows

CENTRES, SPREAD = torch.tensor([[-1.5, 0.2], [0.5, -1.2], [1.0, 1.0]]), 0.3  # centred, as scaled actions are


class FractionalDdpm(GaussianBeso):
    """The exact noise estimate for N(MEAN, SD^2), at fractional steps too."""

    def forward(self, x: Tensor, level: Tensor, context, last) -> Tensor:
        nodes = self.beso[0].log_sigmas()
        below = level.floor().long().clamp(max=len(nodes) - 2)
        sigma = (nodes[below] + (level - below) * (nodes[below + 1] - nodes[below])).exp()[..., None]
        bar = 1 / (1 + sigma**2)
        return (1 - bar).sqrt() * (x - bar.sqrt() * MEAN) / (bar * SD**2 + 1 - bar)


class MixtureBeso(GaussianBeso):
    """The network that makes BESO's denoiser exact for three equal Gaussians."""

    def forward(self, scaled: Tensor, level: Tensor, context, last) -> Tensor:
        c_skip, c_out, c_in = self.beso[0].scalings(level[..., None])
        x, var = (scaled / c_in)[..., None, :], level[..., None, None] ** 2  # (B, M, 1, A)
        share = torch.softmax(-0.5 * ((x - CENTRES) ** 2).sum(-1) / (SPREAD**2 + var[..., 0]), -1)[..., None]
        denoised = (share * (SPREAD**2 * x + var * CENTRES) / (SPREAD**2 + var)).sum(-2)
        return (denoised - c_skip * scaled / c_in) / c_out


def exact_teacher(name, network, **hyper):
    teacher = build(name, **hyper)
    teacher.net = network(teacher)
    teacher.scaler.act_low.fill_(-10)
    teacher.scaler.act_high.fill_(10)
    return teacher


def batch_of(action: Tensor) -> Batch:
    w = windows(len(action))
    return Batch(w.obs, w.last, action)


def gaussian_actions(n: int = 64) -> Tensor:
    return MEAN + 2 * SD * torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def smoothed_mixture(sigma: float) -> distributions.Distribution:
    sd = torch.full((3, 2), math.hypot(SPREAD, sigma))
    experts = distributions.Independent(distributions.Normal(CENTRES, sd), 1)
    return distributions.MixtureSameFamily(distributions.Categorical(torch.ones(3)), experts)


@pytest.mark.parametrize(
    "name, network, hyper",
    [
        ("beso", GaussianBeso, {}),
        ("beso", GaussianBeso, {"sigma_max": 50.0}),
        ("ddpm", FractionalDdpm, {}),
        ("ddpm", FractionalDdpm, {"timesteps": 16}),
    ],
)
def test_flow_of_a_gaussian_carries_the_prior_exactly(name, network, hyper):
    """The flow of N(MEAN, SD^2) is affine, so the density that it makes of any Gaussian prior is known."""
    teacher, actions = exact_teacher(name, network, **hyper), gaussian_actions()
    low, high = teacher.flow_range()
    shrink = math.sqrt((SD**2 + low**2) / (SD**2 + high**2))
    carried = distributions.Normal(MEAN * (1 - shrink), shrink * math.sqrt(high**2 + 1)).log_prob(actions).sum(-1)
    found = flow.log_prob(teacher, batch_of(actions), prior_samples=0)
    torch.testing.assert_close(found, carried, atol=2e-3, rtol=0)
    # the Jacobian is a multiple of the identity, of which even one random direction sees the exact trace
    torch.testing.assert_close(flow.log_prob(teacher, batch_of(actions), prior_samples=0, probes=1), found)


def test_vp_needs_no_samples_for_its_prior():
    teacher = exact_teacher("ddpm", FractionalDdpm)
    low, high = teacher.flow_range()
    assert high > flow.WIDE
    actions = distributions.Normal(MEAN, math.hypot(SD, low)).sample((500,))
    truth = distributions.Normal(MEAN, math.hypot(SD, low)).log_prob(actions).sum(-1)
    found = flow.log_prob(teacher, batch_of(actions))
    assert found.mean().item() == pytest.approx(truth.mean().item(), abs=1e-2)


@pytest.mark.parametrize("probes", [0, 16])
def test_flow_of_a_mixture_of_gaussians(probes):
    """A wide largest sigma, where the prior is known: nothing remains but the integral."""
    teacher = exact_teacher("beso", MixtureBeso, sigma_min=0.1, sigma_max=80.0)
    truth = smoothed_mixture(0.1)
    torch.manual_seed(0)
    actions = truth.sample((200,))
    found = flow.log_prob(teacher, batch_of(actions), steps=48, probes=probes)
    error = (found - truth.log_prob(actions)).abs()
    assert error.max() < (1.0 if probes else 1e-2) and error.mean() < (0.2 if probes else 1e-2)


def test_prior_from_samples_where_the_largest_sigma_is_small():
    """sigma_max = 1, as Table 4 has it: the teacher's own samples give the prior, a Gaussian does not."""
    teacher = exact_teacher("beso", GaussianBeso, sigma_min=0.1, sigma_max=1.0)
    truth = distributions.Normal(MEAN, math.hypot(SD, 0.1))
    torch.manual_seed(0)
    batch = batch_of(truth.sample((300,)))
    expected = truth.log_prob(batch.action).sum(-1).mean().item()
    lost = {k: expected - flow.log_prob(teacher, batch, prior_samples=k).mean().item() for k in (0, 16, 256)}
    assert lost[256] < lost[16] < 0.15 < 0.4 < lost[0]


def test_one_step_policies_follow_no_flow():
    for teacher in (build("beso", sampling_steps=1), build("ddpm", sampling="one_step_x0")):
        assert teacher.flow_range() is None
        assert likelihood(teacher, windows(4), 0) == (None, None)
        with pytest.raises(ValueError, match="does not follow"):
            flow.log_prob(teacher, batch_of(torch.zeros(4, 2)))


def test_ddpm_levels_are_the_trained_ones_at_their_sigmas():
    ddpm = build("ddpm")
    level = ddpm.level_of(ddpm.log_sigmas().exp()[:, None])
    torch.testing.assert_close(level[:, 0], torch.arange(len(level)).float(), atol=1e-4, rtol=0)
    between = ddpm.level_of(torch.tensor([[0.3]])).item()
    assert 0 < between < 1


@pytest.mark.parametrize("name, kind", [
    ("beso", "flow"), ("ddpm", "flow"), ("mode", "flow"),
    ("vdd_ve", "exact"), ("em", "exact"), ("imc", "exact"), ("cd", None), ("ctm", None),
])  # fmt: skip
def test_likelihood_of_a_method(name, kind):
    method, data = build(name), windows(20)
    found, pace = likelihood(method, data, 3)
    if kind is None:
        assert found is None and pace is None
        return
    assert found.keys() == {"nats_per_action", "rows", "kind"} and found["kind"] == kind and found["rows"] == 20
    assert math.isfinite(found["nats_per_action"]) and pace > 0
    assert likelihood(method, data, 3)[0] == found
    assert likelihood(method, data, 3, rows=5)[0]["rows"] == 5
    json.dumps(found)


def test_likelihood_is_in_the_units_of_the_actions():
    """Actions in millimetres instead of metres: the density falls by a thousand a dimension."""
    method, data = build("vdd_ve"), windows(20)
    metres, _ = likelihood(method, data, 0)
    method.scaler.act_std.mul_(1000)
    millimetres, _ = likelihood(method, data, 0)
    difference = metres["nats_per_action"] - millimetres["nats_per_action"]
    assert difference == pytest.approx(SHAPE.act * math.log(1000), abs=1e-4)


def test_a_policys_density_integrates_to_one():
    """Over unscaled actions; and it is the density of its own gating and experts."""
    method = build("vdd_ve")
    policy, rng = Policy(method), np.random.default_rng(0)
    history = rng.normal(size=(1, 2, SHAPE.obs)).astype(np.float32)
    std, mean = method.scaler.act_std.numpy(), method.scaler.act_mean.numpy()
    grid = [np.linspace(m - 12 * s, m + 12 * s, 201, dtype=np.float32) for m, s in zip(mean, std, strict=True)]
    actions = np.stack(np.meshgrid(*grid), -1).reshape(-1, 2)
    density = np.exp(policy.log_prob(actions, history.repeat(len(actions), 0)))
    cell = (grid[0][1] - grid[0][0]) * (grid[1][1] - grid[1][0])
    assert density.sum() * cell == pytest.approx(1, abs=1e-3)
    gating, means = policy.gating(history), policy.expert_means(history)
    assert gating.shape == (1, method.config.components) and gating.sum() == pytest.approx(1, abs=1e-5)
    assert means.shape == (1, method.config.components, SHAPE.act)
    first_moment = (density[:, None] * actions).sum(0) * cell
    np.testing.assert_allclose(first_moment, (gating[..., None] * means).sum(1)[0], atol=1e-2)


def test_policies_without_a_density_say_so():
    history = np.zeros((1, 1, SHAPE.obs), np.float32)
    with pytest.raises(UserError, match="no mixture"):
        Policy(build("beso")).gating(history)
    with pytest.raises(UserError, match="histories must have shape"):
        Policy(build("vdd_ve")).gating(np.zeros((1, GPT.window + 1, SHAPE.obs), np.float32))


def test_spread_is_even_and_keeps_what_is_few():
    data = windows(10)
    assert spread(data, 10) is data
    torch.testing.assert_close(spread(data, 5).action, data.action[::2])
