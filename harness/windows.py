"""From demonstrations to training windows: split by trajectory, scaler, every run of T consecutive rows.

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
    """Scaled float32 windows: `obs` (N, T, D), `actions` (N, T, A); `goal` None where a task has none."""

    obs: Tensor
    actions: Tensor
    goal: Tensor | None = None

    def __len__(self) -> int:
        return len(self.obs)

    def batch(self, index: Tensor) -> "Windows":
        """The windows of `index` (B,) int64: the same fields with B rows."""
        return Windows(self.obs[index], self.actions[index], None if self.goal is None else self.goal[index])


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
    """Every window of exactly `window` consecutive rows inside one episode, scaled; no padding (as in D3IL)."""
    if window < 1 or not demos.episodes:
        raise UserError(f"windows: need a window of at least 1 and one episode, got {window} and {len(demos.episodes)}")
    short = [(i, len(e.obs)) for i, e in enumerate(demos.episodes) if len(e.obs) < window]
    if short:
        raise UserError(
            f"{demos.origin}: episode {short[0][0]} has {short[0][1]} rows, fewer than the window of {window} "
            f"({len(short)} such episodes); leave them out or use a smaller window"
        )
    obs = _slide([e.obs for e in demos.episodes], window)  # (N, T, D)
    actions = _slide([e.actions for e in demos.episodes], window)  # (N, T, A)
    return Windows(scaler.scale_obs(obs), scaler.scale_act(actions))


def _slide(episodes: list[np.ndarray], window: int) -> Tensor:
    """[(L_i, K)] to (sum of L_i - T + 1, T, K)."""
    views = [np.lib.stride_tricks.sliding_window_view(rows, window, axis=0) for rows in episodes]  # (L_i - T + 1, K, T)
    return torch.from_numpy(np.concatenate(views).transpose(0, 2, 1).astype(np.float32, order="C"))
