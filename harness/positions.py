"""An image encoder that learns where things are, before a policy learns what to do.

Demonstrations with images know more than images: what the state task observes at each frame, `Episode.positions`. A linear map
of the encoder's features is fitted to that (z-scores, and the differences that the task's geometry adds to them); then the map
is thrown away. No policy ever sees a position: neither in training, nor when it acts.

What counts is millimetres: a grasp misses by ten of them wherever on the table a box lies. So errors of lengths are weighed by
`LENGTH`, of differences as `Relations` gives them (in units of its `near` where they are small), of all else as z-scores.

Directions of boxes are learned where the tool is within `CLOSE` of them, which is where the camera in the hand sees them, and
where the task's geometry has them, from the tool's heading; of a cube only what a quarter turn does not change. From afar a
cube has five pixels a side, and what is fitted to its direction is learned by heart, to the harm of the rest (docs/images.md).

Things that look alike have no numbers in an image. Of all ways to number them a frame is held against the one that fits best.

Frames follow one another closely: of long data sets every k-th is enough, and small enough to be held decoded.

F = features, E = values of a state that networks see, W of them are fitted, P = ways to number things, B = frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.datasets import Demonstrations
from envs.frames import uncached
from harness.errors import UserError
from harness.exchange import Exchange
from harness.histories import histories
from harness.windows import Windows
from methods._encoder import ImageEncoder
from methods._transformer import GPTConfig
from methods.base import Batch, Method, Shape
from methods.scaler import Scaler

if TYPE_CHECKING:
    from envs.base import Geometry  # which needs a simulator


LENGTH = 0.05  # m, of an error that counts like one standard deviation of other values
CLOSE = 0.08  # m, in the plane: the camera in the hand sees how a box lies
HALF_TURN, QUARTER_TURN = ("along", "across"), ("along twice", "across twice")  # after which these are the same
MOST = 50_000  # frames: 2.8 GB


@dataclass(frozen=True)
class PositionConfig:
    """fitted: which of the E values. weights (W,): of their errors, in z-scores. apart: of each that counts only where a thing
    is close to the tool, which of the E values are the differences of these two in x and y, else None. ways: of numbering
    what looks alike, None where nothing does."""

    fitted: tuple[int, ...]
    weights: tuple[float, ...]
    apart: tuple[tuple[int, int] | None, ...]
    ways: Exchange | None


class PositionReader(Method):
    """Frames (B, 1, D) -> positions (B, W), scaled. Its `action` is the whole state (B, E)."""

    Config = PositionConfig
    config: PositionConfig

    def __init__(self, config: PositionConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: None = None):
        super().__init__(config, shape, gpt, scaler)
        encoder = ImageEncoder(gpt.cameras, gpt.pixels, gpt.keypoints, gpt.encoder_width)
        self.net = nn.Sequential(encoder, nn.Linear(encoder.features, len(config.fitted)))

    def errors(self, batch: Batch) -> Tensor:
        """Predicted minus true positions of each frame (B, W), its things numbered as fits best; 0 for what does not count."""
        fitted, ways = list(self.config.fitted), self.config.ways
        read = self.net(batch.obs[:, 0]).float()
        wanted = batch.action[:, None] if ways is None else ways.every(batch.action)  # (B, P, E)
        errors = (read[:, None] - wanted[..., fitted]) * self.counts(wanted)
        best = errors.square().mean(-1).argmin(1)
        return errors[torch.arange(len(errors), device=errors.device), best]

    def counts(self, states: Tensor) -> Tensor:
        """Scaled states (..., E) -> (..., W), 0 for directions of things that the tool is far from, otherwise 1."""
        found = torch.ones(*states.shape[:-1], len(self.config.fitted), device=states.device)
        where = [k for k, apart in enumerate(self.config.apart) if apart is not None]
        if where:
            assert self.scaler.relations is not None  # directions are of what it adds
            columns = torch.tensor([apart for apart in self.config.apart if apart is not None])  # (n, 2)
            scaled = states[..., columns] * self.scaler.obs_std[columns] + self.scaler.obs_mean[columns]
            distance = self.scaler.relations.lengths(scaled).norm(dim=-1)  # m
            found[..., where] = (distance < CLOSE).to(found.dtype)
        return found

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Huber's, of the weighted errors: what a camera cannot see must not drown the rest."""
        errors = self.errors(batch)
        weighted = errors * torch.tensor(self.config.weights, device=errors.device)
        return F.huber_loss(weighted, torch.zeros_like(errors)), {"square_error": errors.square().mean()}

    def validation_loss(self, batch: Batch) -> Tensor:
        """Mean squared error in units of the values' variances: the share of variance that is not explained."""
        return self.errors(batch).square().mean()


