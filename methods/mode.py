"""MoDE: a mixture of denoising experts, sparse in the noise level. A third teacher, on the VE formulation of `methods/beso.py`.

Reuss et al., *Efficient Diffusion Transformer Policies with Mixture of Expert Denoisers for Multitask Learning* (2024).
Reference: intuitive-robots/MoDE_Diffusion_Policy. In every layer the noise embedding c is added to a token before attention,
and a router that sees c alone sends the token to top_k of the experts (SwiGLU), weighted by renormalised probabilities:

    x <- x + attention(ln_1(x) + c)        x <- x + sum_{i in top-k} p_i / (sum_{j in top-k} p_j) expert_i(ln_2(x))

Trained with experts drawn without replacement from p, and a term that balances their load. The router sees nothing else, so
for a noise schedule its choices are known beforehand: `fuse` computes them once and joins the chosen experts of each level into
one wide MLP (expert caching), with the same output.

Shapes: B windows, M noised actions a window, E embedding, N experts, K = top_k, F = width of an expert, L noise levels.

Differences from the reference:
1. Noise conditioning and experts act on the noised actions. State tokens pass the dense blocks of `methods/_transformer.py`,
   without the noise level, as with the other teachers (difference 1 there): one encoding serves all levels, all denoising steps
   and, in VDD, all samples of all experts; and the encoder has the weights that a student can start from. The reference
   conditions and routes every token. The noise token itself passes the dense blocks too.
2. Pre-LN residuals as in all methods here. The reference's x = ln_2(x) after attention replaces the residual stream by its
   normalised copy. LayerNorm instead of RMSNorm, no normalisation of queries and keys, for difference 1's shared weights.
3. Start: noise embedding and router as PyTorch's layers start, so that the router tells levels apart from the beginning; all
   else N(0, 0.02). The reference means to do the like for all and never calls it.
4. The balance term, weight 0.01, counts in training only (the reference's shipped fine-tuning configuration has 0), averaged
   over layers; routers are never frozen; no z-loss.
5. The cache is keyed by the noise level itself and by Policy always filled; the reference's, keyed by a mean of the embedding,
   is off unless asked for. Before fusing, all experts are computed and weighted (those not chosen by 0).
6. sigma in [0.02, 5] by default, 10 steps; published: [0.001, 80], of whose 10 exponential steps four lie where actions are
   decided. One action instead of a chunk of 10; no dropout, no goal dropout. Training samples: `methods/beso.py`, difference 3.
7. Sizes are the task's (Table 4); the published ones are embed 1024, 12 layers, 8 heads, docs/methods.md.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods._transformer import KV, KV1, Block, DenoisingTransformer, GPTConfig
from methods.base import Batch, Shape, VeTeacher
from methods.beso import edm_scalings, log_logistic
from methods.scaler import Scaler


@dataclass(frozen=True)
class ModeConfig:
    """experts, top_k; expert_ratio = an expert's width / embedding; balance = weight of the load-balancing term;
    sigma_* in units of scaled actions; sampling_steps = network evaluations an action; draws = noised actions a window."""

    experts: int
    top_k: int
    expert_ratio: int
    balance: float
    sigma_data: float
    sigma_min: float
    sigma_max: float
    sampling_steps: int
    draws: int

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k must be from 1 to experts = {self.experts}, got {self.top_k}")


class NoiseEmbedding(nn.Module):
    """Noise level (B,) -> c (B, E): Linear(ln(sigma) / 4), then a linear map without bias."""

    def __init__(self, embed: int):
        super().__init__()
        self.first, self.second = nn.Linear(1, embed), nn.Linear(embed, embed, bias=False)

    def forward(self, sigma: Tensor) -> Tensor:
        return self.second(self.first(sigma.log()[:, None] / 4))


class WideMLP(NamedTuple):
    """Several SwiGLU experts side by side (X of them), as one: gate and up (X F, E), out (E, X F).

    weight (..., X): of each expert, by token; None where `out` holds it.
    """

    gate: Tensor
    up: Tensor
    out: Tensor
    weight: Tensor | None


def swiglu(mlp: WideMLP, x: Tensor) -> Tensor:
    """Sum over experts of weight_i out_i (silu(gate_i x) * up_i x): (B, M, E)."""
    h = F.silu(F.linear(x, mlp.gate)) * F.linear(x, mlp.up)  # (B, M, X F)
    if mlp.weight is not None:
        h = (h.unflatten(-1, (mlp.weight.shape[-1], -1)) * mlp.weight[..., None]).flatten(-2)  # (B, M, X F)
    return F.linear(h, mlp.out)


class Conditioning(NamedTuple):
    """What one layer's noised actions get from their noise level. The first two are those of `_transformer.KV1`."""

    key: Tensor  # of the noise token, (B or 1, H, M or 1, d)
    value: Tensor
    added: Tensor  # c, (B or 1, M or 1, E)
    mlp: WideMLP
    balance: Tensor | None = None  # load-balancing term, in training


