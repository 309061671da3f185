"""The causal transformer that every method shares (Table 4: layers, heads, embedding, window).

Shapes: B windows, T states a window, G goal tokens, M action queries a window, A action values, D observation values,
E embedding, H heads, d = E / H, S = G + T context tokens.

Source: minGPT blocks as in BESO's DiffusionGPT and the D3IL DDPM transformer (pre-LN, GELU, 4x MLP, N(0, 0.02) weights,
learned positions, the goal embedded like a state). Differences from those:

1. **Attention.** The originals interleave [level, s1, a1, ..., sT, aT] causally, so a state token sees the noise level and
   all earlier noised actions. Here a state sees states alone, and the noised action k sees the level, the states up to k and
   itself. Reasons: (i) training and acting then see the same thing (the originals train on noised and act on clean past
   actions); (ii) the teacher's conditional is exactly that of a student, pi(a | states); (iii) the states' keys and values
   do not depend on the noise, so one encoding serves every denoising step, and every sample of every expert in VDD.
   The parameters are the same, to the last one.
2. Query, key and value are one matrix instead of three; the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods._encoder import ImageEncoder

KV1 = tuple[Tensor, Tensor]  # keys and values of one layer, each (B, H, S, d)
KV = list[KV1]  # of every layer


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of Table 4; dropout is off unless set (D3IL: 0.2 and 0.1, docs/training.md).

    cameras > 0: observations are images of `pixels` x `pixels` (`methods/_encoder.py`), seen through an encoder with
    `keypoints` key points a camera and `encoder_width` channels in its first stage (ResNet-18: 64).
    relative: the network also sees what the scaler adds to observations (`methods/scaler.py`).
    """

    layers: int
    heads: int
    embed: int
    window: int
    attn_dropout: float = 0.0
    resid_dropout: float = 0.0
    cameras: int = 0
    pixels: int = 96
    keypoints: int = 32
    encoder_width: int = 64
    relative: bool = False

    def saved(self) -> dict[str, Any]:
        """As plain values; without those of what there is not, so that older files stay as they were."""
        without = [] if self.cameras else ["cameras", "pixels", "keypoints", "encoder_width"]
        without += [] if self.relative else ["relative"]
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in without}