def pretraining(
    kept: Demonstrations, held: Demonstrations, gpt: GPTConfig, geometry: Geometry | None
) -> tuple[PositionReader, Windows, Windows]:
    """The reader, and the frames to train and to validate it with. geometry: of the task's state observation.

    Raises UserError for demonstrations that know nothing but images.
    """
    known = [e.positions for e in kept.episodes]
    if any(p is None for p in known):
        raise UserError(f"{kept.origin}: has no positions beside its images: set encoder_target = loss")
    actions = np.concatenate([e.actions for e in kept.episodes])
    scaler = Scaler.fit(np.concatenate([p for p in known if p is not None]), actions, geometry=geometry)
    ways = Exchange.of(geometry.alike, scaler) if geometry is not None and geometry.alike else None
    shape = Shape(kept.episodes[0].obs.shape[1], len(scaler.obs_mean))
    reader = PositionReader(PositionConfig(*chosen(scaler, geometry), ways), shape, gpt, scaler)
    return reader, frames(kept, scaler), frames(held, scaler)


def chosen(
    scaler: Scaler, geometry: Geometry | None
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[int, int] | None, ...]]:
    """`fitted`, `weights` and `apart` of a task. Without a geometry nothing is known to be a length."""
    if geometry is None:
        number = scaler.obs_dim
        return tuple(range(number)), (1.0,) * number, (None,) * number
    dim, lengths = scaler.obs_dim, {k for pair in geometry.pairs for k in pair}
    std = scaler.obs_std.tolist()
    found: list[tuple[int, float, tuple[int, int] | None]] = []  # value, weight, apart
    for k in range(dim):
        if k not in geometry.tangents:
            found.append((k, std[k] / LENGTH if k in lengths else 1.0, None))
    if scaler.relations is not None:
        tools = [dim + n for n, (one, _) in enumerate(geometry.pairs) if one >= dim]  # x, y, z for each tangent's thing
        for k, (kind, about, number) in enumerate(scaler.relations.names(), dim):
            if kind == "pair":
                found.append((k, std[k], None))
            elif kind == "tool":
                found.append((k, std[k] / LENGTH if number < 3 else 1.0, None))
            elif kind in QUARTER_TURN or (kind in HALF_TURN and about[0] not in geometry.square):
                thing = 3 * geometry.tangents.index(about[0])
                found.append((k, 1.0, (tools[thing], tools[thing + 1])))
    fitted, weights, apart = zip(*found, strict=True)
    return fitted, weights, apart


def frames(demos: Demonstrations, scaler: Scaler) -> Windows:
    """One sample a row, of more than `MOST` one every few rows: the frame, and as its action the scaled positions."""
    seen, known = [e.obs for e in demos.episodes], [np.asarray(e.positions, np.float32) for e in demos.episodes]
    every = -(-demos.rows // MOST)
    if every > 1:
        firsts = [min(n % every, len(rows) - 1) for n, rows in enumerate(known)]  # so that all stages are seen
        known = [rows[first::every] for first, rows in zip(firsts, known, strict=True)]
        seen = [together(seen, firsts, every, sum(map(len, known)))]
    obs, last = histories(seen, 1)
    return Windows(obs, last, scaler.scale_obs(torch.from_numpy(np.concatenate(known))))


def together(episodes: Sequence[np.ndarray], firsts: list[int], every: int, number: int) -> np.ndarray:
    """One array (number, D), which the system gets back as a whole: gigabytes in small pieces would stay with the process."""
    out, done = np.empty((number, episodes[0].shape[1]), np.uint8), 0
    for first, rows in zip(firsts, episodes, strict=True):
        part = uncached(rows, slice(first, None, every))
        out[done : done + len(part)] = part
        done += len(part)
    return out
