"""Scripted demonstrations of Sorting: closed-loop pushes of the four cubes into their bins, in all six orders of colour.

Cube after cube: of those whose colour is next, the one that is reached and pushed in most easily. It goes past the others to
a place below its own in the bin and from there straight over the edge. A way is looked for anew when the cube slips off or
strays, when another one is touched, and when the rod does not get behind it for a while. A cube that has tipped into its bin
is left alone. Every episode has its own speeds, places, hesitations and a wandering hand.

As a person would, an episode shows an order that suits its context: one whose pushes are hardly longer, the others being in
the way, than those of the context's easiest order (`effort`). Which cube comes next, and how it is pushed, then follows from
where the cubes and the rod are as far as possible: what only the expert knows, a policy cannot learn (docs/training.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from envs._labels import COLOUR, ORDERS, inside
from envs.contexts import sample
from envs.datasets import Episode
from envs.demonstrators import _paths
from envs.demonstrators._cubes import APPROACH, PUSH, CubePusher
from envs.demonstrators._experts import generate_all, unit

GENERATOR_VERSION = "3"
EPISODES = 1054  # spread evenly over the orders, the first ones one more
BIN_X = np.array([0.4, 0.625])  # m: red, blue
EDGE_Y = 0.2  # m, where the platform ends
PLATFORM = np.array([[0.25, 0.75], [-0.36, 0.09]])  # m, x and y between which cubes are pushed about
TIPPED_Z = 0.115  # m: the platform holds a cube's centre at 0.13
PLACES = np.array([-0.045, -0.025, 0.0, 0.025, 0.045])  # m from a bin's middle, where cubes may go in
LEGS = 5  # of a cube's way, at most
LINE_UP_Y = 0.03  # m, where a cube is to be below its place
DEPTH = 0.315  # m, y that the pushes aim at
STANDOFF = 0.07  # m behind a cube's centre, where a push begins
TOOL = 1.0  # cost of a metre of the rod's own way
EASY = 0.04  # m of way that an order may take beyond a context's easiest
DRAWN = 8  # contexts looked at at a time
BERTH = 0.083  # m between the centres of a pushed cube and another
TURN = 0.08  # m of detour that a leg less is worth
NEAR = 0.03  # m from a corner of its way, where a cube is taken on to the next
PATIENCE = 60  # rows of an approach until another way, and perhaps another cube, is looked for


def counts(episodes: int = EPISODES) -> dict[str, int]:
    """How many episodes each order gets: as many each, the first ones one more."""
    return {mode: episodes // 6 + (i < episodes % 6) for i, mode in enumerate(sorted(ORDERS.values()))}


def generate(
    seed: int = 0, per_mode: int | dict[str, int] | None = None, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None, states: bool = False,
) -> list[Episode]:  # fmt: skip
    """per_mode successful episodes for each of the six orders (default: `counts()`); the same for the same seed.

    obs (L, 16) and actions (L, 2) float32 as the environment gives and takes them; context (4, 7): the cubes' poses.
    """
    from envs.sorting import SortingBatch  # the simulator is needed here only

    if not isinstance(per_mode, dict):
        per_mode = counts() if per_mode is None else dict.fromkeys(counts(), per_mode)
    wanted = [mode for mode, n in per_mode.items() for _ in range(n)]
    return generate_all(SortingBatch, SortingExpert, wanted, seed, progress, attempts, states, draw_context)


class SortingExpert(CubePusher):
    """Controller of a batch of Sorting; modes: the order of colours that each episode is to show."""

    wander = (0.001, 0.003)  # as in Pushing: a policy has to learn corrections
    slipped = 0.022  # sooner than in Pushing: a cube must not come over the edge beside its bin

    def __init__(self, env: Any, modes: list[str], rngs: list[np.random.Generator]):
        super().__init__(env, rngs)
        n = len(modes)
        self.order = np.array([["rb".index(c) for c in mode] for mode in modes])  # (n, 4) colours
        # m of detour, against places
        self.taste = np.stack([rng.uniform(0.0, 0.015, (4, len(PLACES))) for rng in rngs])
        self.standoff = np.full(n, STANDOFF)
        self.push *= 1.3  # there is more to do
        self.aside *= 0.25  # there is less room beside the goal
        self.which = np.zeros(n, int)
        self.chosen = np.full(n, -1)  # the stage that `which` was chosen for
        self.due = np.ones(n, bool)  # whether to look for a way
        self.path = np.zeros((n, LEGS, 2))  # m, the corners of the cube's way
        self.leg = np.zeros(n, int)
        self.seen = np.zeros((n, 4, 2))  # m, where the cubes were when the way was chosen

    def command(self, k: int) -> np.ndarray:
        """(n, 2) m."""
        poses, rows = self.env.object_pose, self.rows
        done = inside(poses)
        on_top = (poses[..., 2] > 0.09) | (poses[..., 1] < EDGE_Y)  # what has fallen is in nobody's way
        self._choose(poses[..., :2], done, on_top)
        cube = poses[rows, self.which, :2]
        goal = self.path[rows, self.leg]
        over = goal[:, 1] > EDGE_Y  # on the last leg, back to its line soon
        goal[over, 1] = np.minimum(goal[over, 1], cube[over, 1] + 0.12)
        mine = np.arange(4) == self.which[:, None]
        cubes = np.where((on_top | mine)[..., None], poses[..., :2], 8.0)
        phase = self.phase.copy()
        tipped = done & (poses[..., 2] < TIPPED_Z) & (poses[..., 1] > 0.23)  # nearer, it may be stuck on the wall
        action = self.push_on(k, cubes, self.which, goal, tipped[rows, self.which])
        self.due |= (self.phase == APPROACH) & ((phase != APPROACH) | (self.searching % PATIENCE == PATIENCE - 1))
        there = (np.linalg.norm(goal - cube, axis=1) < NEAR) & (self.leg < LEGS - 1) & ~over
        self.leg += there
        moved = np.linalg.norm(poses[..., :2] - self.seen, axis=-1) > 0.025
        again = self._amiss(cube, there, over) | (moved & on_top & ~mine).any(1)  # another cube was touched
        again &= self.phase == PUSH
        self.phase[again] = APPROACH
        self.due |= again
        return action

    def _amiss(self, cube: np.ndarray, there: np.ndarray, over: np.ndarray) -> np.ndarray:
        """(n,) whether the cube turns a corner where it is `there`, or strays on its way `over` the edge."""
        onward = unit(self.path[self.rows, self.leg] - cube)
        pushed = unit(cube - self.env.tcp_pos[:, :2])
        turned = there & ((onward * pushed).sum(1) < 0.92)  # more than 23 degrees
        bin_x = BIN_X[COLOUR[self.which]]
        aside, before = np.abs(cube[:, 0] - bin_x), np.abs(self.seen[self.rows, self.which, 0] - bin_x)
        return turned | (over & (aside > np.maximum(0.056, before + 0.01)) & (cube[:, 1] > 0.09) & (cube[:, 1] < 0.19))

    def heading(self, cube: np.ndarray, goal: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(n, 2) unit vectors: straight to the next corner of the way."""
        return unit(goal - cube)

    def way(self, tool: np.ndarray, behind: np.ndarray, cubes: np.ndarray, keep_off: np.ndarray) -> np.ndarray:
        """(n, 2) unit vectors: the shortest way past the cubes."""
        way = unit(behind - tool)
        m = self.phase == APPROACH
        way[m] = unit(_paths.past(tool[m], behind[m], cubes[m], keep_off[m]) - tool[m])
        for j in range(cubes.shape[1]):  # what is too close is left first
            away = tool - cubes[:, j]
            far = np.linalg.norm(away, axis=1)
            inwards = np.maximum(-(way * unit(away)).sum(1), 0.0)
            close = np.clip((keep_off - far) / 0.015, 0.0, 1.0)
            way = unit(way + (close * (inwards + 1.5 * close))[:, None] * unit(away))
        return way

    def _choose(self, cubes: np.ndarray, done: np.ndarray, on_top: np.ndarray) -> None:
        """Looks for the best cube and way where one is due; cubes (n, 4, 2) m, done and on_top (n, 4)."""
        m = np.flatnonzero(self.due)
        if not len(m):
            return
        self.due[m] = False
        colour = self.order[m, np.minimum(done[m].sum(1), 3)]
        open_ones = (colour[:, None] == COLOUR) & ~done[m]
        open_ones = np.where(open_ones.any(1)[:, None], open_ones, ~done[m])  # one of the others has come in with it
        another = (self.chosen != self.stage) | (self.searching >= PATIENCE - 1)
        same = (np.arange(4) == self.which[m, None]) & ~another[m, None]
        candidates = np.where((same & open_ones).any(1)[:, None], same, open_ones)
        best = np.full(len(m), np.inf)
        for j in range(4):
            i = np.flatnonzero(candidates[:, j])
            if not len(i):
                continue
            total, path = plan(j, cubes[m[i]], on_top[m[i]], self.env.tcp_pos[m[i], :2], self.taste[m[i], j])
            better = total < best[i]
            best[i[better]] = total[better]
            changed = m[i[better]]
            self.which[changed], self.path[changed], self.leg[changed] = j, path[better], 0
        self.chosen[m], self.seen[m] = self.stage[m], cubes[m]


