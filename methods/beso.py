"""BESO: goal-conditioned imitation by a score-based (variance exploding) diffusion policy. The paper's VE teacher.

Reuss et al., *Goal-Conditioned Imitation Learning using Score-based Diffusion Policies* (RSS 2023); EDM preconditioning
and notation of Karras et al. (2022), Table 1. Reference: the BESO agent of D3IL.

Differences from the reference:
1. Attention: the noised action sees the level, the states and itself (`methods/_transformer.py`, with reasons). So only the
   newest action is sampled, where the reference re-denoises the whole window's actions.
2. Sampling reads the averaged weights once, when the policy is loaded; the reference copies them at every call.
3. Training: one sample is one demonstrated action with the history that the policy has when it acts (shorter than the window
   only at the start of an episode), noised `draws` times against one encoding of its states. The reference trains every
   position of full windows: four of five have a history cut in the middle of an episode, which acting never meets. The suite
   can cut histories (`history_cut`) and blurs observations (`obs_noise`, `history_noise`) instead; what each gained:
   docs/training.md.
4. No dropout (the reference: 0.2 on attention, 0.1 elsewhere); optimiser and learning rate as docs/training.md says.
5. Noise levels come from the closed form of the truncated log-logistic distribution, in float32.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods._mixture import OneStep
from methods._transformer import KV, DenoisingTransformer, GPTConfig
from methods.base import Batch, Shape, VeTeacher, split_noise
from methods.scaler import Scaler


@dataclass(frozen=True)
class BesoConfig:
    """sigma_* in units of scaled actions; sampling_steps = network evaluations an action; draws = noised actions a
    window in training."""

    sigma_data: float
    sigma_min: float
    sigma_max: float
    sampling_steps: int
    draws: int


class SigmaToken(nn.Module):
    """Noise level (B,) -> token (B, E): Linear(ln(sigma) / 4), as the reference."""

    def __init__(self, embed: int):
        super().__init__()
        self.linear = nn.Linear(1, embed)

    def forward(self, sigma: Tensor) -> Tensor:
        return self.linear(sigma.log()[:, None] / 4)


def edm_scalings(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in of EDM (Karras et al. 2022, Table 1)."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()


def log_logistic(shape: tuple[int, ...], low: float, high: float, sigma_data: float, device: torch.device) -> Tensor:
    """Log-logistic noise levels: location ln(sigma_data), scale 0.5, truncated to [low, high]."""
    loc, scale = math.log(sigma_data), 0.5
    first, last = (1 / (1 + math.exp(-(math.log(s) - loc) / scale)) for s in (low, high))
    u = first + (last - first) * torch.rand(shape, device=device)
    return torch.exp(loc + scale * torch.logit(u))


class Beso(VeTeacher):
    """VE diffusion policy with a denoiser D(a; sigma, s)."""

    Config = BesoConfig
    config: BesoConfig

    def __init__(self, config: BesoConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: None = None):
        super().__init__(config, shape, gpt, scaler)
        self.net = DenoisingTransformer(gpt, self.obs_width, shape.act, SigmaToken(gpt.embed), shape.goal)

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return edm_scalings(sigma, self.config.sigma_data)

    def training_sigmas(self, shape: tuple[int, ...]) -> Tensor:
        c = self.config
        return log_logistic(shape, c.sigma_min, c.sigma_max, c.sigma_data, self.scaler.act_low.device)

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM denoising loss of M draws a window: mean |F - (a - c_skip x) / c_out|^2."""
        action = batch.action[:, None].expand(-1, self.config.draws, -1)  # (B, M, A)
        sigma = self.training_sigmas(action.shape[:2])
        c_skip, c_out, c_in = self.scalings(sigma[..., None])
        noised = action + sigma[..., None] * torch.randn_like(action)
        output = self.net(c_in * noised, self.net.encode_level(sigma), self.encode(batch.obs, batch.goal), batch.last)
        return (output.float() - (action - c_skip * noised) / c_out).square().mean(), {}

    def denoise(self, noised: Tensor, sigma: Tensor, context: KV, last: Tensor) -> Tensor:
        """D(a; sigma, s) = c_skip a + c_out F(c_in a): (B, M, A) for noised (B, M, A), sigma (B or 1, M or 1)."""
        c_skip, c_out, c_in = self.scalings(sigma[..., None])
        output = self.net(c_in * noised, self.net.encode_level(sigma), context, last)
        return c_skip * noised + c_out * output.float()

    def one_step(self) -> OneStep:
        """D(0; sigma_max, s) = c_out F(0): how VE-1 acts, from the mean of its noise."""
        sigma = self.scaler.act_low.new_tensor([self.config.sigma_max])
        c_out = self.scalings(sigma)[1]
        net = self.net
        return OneStep(
            self.encoder_state(),
            net.act_embed.bias,
            net.level(sigma)[0],
            c_out * net.head.weight,
            c_out * net.head.bias,
        )

    @property
    def noise_dim(self) -> int:
        return self.shape.act * self.config.sampling_steps

    def schedule(self) -> list[float]:
        """Linear levels sigma_max ... sigma_min, then 0; with one step [sigma_max, 0]."""
        c = self.config
        return [*torch.linspace(c.sigma_max, c.sigma_min, c.sampling_steps).tolist(), 0.0]

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """Euler-ancestral sampling (eta = 1) from N(0, sigma_max^2)."""
        context = self.encode(obs, goal)
        noises = split_noise(noise, self.shape.act)
        sigmas = self.schedule()
        x = sigmas[0] * noises[0]  # (n, A)
        for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
            denoised = self.denoise(x[:, None], noise.new_tensor([[sigma]]), context, last)[:, 0]
            up = min(following, math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2))
            down = math.sqrt(following**2 - up**2)
            x = x + (x - denoised) / sigma * (down - sigma)
            if following > 0:
                x = x + up * noises[i + 1]
        return x.clamp(self.action_low, self.action_high)
