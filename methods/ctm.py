"""CTM: a consistency trajectory model of the VE teacher; acts in one step, or in several.

Kim et al., *Consistency Trajectory Models* (2024), as adapted by Prasad et al., *Consistency Policy* (2024): no adversarial
term. Reference: Aaditya-Prasad/consistency-policy. The student jumps along the teacher's probability flow from level t to any
lower level s (Kim et al., Eq. 4):

    G(x, t, s) = (s / t) x + (1 - s / t) g(x, t, s)          boundary: G(x, t, t) = x

Loss = CTM + DSM. CTM: G(x_t, t, s) and G_target(x_u, u, s), with x_u one Heun step of the teacher from x_t, are both carried to
sigma_min by G_target and compared there. DSM: g(x_t, t, t) is a denoiser, trained on demonstrations.

Differences from the reference:
1. Distance: plain squared error. The reference's Huber distance sqrt(e^2 + d^2) - d takes an e that is a squared error already,
   with d of about 0.001: that is the squared error wherever it is not tiny, and its square below.
2. Target network: the average of Table 4 (0.9999), warmed up as `methods/cd.py`, difference 4, says. The reference's default
   decay is 0: its target is the current network.
3. Initial noise is sigma_max N(0, 1), the noise of training. The reference starts from N(0, 1) whatever sigma_max is; the same
   where sigma_max = 1 (all tasks but one).
4. DSM stops where it starts, g(x_t, t, t), as in the CTM paper: that is the denoiser. The reference asks that G(x_t, t,
   sigma_min) be the demonstrated action, whose optimum is the mean over behaviours, against what CTM asks of the same values.
   Its levels are those of the CTM term (the reference: a separate draw from the noisier 70 %), so that both share one pass.
5. u is always the next level of the grid, s any from u to sigma_min. The reference also draws u = t, where the target is the
   student's own average and nothing is learned from the teacher.
6. N = 20 levels (Table 4) between the teacher's own sigma_max and sigma_min; the reference: 80 in [0.02, 80]. The lowest level
   is the trajectory's end, as in `methods/cd.py`.
7. Attention and training samples as the teacher's (`methods/beso.py`, differences 1 and 3); no dropout (the reference: 0.2);
   the optimiser is the suite's.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods._transformer import KV, DenoisingTransformer, GPTConfig
from methods.base import Batch, Method, Shape, move_average
from methods.beso import Beso, BesoConfig, SigmaToken, edm_scalings
from methods.cd import heun, karras_grid
from methods.scaler import Scaler


@dataclass(frozen=True)
class CtmConfig:
    """N = levels of the grid; rho of Karras' spacing; target_ema = decay of the target network; draws = noised actions a
    window; sampling_steps = jumps an action."""

    N: int
    rho: float
    target_ema: float
    draws: int
    sampling_steps: int

    def __post_init__(self) -> None:
        if self.N < 2:
            raise ValueError(f"N must be at least 2 (two levels make one step), got {self.N}")
        if not 1 <= self.sampling_steps < self.N:
            raise ValueError(f"sampling_steps must be from 1 to N - 1 = {self.N - 1}, got {self.sampling_steps}")


class TrajectoryTransformer(nn.Module):
    """A denoising transformer whose level token also holds the level to stop at; at first without effect."""

    def __init__(self, net: DenoisingTransformer):
        super().__init__()
        self.net = net
        self.stop = SigmaToken(net.config.embed)
        nn.init.zeros_(self.stop.linear.weight)
        nn.init.zeros_(self.stop.linear.bias)

    def encode_levels(self, t: Tensor, s: Tensor) -> KV:
        """Keys and values of tokens (t, s), both (B, M)."""
        token = self.net.level(t.reshape(-1)) + self.stop(s.reshape(-1))
        return self.net.encode_tokens(token.view(*t.shape, -1))  # (B, M, E)


class Ctm(Method):
    """Policy that jumps from noise to the end of the teacher's probability flow, and starts from the teacher's weights."""

    Config = CtmConfig
    config: CtmConfig
    net: TrajectoryTransformer
    target: TrajectoryTransformer
    updates: Tensor  # of the target's average

    def __init__(self, config: CtmConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: Beso):
        super().__init__(config, shape, gpt, scaler, teacher)
        self.levels = teacher.config
        self.net = TrajectoryTransformer(copy.deepcopy(teacher.net).requires_grad_(True))
        self.target = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def describe(self) -> dict[str, Any]:
        """The teacher's noise levels, which acting needs."""
        return {"levels": dataclasses.asdict(self.levels)}

    @classmethod
    def rebuild(
        cls, config: CtmConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, description: dict[str, Any]
    ) -> Ctm:
        return cls(config, shape, gpt, scaler, Beso(BesoConfig(**description["levels"]), shape, gpt, scaler))

    def grid(self) -> Tensor:
        """sigma_max = t_0 > ... > t_{N-1} = sigma_min, Karras' spacing; (N,)."""
        return karras_grid(self.levels.sigma_max, self.levels.sigma_min, self.config.N, self.config.rho)

    def clean(self, net: TrajectoryTransformer, x: Tensor, t: Tensor, levels: KV, context: KV, last: Tensor) -> Tensor:
        """g(x, t, s): x (B, M, A), t (B or 1, M or 1), levels of (t, s)."""
        c_skip, c_out, c_in = edm_scalings(t[..., None], self.levels.sigma_data)
        return c_skip * x + c_out * net.net(c_in * x, levels, context, last).float()

    def jump(self, net: TrajectoryTransformer, x: Tensor, t: Tensor, s: Tensor, context: KV, last: Tensor) -> Tensor:
        """G(x, t, s): x (B, M, A), t and s (B or 1, 1)."""
        return towards(x, self.clean(net, x, t, net.encode_levels(t, s), context, last), t, s)

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """CTM and DSM of M draws a window, which share the levels t > u >= s of the window."""
        m, last = self.config.draws, batch.last
        t, u, s = self.draw_levels(batch)
        action = batch.action[:, None].expand(-1, m, -1)  # (B, M, A)
        x = action + t[..., None] * torch.randn_like(action)
        # one pass for g(x, t, s) and g(x, t, t)
        both = self.net.encode_levels(t.expand(-1, 2), torch.cat([s, t], 1))
        levels = [(k.repeat_interleave(m, 2), v.repeat_interleave(m, 2)) for k, v in both]  # (B, H, 2 M, d)
        g = self.clean(self.net, x.repeat(1, 2, 1), t, levels, self.net.net.encode(batch.obs, batch.goal), last)
        jumped, denoised = towards(x, g[:, :m], t, s), g[:, m:]
        with torch.no_grad():
            context = self.target.net.encode(batch.obs, batch.goal)
            goal = self.end(self.target_jump(x, t, u, s, batch, context), s, context, last)
        ctm = (self.end(jumped, s, context, last) - goal).square().mean()
        c_out = edm_scalings(t[..., None], self.levels.sigma_data)[1]
        dsm = ((denoised - action) / c_out).square().mean()
        return ctm + dsm, {"ctm": ctm, "dsm": dsm}

    def draw_levels(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """t, u, s, each (B, 1): any level but the lowest, the next one, and any from there to the lowest."""
        grid, n, like = self.grid().to(batch.obs.device), self.config.N, batch.action[:, :1]
        i = (torch.rand_like(like) * (n - 1)).long().clamp(max=n - 2)
        stop = (i + 1 + (torch.rand_like(like) * (n - 1 - i)).long()).clamp(max=n - 1)
        return grid[i], grid[i + 1], grid[stop]

    def target_jump(self, x: Tensor, t: Tensor, u: Tensor, s: Tensor, batch: Batch, context: KV) -> Tensor:
        """One Heun step of the teacher from t to u, then the target network to s."""
        teacher = self.get_teacher()
        x = heun(teacher, x, t, u, teacher.encode(batch.obs, batch.goal), batch.last)
        return self.jump(self.target, x, u, s, context, batch.last)

    def end(self, x: Tensor, s: Tensor, context: KV, last: Tensor) -> Tensor:
        """The target network from s to sigma_min; its weights are constants, the gradient passes through x."""
        return self.jump(self.target, x, s, torch.full_like(s, self.levels.sigma_min), context, last)

    def after_step(self) -> None:
        """Move the target network's average."""
        move_average(self.target, self.net, self.config.target_ema, self.updates)

    @property
    def noise_dim(self) -> int:
        return self.shape.act

    def schedule(self) -> list[float]:
        """The levels that acting visits: `sampling_steps` jumps, evenly over the grid's indices."""
        index = torch.linspace(0, self.config.N - 1, self.config.sampling_steps + 1).round().long()
        return self.grid()[index].tolist()

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """The gamma-sampler with gamma = 0 (Kim et al., Algorithm 3): jumps only, no noise in between."""
        context = self.net.net.encode(obs, goal)
        x = (self.levels.sigma_max * noise)[:, None]  # (n, 1, A)
        for t, s in itertools.pairwise(self.schedule()):
            x = self.jump(self.net, x, noise.new_tensor([[t]]), noise.new_tensor([[s]]), context, last)
        return x[:, 0].clamp(self.scaler.act_low, self.scaler.act_high)


def towards(x: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """(s / t) x + (1 - s / t) g: x and g (B, M, A), t and s (B or 1, 1)."""
    ratio = (s / t)[..., None]
    return ratio * x + (1 - ratio) * clean
