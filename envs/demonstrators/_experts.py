"""What the closed-loop demonstrators share: running many of them in one batch, and moving like a hand.

An expert is a controller for a batch: it sees the simulations' state and gives every one of them its next action. All its
randomness is drawn per episode beforehand, so an episode depends neither on its neighbours nor on the batch.

Letters: n episodes in a batch, A numbers an action, L rows of an episode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from envs.datasets import Episode

BATCH = 128  # episodes run together
MAX_ATTEMPTS = 30  # draws for one episode before giving up
MAX_STEP = 0.0125  # m a row and axis, the fastest human command in Avoiding
MAX_CHANGE = 0.006  # m a row and row, of a hand's velocity
LEAD = 1.3  # rows that the set-point is ahead of the tool
DRAW = 0.4  # of the difference to that, a row
NOISE_ROWS = 750  # rows of hand noise drawn for an episode, at least as long as any


class Expert(Protocol):
    """Built from the batch and one random generator an episode."""

    def command(self, k: int) -> np.ndarray: ...  # (n, A) actions of row k


Job = tuple[str, int, int]  # behaviour, its copy, attempt
Draw = Callable[[str, np.random.Generator], Any]  # a context that suits a behaviour
Outcome = tuple[Episode | None, str]  # the episode, None where it is not what was wanted; the behaviour shown or ""


class Stray:
    """How a hand strays: velocities (A,) of variance 1 that come and go, one a row. memory: share that is kept, twice."""

    def __init__(self, width: int, memory: float):
        self.memory = memory
        self.push, self.velocity = np.zeros(width), np.zeros(width)

    def step(self, rng: np.random.Generator) -> np.ndarray:
        """The velocity of the next row."""
        m = self.memory
        self.push = m * self.push + np.sqrt(1 - m**2) * rng.standard_normal(len(self.push))
        self.velocity = m * self.velocity + (1 - m**2) / np.sqrt(1 + m**2) * self.push  # of variance 1 again
        return self.velocity


def try_all(
    wanted: Sequence[str], run: Callable[[list[Job]], Sequence[Outcome]], what: str,
    progress: Callable[[int, int], None] | None = None, attempts: list[tuple[str, str]] | None = None,
    batch: int = BATCH, most: int = MAX_ATTEMPTS,
) -> list[Episode]:  # fmt: skip
    """One episode for every behaviour in `wanted`, in that order: `run` makes one attempt at each of up to `batch` jobs.

    A job that fails comes again, with the next attempt, behind those that wait; RuntimeError after `most` attempts at one.
    What was attempted is appended to `attempts`: (behaviour wanted, behaviour shown or ""). what: for messages.
    """
    copies: dict[str, int] = {}
    jobs: list[Job] = []
    for mode in wanted:
        copies[mode] = copies.get(mode, -1) + 1
        jobs.append((mode, copies[mode], 0))
    found: list[Episode | None] = [None] * len(jobs)
    waiting = list(range(len(jobs)))
    while waiting:
        now, waiting = waiting[:batch], waiting[batch:]
        if progress is not None:
            progress(sum(e is not None for e in found), len(found))
        for n, (episode, shown) in zip(now, run([jobs[n] for n in now]), strict=True):
            mode, copy, attempt = jobs[n]
            if attempts is not None:
                attempts.append((mode, shown))
            if episode is not None:
                found[n] = episode
            elif attempt + 1 < most:
                jobs[n] = (mode, copy, attempt + 1)
                waiting.append(n)
            else:
                raise RuntimeError(f"no demonstration of {what} in mode {mode} after {most} attempts")
    if progress is not None:
        progress(len(found), len(found))
    return [episode for episode in found if episode is not None]


def generate_all(
    task: type, make_expert: Callable[[Any, list[str], list[np.random.Generator]], Expert],
    wanted: Sequence[str], seed: int, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None, states: bool = False, context: Draw | None = None,
) -> list[Episode]:  # fmt: skip
    """One successful episode for every behaviour in `wanted`, in that order; the same for the same seed.

    An attempt that fails or shows another behaviour is drawn again, context included (`try_all`).
    states: with `Episode.states`. context: draws the context of an episode (None: as the task does).
    """

    def run(jobs: list[Job]) -> list[Outcome]:
        made = _attempt(task, make_expert, jobs, seed, states, context)
        return [
            (e if e is not None and e.mode == mode else None, e.mode if e else "")
            for (mode, _, _), e in zip(jobs, made, strict=True)
        ]

    return try_all(wanted, run, task.__name__, progress, attempts)


def _attempt(
    task: type, make_expert: Callable, jobs: list[Job], seed: int, states: bool = False, context: Draw | None = None
) -> list[Episode | None]:
    """One run of each job, in one batch; None where it did not succeed."""
    rngs = [np.random.default_rng([seed, *mode.encode(), copy, attempt]) for mode, copy, attempt in jobs]
    env = task(len(jobs), num_threads=len(os.sched_getaffinity(0)))
    if context is None:
        env.reset(seeds=[int(rng.integers(2**31)) for rng in rngs])
    else:
        env.reset(contexts=[context(mode, rng) for (mode, _, _), rng in zip(jobs, rngs, strict=True)])
    expert = make_expert(env, [mode for mode, _, _ in jobs], rngs)
    rows, setpoints, lengths = [], [], np.zeros(len(jobs), int)
    seen: list[np.ndarray] = []  # (n, Q) each: the states that the observations show
    for k in range(env.max_steps):
        if not env.active.any():
            break
        lengths += env.active
        if states:
            seen.append(np.array([data.qpos for data in env.sims.data]))
        rows.append(env.step(expert.command(k))[0])
        setpoints.append(env.setpoint[:, : env.act_dim].copy())
    obs, desired = np.stack(rows, 1), np.stack(setpoints, 1)  # (n, L, D), (n, L, A)
    env.close()
    episodes: list[Episode | None] = []
    for n, length in enumerate(lengths):
        actions = np.diff(desired[n, :length], axis=0).astype(np.float32)
        qpos = np.array([row[n] for row in seen[: length - 1]]) if states else None
        episode = Episode(
            obs[n, : length - 1].copy(), actions, np.array(env.context[n]), env.mode_name(env.mode[n]), qpos
        )
        episodes.append(episode if env.success[n] else None)
    return episodes


class Hand:
    """How a person's hand differs from a machine: reaction time, own speed, slow wander, smooth starts."""

    def __init__(self, rngs: list[np.random.Generator], width: int, wander: tuple[float, float] = (0.0002, 0.0007)):
        self.hold = np.array([rng.poisson(3.5) for rng in rngs]).clip(1, 11)  # rows before the first motion
        scale = np.array([rng.uniform(*wander) for rng in rngs])  # m a row
        white = np.stack([rng.standard_normal((NOISE_ROWS, width)) for rng in rngs], 1)  # (rows, n, width)
        self.wander = np.zeros_like(white)
        for k in range(1, NOISE_ROWS):  # a slow random walk that returns
            self.wander[k] = 0.9 * self.wander[k - 1] + np.sqrt(1 - 0.9**2) * white[k]
        self.wander *= scale[:, None]
        self.velocity = np.zeros((len(rngs), width))

    def move(
        self, k: int, tool: np.ndarray, setpoint: np.ndarray, velocity: np.ndarray, slack: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """(n, width) m: actions that make the tool (n, width) move with `velocity` (m a row), within `MAX_STEP` an axis.

        The set-point moves with that velocity and is drawn to `LEAD` rows of it ahead of the tool, as by a person who
        looks at the tool; how fast the velocity may change is limited, and the hand wanders. slack (n,) m: how far the
        set-point may run ahead of that, to press against what resists.
        """
        change = velocity - self.velocity
        size = np.linalg.norm(change, axis=1, keepdims=True)
        self.velocity += change * np.minimum(1.0, MAX_CHANGE / np.maximum(size, 1e-9))
        self.velocity[k < self.hold] = 0.0
        lag = tool + LEAD * self.velocity - setpoint
        size = np.linalg.norm(lag, axis=1)
        lag *= (np.maximum(size - slack, 0.0) / np.maximum(size, 1e-9))[:, None]
        wanted = self.velocity + DRAW * lag + self.wander[min(k, NOISE_ROWS - 1)]
        return np.where((k < self.hold)[:, None], 0.0, np.clip(wanted, -MAX_STEP, MAX_STEP))


def uniform(rngs: list[np.random.Generator], low: float, high: float) -> np.ndarray:
    """(n,) one draw an episode."""
    return np.array([rng.uniform(low, high) for rng in rngs])


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, 2) of length 1 (0 for 0)."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def left_of(vectors: np.ndarray) -> np.ndarray:
    """(n, 2) turned by +90 degrees."""
    return np.stack([-vectors[..., 1], vectors[..., 0]], -1)


