"""CD: consistency distillation of the VE teacher into a one-step policy.

Song et al., *Consistency Models* (2023), Algorithm 2; reference: openai/consistency_models (l2 distance, Heun teacher).
Boundary: f(x, sigma_min) = x by c_skip, c_out in sigma - sigma_min.

With N = 2 (Table 4) the grid is [sigma_max, sigma_min]: the target network is the identity, so CD is a regression onto one Heun
step of the teacher, and the target's average has no effect. That is what the paper's table ran, and what this runs by default.

Differences from the reference:
1. Adam with the suite's learning rate; the reference uses RAdam at 8e-6 on images.
2. Attention and training samples as the teacher's (`methods/beso.py`, differences 1 and 3).
3. The teacher's level token only knows [sigma_min, sigma_max], so the grid ends at the teacher's own sigma_min.
4. The target's average warms up, decay min(target_ema, (1 + n) / (10 + n)) at update n: with Table 4's 0.9999 a target would
   otherwise still be half the untrained student after a training of some thousand updates. No effect for N = 2.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods._transformer import KV, DenoisingTransformer, GPTConfig
from methods.base import Batch, Method, Shape, Teacher, move_average
from methods.beso import Beso, BesoConfig
from methods.scaler import Scaler


@dataclass(frozen=True)
class CdConfig:
    """N = levels of the grid; rho of Karras' spacing; target_ema = decay of the target network;
    draws = noised actions a window."""

    N: int
    rho: float
    target_ema: float
    draws: int

    def __post_init__(self) -> None:
        if self.N < 2:
            raise ValueError(f"N must be at least 2 (two levels make one step), got {self.N}")


def karras_grid(high: float, low: float, n: int, rho: float) -> Tensor:
    """high = t_0 > ... > t_{n-1} = low, evenly spaced in t^(1 / rho); (n,)."""
    r, position = 1 / rho, torch.linspace(0, 1, n)
    return (high**r + position * (low**r - high**r)) ** rho


def heun(teacher: Teacher, x: Tensor, t: Tensor, u: Tensor, context: KV, last: Tensor) -> Tensor:
    """One Heun step of a VE teacher's probability flow from level t to u, both (B, 1); x (B, M, A)."""
    denoise: Callable[..., Tensor] = teacher.denoise  # type: ignore[assignment]  # VE teachers have it
    step = (u - t)[..., None]
    d = (x - denoise(x, t, context, last)) / t[..., None]
    euler = x + step * d
    corrected = (euler - denoise(euler, u, context, last)) / u[..., None]
    return x + step * (d + corrected) / 2


class Cd(Method):
    """One-step policy f(x, sigma) that starts from the teacher's weights."""

    Config = CdConfig
    config: CdConfig
    net: DenoisingTransformer
    target: DenoisingTransformer | None
    updates: Tensor  # of the target's average

    def __init__(self, config: CdConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: Beso):
        super().__init__(config, shape, gpt, scaler, teacher)
        self.levels = teacher.config
        self.net = copy.deepcopy(teacher.net).requires_grad_(True)
        self.target = copy.deepcopy(teacher.net).requires_grad_(False) if config.N > 2 else None
        if self.target is not None:
            self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def describe(self) -> dict[str, Any]:
        """The teacher's noise levels, which acting needs."""
        return {"levels": dataclasses.asdict(self.levels)}

    @classmethod
    def rebuild(cls, config: CdConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, description: dict[str, Any]) -> Cd:
        return cls(config, shape, gpt, scaler, Beso(BesoConfig(**description["levels"]), shape, gpt, scaler))

    def grid(self) -> Tensor:
        """sigma_max = t_0 > ... > t_{N-1} = sigma_min, Karras' spacing; (N,)."""
        return karras_grid(self.levels.sigma_max, self.levels.sigma_min, self.config.N, self.config.rho)

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in with f(x, sigma_min) = x."""
        s2, low = self.levels.sigma_data**2, self.levels.sigma_min
        c_skip = s2 / ((sigma - low) ** 2 + s2)
        c_out = (sigma - low) * math.sqrt(s2) / (sigma**2 + s2).sqrt()
        return c_skip, c_out, 1 / (sigma**2 + s2).sqrt()

    def consistency(self, net: DenoisingTransformer, x: Tensor, sigma: Tensor, context: KV, last: Tensor) -> Tensor:
        """f(x, sigma): x (B, M, A), sigma (B or 1, 1)."""
        c_skip, c_out, c_in = self.scalings(sigma[..., None])
        return c_skip * x + c_out * net(c_in * x, net.encode_level(sigma), context, last).float()

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """|f(x_t, t) - f_target(x_u, u)|^2 with x_u one Heun step from x_t; M draws a window at one level."""
        grid = self.grid().to(batch.obs.device)
        n = torch.randint(self.config.N - 1, (batch.obs.shape[0], 1), device=batch.obs.device)
        t, u = grid[n], grid[n + 1]
        action = batch.action[:, None].expand(-1, self.config.draws, -1)  # (B, M, A)
        x = action + t[..., None] * torch.randn_like(action)
        with torch.no_grad():
            y = heun(self.get_teacher(), x, t, u, self.get_teacher().encode(batch.obs, batch.goal), batch.last)
            if self.target is not None:
                y = self.consistency(self.target, y, u, self.target.encode(batch.obs, batch.goal), batch.last)
        prediction = self.consistency(self.net, x, t, self.net.encode(batch.obs, batch.goal), batch.last)
        return (prediction - y).square().mean(), {}

    def after_step(self) -> None:
        """Move the target network's average."""
        if self.target is not None:
            move_average(self.target, self.net, self.config.target_ema, self.updates)

    @property
    def noise_dim(self) -> int:
        return self.shape.act

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """f(sigma_max noise, sigma_max), clamped to the data's bounds as the teacher's actions."""
        sigma = noise.new_tensor([[self.levels.sigma_max]])
        x = (self.levels.sigma_max * noise)[:, None]  # (n, 1, A)
        output = self.consistency(self.net, x, sigma, self.net.encode(obs, goal), last)[:, 0]
        return output.clamp(self.scaler.act_low, self.scaler.act_high)
