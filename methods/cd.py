"""CD: consistency distillation of the VE teacher into a one-step policy.

Song et al., *Consistency Models* (2023), Algorithm 2; reference: openai/consistency_models (l2 distance, Heun teacher).
Boundary: f(x, sigma_min) = x by c_skip, c_out in sigma - sigma_min.

With N = 2 (Table 4) the grid is [sigma_max, sigma_min]: the target network is the identity, so CD is a regression onto one Heun
step of the teacher, and the target's average has no effect. That is what the paper's table ran, and what this runs by default.

Differences from the reference:
1. Adam with the suite's learning rate; the reference uses RAdam at 8e-6 on images.
2. Attention as in `methods/_transformer.py`; every position of a window is trained, as the teacher's.
3. The teacher's level token only knows [sigma_min, sigma_max], so the grid ends at the teacher's own sigma_min.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods._transformer import GPTConfig
from methods.base import Batch, Method, Shape
from methods.beso import Beso, BesoConfig
from methods.scaler import Scaler


@dataclass(frozen=True)
class CdConfig:
    """N = levels of the grid; rho of Karras' spacing; target_ema = decay of the target network."""

    N: int
    rho: float
    target_ema: float

    def __post_init__(self) -> None:
        if self.N < 2:
            raise ValueError(f"N must be at least 2 (two levels make one step), got {self.N}")


class Cd(Method):
    """One-step policy f(x, sigma) that starts from the teacher's weights."""

    Config = CdConfig
    config: CdConfig

    def __init__(self, config: CdConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: Beso):
        super().__init__(config, shape, gpt, scaler, teacher)
        self.levels = teacher.config
        self.net = copy.deepcopy(teacher.net).requires_grad_(True)
        self.target = copy.deepcopy(teacher.net).requires_grad_(False) if config.N > 2 else None

    def describe(self) -> dict[str, Any]:
        """The teacher's noise levels, which acting needs."""
        return {"levels": dataclasses.asdict(self.levels)}

    @classmethod
    def rebuild(
        cls, config: CdConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, description: dict[str, Any]
    ) -> Cd:
        return cls(config, shape, gpt, scaler, Beso(BesoConfig(**description["levels"]), shape, gpt, scaler))

    def grid(self) -> Tensor:
        """sigma_max = t_0 > ... > t_{N-1} = sigma_min, Karras' spacing; (N,)."""
        c, t = self.levels, torch.linspace(0, 1, self.config.N)
        r = 1 / self.config.rho
        return (c.sigma_max**r + t * (c.sigma_min**r - c.sigma_max**r)) ** self.config.rho

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in with f(x, sigma_min) = x."""
        s2, low = self.levels.sigma_data**2, self.levels.sigma_min
        c_skip = s2 / ((sigma - low) ** 2 + s2)
        c_out = (sigma - low) * math.sqrt(s2) / (sigma**2 + s2).sqrt()
        return c_skip, c_out, 1 / (sigma**2 + s2).sqrt()

    def consistency(self, net: nn.Module, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """f(x, sigma) at every position: x (B, T, A), sigma (B,)."""
        c_skip, c_out, c_in = self.scalings(sigma[:, None, None])
        return c_skip * x + c_out * net(c_in * x, sigma, batch.obs, batch.goal).float()

    def denoise(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """The teacher's D(x; sigma) at every position."""
        c_skip, c_out, c_in = self.teacher.scalings(sigma[:, None, None])
        return c_skip * x + c_out * self.teacher.net(c_in * x, sigma, batch.obs, batch.goal).float()

    def heun(self, x: Tensor, t: Tensor, u: Tensor, batch: Batch) -> Tensor:
        """One Heun step of the teacher's probability flow from level t to u; (B, T, A)."""
        step = (u - t)[:, None, None]
        d = (x - self.denoise(x, t, batch)) / t[:, None, None]
        euler = x + step * d
        corrected = (euler - self.denoise(euler, u, batch)) / u[:, None, None]
        return x + step * (d + corrected) / 2

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """|f(x_t, t) - f_target(x_u, u)|^2 with x_u one Heun step from x_t."""
        grid = self.grid().to(batch.obs.device)
        n = torch.randint(self.config.N - 1, (batch.obs.shape[0],), device=batch.obs.device)
        t, u = grid[n], grid[n + 1]
        x = batch.actions + t[:, None, None] * torch.randn_like(batch.actions)
        with torch.no_grad():
            y = self.heun(x, t, u, batch)
            if self.target is not None:
                y = self.consistency(self.target, y, u, batch)
        return (self.consistency(self.net, x, t, batch) - y).square().mean(), {}

    def after_step(self) -> None:
        """Move the target network's average."""
        if self.target is not None:
            pairs = list(self.target.parameters()), [p.detach() for p in self.net.parameters()]
            torch._foreach_lerp_(*pairs, 1 - self.config.target_ema)

    @property
    def noise_dim(self) -> int:
        return self.shape.act

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """f(sigma_max noise, sigma_max), clamped to the data's bounds as the teacher's actions."""
        sigma = obs.new_tensor([self.levels.sigma_max])
        c_skip, c_out, c_in = self.scalings(sigma[:, None, None])
        x = (self.levels.sigma_max * noise)[:, None]  # (n, 1, A)
        output = self.net.query(c_in * x, self.net.encode_level(sigma), self.net.encode(obs, goal), last)
        return (c_skip * x + c_out * output)[:, 0].clamp(self.scaler.act_low, self.scaler.act_high)
