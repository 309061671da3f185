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
from envs.demonstrators._cubes import CubePusher
from envs.demonstrators._experts import generate_all, uniform

GENERATOR_VERSION = "2"
AREAS = np.array([[0.42, 0.3], [0.63, 0.3]])  # m: red, green (as in `envs.pushing`, which needs the simulator)
ORDERS = {"0": ((0, 0), (1, 1)), "1": ((1, 1), (0, 0)), "2": ((0, 1), (1, 0)), "3": ((1, 0), (0, 1))}  # (cube, area)


def generate(
    seed: int = 0, per_mode: int = 500, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None,
) -> list[Episode]:  # fmt: skip
    """per_mode successful episodes for each of the four modes, in order of mode; the same for the same seed.

    obs (L, 10) and actions (L, 2) float32 as the environment gives and takes them; context (2, 7): the cubes' poses.
    """
    from envs.pushing import PushingBatch  # the simulator is needed here only

    return generate_all(
        PushingBatch, PushingExpert, [m for m in ORDERS for _ in range(per_mode)], seed, progress, attempts
    )


class PushingExpert(CubePusher):
    """Controller of a batch of Pushing; modes: the behaviour that each episode is to show."""

    wander = (0.001, 0.003)  # so much that cubes slip off and are fetched again: a policy has to learn that too

    def __init__(self, env: Any, modes: list[str], rngs: list[np.random.Generator]):
        super().__init__(env, rngs)
        self.order = np.array([ORDERS[m] for m in modes])  # (n, 2, 2)
        self.enough = uniform(rngs, 0.010, 0.030)  # m from the centre where a first cube is left alone

    def command(self, k: int) -> np.ndarray:
        """(n, 2) m."""
        which, area = self.order[self.rows, np.minimum(self.stage, 1)].T
        cubes, goal = self.env.object_pose[:, :, :2], AREAS[area]
        left = np.linalg.norm(goal - cubes[self.rows, which], axis=1)
        return self.push_on(k, cubes, which, goal, (left < self.enough) & (self.stage == 0))
