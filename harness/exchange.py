"""Things that look alike change places: one demonstration, as many as there are ways to number what it shows.

Sorting's two red cubes are told apart by nothing but their place in the observation, and so are the blue ones: with any of the
four ways to write them down, a demonstration is as good as it was. A network does not know that. `exchange` in a task's `train`
block makes every training sample show one of the ways, drawn anew (docs/training.md says what that gains).

E = values of a state that networks see, P = ways, B = samples, T = states.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import UserError
from methods.scaler import LIMIT, Scaler

Alike = Sequence[Sequence[Sequence[int]]]  # groups of things, each by the observation values that it has


@dataclass(frozen=True)
class Exchange:
    """`index` (P, E): where values come from; `factor`, `offset` (P, E): from one value's scale to another's."""

    index: Tensor
    factor: Tensor
    offset: Tensor

    @classmethod
    def of(cls, alike: Alike, scaler: Scaler) -> Exchange:
        """All ways to number the things in groups that are `alike`. Raises UserError where there are none."""
        if not any(len(things) > 1 for things in alike):
            raise UserError(
                "exchange = true needs things that are alike, and the task's geometry names none: set it to false"
            )
        ways = []
        for chosen in itertools.product(*(itertools.permutations(range(len(things))) for things in alike)):
            order = list(range(scaler.obs_dim))
            for things, permutation in zip(alike, chosen, strict=True):
                for thing, other in zip(things, permutation, strict=True):
                    for i, j in zip(thing, things[other], strict=True):
                        order[i] = j
            ways.append(scaler.moved(order))
        index = torch.tensor(ways, device=scaler.obs_std.device)
        mean, std = scaler.obs_mean, scaler.obs_std
        return cls(index, std[index] / std, (mean[index] - mean) / std)

    def every(self, states: Tensor) -> Tensor:
        """Scaled states (B, E) in all ways: (B, P, E)."""
        return (states[:, self.index] * self.factor + self.offset).clamp(-LIMIT, LIMIT)

    def draw(self, obs: Tensor, last: Tensor, generator: torch.Generator) -> Tensor:
        """Scaled states (B, T, E) with one way a sample, drawn from `generator`; rows beyond `last` (B,) stay 0."""
        way = torch.randint(len(self.index), (len(obs),), generator=generator).to(obs.device)
        moved = obs.gather(2, self.index[way][:, None].expand(-1, obs.shape[1], -1))
        moved = (moved * self.factor[way][:, None] + self.offset[way][:, None]).clamp(-LIMIT, LIMIT)
        known = torch.arange(obs.shape[1], device=obs.device) <= last[:, None]
        return moved * known[..., None]