class Expert(nn.Module):
    """SwiGLU, without biases."""

    def __init__(self, embed: int, width: int):
        super().__init__()
        self.gate, self.up = nn.Linear(embed, width, bias=False), nn.Linear(embed, width, bias=False)
        self.out = nn.Linear(width, embed, bias=False)


class ModeBlock(Block):
    """A block whose noised actions pass sparse experts; states and the noise token pass its dense MLP."""

    def __init__(self, config: GPTConfig, experts: int, top_k: int, ratio: int):
        super().__init__(config)
        e = config.embed
        self.top_k = top_k
        self.router = nn.Sequential(nn.Linear(e, 2 * e), nn.GELU(), nn.Linear(2 * e, experts))
        self.experts = nn.ModuleList(Expert(e, ratio * e) for _ in range(experts))

    def route(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise embeddings (..., E) -> probabilities, chosen (1 or 0), renormalised weights: each (..., N).

        In training the K experts are drawn without replacement, in evaluation they are the most probable.
        """
        p = torch.softmax(self.router(c).float(), -1)
        if self.training:
            index = torch.multinomial(p.detach().flatten(0, -2), self.top_k).view(*p.shape[:-1], self.top_k)  # (..., K)
        else:
            index = p.topk(self.top_k, -1).indices
        chosen = torch.zeros_like(p).scatter(-1, index, 1.0)
        weight = p * chosen
        return p, chosen, weight / weight.sum(-1, keepdim=True)

    def condition(self, c: Tensor, token: KV1) -> Conditioning:
        """The conditioning of levels c (B, M, E), all experts side by side."""
        _, chosen, weight = self.route(c)
        mlp = self.side_by_side(range(len(self.experts)), weight.to(c.dtype))
        return Conditioning(*token, c, mlp, load_balance(chosen, weight) if self.training else None)

    def side_by_side(self, which: range | list[int], weight: Tensor | None) -> WideMLP:
        experts: list[Expert] = [self.experts[i] for i in which]  # type: ignore[misc]  # a ModuleList of them
        gate, up = (torch.cat([getattr(e, name).weight for e in experts]) for name in ("gate", "up"))
        return WideMLP(gate, up, torch.cat([e.out.weight for e in experts], 1), weight)

    def fuse(self, c: Tensor) -> list[WideMLP]:
        """The chosen experts of each of L levels c (L, E) as one MLP; the router runs once for all of them."""
        _, chosen, weight = self.route(c)
        made: dict[tuple[int, ...], WideMLP] = {}
        fused = []
        for row, w in zip(chosen, weight, strict=True):
            which = tuple(row.nonzero()[:, 0].tolist())
            if which not in made:  # levels with the same choice share gate and up
                made[which] = self.side_by_side(list(which), None)
            wide = made[which]
            share = w[list(which)].repeat_interleave(wide.out.shape[1] // len(which))  # (K F,)
            fused.append(wide._replace(out=wide.out * share))
        return fused

    def query(self, x: Tensor, context: KV1, level: KV1 | Conditioning, mask: Tensor) -> Tensor:
        """Noised actions x (B, M, E); `level` is a Conditioning."""
        _, _, c, mlp, _ = level  # type: ignore[misc]
        y = self.attend(self.project(self.ln_1(x) + c), context, level[:2], mask)  # (B, H, M, d)
        x = x + self.drop(self.proj(y.transpose(1, 2).flatten(2)))  # (B, M, E)
        return x + self.drop(swiglu(mlp, self.ln_2(x)))


def load_balance(chosen: Tensor, weight: Tensor) -> Tensor:
    """N sum_i mean(weight_i) mean(chosen_i) over all tokens; K when the load is even. chosen, weight (..., N)."""
    chosen, weight = chosen.flatten(0, -2), weight.flatten(0, -2)
    return chosen.shape[-1] * (weight.mean(0) * chosen.mean(0)).sum()


class ModeTransformer(DenoisingTransformer):
    """The denoising transformer with `ModeBlock`s; a level's encoding holds each layer's conditioning."""

    def __init__(self, config: ModeConfig, gpt: GPTConfig, shape: Shape):
        super().__init__(
            gpt, shape.obs, shape.act, NoiseEmbedding(gpt.embed), shape.goal,
            lambda g: ModeBlock(g, config.experts, config.top_k, config.expert_ratio),
        )  # fmt: skip
        for module in [self.level, *(block.router for block in self.mode_blocks())]:
            for layer in module.modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()

    def mode_blocks(self) -> list[ModeBlock]:
        return list(self.blocks)  # type: ignore[arg-type]  # all blocks are ModeBlocks

    def encoder_state(self) -> dict[str, Tensor]:
        state = super().encoder_state()
        return {name: value for name, value in state.items() if ".router." not in name and ".experts." not in name}

    def encode_tokens(self, x: Tensor) -> KV:
        """Conditionings of noise embeddings (B, M, E), a layer each."""
        tokens = super().encode_tokens(x)
        return [block.condition(x, token) for block, token in zip(self.mode_blocks(), tokens, strict=True)]  # type: ignore[misc]  # a Conditioning starts as a KV1

    def fuse(self, levels: Tensor) -> list[KV]:
        """As `encode_level` of each of the levels (L,), with fused experts."""
        c = self.level(levels)
        tokens = super().encode_tokens(c[None])  # keys and values (1, H, L, d)
        layers = []
        for block, (k, v) in zip(self.mode_blocks(), tokens, strict=True):
            fused = block.fuse(c)
            layers.append([
                Conditioning(k[:, :, i, None], v[:, :, i, None], c[None, i, None], fused[i]) for i in range(len(c))
            ])  # fmt: skip
        return [list(layer) for layer in zip(*layers, strict=True)]


class Mode(VeTeacher):
    """VE diffusion policy whose denoiser is a mixture of experts."""

    Config = ModeConfig
    config: ModeConfig
    net: ModeTransformer

    def __init__(self, config: ModeConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: None = None):
        super().__init__(config, shape, gpt, scaler)
        self.net = ModeTransformer(config, gpt, replace(shape, obs=self.obs_width))
        self.fused: dict[float, KV] = {}

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM denoising loss of M draws a window, as `Beso.loss`, with the load-balancing term in training."""
        c = self.config
        action = batch.action[:, None].expand(-1, c.draws, -1)  # (B, M, A)
        sigma = log_logistic(action.shape[:2], c.sigma_min, c.sigma_max, c.sigma_data, action.device)
        c_skip, c_out, c_in = edm_scalings(sigma[..., None], c.sigma_data)
        noised = action + sigma[..., None] * torch.randn_like(action)
        levels = self.net.encode_level(sigma)
        output = self.net(c_in * noised, levels, self.encode(batch.obs, batch.goal), batch.last)
        loss = (output.float() - (action - c_skip * noised) / c_out).square().mean()
        if not self.training:
            return loss, {}
        balance = torch.stack([level.balance for level in levels]).mean()  # type: ignore[attr-defined]  # Conditionings
        return loss + c.balance * balance, {"denoising": loss, "balance": balance}

    def denoise(self, noised: Tensor, sigma: Tensor, context: KV, last: Tensor) -> Tensor:
        """D(a; sigma, s) = c_skip a + c_out F(c_in a): (B, M, A) for noised (B, M, A), sigma (B or 1, M or 1)."""
        return self.denoise_at(noised, sigma, self.net.encode_level(sigma), context, last)

    def denoise_at(self, noised: Tensor, sigma: Tensor, level: KV, context: KV, last: Tensor) -> Tensor:
        """`denoise` with the level encoded before."""
        c_skip, c_out, c_in = edm_scalings(sigma[..., None], self.config.sigma_data)
        return c_skip * noised + c_out * self.net(c_in * noised, level, context, last).float()

    @property
    def noise_dim(self) -> int:
        return self.shape.act

    def schedule(self) -> list[float]:
        """Exponential levels sigma_max ... sigma_min, then 0."""
        c = self.config
        return [*torch.linspace(math.log(c.sigma_max), math.log(c.sigma_min), c.sampling_steps).exp().tolist(), 0.0]

    @torch.no_grad()
    def fuse(self, schedule: list[float]) -> None:
        """Fill the expert cache for the levels of a schedule (0 apart): used by `act` until the next training."""
        levels = [sigma for sigma in schedule if sigma > 0]
        fused = self.net.fuse(self.scaler.act_low.new_tensor(levels))
        self.fused = dict(zip(levels, fused, strict=True))

    def prepare(self) -> None:
        self.fuse(self.schedule())

    def train(self, mode: bool = True) -> Mode:
        """Training changes the weights, so the cache is dropped."""
        self.fused = {}
        return super().train(mode)

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """DDIM sampling from N(0, sigma_max^2)."""
        context = self.encode(obs, goal)
        sigmas = self.schedule()
        x = (sigmas[0] * noise)[:, None]  # (n, 1, A)
        for sigma, following in itertools.pairwise(sigmas):
            level = noise.new_tensor([[sigma]])
            encoded = self.fused[sigma] if self.fused else self.net.encode_level(level)
            denoised = self.denoise_at(x, level, encoded, context, last)
            x = denoised + following / sigma * (x - denoised)
        return x[:, 0].clamp(self.action_low, self.action_high)
