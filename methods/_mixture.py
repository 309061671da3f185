"""Gaussian mixture of experts on the shared transformer (Figure 5): every expert and the gating from one forward pass.

Shapes: B windows, T states, D observation values, Z experts, A action values, V samples an expert, W feature width.

Sizes reproduce Table 7 to the last parameter (1,442,311 for Z = 1, each further expert 2,181, at the sizes of Avoiding): a
linear output of width 512 behind the transformer, two plain heads 512 - 512 - 512 for means and diagonal covariances, each
with one learnable-slope rectifier, and a gating MLP 512 - 128 - 128 - 128 - Z with Mish. A `centre` adds a query, a level token
and a linear output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods._transformer import GPTConfig, QueriedTransformer, Transformer

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Mixture:
    """log_gating (B, Z), normalised; mean (B, Z, A); std (B, Z, A) > 0."""

    log_gating: Tensor
    mean: Tensor
    std: Tensor

    def detach(self) -> Mixture:
        return Mixture(self.log_gating.detach(), self.mean.detach(), self.std.detach())

    def expert_log_prob(self, action: Tensor) -> Tensor:
        """log N(a; mean_z, std_z) of every expert: action (B, ..., A) -> (B, ..., Z)."""
        lead = (self.mean.shape[0],) + (1,) * (action.dim() - 2) + self.mean.shape[1:]  # (B, 1..., Z, A)
        mean, std = self.mean.view(lead), self.std.view(lead)
        z = (action.unsqueeze(-2) - mean) / std
        return (-0.5 * (z * z + LOG_2PI) - std.log()).sum(-1)

    def joint_log_prob(self, action: Tensor) -> Tensor:
        """log pi_z + log N_z(a): (B, ..., A) -> (B, ..., Z)."""
        lead = (self.mean.shape[0],) + (1,) * (action.dim() - 2) + (self.mean.shape[1],)
        return self.expert_log_prob(action) + self.log_gating.view(lead)

    def log_prob(self, action: Tensor) -> Tensor:
        """log q(a | s), Eq. 3, by log-sum-exp: (B, ..., A) -> (B, ...)."""
        return torch.logsumexp(self.joint_log_prob(action), -1)

    def log_responsibilities(self, action: Tensor) -> Tensor:
        """log q(z | a, s), Eq. 15, exact far away from all experts too: (B, ..., A) -> (B, ..., Z)."""
        return torch.log_softmax(self.joint_log_prob(action), -1)

    def entropies(self) -> Tensor:
        """Entropy of every expert: (B, Z)."""
        return (0.5 * (1 + LOG_2PI) + self.std.log()).sum(-1)


@dataclass(frozen=True)
class OneStep:
    """A teacher's evaluation of the action 0 at its largest noise level, in parts: what a student can start from.

    encoder: the weights of a `_transformer.Transformer`, by name; query and level (E,): the tokens of action and noise level;
    weight (A, E) and bias (A,): the clean action is weight x + bias of the features x (E,) that are read at the query.
    """

    encoder: dict[str, Tensor]
    query: Tensor
    level: Tensor
    weight: Tensor
    bias: Tensor


def choose(log_gating: Tensor, uniform: Tensor) -> Tensor:
    """Expert drawn from the gating (B, Z) by inversion: uniform (B,) -> (B,)."""
    index = (uniform[:, None] >= log_gating.exp().cumsum(-1)).sum(-1)
    return index.clamp(max=log_gating.shape[-1] - 1)


class Head(nn.Module):
    """width -> hidden -> hidden -> out with one learnable-slope rectifier (slope 0 at first, so ReLU), orthogonal init.

    The reference's configuration asks for Mish but its look-up falls through to PReLU with the slope zeroed.
    """

    layers: Sequence[nn.Linear]

    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, hidden)])  # type: ignore[assignment]
        self.out = nn.Linear(hidden, out)
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.prelu(layer(x), self.slope)
        return self.out(x)


class Gating(nn.Module):
    """width -> hidden, one pre-activation residual block of two layers, -> Z log-probabilities; Mish."""

    def __init__(self, width: int, hidden: int, experts: int):
        super().__init__()
        self.inp = nn.Linear(width, hidden)
        self.block = nn.ModuleList([nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)])
        self.out = nn.Linear(hidden, experts)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        y = self.block[1](F.mish(self.block[0](F.mish(x))))
        return torch.log_softmax(self.out(x + y).float(), -1)


class MixtureTransformer(nn.Module):
    """States -> mixture at one last of each window.

    centre: features are read by a query, and the means are offsets from one action that is linear in them: what a teacher's
    single evaluation consists of, from which such a network can start (`start_from`).
    """

    def __init__(
        self, gpt: GPTConfig, obs_dim: int, act_dim: int, goal_tokens: int, experts: int, hidden: int,
        gating_hidden: int, init_std: float, min_std: float, init_mean: float, learn_gating: bool = True,
        learn_std: bool = True, centre: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.experts, self.act_dim, self.min_std, self.learn_gating = experts, act_dim, min_std, learn_gating
        self.init_std, self.width = init_std, hidden
        self.backbone = (QueriedTransformer if centre else Transformer)(gpt, obs_dim, goal_tokens)
        self.backbone.init_weights()
        self.centre = nn.Linear(gpt.embed, act_dim) if centre else None
        self.features = nn.Linear(gpt.embed, hidden)
        nn.init.normal_(self.features.weight, 0, 0.02)
        nn.init.zeros_(self.features.bias)
        self.mean = Head(hidden, hidden, experts * act_dim)
        self.cov = Head(hidden, hidden, experts * act_dim) if learn_std else None
        self.gating = Gating(hidden, gating_hidden, experts)
        # softplus(shift) = init_std - min_std: the experts start with std init_std
        self.shift = math.log(math.expm1(init_std - min_std)) if learn_std else 0.0
        self._init_heads(init_mean)

    def _init_heads(self, init_mean: float) -> None:
        """Orthogonal; means start state-independent, uniform in [-init_mean, init_mean]."""
        for head in (h for h in (self.mean, self.cov) if h is not None):
            for layer in head.layers:
                nn.init.orthogonal_(layer.weight, 2**0.5)
                nn.init.zeros_(layer.bias)
            nn.init.orthogonal_(head.out.weight, 0.01)
            nn.init.zeros_(head.out.bias)
        nn.init.zeros_(self.mean.out.weight)
        nn.init.uniform_(self.mean.out.bias, -init_mean, init_mean)
        nn.init.zeros_(self.gating.out.bias)
        nn.init.orthogonal_(self.gating.out.weight, 0.01)

    @torch.no_grad()
    def start_from(self, step: OneStep) -> None:
        """The centre of the means becomes the action of a teacher's single evaluation; needs `centre`."""
        assert isinstance(self.backbone, QueriedTransformer) and self.centre is not None
        self.backbone.load_state_dict({**step.encoder, "query": step.query, "level": step.level})
        self.centre.load_state_dict({"weight": step.weight, "bias": step.bias})

    def expert_parameters(self) -> tuple[nn.Parameter, ...]:
        """Everything but the gating: the experts' heads and the backbone that is theirs."""
        gating = {id(p) for p in self.gating.parameters()}
        return tuple(p for p in self.parameters() if id(p) not in gating)

    def hidden(self, obs: Tensor, last: Tensor, goal: Tensor | None = None) -> Tensor:
        """Features (B, W) of the state at `last` (B,) of each window obs (B, T, D); a centre comes after them, (B, W + A)."""
        x = self.backbone.newest(obs, last, goal)
        h = self.features(x)
        return h if self.centre is None else torch.cat([h, self.centre(x)], 1)

    def experts_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (B, Z, A) of what `hidden` gives."""
        mean = self.means_of(h)
        if self.cov is None:
            return mean, torch.full_like(mean, self.init_std)
        return mean, F.softplus(self._per_expert(self.cov(h[:, : self.width])) + self.shift) + self.min_std

    def means_of(self, h: Tensor) -> Tensor:
        """Means (B, Z, A) alone: all that acting needs."""
        mean = self._per_expert(self.mean(h[:, : self.width]))
        return mean if self.centre is None else mean + h[:, None, self.width :].float()

    def _per_expert(self, flat: Tensor) -> Tensor:
        """(B, Z * A) -> (B, Z, A), float32."""
        return flat.float().view(flat.shape[0], self.experts, self.act_dim)

    def log_gating(self, h: Tensor) -> Tensor:
        """What `hidden` gives -> (B, Z); uniform where the gating is not learned."""
        if not self.learn_gating:
            return h.new_full((h.shape[0], self.experts), -math.log(self.experts), dtype=torch.float32)
        return self.gating(h[:, : self.width])

    def forward(self, obs: Tensor, last: Tensor, goal: Tensor | None = None) -> Mixture:
        h = self.hidden(obs, last, goal)
        mean, std = self.experts_of(h)
        return Mixture(self.log_gating(h), mean, std)
