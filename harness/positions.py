"""An image encoder that learns where things are, before a policy learns what to do.

Demonstrations with images know more than images: what the state task observes at each frame, `Episode.positions`. A linear map
of the encoder's features is fitted to that (z-scores, and the differences that the task's geometry adds to them); then the map
is thrown away. No policy ever sees a position: neither in training, nor when it acts.

Directions of boxes are left out: a cube has five pixels a side, and what is fitted to its direction is learned by heart, to the
harm of the rest (docs/images.md).

Things that look alike have no numbers in an image. Of all ways to number them a frame is held against the one that fits best.

F = features, E = values of a state that networks see, W of them are fitted, P = ways to number things, B = frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.datasets import Demonstrations
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


@dataclass(frozen=True)
class PositionConfig:
    """fitted: which of the E values; ways: of numbering what looks alike, None where nothing does."""

    fitted: tuple[int, ...]
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
        """Predicted minus true positions of each frame (B, W), its things numbered as fits best."""
        fitted, ways = list(self.config.fitted), self.config.ways
        read = self.net(batch.obs[:, 0]).float()
        wanted = batch.action[:, None] if ways is None else ways.every(batch.action)  # (B, P, E)
        errors = read[:, None] - wanted[..., fitted]
        best = errors.square().mean(-1).argmin(1)
        return errors[torch.arange(len(errors), device=errors.device), best]

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Huber's: what a camera cannot see must not drown the rest."""
        errors = self.errors(batch)
        return F.huber_loss(errors, torch.zeros_like(errors)), {"square_error": errors.square().mean()}

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
    fitted = [k for k in range(scaler.obs_dim) if geometry is None or k not in geometry.tangents]
    if scaler.relations is not None:
        names = scaler.relations.names()
        fitted += [scaler.obs_dim + k for k, (kind, _, _) in enumerate(names) if kind in ("pair", "tool")]
    ways = Exchange.of(geometry.alike, scaler) if geometry is not None and geometry.alike else None
    shape = Shape(kept.episodes[0].obs.shape[1], len(scaler.obs_mean))
    reader = PositionReader(PositionConfig(tuple(fitted), ways), shape, gpt, scaler)
    return reader, frames(kept, scaler), frames(held, scaler)


def frames(demos: Demonstrations, scaler: Scaler) -> Windows:
    """One sample a row: the frame, and as its action the scaled positions."""
    obs, last = histories([e.obs for e in demos.episodes], 1)
    known = np.concatenate([np.asarray(e.positions, np.float32) for e in demos.episodes])
    return Windows(obs, last, scaler.scale_obs(torch.from_numpy(known)))
