"""DDPM: a variance-preserving diffusion policy. The paper's VP teacher.

Ho et al. (2020); cosine schedule of Nichol and Dhariwal (2021). Reference: the `ddpm_transformer` agent of D3IL.
Levels are 0-based steps t = 0 ... T - 1, as in the reference: t = 0 is the least noise.

Differences from the reference:
1. Attention as in `methods/_transformer.py`: the newest action is sampled given the states, where the reference denoises the
   window's actions jointly from noise and keeps the last.
2. Sampling reads the averaged weights once, when the policy is loaded; the reference copies them at every call.
3. Training samples, dropout and optimiser as in `methods/beso.py`, differences 3 and 4.
4. The window is 5 on every task, as the paper says; some D3IL scripts use 1 for DDPM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods._transformer import KV, DenoisingTransformer, GPTConfig
from methods.base import Batch, Shape, Teacher, split_noise
from methods.scaler import Scaler


@dataclass(frozen=True)
class DdpmConfig:
    """timesteps = steps of the forward process; sampling = "ancestral" (all steps) or "one_step_x0" (VP-1, see `act`);
    draws = noised actions a window in training.
    """

    timesteps: int
    sampling: str
    draws: int

    def __post_init__(self) -> None:
        if self.sampling not in ("ancestral", "one_step_x0"):
            raise ValueError(f"sampling must be 'ancestral' or 'one_step_x0', got {self.sampling!r}")


class TimeToken(nn.Module):
    """Step (B,) -> token (B, E): sinusoidal features, then Linear - Mish - Linear, as the reference."""

    def __init__(self, embed: int):
        super().__init__()
        self.embed = embed
        self.mlp = nn.Sequential(nn.Linear(embed, 2 * embed), nn.Mish(), nn.Linear(2 * embed, embed))

    def forward(self, t: Tensor) -> Tensor:
        half = self.embed // 2
        rate = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
        angle = t[:, None].float() * rate
        return self.mlp(torch.cat([angle.sin(), angle.cos()], -1))


def cosine_alphas_bar(timesteps: int, s: float = 0.008) -> Tensor:
    """alpha_bar_t for t = 0 ... T - 1, by the reference's variant of the cosine schedule; betas clipped to 0.999."""
    x = torch.linspace(0, timesteps + 1, timesteps + 1, dtype=torch.float64)
    bar = torch.cos(((x / (timesteps + 1)) + s) / (1 + s) * math.pi / 2) ** 2
    betas = (1 - bar[1:] / bar[:-1]).clamp(0, 0.999)
    return torch.cumprod(1 - betas, 0)


