"""From demonstrations to training windows: split by trajectory, scaler, one sample a row.

T = window, D = observation width, A = action width, N = number of windows.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from envs.datasets import Demonstrations
from harness.errors import UserError
from methods.scaler import Scaler


@dataclass(frozen=True)
class Windows:
    """Scaled float32 samples, one a demonstrated row (`methods.base.Batch`), as tensors over all N rows.

    `obs` (N, T, D), `last` (N,) int64, `action` (N, A); `goal` None where a task has none.
    """

    obs: Tensor
    last: Tensor
    action: Tensor
    goal: Tensor | None = None

    def __len__(self) -> int:
        return len(self.obs)

    def batch(self, index: Tensor) -> "Windows":
        """The samples of `index` (B,) int64: the same fields with B rows."""
        goal = None if self.goal is None else self.goal[index]
        return Windows(self.obs[index], self.last[index], self.action[index], goal)


def split(demos: Demonstrations, seed: int, fraction: float = 0.05) -> tuple[Demonstrations, Demonstrations]:
    """(training, validation) by trajectory; `seed` alone decides the split; at least one episode is held out.

    Stratified: modes lose one episode each, in random order, before any loses a second. Episodes keep their order.
    Both parts carry the identity and digest of the whole.
    """
    count = len(demos.episodes)
    if count < 2 or not 0.0 < fraction < 1.0:
        raise UserError(f"split: needs two episodes or more and 0 < fraction < 1, got {count} episodes and {fraction}")
    held = min(max(round(fraction * count), 1), count - 1)
    rng = np.random.default_rng(seed)
    by_mode: dict[str, list[int]] = {}
    for i in rng.permutation(count):
        by_mode.setdefault(demos.episodes[i].mode, []).append(int(i))
    rank = [(k, i) for members in by_mode.values() for k, i in enumerate(members)]  # modes in random order
    chosen = {i for _, i in sorted(rank, key=lambda pair: pair[0])[:held]}  # stable: first members first
    train = [e for i, e in enumerate(demos.episodes) if i not in chosen]
    val = [e for i, e in enumerate(demos.episodes) if i in chosen]
    return replace(demos, episodes=train), replace(demos, episodes=val)


def fit_scaler(demos: Demonstrations) -> Scaler:
    """The scaler of all rows of (training) `demos`."""
    if not demos.episodes:
        raise UserError(f"{demos.origin}: no episodes to fit a scaler to")
    obs, actions = ([getattr(e, field) for e in demos.episodes] for field in ("obs", "actions"))
    return Scaler.fit(np.concatenate(obs), np.concatenate(actions))


def make_windows(demos: Demonstrations, window: int, scaler: Scaler) -> Windows:
    """One sample a demonstrated row: its action, and the history that a policy has there, scaled.

    That is the newest `window` observations of the episode so far; in the first rows fewer, left-aligned, zeros behind.
    """
    if window < 1 or not demos.episodes:
        raise UserError(f"windows: need a window of at least 1 and one episode, got {window} and {len(demos.episodes)}")
    rows = [scaler.scale_obs(torch.from_numpy(e.obs)) for e in demos.episodes]
    obs, last = zip(*(_histories(r, window) for r in rows), strict=True)
    action = scaler.scale_act(torch.from_numpy(np.concatenate([e.actions for e in demos.episodes])))
    return Windows(torch.cat(obs), torch.cat(last), action)


def _histories(rows: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(L, D) -> histories (L, T, D) and the index of the newest row in each (L,)."""
    step = torch.arange(len(rows))
    first = (step - window + 1).clamp(min=0)
    index = first[:, None] + torch.arange(window)  # (L, T)
    obs = rows[index.clamp(max=len(rows) - 1)] * (index <= step[:, None])[..., None]
    return obs, step - first


def spread(data: Windows, count: int) -> Windows:
    """At most `count` windows, evenly spaced over all of them."""
    if len(data) <= count:
        return data
    return data.batch(torch.arange(count) * len(data) // count)
