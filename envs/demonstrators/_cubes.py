"""Pushing cubes one after the other with the rod: what the experts of Pushing and Sorting share.

Letters: n episodes in a batch, k cubes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.demonstrators._experts import Hand, around, left_of, uniform, unit

APPROACH, PUSH, RETREAT = 0, 1, 2
KEEP_OFF = 0.062  # m from a cube's centre while going round it


class CubePusher:
    """Goes behind a cube (seen from its goal), pushes it there so that the rod stays behind its centre, steps back.

    When the cube slips off to a side, the rod goes behind it again. `stage` (n,) counts the cubes that were left behind.
    """

    wander = (0.0002, 0.0007)  # m a row, of the hand (see `Hand`)
    apart = 0.095  # m between the centres of a pushed cube and one that it goes round

    slipped = 0.026  # m that the rod may be beside its place behind the cube before it goes there anew

    def __init__(self, env: Any, rngs: list[np.random.Generator]):
        self.env, n = env, len(rngs)
        self.free = uniform(rngs, 0.0085, 0.0125)  # m a row
        self.push = uniform(rngs, 0.0055, 0.0085)
        self.standoff = uniform(rngs, 0.064, 0.080)  # m behind the cube's centre before a push
        self.aside = uniform(rngs, -0.008, 0.008)  # m, where on its back it is pushed
        self.steer = uniform(rngs, 0.22, 0.36)  # of the sideways error a row
        self.back = uniform(rngs, 0.070, 0.090)  # m from the cube's centre after a step back
        self.hand = Hand(rngs, 2, self.wander)
        self.stage = np.zeros(n, int)
        self.phase = np.full(n, APPROACH)
        self.searching = np.zeros(n)  # rows since the approach began
        self.rows = np.arange(n)

    def push_on(self, k: int, cubes: np.ndarray, which: np.ndarray, goal: np.ndarray, enough: np.ndarray) -> np.ndarray:
        """(n, 2) m, row k: push cube which (n,) of cubes (n, k, 2) towards goal (n, 2); leave it when enough (n,)."""
        env, rows = self.env, self.rows
        tool, cube = env.tcp_pos[:, :2], cubes[rows, which]
        others = np.where((np.arange(cubes.shape[1]) == which[:, None])[..., None], 9.0, cubes)  # itself: far away
        ahead = self.heading(cube, goal, others)
        side = left_of(ahead)
        left = np.linalg.norm(goal - cube, axis=1)
        along = ((tool - cube) * ahead).sum(1)
        across = ((tool - cube) * side).sum(1) - self.aside

        self.phase[(self.phase == PUSH) & enough] = RETREAT
        clear = (self.phase == RETREAT) & (np.linalg.norm(tool - cube, axis=1) > self.back)
        self.stage[clear], self.phase[clear] = self.stage[clear] + 1, APPROACH
        behind = cube - ahead * self.standoff[:, None] + side * self.aside[:, None]
        ready = (self.phase == APPROACH) & (along < -0.04) & (np.abs(across) < 0.012) & (along > -0.1)
        self.phase[ready & ~clear] = PUSH
        self.phase[(self.phase == PUSH) & ((np.abs(across) > self.slipped) | (along > -0.012))] = APPROACH

        self.searching = np.where(self.phase == APPROACH, self.searching + 1, 0)
        squeeze = np.clip(1.4 - self.searching / 80, 0.6, 1.0)  # passes closer in the end
        way = self.way(tool, behind, cubes, KEEP_OFF * squeeze)
        far = np.linalg.norm(behind - tool, axis=1)
        approach = way * np.minimum(self.free, 0.25 * far + 0.002)[:, None]
        speed = self.push * np.clip(1.0 - np.abs(across) / 0.03, 0.1, 1.0) * np.clip(left / 0.04, 0.45, 1.0)
        push = ahead * speed[:, None] - side * (self.steer * across)[:, None]
        retreat = unit(tool - cube) * (0.7 * self.free)[:, None]
        phase = self.phase[:, None]
        wanted = np.where(phase == APPROACH, approach, np.where(phase == PUSH, push, retreat))
        return self.hand.move(k, tool, env.setpoint[:, :2], wanted)

    def heading(self, cube: np.ndarray, goal: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(n, 2) unit vectors: where to push the cube (n, 2), past the others (n, k, 2)."""
        return around(cube, goal, others, np.full(others.shape[:2], self.apart))

    def way(self, tool: np.ndarray, behind: np.ndarray, cubes: np.ndarray, keep_off: np.ndarray) -> np.ndarray:
        """(n, 2) unit vectors: where the free rod goes on its way to `behind` (n, 2); keep_off (n,) m from the cubes."""
        return around(tool, behind, cubes, keep_off[:, None] * np.ones(cubes.shape[1]))
