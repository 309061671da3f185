"""From demonstrations to training windows: split by trajectory, scaler, one sample a row, goals from the future.

Images are windows too, but not a tensor of them: `harness/histories.py`.

T = window, D = observation width, A = action width, N = number of windows, G = goal tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from envs.datasets import Demonstrations
from harness.errors import UserError
from harness.histories import Histories, histories
from methods._encoder import CHUNK
from methods.base import Method
from methods.scaler import Scaler

if TYPE_CHECKING:
    from envs.base import Geometry  # which needs a simulator


@dataclass(frozen=True)
class Future:
    """Where the goals of N windows come from: the rows after each window in its own episode, drawn when they are needed.

    `rows` (R, D): all episodes' goal rows, scaled and masked, one episode after the other; `now` (N,) int64: the row that
    is the newest state of a window; `start`, `end` (N,) int64: where that row's episode begins, and one past its last row.
    """

    rows: Tensor
    now: Tensor
    start: Tensor
    end: Tensor
    tokens: int

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """A goal (B, G, D) for each window of `index` (B,): G consecutive rows, uniform over the places after its state.

        Where fewer than G rows follow, the episode's last G rows, which is what an evaluation shows. An episode shorter than G
        begins with its first row repeated.
        """
        now, start, end = self.now[index], self.start[index], self.end[index]
        last = end - self.tokens  # the last place where a goal can begin
        first = torch.minimum(now + 1, last)
        uniform = torch.rand(len(index), generator=generator, dtype=torch.float64)
        begin = first + (uniform * (last - first + 1)).long()  # (B,), uniform < 1: at most `last`
        rows = begin[:, None] + torch.arange(self.tokens)  # (B, G)
        return self.rows[torch.maximum(rows, start[:, None]).to(self.rows.device)]


@dataclass(frozen=True)
class Windows:
    """Scaled float32 samples, one a demonstrated row (`methods.base.Batch`), as tensors over all N rows.

    `obs` (N, T, D), `last` (N,) int64, `action` (N, A). A task with goals has either `future`, from which every use draws
    anew, or fixed ones, `goal` (N, G, D). Images: `obs` is a `Histories`, whose batches are uint8, or features once encoded.
    """

    obs: Any  # Tensor (N, T, D); of images a Histories, whose batches are one
    last: Tensor
    action: Tensor
    goal: Tensor | None = None
    future: Future | None = None

    def __len__(self) -> int:
        return len(self.obs)

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> Windows:
        """The samples of `index` (B,) int64: the same fields with B rows. Goals of the future are drawn from `generator`."""
        where = index.to(self.obs.device)
        goal = None if self.goal is None else self.goal[where]
        if self.future is not None:
            assert generator is not None, "goals of the future are drawn: a generator is needed"
            goal = self.future.draw(index, generator)
        return Windows(self.obs[where], self.last[where], self.action[where], goal)

    def select(self, index: Tensor) -> Windows:
        """The samples of `index` (N',) int64, without goals of the future; images are not fetched."""
        if isinstance(self.obs, Histories):
            return Windows(self.obs.select(index), self.last[index], self.action[index])
        return self.batch(index)

    def batches(self, size: int) -> Iterator[Windows]:
        """All samples in order, as tensors: at once, or of images `size` at a time."""
        step = size if images(self) else max(1, len(self))
        for index in torch.arange(len(self)).split(step):
            yield self if isinstance(self.obs, Tensor) else self.batch(index)

    def to(self, device: torch.device) -> Windows:
        """The same windows with what a method sees on `device`; what goals are drawn by stays where generators are."""
        goal = None if self.goal is None else self.goal.to(device)
        future = None if self.future is None else replace(self.future, rows=self.future.rows.to(device))
        return Windows(self.obs.to(device), self.last.to(device), self.action.to(device), goal, future)

    def with_fixed_goals(self, seed: int) -> Windows:
        """The same windows with one goal each, drawn once: for what is measured and has to be comparable."""
        return self if self.future is None else self.batch(torch.arange(len(self)), torch.Generator().manual_seed(seed))


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


def fit_scaler(
    demos: Demonstrations, obs_dim: int | None = None, goal_mask: np.ndarray | None = None,
    geometry: Geometry | None = None,
) -> Scaler:  # fmt: skip
    """The scaler of all rows of (training) `demos`; of their first `obs_dim` values where a policy sees no more. Images
    (uint8) are not scaled.

    goal_mask (D,) bool: the values that a goal shows, for tasks with goals that hide some. geometry: what is to be added to
    observations, if anything.
    """
    if not demos.episodes:
        raise UserError(f"{demos.origin}: no episodes to fit a scaler to")
    obs, actions = ([getattr(e, field) for e in demos.episodes] for field in ("obs", "actions"))
    if obs[0].dtype == np.uint8:
        return Scaler.fit_actions(np.concatenate(actions))
    return Scaler.fit(np.concatenate(obs)[:, :obs_dim], np.concatenate(actions), goal_mask, geometry)


def make_windows(demos: Demonstrations, window: int, scaler: Scaler, goal_tokens: int = 0) -> Windows:
    """One sample a demonstrated row: its action, and the history that a policy has there, scaled.

    That is the newest `window` observations of the episode so far; in the first rows fewer, left-aligned, zeros behind.
    goal_tokens: of tasks with goals, whose windows have a `future`.
    """
    if window < 1 or not demos.episodes:
        raise UserError(f"windows: need a window of at least 1 and one episode, got {window} and {len(demos.episodes)}")
    scaler = copy.deepcopy(scaler).cpu()  # a trained teacher's may be on a GPU
    action = scaler.scale_act(torch.from_numpy(np.concatenate([e.actions for e in demos.episodes])))
    if demos.episodes[0].obs.dtype == np.uint8:
        return Windows(*histories([e.obs for e in demos.episodes], window), action)
    seen = [torch.from_numpy(np.ascontiguousarray(e.obs[:, : scaler.obs_dim])) for e in demos.episodes]
    obs, last = zip(*(_histories(scaler.scale_obs(rows), window) for rows in seen), strict=True)
    future = _future([scaler.scale_goal(rows) for rows in seen], goal_tokens) if goal_tokens else None
    return Windows(torch.cat(obs), torch.cat(last), action, future=future)


def final_goals(demos: Demonstrations, goal_tokens: int) -> np.ndarray:
    """(episodes, G, width) float32: the last G observations of every demonstration, unscaled and whole.

    They are what an evaluation asks for. A demonstration shorter than G begins with its first row repeated.
    """
    last = [e.obs[np.maximum(np.arange(len(e.obs) - goal_tokens, len(e.obs)), 0)] for e in demos.episodes]
    return np.stack(last).astype(np.float32)


def _future(rows: list[Tensor], tokens: int) -> Future:
    """Of episodes' goal rows (L, D), one window a row."""
    lengths = torch.tensor([len(r) for r in rows])
    end = lengths.cumsum(0)
    start = (end - lengths).repeat_interleave(lengths)
    return Future(torch.cat(rows), torch.arange(len(start)), start, end.repeat_interleave(lengths), tokens)


def _histories(rows: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(L, D) -> histories (L, T, D) and the index of the newest row in each (L,)."""
    step = torch.arange(len(rows))
    first = (step - window + 1).clamp(min=0)
    index = first[:, None] + torch.arange(window)  # (L, T)
    obs = rows[index.clamp(max=len(rows) - 1)] * (index <= step[:, None])[..., None]
    return obs, step - first


def images(data: Windows) -> bool:
    """Whether the windows' states are frames (not numbers, and not features of frames)."""
    return isinstance(data.obs, Histories) and data.obs.raw


def spread(data: Windows, count: int) -> Windows:
    """At most `count` windows, evenly spaced over all of them."""
    if len(data) <= count:
        return data
    return data.select(torch.arange(count) * len(data) // count)


def encoded(method: Method, data: Windows) -> Windows:
    """The windows as `method` sees them: images become the features of the network that acts, each frame encoded once."""
    if not images(data):
        return data
    assert method.encoder is not None, "images need a method with an encoder"
    used, index = data.obs.index.unique(return_inverse=True)  # windows share frames; others are not looked at
    with torch.no_grad():
        rows = [method.encoder(data.obs.rows.gather(part).to(method.device)) for part in used.split(CHUNK)]
    return replace(data, obs=Histories(torch.cat(rows), index, method.device)).to(data.action.device)
