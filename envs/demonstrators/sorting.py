"""Scripted demonstrations of Sorting: closed-loop pushes of the four cubes into their bins, in all six orders of colour.

As in Pushing, cube after cube: of those whose colour is next, the one nearest to the edge, first along the edge and then over
it, towards a place of its own in the bin; a cube that has tipped into its bin is left alone. Every episode has its own
speeds, distances, places, hesitations and a wandering hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs._labels import COLOUR, ORDERS, inside
from envs.datasets import Episode
from envs.demonstrators._cubes import CubePusher
from envs.demonstrators._experts import generate_all, uniform

GENERATOR_VERSION = "1"
EPISODES = 1054  # spread evenly over the orders, the first ones one more
BIN_X = np.array([0.4, 0.625])  # m: red, blue
EDGE_Y = 0.2  # m, where the platform ends
LINE_UP_Y = 0.11  # m, how near to the edge a cube may come on its way to the other side
TIPPED_Z = 0.115  # m: the platform holds a cube's centre at 0.13


def generate(
    seed: int = 0, per_mode: int | None = None, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None,
) -> list[Episode]:  # fmt: skip
    """per_mode successful episodes for each of the six orders (default: 1054 in all); the same for the same seed.

    obs (L, 16) and actions (L, 2) float32 as the environment gives and takes them; context (4, 7): the cubes' poses.
    """
    from envs.sorting import SortingBatch  # the simulator is needed here only

    orders = sorted(ORDERS.values())
    if per_mode is None:
        wanted = [m for i, m in enumerate(orders) for _ in range(EPISODES // 6 + (i < EPISODES % 6))]
    else:
        wanted = [m for m in orders for _ in range(per_mode)]
    return generate_all(SortingBatch, SortingExpert, wanted, seed, progress, attempts)


class SortingExpert(CubePusher):
    """Controller of a batch of Sorting; modes: the order of colours that each episode is to show."""

    apart = 0.082

    def __init__(self, env: Any, modes: list[str], rngs: list[np.random.Generator]):
        super().__init__(env, rngs)
        self.order = np.array([["rb".index(c) for c in mode] for mode in modes])  # (n, 4) colours
        self.place = np.stack([uniform(rngs, -0.04, 0.04) for _ in range(4)], 1)  # m from the bin's middle, a cube each
        self.depth = uniform(rngs, 0.30, 0.33)  # m, y that the pushes aim at
        self.push *= 1.3  # there is more to do
        self.which = np.full(len(modes), -1)
        self.lining_up = np.zeros(len(modes), bool)
        self.chosen = np.full(len(modes), -1)  # the stage that `which` was chosen for

    def command(self, k: int) -> np.ndarray:
        """(n, 2) m."""
        poses, rows = self.env.object_pose, self.rows
        done = inside(poses)
        tipped = done & (poses[..., 2] < TIPPED_Z)
        colour = self.order[rows, np.minimum(self.stage, 3)]
        open_ones = (colour[:, None] == COLOUR) & ~done
        nearest = np.where(open_ones, poses[..., 1], -9.0).argmax(1)
        new = (self.chosen != self.stage) & open_ones.any(1)
        self.which[new], self.chosen[new] = nearest[new], self.stage[new]
        which = np.maximum(self.which, 0)
        goal_x = BIN_X[COLOUR[which]] + self.place[rows, which]
        cube = poses[rows, which]
        aside = np.abs(goal_x - cube[:, 0])
        line_up = np.minimum(cube[:, 1] + 0.6 * aside, LINE_UP_Y)  # first to the right place along the edge
        at_edge = (
            aside * (self.depth - EDGE_Y) / np.maximum(self.depth - cube[:, 1], 0.01)
        )  # m beside it, going straight
        self.lining_up |= at_edge > 0.07
        self.lining_up &= (at_edge > 0.03) & (cube[:, 2] > TIPPED_Z)
        goal = np.stack([goal_x, np.where(self.lining_up, line_up, self.depth)], 1)
        on_top = poses[..., 2] > 0.09  # what has fallen is in nobody's way
        cubes = np.where(on_top[..., None] | (np.arange(4) == which[:, None])[..., None], poses[..., :2], 8.0)
        return self.push_on(k, cubes, which, goal, tipped[rows, which])