def around(tool: np.ndarray, goal: np.ndarray, obstacles: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """(n, 2) directions from tool (n, 2) to goal (n, 2) that pass obstacles (n, k, 2) at `radius` (n, k).

    Close to an obstacle that lies ahead, the part of the direction that points at it is turned along its rim, to the
    side on which the way is shorter; inside the radius it is turned outwards.
    """
    direction = unit(goal - tool)
    for j in range(obstacles.shape[1]):
        away = tool - obstacles[:, j]
        far = np.linalg.norm(away, axis=1)
        out = unit(away)
        ahead = -(direction * out).sum(1)  # > 0: towards it
        rim = left_of(out)
        side = np.sign((rim * direction).sum(1))
        rim *= np.where(side == 0, 1.0, side)[:, None]
        depth = np.clip((radius[:, j] + 0.02 - far) / 0.02, 0.0, 1.5)  # 0 outside, 1 at the radius
        # the goal itself may lie closer to the obstacle than the radius: then nothing keeps the tool away
        near_goal = np.linalg.norm(goal - tool, axis=1) < 0.02
        weight = np.where((ahead > -0.2) & ~near_goal, depth, 0.0)[:, None]
        turned = direction + weight * (np.maximum(ahead, 0.0)[:, None] * out + 0.6 * rim)
        turned += np.maximum(weight - 1.0, 0.0) * 1.5 * out
        direction = unit(turned)
    return direction
