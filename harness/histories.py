"""Windows of images: rows that overlapping windows share, gathered when a batch needs them.

A float array of all windows of a hundred demonstrations would take gigabytes a minute of film; here the frames stay as they
are (uint8, perhaps not even decoded), and a batch gets copies of its own.

T = window, D = values of a row (of an image: one a pixel and channel), N windows, R rows of E episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


class FrameRows:
    """The observations of episodes, one after the other, as rows (R, D) uint8: arrays, or objects that act like one
    (`envs.frames`), of which rows alone are asked for."""

    def __init__(self, episodes: Sequence[np.ndarray]):
        self.episodes = list(episodes)
        self.ends = np.cumsum([len(e) for e in self.episodes])
        self.width = self.episodes[0].shape[1]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def gather(self, index: Tensor) -> Tensor:
        """Rows of `index`, any shape (...): (..., D) uint8. Each row is fetched once, episode after episode."""
        wanted, inverse = np.unique(index.cpu().numpy().reshape(-1), return_inverse=True)
        rows = np.empty((len(wanted), self.width), np.uint8)
        where = np.searchsorted(self.ends, wanted, side="right")  # the episode of each
        for episode in np.unique(where):
            chosen = np.flatnonzero(where == episode)
            start = self.ends[episode] - len(self.episodes[episode])
            rows[chosen] = self.episodes[episode][wanted[chosen] - start]
        return torch.from_numpy(rows)[torch.from_numpy(inverse.reshape(index.shape))]

    def chunks(self, size: int) -> Iterator[Tensor]:
        """All rows in order, `size` at a time."""
        for index in torch.arange(len(self)).split(size):
            yield self.gather(index)


@dataclass(frozen=True)
class Histories:
    """The windows' states, as a tensor (N, T, D) would hold them: `histories[index]` gives (B, T, D).

    rows: FrameRows, or a tensor (R, F) of features. index (N, T): the row of each state; beyond the newest state of a window
    it repeats that one. `device` is where batches go; frames themselves stay in memory.
    """

    rows: FrameRows | Tensor
    index: Tensor
    device: torch.device

    @property
    def raw(self) -> bool:
        """Whether these are frames, not features."""
        return isinstance(self.rows, FrameRows)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, where: Tensor) -> Tensor:
        index = self.index[where.cpu()]
        if isinstance(self.rows, FrameRows):
            return self.rows.gather(index).to(self.device)
        return self.rows[index.to(self.device)]

    def to(self, device: torch.device) -> Histories:
        """The same windows for batches on `device`; features move there."""
        rows = self.rows if isinstance(self.rows, FrameRows) else self.rows.to(device)
        return Histories(rows, self.index, torch.device(device))

    def select(self, where: Tensor) -> Histories:
        """The windows of `where` alone."""
        return replace(self, index=self.index[where.cpu()])

    def with_rows(self, rows: Tensor) -> Histories:
        """The same windows over other rows, such as the features of each frame (R, F)."""
        return Histories(rows, self.index, rows.device)


def histories(episodes: Sequence[np.ndarray], window: int) -> tuple[Histories, Tensor]:
    """Of each row the newest `window` rows of its episode so far, left-aligned, and the index of the newest (N,)."""
    rows = FrameRows(episodes)
    index, last = [], []
    start = 0
    for episode in rows.episodes:
        step = torch.arange(len(episode))
        first = (step - window + 1).clamp(min=0)
        index.append(start + torch.minimum(first[:, None] + torch.arange(window), step[:, None]))  # (L, T)
        last.append(step - first)
        start += len(episode)
    return Histories(rows, torch.cat(index), torch.device("cpu")), torch.cat(last)
