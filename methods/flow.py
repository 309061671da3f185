"""Log-density of a diffusion teacher by its probability flow: no mixture, so an integral instead of a formula.

Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations* (2021), section 4.3 and appendix D.2;
the flow in the form of Karras et al. (2022), Eq. 4, dx / dlambda = x - D(x; sigma) with lambda = ln sigma. In the coordinate
y = x / r, r = sqrt(1 + sigma^2), which keeps its size (scaled actions have unit variance) and so allows long steps:

    dy / dlambda = y / r^2 - D(r y; sigma) / r,     d log p(y) / dlambda = -(A / r^2 - tr dD/dx)

followed from the action at the smallest sigma up to the largest, where the density is known well enough. The result is the
log-density of the policy smoothed by the smallest sigma. docs/likelihood.md has the approximations.

Shapes: B windows, K samples or probes a window, A action values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods._mixture import LOG_2PI
from methods._transformer import KV
from methods.base import Batch, Teacher

STEPS = 16  # of Runge-Kutta
WIDE = 10.0  # a largest sigma beyond this leaves nothing of the data (unit variance) but a variance


def log_prob(
    teacher: Teacher, batch: Batch, steps: int = STEPS, probes: int = 0, prior_samples: int = 16, seed: int = 0
) -> Tensor:
    """log p(action | states), nats per scaled action: (B,). What is random (the two below) comes from `seed`.

    steps = Runge-Kutta steps of equal length in ln sigma; probes = Hutchinson's, 0: the exact divergence (A backward
    passes); prior_samples = actions of the teacher that the density at the largest sigma is made of, 0: N(0, sigma^2 + 1).
    """
    levels = teacher.flow_range()
    if levels is None:
        raise ValueError(f"{type(teacher).__name__}, as configured, does not follow a probability flow")
    generator = torch.Generator().manual_seed(seed)
    b, a = batch.action.shape
    signs = torch.randint(2, (b, probes, a), generator=generator).to(batch.action) * 2 - 1  # Rademacher
    low, high = (math.log(sigma) for sigma in levels)
    with torch.no_grad():
        context = teacher.encode(batch.obs, batch.goal)
    y, step = batch.action / root(levels[0]), (high - low) / steps
    total = y.new_zeros(b)  # integral of the divergence

    def slope(y: Tensor, log_sigma: float) -> tuple[Tensor, Tensor]:
        return velocity(teacher, y, math.exp(log_sigma), context, batch.last, signs)

    for i in range(steps):
        at = low + i * step
        v1, d1 = slope(y, at)
        v2, d2 = slope(y + step / 2 * v1, at + step / 2)
        v3, d3 = slope(y + step / 2 * v2, at + step / 2)
        v4, d4 = slope(y + step * v3, at + step)
        y = y + step / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        total = total + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    volume = a * (math.log(root(levels[1])) - math.log(root(levels[0])))  # x -> y at either end
    return log_prior(teacher, batch, y * root(levels[1]), levels[1], prior_samples, generator) + total + volume


def root(sigma: float) -> float:
    """r = sqrt(1 + sigma^2)."""
    return math.sqrt(1 + sigma**2)


def velocity(
    teacher: Teacher, y: Tensor, sigma: float, context: KV, last: Tensor, signs: Tensor
) -> tuple[Tensor, Tensor]:
    """dy / dlambda (B, A) and its divergence (B,), exact without `signs` (B, K, A), else its estimate from them."""
    k, a = signs.shape[1:]
    r = root(sigma)
    with torch.enable_grad():
        x = (r * y).detach().requires_grad_(True)
        denoised = teacher.denoise(x[:, None], x.new_tensor([[sigma]]), context, last)[:, 0]  # (B, A)
        # windows do not see each other: the gradient of a sum over them holds each one's row of the Jacobian
        directions = signs.unbind(1) if k else torch.eye(a).to(x).unbind(0)
        rows = [torch.autograd.grad((denoised * e).sum(), x, retain_graph=True)[0] for e in directions]
    trace = torch.stack([(row * e).sum(-1) for row, e in zip(rows, directions, strict=True)]).sum(0) / max(k, 1)
    return y / r**2 - denoised.detach() / r, a / r**2 - trace


@torch.no_grad()
def log_prior(
    teacher: Teacher, batch: Batch, x: Tensor, sigma: float, samples: int, generator: torch.Generator
) -> Tensor:
    """Log-density (B,) at the largest sigma: mean of N(a_k, sigma^2) over the teacher's own samples, or N(0, sigma^2 + 1)."""
    b, a = x.shape
    if not samples or sigma > WIDE:
        variance = torch.tensor(sigma**2 + 1)
        return (-0.5 * (x**2 / variance + LOG_2PI + variance.log())).sum(-1)
    noise = torch.randn(b * samples, teacher.noise_dim, generator=generator).to(x)
    uniform = torch.rand(b * samples, generator=generator).to(x)
    obs, last = batch.obs.repeat_interleave(samples, 0), batch.last.repeat_interleave(samples, 0)
    goal = None if batch.goal is None else batch.goal.repeat_interleave(samples, 0)
    actions = teacher.act(obs, last, noise, uniform, goal).view(b, samples, a)  # (B, K, A)
    kernel = -0.5 * (((x[:, None] - actions) / sigma) ** 2 + LOG_2PI) - math.log(sigma)
    return torch.logsumexp(kernel.sum(-1), 1) - math.log(samples)