class Block(nn.Module):
    """One pre-LN block; `x` (B, N, E) attends as `mask` says, or queries attend to a cached context."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        e = config.embed
        self.heads, self.scale = config.heads, 1 / math.sqrt(e / config.heads)
        self.attn_dropout = config.attn_dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(e), nn.LayerNorm(e)
        self.qkv, self.proj = nn.Linear(e, 3 * e), nn.Linear(e, e)
        self.fc, self.fc_out = nn.Linear(e, 4 * e), nn.Linear(4 * e, e)
        self.drop = nn.Dropout(config.resid_dropout)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values of the tokens, each (B, H, N, d)."""
        return self.project(self.ln_1(x))

    def project(self, normalised: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`split` of tokens that are normalised already."""
        q, k, v = self.by_head(self.qkv(normalised), 3)
        return q, k, v

    def by_head(self, x: Tensor, parts: int) -> Tensor:
        """(B, N, parts E) -> (parts, B, H, N, d)."""
        b, n, width = x.shape
        return x.view(b, n, parts, self.heads, width // parts // self.heads).permute(2, 0, 3, 1, 4)

    def remember(self, x: Tensor) -> KV1:
        """Keys and values alone, as `split` gives them: what queries need of the tokens' last layer."""
        e = x.shape[-1]
        k, v = self.by_head(F.linear(self.ln_1(x), self.qkv.weight[e:], self.qkv.bias[e:]), 2)
        return k, v

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Residual of the attention's output `y` (B, H, N, d), then the MLP."""
        b, h, n, d = y.shape
        x = x + self.drop(self.proj(y.transpose(1, 2).reshape(b, n, h * d)))
        return x + self.drop(self.fc_out(F.gelu(self.fc(self.ln_2(x)))))

    def forward(self, x: Tensor, mask: Tensor, more: KV1 | None = None) -> tuple[Tensor, KV1]:
        """Tokens among themselves, and on the keys and values `more` (1, H, K, d) of others, which come last.

        `mask` (N, N + K), or one for every window (B, 1, N, N + K), is additive. Returns the tokens and their (keys, values).
        """
        q, k, v = self.split(x)
        return self.finish(x, self.among(q, *joined((k, v), more), mask)), (k, v)

    def one(self, x: Tensor, index: Tensor, mask: Tensor, more: KV1 | None = None) -> Tensor:
        """`forward` of one token a window alone, at `index` (B,), which sees what `mask` (B, 1, 1, N + K) allows: (B, 1, E)."""
        q, k, v = self.split(x)
        index = index[:, None, None]
        q = q.gather(2, index[..., None].expand(-1, self.heads, 1, q.shape[-1]))  # (B, H, 1, d)
        return self.finish(x.gather(1, index.expand(-1, 1, x.shape[-1])), self.among(q, *joined((k, v), more), mask))

    def among(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The attention of tokens among themselves: queries (B, H, Q, d) on (B, H, N, d), `mask` additive: (B, H, Q, d)."""
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.scale + mask, -1)  # (B, H, Q, N)
        return F.dropout(weights, self.attn_dropout, self.training) @ v

    def query(self, x: Tensor, context: KV1, level: KV1, mask: Tensor) -> Tensor:
        """Queries `x` (B, M, E), each attending to the states (B, H, S, d), to its noise level and to itself.

        `level` is (B or 1, H, M or 1, d): one level a query, or one for all; `mask` (B, 1, 1, S) is additive.
        """
        return self.finish(x, self.attend(self.split(x), context, level, mask))

    def attend(self, qkv: tuple[Tensor, Tensor, Tensor], context: KV1, level: KV1, mask: Tensor) -> Tensor:
        """The attention of `query`: (B, H, M, d)."""
        q, k, v = qkv
        seen = q @ context[0].transpose(-1, -2) + mask  # (B, H, M, S)
        weights = torch.cat([seen, (q * level[0]).sum(-1, keepdim=True), (q * k).sum(-1, keepdim=True)], -1)
        weights = torch.softmax(weights * self.scale, -1)
        weights = F.dropout(weights, self.attn_dropout, self.training)
        return weights[..., :-2] @ context[1] + weights[..., -2:-1] * level[1] + weights[..., -1:] * v


def joined(own: KV1, more: KV1 | None) -> KV1:
    """Keys and values (B, H, N, d), followed by others (1, H, K, d) that every window sees: (B, H, N + K, d)."""
    if more is None:
        return own
    k, v = (torch.cat([a, b.expand(len(a), -1, -1, -1)], 2) for a, b in zip(own, more, strict=True))
    return k, v


def additive(allowed: Tensor) -> Tensor:
    """Boolean mask -> additive mask."""
    return torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)


class Transformer(nn.Module):
    """Blocks over goal and state tokens, with learned positions and the field's initialisation."""

    blocks: Sequence[Block]
    causal: Tensor

    def __init__(
        self, config: GPTConfig, obs_dim: int, goal_tokens: int = 0, block: Callable[[GPTConfig], Block] = Block
    ):
        super().__init__()
        if config.embed % config.heads:
            raise ValueError(f"embed {config.embed} must be a multiple of heads {config.heads}")
        self.config, self.goal_tokens = config, goal_tokens
        self.encoder: ImageEncoder | None = None
        if config.cameras:
            self.encoder = ImageEncoder(config.cameras, config.pixels, config.keypoints, config.encoder_width)
            if obs_dim != self.encoder.obs_dim:
                raise ValueError(
                    f"{config.cameras} images of {config.pixels}^2 are {self.encoder.obs_dim} values, not {obs_dim}"
                )
            obs_dim = self.encoder.features
        self.obs_embed = nn.Linear(obs_dim, config.embed)
        self.pos_embed = nn.Parameter(torch.zeros(1, goal_tokens + config.window, config.embed))
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))  # type: ignore[assignment]
        self.ln_f = nn.LayerNorm(config.embed)
        size = goal_tokens + config.window
        self.register_buffer("causal", additive(torch.ones(size, size).tril().bool()), persistent=False)

    def init_weights(self) -> None:
        """N(0, 0.02) for linear layers and positions, as minGPT."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.pos_embed, 0, 0.02)

    def tokens(self, obs: Tensor, goal: Tensor | None) -> Tensor:
        """States (B, T, D) and goals (B, G, D) -> tokens (B, G + T, E); goals come first."""
        if self.encoder is not None:
            obs = self.encoder(obs)
        x = obs if goal is None else torch.cat([goal, obs], 1)
        return self.obs_embed(x) + self.pos_embed[:, : x.shape[1]]

    def seen(self, newest: Tensor, n: int) -> Tensor:
        """Additive mask (B, 1, 1, n) over n tokens of what the token at `newest` (B,) sees."""
        return self.causal[newest, None, None, :n]

    def newest(self, obs: Tensor, last: Tensor, goal: Tensor | None = None) -> Tensor:
        """Features (B, E) of the state at `last` (B,), which sees the goals and the states up to itself.

        The last layer is computed for that state alone.
        """
        x, _ = self.below_last(obs, goal)
        newest = last + self.goal_tokens
        return self.ln_f(self.blocks[-1].one(x, newest, self.seen(newest, x.shape[1]))[:, 0])

    def encode(self, obs: Tensor, goal: Tensor | None = None) -> KV:
        """Keys and values of the states (and goals) in every layer."""
        x, cache = self.below_last(obs, goal)
        return [*cache, self.blocks[-1].remember(x)]

    def below_last(self, obs: Tensor, goal: Tensor | None) -> tuple[Tensor, KV]:
        """What enters the last layer (B, S, E), and the keys and values of those below it."""
        x = self.tokens(obs, goal)
        n = x.shape[1]
        cache: KV = []
        for block in self.blocks[:-1]:
            x, kv = block(x, self.causal[:n, :n])
            cache.append(kv)
        return x, cache

    def encode_tokens(self, x: Tensor) -> KV:
        """Keys and values (B, H, M, d) of tokens (B, M, E), each of which sees itself alone."""
        cache: KV = []
        for block in self.blocks[:-1]:
            _, k, v = block.split(x)
            x = block.finish(x, v)
            cache.append((k, v))
        return [*cache, self.blocks[-1].remember(x)]

    def ask(self, x: Tensor, levels: KV, context: KV, last: Tensor) -> Tensor:
        """Features (B, M, E) of queries x (B, M, E) at the newest state, each of which sees the states, its level and itself.

        levels from `encode_tokens`, for B or 1 windows and M or 1 queries; context from `encode`; last (B,): index of the
        newest state.
        """
        newest = last + self.goal_tokens
        mask = self.seen(newest, context[0][0].shape[2])
        x = x + self.pos_embed[0, newest][:, None]
        for block, level, kv in zip(self.blocks, levels, context, strict=True):
            x = block.query(x, kv, level, mask)
        return self.ln_f(x)


class QueriedTransformer(Transformer):
    """Reads its features where a teacher reads those of a noised action: at a query, here one learned token for all states.

    With a teacher's weights, its level token and its embedding of a noised action, the features are those of that evaluation.
    """

    def __init__(self, config: GPTConfig, obs_dim: int, goal_tokens: int = 0):
        super().__init__(config, obs_dim, goal_tokens)
        self.query = nn.Parameter(torch.zeros(config.embed))
        self.level = nn.Parameter(torch.zeros(config.embed))

    def newest(self, obs: Tensor, last: Tensor, goal: Tensor | None = None) -> Tensor:
        """Features (B, E) of the query at the state at `last` (B,): what `ask` gives, in one pass over states and query.

        The query comes after the states, which do not see it, and sees those up to its own, the level and itself.
        """
        newest = last + self.goal_tokens
        x = self.tokens(obs, goal)
        n = x.shape[1]
        states, query = self.causal[:n, :n].expand(len(x), 1, -1, -1), self.seen(newest, n)
        mask = torch.cat([F.pad(states, (0, 2), value=-torch.inf), F.pad(query, (0, 2))], 2)  # (B, 1, n + 1, n + 2)
        x = torch.cat([x, (self.query + self.pos_embed[0, newest])[:, None]], 1)
        *below, level = self.encode_tokens(self.level[None, None])
        for block, kv in zip(self.blocks[:-1], below, strict=True):
            x, _ = block(x, mask, kv)
        return self.ln_f(self.blocks[-1].one(x, torch.full_like(last, n), mask[:, :, n:], level)[:, 0])


class DenoisingTransformer(Transformer):
    """The teacher's network: what a noised action is denoised to, given states and a noise-level token."""

    def __init__(
        self,
        config: GPTConfig,
        obs_dim: int,
        act_dim: int,
        level: nn.Module,
        goal_tokens: int = 0,
        block: Callable[[GPTConfig], Block] = Block,
    ):
        super().__init__(config, obs_dim, goal_tokens, block)
        self.act_embed = nn.Linear(act_dim, config.embed)
        self.head = nn.Linear(config.embed, act_dim)
        self.level = level  # (B,) noise levels -> (B, E)
        self.init_weights()

    def encoder_state(self) -> dict[str, Tensor]:
        """The weights that a plain `Transformer` has too."""
        own = ("act_embed.", "head.", "level.")
        return {name: value for name, value in self.state_dict().items() if not name.startswith(own)}

    def encode_level(self, level: Tensor) -> KV:
        """Keys and values (B, H, M, d) of noise levels (B, M), each a token that sees itself alone."""
        return self.encode_tokens(self.level(level.reshape(-1)).view(*level.shape, -1))  # (B, M, E)

    def forward(self, noised: Tensor, levels: KV, context: KV, last: Tensor) -> Tensor:
        """Denoise M samples a window against its encoded states.

        noised (B, M, A); levels from `encode_level`, for B or 1 windows and M or 1 samples; context from `encode`;
        last (B,): index of the newest state, which the samples belong to. Returns (B, M, A).
        """
        return self.head(self.ask(self.act_embed(noised), levels, context, last))