def plan(
    j: int, cubes: np.ndarray, on_top: np.ndarray, tool: np.ndarray | None = None, taste: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Cost (m,), m of way, and corners (m, LEGS, 2) of cube j's best way past the others into its bin.

    cubes (m, 4, 2) m; on_top (m, 4): which are on the platform still; tool (m, 2) m: where the rod comes from, which counts
    too; taste (m, places) m of detour, against places.
    """
    cube, n = cubes[:, j], len(cubes)
    others = np.where((on_top & (np.arange(4) != j))[..., None], cubes, 9.0)
    places = np.broadcast_to(BIN_X[COLOUR[j]] + PLACES, (n, len(PLACES)))
    below = np.stack(np.broadcast_arrays(places, LINE_UP_Y), -1)
    beyond = np.stack(np.broadcast_arrays(places, DEPTH), -1)
    nearby = _paths.rims(cubes[:, j : j + 1], np.full(n, 0.06))
    berth = np.full(n, BERTH)
    points = np.concatenate([cube[:, None], nearby, _paths.rims(others, berth), below, beyond], 1)
    cost = _paths.costs(points, others, _paths.within(berth, others, cube)) + TURN
    # the rod has to get behind the cube
    first = unit(points - cube[:, None])
    behind = cube[:, None] - first * STANDOFF
    room = np.linalg.norm(behind[:, :, None] - others[:, None], axis=-1).min(2)
    cost[:, 0] += 10 * np.maximum(0.055 - room, 0.0)
    if tool is not None:
        cost[:, 0] += TOOL * np.linalg.norm(behind - tool[:, None], axis=-1)
    # nothing goes over the edge but into its bin
    n_places = len(PLACES)
    aside = np.abs(points[:, :, None, 0] - beyond[:, None, :, 0])
    left = np.maximum(DEPTH - points[:, :, None, 1], 0.01)
    at_edge = aside * (DEPTH - EDGE_Y) / left
    cost[:, :, -n_places:] += 20 * np.maximum(at_edge - 0.025, 0.0)
    outside = np.maximum(PLATFORM[:, 0] - points, points - PLATFORM[:, 1]).max(2).clip(0.0, 0.1)
    outside[:, -n_places:] = 0.0
    cost += 10 * outside[:, None]
    last = np.full(points.shape[:2], np.inf)
    last[:, -n_places:] = taste + 30 * PLACES**2  # rather in the middle
    total, way = _paths.shortest(cost, last, LEGS)
    return total, points[np.arange(n)[:, None], way]


def effort(cubes: np.ndarray) -> dict[str, np.ndarray]:
    """How long (m,), m, the pushes of each order are at best, those that are left being in the way; cubes (m, 4, 2) m."""
    found = {mode: np.full(len(cubes), np.inf) for mode in ORDERS.values()}
    total: dict[tuple[int, ...], np.ndarray] = {}
    for sequence in itertools.permutations(range(4)):
        cost = np.zeros(len(cubes))
        for k, j in enumerate(sequence):
            gone = tuple(sorted(sequence[:k]))
            if (*gone, j) not in total:
                on_top = np.tile(~np.isin(np.arange(4), gone), (len(cubes), 1))
                total[(*gone, j)] = plan(j, cubes, on_top)[0]
            cost = cost + total[(*gone, j)]
        mode = "".join("rb"[COLOUR[j]] for j in sequence)
        found[mode] = np.minimum(found[mode], cost)
    return found


def draw_context(mode: str, rng: np.random.Generator) -> np.ndarray:
    """(4, 3) x, y (m), yaw (degrees): a context that an order of colours suits, distributed as the original's otherwise."""
    while True:
        drawn = [sample("sorting", rng) for _ in range(DRAWN)]
        efforts = effort(np.array(drawn)[..., :2])
        suits = efforts[mode] <= np.min(list(efforts.values()), axis=0) + EASY
        if suits.any():
            return drawn[int(suits.argmax())]
