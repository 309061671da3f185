"""Scripted demonstrations of Pushing: closed-loop pushes of both cubes, in all four orders.

An episode goes behind the first cube (seen from its area), pushes it there, steering so that the rod stays behind the cube's
centre, steps back, and does the same with the second. When the cube slips off to a side, it goes behind it again, as a person
would. Every episode has its own speeds, distances, precision, hesitations and a wandering hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.datasets import Episode
from envs.demonstrators._experts import Hand, around, generate_all, left_of, uniform, unit

GENERATOR_VERSION = "1"
AREAS = np.array([[0.42, 0.3], [0.63, 0.3]])  # m: red, green (as in `envs.pushing`, which needs the simulator)
ORDERS = {"0": ((0, 0), (1, 1)), "1": ((1, 1), (0, 0)), "2": ((0, 1), (1, 0)), "3": ((1, 0), (0, 1))}  # (cube, area)
APPROACH, PUSH, RETREAT = 0, 1, 2
KEEP_OFF = 0.062  # m from a cube's centre while going round it


def generate(
    seed: int = 0, per_mode: int = 500, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None,
) -> list[Episode]:  # fmt: skip
    """per_mode successful episodes for each of the four modes, in order of mode; the same for the same seed.

    obs (L, 10) and actions (L, 2) float32 as the environment gives and takes them; context (2, 7): the cubes' poses.
    """
    from envs.pushing import PushingBatch  # the simulator is needed here only

    return generate_all(PushingBatch, PushingExpert, [m for m in ORDERS for _ in range(per_mode)], seed, progress, attempts)


class PushingExpert:
    """Controller of a batch of Pushing; modes: the behaviour that each episode is to show."""

    def __init__(self, env: Any, modes: list[str], rngs: list[np.random.Generator]):
        self.env, n = env, len(modes)
        self.order = np.array([ORDERS[m] for m in modes])  # (n, 2, 2)
        self.free = uniform(rngs, 0.0085, 0.0125)  # m a row
        self.push = uniform(rngs, 0.0055, 0.0085)
        self.standoff = uniform(rngs, 0.064, 0.080)  # m behind the cube's centre before a push
        self.aside = uniform(rngs, -0.008, 0.008)  # m, where on its back it is pushed
        self.steer = uniform(rngs, 0.22, 0.36)  # of the sideways error a row
        self.enough = uniform(rngs, 0.010, 0.030)  # m from the centre where a first cube is left alone
        self.back = uniform(rngs, 0.070, 0.090)
        self.hand = Hand(rngs, 2)
        self.stage = np.zeros(n, int)
        self.phase = np.full(n, APPROACH)
        self.searching = np.zeros(n)  # rows since the approach began
        self.rows = np.arange(n)

    def command(self, k: int) -> np.ndarray:
        """(n, 2) m."""
        env, rows = self.env, self.rows
        tool, cubes = env.tcp_pos[:, :2], env.object_pose[:, :, :2]
        which, area = self.order[rows, self.stage].T
        cube, goal = cubes[rows, which], AREAS[area]
        other = cubes[rows, 1 - which]
        ahead = around(cube, goal, other[:, None], np.full((len(rows), 1), 0.095))  # past the other cube
        side = left_of(ahead)
        left = np.linalg.norm(goal - cube, axis=1)
        along = ((tool - cube) * ahead).sum(1)
        across = ((tool - cube) * side).sum(1) - self.aside

        done = (self.phase == PUSH) & (left < self.enough) & (self.stage == 0)
        self.phase[done] = RETREAT
        clear = (self.phase == RETREAT) & (np.linalg.norm(tool - cube, axis=1) > self.back)
        self.stage[clear], self.phase[clear] = 1, APPROACH
        behind = cube - ahead * self.standoff[:, None] + side * self.aside[:, None]
        ready = (self.phase == APPROACH) & (along < -0.04) & (np.abs(across) < 0.008) & (along > -0.1)
        self.phase[ready & ~clear] = PUSH
        slipped = (self.phase == PUSH) & ((np.abs(across) > 0.026) | (along > -0.012))
        self.phase[slipped] = APPROACH

        self.searching = np.where(self.phase == APPROACH, self.searching + 1, 0)
        keep = KEEP_OFF * np.clip(1.5 - self.searching / 100, 0.6, 1.0)[:, None] * np.ones(2)  # squeezes past in the end
        way = around(tool, behind, cubes, keep)
        far = np.linalg.norm(behind - tool, axis=1)
        approach = way * np.minimum(self.free, 0.25 * far + 0.002)[:, None]
        speed = self.push * np.clip(1.0 - np.abs(across) / 0.03, 0.1, 1.0) * np.clip(left / 0.04, 0.45, 1.0)
        push = ahead * speed[:, None] - side * (self.steer * across)[:, None]
        retreat = unit(tool - cube) * (0.7 * self.free)[:, None]
        phase = self.phase[:, None]
        wanted = np.where(phase == APPROACH, approach, np.where(phase == PUSH, push, retreat))
        return self.hand.move(k, tool, env.setpoint[:, :2], wanted)