class Ddpm(Teacher):
    """VP diffusion policy that predicts the noise."""

    Config = DdpmConfig
    config: DdpmConfig
    alphas_bar: Tensor

    def __init__(self, config: DdpmConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: None = None):
        super().__init__(config, shape, gpt, scaler)
        self.net = DenoisingTransformer(gpt, self.obs_width, shape.act, TimeToken(gpt.embed), shape.goal)
        self.register_buffer("alphas_bar", cosine_alphas_bar(config.timesteps).float(), persistent=False)

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """mean |eps - eps_hat|^2 over M draws a window, t ~ U{0 ... T - 1}."""
        action = batch.action[:, None].expand(-1, self.config.draws, -1)  # (B, M, A)
        t = torch.randint(self.config.timesteps, action.shape[:2], device=action.device)
        bar = self.alphas_bar[t][..., None]
        eps = torch.randn_like(action)
        noised = bar.sqrt() * action + (1 - bar).sqrt() * eps
        context = self.encode(batch.obs, batch.goal)
        return (self.noise_estimate(noised, t, context, batch.last) - eps).square().mean(), {}

    def encode(self, obs: Tensor, goal: Tensor | None = None) -> KV:
        return self.net.encode(obs, goal)

    def noise_estimate(self, noised: Tensor, t: Tensor, context: KV, last: Tensor) -> Tensor:
        """eps_hat (B, M, A) for noised (B, M, A), t (B or 1, M or 1)."""
        return self.net(noised, self.net.encode_level(t), context, last).float()

    def score(self, noised: Tensor, level: Tensor, context: KV, last: Tensor) -> Tensor:
        """-eps_hat / sqrt(1 - alpha_bar_t)."""
        sd = (1 - self.alphas_bar[level.long()]).sqrt()[..., None]
        return -self.noise_estimate(noised, level, context, last) / sd

    def log_sigmas(self) -> Tensor:
        """ln sigma_t of the equivalent VE process, sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t), rising: (T,)."""
        return 0.5 * torch.log((1 - self.alphas_bar) / self.alphas_bar)

    def level_of(self, sigma: Tensor) -> Tensor:
        """Fractional step t at which the process has sigma: ln sigma is interpolated between the trained steps."""
        nodes = self.log_sigmas()
        wanted = sigma.log()
        index = torch.searchsorted(nodes, wanted.contiguous()).clamp(1, len(nodes) - 1)
        low, high = nodes[index - 1], nodes[index]
        return index - 1 + ((wanted - low) / (high - low)).clamp(0, 1)

    def denoise(self, noised: Tensor, sigma: Tensor, context: KV, last: Tensor) -> Tensor:
        """x - sigma eps_hat(sqrt(alpha_bar) x, t): the VE form x = a + sigma n of this teacher, at any sigma."""
        sd = sigma[..., None]
        return noised - sd * self.noise_estimate(noised / (1 + sd**2).sqrt(), self.level_of(sigma), context, last)

    def flow_range(self) -> tuple[float, float] | None:
        """From the least to the most noise of the process; None for VP-1, whose actions do not follow the flow."""
        if self.config.sampling != "ancestral" or self.config.timesteps < 2:
            return None
        low, high = self.log_sigmas()[[0, -1]].exp().tolist()
        return low, high

    def draw_level(self, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(int(low), int(high) + 1, shape, device=self.alphas_bar.device)

    def signal_scale(self, level: Tensor) -> Tensor:
        return self.alphas_bar[level.long()].sqrt()

    def encoder_state(self) -> dict[str, Tensor]:
        return self.net.encoder_state()

    @property
    def noise_dim(self) -> int:
        return self.shape.act * (self.config.timesteps if self.config.sampling == "ancestral" else 1)

    def predict_clean(self, x: Tensor, t: int, context: KV, last: Tensor) -> Tensor:
        """x_0 estimate at step t, clamped to the data's action bounds; (n, A)."""
        bar = self.alphas_bar[t]
        eps = self.noise_estimate(x[:, None], torch.full((1, 1), t, device=x.device), context, last)[:, 0]
        return ((x - (1 - bar).sqrt() * eps) / bar.sqrt()).clamp(self.action_low, self.action_high)

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """Ancestral sampling with the fixed posterior variance; `one_step_x0`: the x_0 estimate from pure noise (VP-1)."""
        context = self.encode(obs, goal)
        noises = split_noise(noise, self.shape.act)
        x = noises[0]
        steps = self.config.timesteps
        if self.config.sampling == "one_step_x0":
            return self.predict_clean(x, steps - 1, context, last)
        for i, t in enumerate(reversed(range(steps))):
            clean = self.predict_clean(x, t, context, last)
            if t == 0:
                return clean  # the posterior at t = 0 is a point on x_0
            bar, before = self.alphas_bar[t], self.alphas_bar[t - 1]
            beta = 1 - bar / before
            mean = before.sqrt() * beta / (1 - bar) * clean + (1 - beta).sqrt() * (1 - before) / (1 - bar) * x
            x = mean + (beta * (1 - before) / (1 - bar)).sqrt() * noises[i + 1]
        raise AssertionError("unreachable: timesteps >= 1")
