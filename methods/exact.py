"""`exact`: the closed-form teacher of the task `toy`, equal Gaussians on a circle; nothing is learned.

VDD paper, Figure 2. The score of the noised density is that of the same mixture with variances std^2 + sigma^2; sigma may be 0.

Shapes: B windows, M samples a window, K modes, A = 2 action values, n environments.

Differences from the reference (the toy of intuitive-robots/vdd):
1. The score is evaluated once for each sample; there every sample's log-density is broadcast against the whole batch, which is
   right and costs the batch size over again.
2. Scaled coordinates, as for every other teacher; noise levels are in their units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from methods._mixture import Mixture, choose
from methods._transformer import KV, GPTConfig
from methods.base import Batch, Phase, Shape, Teacher
from methods.scaler import Scaler


@dataclass(frozen=True)
class ExactConfig:
    """modes Gaussians of standard deviation `std` on a circle of radius `radius`, in unscaled actions (`envs/toy.py`)."""

    modes: int
    radius: float
    std: float


class Exact(Teacher):
    """The density, its smoothed score, and samples."""

    Config = ExactConfig
    config: ExactConfig

    def __init__(self, config: ExactConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: None = None):
        super().__init__(config, shape, gpt, scaler)
        if shape.act != 2:
            raise ValueError(f"the exact teacher exists for the 2-dimensional toy alone, got {shape.act} action values")

    @property
    def phases(self) -> tuple[Phase, ...]:
        return ()

    def density(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Means (K, A) and variances (..., A) of the scaled modes under noise sigma (...)."""
        c = self.config
        angle = torch.arange(c.modes, device=sigma.device) * (2 * math.pi / c.modes)
        means = self.scaler.scale_act(c.radius * torch.stack([angle.cos(), angle.sin()], -1))
        return means, (c.std / self.scaler.act_std) ** 2 + sigma[..., None] ** 2

    def mixture(self, obs: Tensor, last: Tensor, goal: Tensor | None = None) -> Mixture:
        """The density itself, the same in every state."""
        b, k = obs.shape[0], self.config.modes
        means, var = self.density(obs.new_zeros(()))
        log_gating = obs.new_full((b, k), -math.log(k))
        return Mixture(log_gating, means.expand(b, k, -1), var.sqrt().expand(b, k, -1))

    def encode(self, obs: Tensor, goal: Tensor | None = None) -> KV:
        return []

    def score(self, noised: Tensor, level: Tensor, context: KV, last: Tensor) -> Tensor:
        """sum_k r_k(a) (mean_k - a) / var for (B, M, A), at levels (B, 1) or (B, M)."""
        means, var = self.density(level)  # (K, A), (B, 1 or M, A)
        away = (means - noised[..., None, :]) / var[..., None, :]  # (B, M, K, A)
        weight = torch.softmax(-0.5 * (away * away * var[..., None, :]).sum(-1), -1)  # equal variances: no determinant
        return (weight[..., None] * away).sum(-2)

    def draw_level(self, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
        return low + (high - low) * torch.rand(shape, device=self.scaler.act_low.device)

    def signal_scale(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)

    def encoder_state(self) -> dict[str, Tensor]:
        raise RuntimeError("the exact teacher has no network to start a student from: set warm_start = false")

    def validation_loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of held-out actions in nats per scaled action: the floor of every method on this task."""
        return -self.mixture(batch.obs, batch.last).log_prob(batch.action).mean()

    @property
    def noise_dim(self) -> int:
        return self.shape.act

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """A sample of the density."""
        mixture = self.mixture(obs, last)
        index = choose(mixture.log_gating, uniform)[:, None, None].expand(-1, 1, self.shape.act)
        return mixture.mean.gather(1, index)[:, 0] + mixture.std[:, 0] * noise
