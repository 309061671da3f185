"""Scripted demonstrations of Block Push: a controller of the original's kind, 250 runs in each of the four behaviours.

For one block and one target the tool goes behind the block, 50 mm off on the line from the target through the block; then
to 30 mm; then it pushes, aiming 10 mm behind the block's centre. A block that stands askew to that line by more than 0.2
rad is first turned: the tool circles close to it, slowly, until the angle is below 0.03 rad. Once the first block is 40 mm
from its target, the tool returns to where it first stood behind that block, then to where it began, and does the same with
the other block. The speeds are the original's (3 cm a step at most, 1.5 cm while turning), in contact at most 3.4 cm (the
largest published number).

The controller is deterministic; what it steers is not: in one step of ten the effector's target is shoved (`SHOVE`), and
in contact it is unsteady (`UNSTEADY`). Actions are the controller's own, before the shove, so they show how it finds back;
without shoves all runs lie on the controller's line. With them, episodes are as long as the published ones.

The last row of an episode is the state at its end, with the action that the controller would take there; the published runs
have it too, whose last action often is a step back. An episode goes on until the second block too is 40 mm from its target, the
tolerance of the original's controller for both; the evaluation ends one at 50 mm. If demonstrations ended there, the places
that goals show would lie on the edge of success, and a policy that brings the blocks to them would often stop outside:
the targets of its own episode lie a few millimetres elsewhere.

Reference: the oracle for the multimodal task in `google-research/ibc`, whose behaviour this follows; the actions of the
published 1000 runs are the yardstick of `docs/environments.md`. Difference: a run that fails or shows another behaviour
than the one that it was to show is drawn again, scene included; the original draws behaviours at random and keeps what it
gets.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from envs.datasets import Episode
from envs.demonstrators._experts import Job, Outcome, try_all

GENERATOR_VERSION = "3"
PER_MODE = 250
MAX_ATTEMPTS = 20
BATCH = 250  # episodes stepped together
RATE = 10.0  # actions a second
CLOSE = 0.04  # m from its target where the first block is left
ARRIVED = 0.001  # m
BEHIND, NEAR, INTO = 0.05, 0.03, 0.01  # m behind a block's centre: before a push, at its start, what a push aims at
CIRCLE, AHEAD = 0.025, 0.2  # m from the block's centre and rad ahead, where the tool aims while it turns a block
ASKEW, STRAIGHT = 0.2, 0.03  # rad: where turning begins and ends
TRAVEL, CONTACT, TURN = 0.3, 0.34, 0.15  # m/s
SHOVE, SHOVED = 0.008, 0.1  # m, standard deviation by axis; how often, by step
UNSTEADY = 0.002  # m a step by axis, in contact
APPROACH, BACK, HOME, ENTER, PUSH, TURN_LEFT, TURN_RIGHT = range(7)


def generate(
    seed: int = 0, per_mode: int = PER_MODE, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None, num_threads: int | None = None,
) -> list[Episode]:  # fmt: skip
    """per_mode successful episodes of each of the four modes, in order of mode; the same for the same seed.

    obs (L, 16) and actions (L, 2) float32: row k is the observation before action k; the last action is not carried out.
    attempts: what every run showed and was to show, for statistics. The result does not depend on num_threads (default: one a
    core).
    """
    threads = num_threads or len(os.sched_getaffinity(0))

    def run(jobs: list[Job]) -> list[Outcome]:
        seeds = [int(np.random.default_rng([seed, int(m), copy, n]).integers(2**31)) for m, copy, n in jobs]
        made = _run(seeds, [int(mode) for mode, _, _ in jobs], threads)
        return [(e if e.mode == job[0] else None, e.mode) for job, e in zip(jobs, made, strict=True)]

    wanted = [mode for mode in "0123" for _ in range(per_mode)]
    return try_all(wanted, run, "Block Push", progress, attempts, BATCH, MAX_ATTEMPTS)


def _run(seeds: list[int], modes: list[int], num_threads: int) -> list[Episode]:
    """One batch of runs to their ends, the mode "" where one failed."""
    from envs.block_push import BlockPushBatch  # the simulator is needed here only

    class ToTheEnd(BlockPushBatch):
        """Goes on until the second block is as close to its target as the first one was when it was left."""

        def _ended(self, ids: np.ndarray, reward: np.ndarray) -> np.ndarray:
            second = np.where(self.mode[ids] // 2 == 0, 1, 0)  # of no matter before success
            away = self.blocks[ids, second, None, :2] - self.context[ids, 2:, :2]  # (n, target, xy)
            return self.success[ids] & (np.linalg.norm(away, axis=-1).min(1) < CLOSE)

    env = ToTheEnd(len(seeds), num_threads)
    streams = [np.random.default_rng([seed, 0xD1]) for seed in seeds]
    try:
        env.reset(seeds=seeds)
        expert = Pusher(modes)
        rows, actions, lengths = [], [], np.zeros(len(seeds), int)
        while True:
            rows.append(env.whole_obs.copy())
            actions.append(expert.act(env.whole_obs.astype(float)).astype(np.float32))
            if not env.active.any():
                break
            lengths += env.active
            env.step(actions[-1] + _disturbance(streams, expert.phase == PUSH))
        obs, acts = np.stack(rows, 1), np.stack(actions, 1)  # (n, T + 1, …)
        shown = [env.mode_name(row) if ok else "" for row, ok in zip(env.mode, env.success, strict=True)]
        return [Episode(obs[i, : k + 1], acts[i, : k + 1], None, shown[i]) for i, k in enumerate(lengths)]
    finally:
        env.close()


class Pusher:
    """The controller of a batch; modes: 2 b + t, the block that is pushed first and its target. It sees observations alone."""

    def __init__(self, modes: list[int]):
        n = len(modes)
        self.rows = np.arange(n)
        self.block, self.target = np.array(modes) // 2, np.array(modes) % 2
        self.second = np.zeros(n, bool)
        self.phase = np.full(n, APPROACH)
        self.origin: np.ndarray | None = None  # (n, 2) m, where the tool began
        self.first_stand = np.full((n, 2), np.nan)  # m, where it first stood behind a block

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions (n, 2) m for whole observations (n, 16); a phase that ends gives way to the next within the same step."""
        tool, blocks, targets = obs[:, 8:10], obs[:, :6].reshape(-1, 2, 3), obs[:, 10:].reshape(-1, 2, 3)
        if self.origin is None:
            self.origin = tool.copy()
        self._next_block(blocks, targets)
        block, target = blocks[self.rows, self.block], targets[self.rows, self.target]
        ahead = _unit(target[:, :2] - block[:, :2])
        askew = np.arctan2(ahead[:, 1], ahead[:, 0]) - block[:, 2]
        askew = np.mod(askew + np.pi / 4, np.pi / 2) - np.pi / 4  # a square looks the same after a quarter turn
        stand, near, into = (block[:, :2] - ahead * off for off in (BEHIND, NEAR, INTO))

        phase, speed = self.phase, np.full(len(obs), CONTACT)
        way = np.zeros_like(tool)
        speed[phase <= HOME] = TRAVEL  # also of a step in which such a phase ends

        reached = self._go(APPROACH, stand, way, tool)
        fresh = reached & np.isnan(self.first_stand[:, 0])
        self.first_stand[fresh] = stand[fresh]
        phase[reached] = ENTER
        unset = (phase == BACK) & np.isnan(self.first_stand[:, 0])
        self.first_stand[unset] = self.origin[unset]
        phase[self._go(BACK, self.first_stand, way, tool)] = HOME
        phase[self._go(HOME, self.origin, way, tool)] = APPROACH
        entering = phase == ENTER
        reached = self._go(ENTER, near, way, tool)
        phase[reached] = PUSH
        phase[entering & (askew > ASKEW)], phase[entering & (askew < -ASKEW)] = TURN_LEFT, TURN_RIGHT
        self._go(PUSH, into, way, tool)
        phase[(phase == PUSH) & (np.abs(askew) > ASKEW)] = APPROACH
        for side, turning in ((1.0, TURN_LEFT), (-1.0, TURN_RIGHT)):
            spot = block[:, :2] + CIRCLE * _turned(_unit(tool - block[:, :2]), side * AHEAD)
            now = phase == turning
            speed[now] = TURN
            self._go(turning, spot, way, tool)
            phase[now & (side * askew < STRAIGHT)] = APPROACH
        length = np.linalg.norm(way, axis=1)
        return way * np.minimum(1.0, speed / RATE / np.maximum(length, 1e-12))[:, None]

    def _next_block(self, blocks: np.ndarray, targets: np.ndarray) -> None:
        """Turns to the other block and target where the first is close enough."""
        left = np.linalg.norm(blocks[self.rows, self.block, :2] - targets[self.rows, self.target, :2], axis=1)
        done = ~self.second & (left < CLOSE)
        self.block[done], self.target[done] = 1 - self.block[done], 1 - self.target[done]
        self.second |= done
        self.phase[done] = BACK

    def _go(self, phase: int, goal: np.ndarray, way: np.ndarray, tool: np.ndarray) -> np.ndarray:
        """Sets the way of those in `phase` to `goal`; returns which of them have arrived."""
        now = self.phase == phase
        way[now] = (goal - tool)[now]
        return now & (np.linalg.norm(goal - tool, axis=1) < ARRIVED)


def _disturbance(streams: list[np.random.Generator], pushing: np.ndarray) -> np.ndarray:
    """(n, 2) m: what is added to the actions of a step."""
    drawn = np.stack([stream.normal(size=4) for stream in streams])
    shoved = np.array([stream.random() < SHOVED for stream in streams])
    return SHOVE * shoved[:, None] * drawn[:, :2] + UNSTEADY * pushing[:, None] * drawn[:, 2:]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(n, 2) of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _turned(vectors: np.ndarray, angle: float) -> np.ndarray:
    """(n, 2) turned to the left by angle (rad)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * vectors[:, 0] - s * vectors[:, 1], s * vectors[:, 0] + c * vectors[:, 1]], 1)
