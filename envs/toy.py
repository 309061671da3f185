"""Toy: eight Gaussian modes on a circle, one action an episode; its density is known, so a policy's can be compared with it.

VDD paper, Figure 2; constants of the released toy: radius 2, standard deviation 0.5, equal weights.

Observation (1,): always 0. Action (2,): a point. Episode: one step. Mode: the nearest centre, "0" (angle 0) to "7",
counter-clockwise. Success: the point lies within `REACH` standard deviations of a centre; then the behaviour entropy of the
successful episodes is how evenly the modes are covered, and points between the middle of the circle and the modes fail.
Of samples from the density itself 92 % succeed; policies that act with the means of their experts can reach 100 %.

Letters: n environments, M points, K modes.

Differences from the original
 1. The original has no environment, it only draws pictures of density and experts; episodes, success and the figures of
    `extra_metrics` are this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from envs._gym import SingleEnv, VectorEnv
from envs._labels import number_text
from harness.errors import UserError

MODES, RADIUS, STD = 8, 2.0, 0.5
REACH = 2.0  # standard deviations
_ANGLE = 2 * np.pi * np.arange(MODES) / MODES
CENTRES = RADIUS * np.stack([np.cos(_ANGLE), np.sin(_ANGLE)], 1)  # (K, 2)


def log_density(points: np.ndarray) -> np.ndarray:
    """log p of points (M, 2): (M,)."""
    exponent = _exponents(points)
    top = exponent.max(1)
    return top + np.log(np.exp(exponent - top[:, None]).mean(1)) - np.log(2 * np.pi * STD**2)


def score(points: np.ndarray) -> np.ndarray:
    """Gradient of log p at points (M, 2): (M, 2)."""
    exponent = _exponents(points)
    share = np.exp(exponent - exponent.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)  # (M, K)
    return (share @ CENTRES - points) / STD**2


def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(points (count, 2), the mode that each was drawn from (count,))."""
    mode = rng.integers(MODES, size=count)
    return CENTRES[mode] + STD * rng.standard_normal((count, 2)), mode


def nearest(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest mode of points (M, 2) and the distance to it in standard deviations, each (M,)."""
    distance = np.linalg.norm(points[:, None] - CENTRES, axis=-1) / STD  # (M, K)
    return distance.argmin(1), distance.min(1)


def _exponents(points: np.ndarray) -> np.ndarray:
    """-|x - c_k|^2 / (2 std^2): (M, K)."""
    return -0.5 * (((points[:, None] - CENTRES) / STD) ** 2).sum(-1)


class FirstAction(Protocol):
    """What a policy tells of its first action, unscaled: `harness.distribution.FirstAction`."""

    has_density: bool

    def act(self, count: int) -> np.ndarray: ...
    def sample(self, count: int) -> np.ndarray: ...
    def log_prob(self, actions: np.ndarray) -> np.ndarray: ...


class ToyBatch:
    """n one-step episodes; the interface of `envs.base.BatchEnv` as far as it makes sense without a robot."""

    obs_dim, act_dim, mode_dim = 1, 2, 1
    action_bound = RADIUS + 4 * STD
    max_steps = 1

    def __init__(self, num_envs: int = 1, num_threads: int = 1, max_steps: int | None = None):
        if num_envs < 1:
            raise UserError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.obs = np.zeros((num_envs, 1), np.float32)
        self.active = np.zeros(num_envs, bool)
        self.success = np.zeros(num_envs, bool)
        self.mode = np.full(num_envs, -1)
        self._was_reset = np.zeros(num_envs, bool)

    def reset(self, contexts: Sequence | None = None, seeds: Sequence[int] | None = None, ids=None) -> np.ndarray:
        """New episodes in all environments (or in `ids`); there is nothing random and one context, 0."""
        ids = np.arange(self.num_envs) if ids is None else np.asarray(ids, np.int64).reshape(-1)
        for what, given in (("contexts", contexts), ("seeds", seeds)):
            if given is not None and len(given) != len(ids):
                raise UserError(f"reset of {len(ids)} environments needs as many {what}, got {len(given)}")
        for context in contexts if contexts is not None else ():
            if context is not None and (isinstance(context, bool) or context != 0):
                raise UserError(f"Toy has a single context, 0 (or None); got {context!r}")
        self.active[ids] = self._was_reset[ids] = True
        self.success[ids], self.mode[ids] = False, -1
        return self.obs.copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """The one step: actions (n, 2). Ended episodes keep their values."""
        if not self._was_reset.all():
            raise UserError("step before reset: call reset() first")
        actions = np.asarray(actions, float)
        if actions.shape != (self.num_envs, 2):
            raise UserError(f"actions must have shape ({self.num_envs}, 2), got {actions.shape}")
        bad = self.active & ~np.isfinite(actions).all(1)
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise UserError(f"actions must be finite; environment {i} got {actions[i].tolist()}")
        ids = np.flatnonzero(self.active)
        self.mode[ids], distance = nearest(actions[ids])
        self.success[ids] = distance <= REACH
        reward = np.zeros(self.num_envs, np.float32)
        reward[ids] = self.success[ids]
        self.active[ids] = False
        return self.obs.copy(), reward, np.ones(self.num_envs, bool), np.zeros(self.num_envs, bool), self.info()

    def info(self) -> dict[str, np.ndarray]:
        """success (n,), mode (n,): the nearest centre, -1 before the step."""
        return {"success": self.success.copy(), "mode": self.mode.copy()}

    @staticmethod
    def mode_name(mode_row: Any) -> str:
        """ "0" to "7"; "" before the step."""
        return number_text(mode_row)

    def close(self) -> None:
        """Nothing to release."""

    @staticmethod
    def extra_metrics(policy: FirstAction, count: int = 20_000) -> dict[str, float]:
        """What only a known density allows, by `count` samples with fixed seeds.

        modes_covered: modes with at least 1 % of the policy's actions within `REACH`; mode_distance: mean distance of its
        actions to the nearest centre, in standard deviations (1.25 for samples of one mode, 0 for the centres themselves).
        For policies with a density, in nats: kl_reverse = E_q[log q - log p] and kl_forward = E_p[log p - log q].
        """
        mode, distance = nearest(policy.act(2000))
        share = np.bincount(mode[distance <= REACH], minlength=MODES) / len(mode)
        metrics = {"modes_covered": float((share >= 0.01).sum()), "mode_distance": float(distance.mean())}
        if policy.has_density:
            own, exact = policy.sample(count), sample(np.random.default_rng(0), count)[0]
            metrics["kl_reverse"] = float(np.mean(policy.log_prob(own) - log_density(own)))
            metrics["kl_forward"] = float(np.mean(log_density(exact) - policy.log_prob(exact)))
        return metrics


class ToyEnv(SingleEnv):
    """One toy environment with the Gymnasium interface."""

    metadata: ClassVar[dict] = {"render_modes": [], "render_fps": 1}  # type: ignore[misc]  # nothing to see
    batch_class = ToyBatch  # type: ignore[assignment]  # no robot


class ToyVectorEnv(VectorEnv):
    """N toy environments with Gymnasium's vector interface."""

    batch_class = ToyBatch  # type: ignore[assignment]
