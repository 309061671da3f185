"""EM's bound and IMC's curricula against their definitions."""

import itertools

import torch

from methods._mixture import Mixture
from methods.base import Batch
from tests.method_cases import build, windows


def fixed_batch(n: int = 64) -> Batch:
    data = windows(n)
    return Batch(data.obs.double(), data.last, data.action.double())


def test_em_gradient_of_the_bound_is_that_of_the_likelihood():
    method, batch = build("em", components=5).double(), fixed_batch()
    method.loss(batch, "train")[0].backward()
    bound = [p.grad.clone() for p in method.parameters()]
    method.zero_grad()
    (-method.mixture(batch.obs, batch.last).log_prob(batch.action).mean()).backward()
    for a, p in zip(bound, method.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-8, atol=1e-12)


def test_em_bound_never_decreases_on_a_fixed_batch():
    method, batch = build("em", components=5).double().eval(), fixed_batch()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    values = []
    for _ in range(40):
        values.append(method.validation_loss(batch).item())
        optimizer.zero_grad()
        method.loss(batch, "train")[0].backward()
        optimizer.step()
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_em_responsibilities_sum_to_one_far_away():
    method = build("em", components=5)
    mixture = Mixture(torch.full((1, 3), 1 / 3).log(), torch.randn(1, 3, 9), torch.full((1, 3, 9), 0.1))
    r = method.e_step(mixture, torch.full((1, 9), 50.0))
    assert torch.isfinite(r).all() and r.sum().item() == 1.0


def test_imc_curricula_are_distributions_over_the_samples():
    method, batch = build("imc"), fixed_batch()
    method = method.double()
    p = method.curricula(method.mixture(batch.obs, batch.last), batch.action)
    assert p.shape == (64, 8) and (p >= 0).all()
    torch.testing.assert_close(p.sum(0), torch.ones(8).double())


def objective(p: torch.Tensor, reward: torch.Tensor) -> float:
    """E_p(z) E_p(n|z) [R / eta] + H(p(n)) with p(z) = 1 / Z, for curricula p and rewards R / eta, both (B, Z)."""
    used = p.mean(1)
    return ((p * reward).sum(0).mean() - torch.xlogy(used, used).sum()).item()


def test_imc_first_curriculum_is_the_closed_form():
    method = build("imc", components=2, eta=2.0, curriculum_steps=1)
    action = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    mean = torch.tensor([[0.0, 0.0], [0.5, 1.0]]).expand(3, 2, 2)
    mixture = Mixture(torch.tensor([0.3, 0.7]).log().expand(3, 2), mean, torch.full((3, 2, 2), 0.5))
    weight = torch.exp(-((action[:, None] - mean) ** 2).sum(-1) / 0.5) ** 0.5  # density to the power 1 / eta
    torch.testing.assert_close(method.curricula(mixture, action), weight / weight.sum(0), rtol=1e-4, atol=1e-6)


def test_imc_each_tightening_raises_the_objective():
    batch = fixed_batch()
    methods = [build("imc", curriculum_steps=steps, std=0.5).double() for steps in (1, 2, 3, 5, 10, 40)]
    mixture = methods[0].mixture(batch.obs, batch.last)
    reward = mixture.expert_log_prob(batch.action) / methods[0].config.eta
    values = [objective(m.curricula(mixture, batch.action), reward) for m in methods]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values)) and values[-1] > values[0]


def test_imc_a_large_eta_uses_all_samples_a_small_one_few():
    batch = fixed_batch()
    used = {}
    for eta in (0.1, 100.0):
        method = build("imc", eta=eta).double()
        used[eta] = method.loss(batch, "train")[1]["samples_used"].item()
    assert used[0.1] < used[100.0] <= 1.0
