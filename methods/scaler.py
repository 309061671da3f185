"""Z-scores of observations and actions, and the bounds of the scaled actions; saved with a method's weights.

As in D3IL: mean and standard deviation per dimension over all training rows, std + 1e-12, bounds = the scaled minimum
and maximum of the training actions. Differences:

 1. A dimension that is constant in the training rows is only centred (std 1), since dividing by 1e-12 would turn the
    smallest deviation met later into an astronomical input.
 2. An observed dimension with an outlier beyond `OUTLIER` standard deviations gets its median as mean and the spread
    between its quartiles as standard deviation. The tangent of an orientation (D3IL's boxes) is infinite at 90 degrees:
    single rows of 1e3 to 1e16 would make all others equal to within 1e-3, and hide how a box lies. Even the 5th and the
    95th percentile are as far apart as 185 (Sorting), where the quartiles are at -1 and 1.
 3. Scaled observations are cut off at +-`LIMIT`, for the same reason.

Images are not scaled by it: of a task with images, `fit_actions` leaves the fields of observations empty.

A goal is scaled like an observation; the values that it does not show are then zero, as in the original.

Where a task asks for it, what a network sees of an observation is more than its values (`methods/relations.py`). Goals show
none of that where they hide anything.

D = observation width, E = D and what is added to it, A = action width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import UserError
from methods.relations import Relations

if TYPE_CHECKING:
    from envs.base import Geometry  # which needs a simulator

OUTLIER = 50.0  # standard deviations
LIMIT = 10.0  # of scaled observations; the largest on the demonstrations of Avoiding is 2.3
NORMAL_50 = 1.349  # standard deviations between the quartiles of a normal distribution

FIELDS = ("obs_mean", "obs_std", "act_mean", "act_std", "act_low", "act_high")
ADDED = "relations."  # names in a state that begin so are of what is added


class Scaler(nn.Module):
    """Float32 buffers `obs_mean`, `obs_std` (E,); `act_mean`, `act_std`, and the scaled `act_low`, `act_high` (A,).

    `goal_mask` (E,) bool: what a goal shows; None where it shows everything, or where there are no goals.
    `relations`: what is added to observations; None where nothing is.
    """

    obs_mean: Tensor
    obs_std: Tensor
    act_mean: Tensor
    act_std: Tensor
    act_low: Tensor
    act_high: Tensor
    goal_mask: Tensor | None

    def __init__(
        self, obs_mean, obs_std, act_mean, act_std, act_low, act_high, goal_mask=None, relations: Relations | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in zip(FIELDS, (obs_mean, obs_std, act_mean, act_std, act_low, act_high), strict=True):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).clone())
        mask = None if goal_mask is None else torch.as_tensor(goal_mask, dtype=torch.bool).clone()
        if mask is not None and mask.shape != self.obs_mean.shape:
            raise UserError(
                f"a goal mask must have one value an observation, {len(self.obs_mean)}. Got {tuple(mask.shape)}"
            )
        self.register_buffer("goal_mask", mask)  # None is not saved: files of tasks without goals stay as they were
        self.relations = relations

    @property
    def added(self) -> int:
        """E - D: how many values a network sees besides the observation's own."""
        return 0 if self.relations is None else self.relations.width

    @property
    def obs_dim(self) -> int:
        return len(self.obs_mean) - self.added

    @classmethod
    def fit(
        cls, obs: np.ndarray, act: np.ndarray, goal_mask: np.ndarray | None = None, geometry: Geometry | None = None
    ) -> Scaler:
        """From all training rows, unscaled: `obs` (N, D), `act` (N, A); goal_mask (D,)."""
        obs, act = np.asarray(obs, dtype=np.float64), np.asarray(act, dtype=np.float64)
        if obs.ndim != 2 or act.ndim != 2 or len(obs) != len(act) or len(obs) == 0:
            raise UserError(f"scaler: needs obs (N, D) and act (N, A) of equal N > 0, got {obs.shape} and {act.shape}")
        relations = None if geometry is None else Relations(**geometry._asdict())
        if relations is not None:
            added = relations(torch.from_numpy(obs)).numpy()
            obs = np.concatenate([obs, added], axis=1)
            if goal_mask is not None:
                goal_mask = np.concatenate([goal_mask, np.zeros(added.shape[1], bool)])
        obs_mean, obs_std = _robust(obs, *_mean_std(obs))
        act_mean, act_std = _mean_std(act)
        scaled = (act - act_mean) / act_std  # (N, A)
        return cls(obs_mean, obs_std, act_mean, act_std, scaled.min(axis=0), scaled.max(axis=0), goal_mask, relations)

    @classmethod
    def fit_actions(cls, act: np.ndarray) -> Scaler:
        """From the actions of all training rows, `act` (N, A), alone: observations stay as they are."""
        fitted = cls.fit(np.zeros((len(act), 1)), act)
        return cls(torch.zeros(0), torch.zeros(0), fitted.act_mean, fitted.act_std, fitted.act_low, fitted.act_high)

    @classmethod
    def identity(cls, obs_dim: int, act_dim: int, bound: float = float("inf")) -> Scaler:
        """Leaves everything within ± `LIMIT` as it is; scaled actions within ± `bound`."""
        obs, act = torch.zeros(obs_dim), torch.zeros(act_dim)
        return cls(obs, obs + 1, act, act + 1, act - bound, act + bound)

    def scale_obs(self, obs: Tensor) -> Tensor:  # (..., D) -> (..., E)
        if not len(self.obs_mean):
            return obs
        if self.relations is not None:
            obs = torch.cat([obs, self.relations(obs)], -1)
        return ((obs - self.obs_mean) / self.obs_std).clamp(-LIMIT, LIMIT)

    def moved(self, order: list[int]) -> list[int]:
        """Where each of the E values that a network sees comes from when observation value i is that of order[i]."""
        added = [] if self.relations is None else self.relations.moved(order)
        return [*order, *(self.obs_dim + k for k in added)]

    def scale_goal(self, goal: Tensor) -> Tensor:  # (..., D) -> (..., E)
        """Scaled like an observation; what the mask hides is zero afterwards."""
        scaled = self.scale_obs(goal)
        return scaled if self.goal_mask is None else scaled * self.goal_mask

    def unscale_obs(self, obs: Tensor) -> Tensor:  # (..., E) -> (..., D)
        return (obs * self.obs_std + self.obs_mean)[..., : self.obs_dim]

    def scale_act(self, act: Tensor) -> Tensor:  # (..., A)
        return (act - self.act_mean) / self.act_std

    def unscale_act(self, act: Tensor) -> Tensor:  # (..., A)
        return act * self.act_std + self.act_mean

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_state` gives the same numbers back."""
        return {name: value.tolist() for name, value in self.state_dict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Scaler:
        """From a `state_dict`, or what `to_dict` gave."""
        own = {name: value for name, value in state.items() if not name.startswith(ADDED)}
        added = {name.removeprefix(ADDED): value for name, value in state.items() if name.startswith(ADDED)}
        return cls(**own, relations=Relations(**added) if added else None)


def _mean_std(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per column of (N, K). A column is constant when its spread is below float32's resolution of its values."""
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    constant = std <= 1e-6 * np.abs(rows).max(axis=0)
    return mean, np.where(constant, 1.0, std + 1e-12)


def _robust(rows: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The given mean and std of the columns of (N, K), replaced where outliers make them useless."""
    low, middle, high = np.percentile(rows, [25, 50, 75], axis=0)
    spread = (high - low) / NORMAL_50
    useless = (np.abs(rows - mean).max(axis=0) > OUTLIER * std) & (spread > 0)
    return np.where(useless, middle, mean), np.where(useless, spread, std)
