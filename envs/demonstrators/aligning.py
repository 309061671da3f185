"""Scripted demonstrations of Aligning: closed-loop pushes of the tray, from inside and from outside.

The tray slides as a body whose friction resists turning at a radius `GRIP`: a force f at q (from its centre) moves it
along f and turns it by (q x f) / GRIP^2 per length. With this model an episode chooses, again and again, where on a wall
to push, in which direction and how far, so that what is left of displacement and turn becomes least, moves the rod
there (within the tray, or around it), and pushes while the tray answers; all in closed loop, so the model need only be
roughly right. Episodes differ in speeds, working height, model, how ready they are to change the spot, hesitations and a
wandering hand.

Letters: n episodes, C spots on the walls, F directions of the force, D lengths of a push.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.datasets import Episode
from envs.demonstrators._experts import MAX_STEP, Hand, around, generate_all, uniform, unit

GENERATOR_VERSION = "1"
MODES = {"0": "inside", "1": "outside"}
FLY, DESCEND, MOVE, PUSH = 0, 1, 2, 3
GRIP = 0.066  # m
WALL = (0.035, -0.065)  # m along a wall's normal, from the centre to the rod in contact: inside, outside
SPOTS = (np.array([-0.026, -0.013, 0.0, 0.013, 0.026]), np.array([-0.036, -0.018, 0.0, 0.018, 0.036]))  # m along a wall
ANGLES = np.deg2rad(np.array([-32, -24, -16, -8, 0, 8, 16, 24, 32]))  # force from the wall's normal, within friction
LENGTHS = np.array([0.012, 0.04, 0.1])  # m
ARM = 0.1  # m: how much displacement a turn by 1 rad is worth
CLEAR_Z = 0.225  # m, tool height at which the rod passes over the walls
REACH = 0.09  # m from the centre while going round the tray


def generate(
    seed: int = 0, per_mode: int = 500, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None,
) -> list[Episode]:  # fmt: skip
    """per_mode successful episodes inside, then as many outside; the same for the same seed.

    obs (L, 20) and actions (L, 3) float32 as the environment gives and takes them; context (2, 7): poses of tray and target.
    """
    from envs.aligning import AligningBatch  # the simulator is needed here only

    return generate_all(
        AligningBatch, AligningExpert, [m for m in MODES for _ in range(per_mode)], seed, progress, attempts
    )


def heading(quat: np.ndarray) -> np.ndarray:
    """(n,) rad: turn about z of quaternions (n, 4) wxyz."""
    w, x, y, z = quat.T
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def turned(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(n, 2) vectors turned by angle (n,) rad."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * vectors[:, 0] - s * vectors[:, 1], s * vectors[:, 0] + c * vectors[:, 1]], 1)


class AligningExpert:
    """Controller of a batch of Aligning; modes: "0" inside, "1" outside, an episode each."""

    def __init__(self, env: Any, modes: list[str], rngs: list[np.random.Generator]):
        self.env, n = env, len(modes)
        self.outside = np.array([int(m) for m in modes])
        self.wall = np.array(WALL)[self.outside]
        self.free = uniform(rngs, 0.0080, 0.0115)  # m a row
        self.speed = uniform(rngs, 0.0055, 0.0080)
        self.low = uniform(rngs, 0.148, 0.172)  # m, working height of the tool
        self.grip = GRIP * uniform(rngs, 0.9, 1.1)
        self.slowest = np.where(self.outside == 1, 0.5, 0.3)  # of the speed, close to the target
        self.press = uniform(rngs, 0.014, 0.020)  # m that the set-point may press into the tray
        self.stay = uniform(rngs, 0.020, 0.035)  # m, what changing the spot must be worth
        self.hand = Hand(rngs, 3, (0.0001, 0.0004))
        self.phase = np.full(n, FLY)
        self.side = np.full(n, -1)
        self.along = np.zeros(n)  # m along the wall
        self.turn = np.zeros(n)  # rad left, without jumps
        self.waited, self.pushed = np.zeros(n), np.zeros(n)  # rows spent moving, and pushing, since the last change
        self.rows = np.arange(n)

    def _errors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Centre (n, 2), heading (n,), displacement (n, 2) and turn (n,) that are left."""
        tray, target = self.env.object_pose[:, 0], self.env.object_pose[:, 1]
        angle = heading(tray[:, 3:])
        turn = heading(target[:, 3:]) - angle
        turn += 2 * np.pi * np.round((self.turn - turn) / (2 * np.pi))  # the way round that was chosen
        return tray[:, :2], angle, target[:, :2] - tray[:, :2], turn

    def _left_after(
        self, q: np.ndarray, normal: np.ndarray, left: np.ndarray, turn: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What pushes leave over, in m: (n, C, F, D), and the directions (n, C, F, 2).

        q (n, C, 2): spots from the centre, world axes; normal (n, C): direction of their walls' normals.
        """
        angle = normal[..., None] + ANGLES  # (n, C, F)
        force = np.stack([np.cos(angle), np.sin(angle)], -1)
        arm = q[:, :, None, 0] * force[..., 1] - q[:, :, None, 1] * force[..., 0]
        rate = arm / self.grip[:, None, None] ** 2  # rad a metre
        ahead = (force * left[:, None, None]).sum(-1)[..., None]  # (n, C, F, 1)
        far2 = (left**2).sum(1)[:, None, None, None]
        rest = np.sqrt(np.maximum(far2 - 2 * LENGTHS * ahead + LENGTHS**2, 0.0))
        return rest + ARM * np.abs(turn[:, None, None, None] - LENGTHS * rate[..., None]) + 0.1 * LENGTHS, force

    def _choose(self, now: np.ndarray, tool: np.ndarray, angle: np.ndarray, left: np.ndarray, turn: np.ndarray) -> None:
        """Chooses a spot for episodes `now`, changing only when it is worth it."""
        if not now.any():
            return
        local = turned(tool, -angle)
        sides = np.arange(4)
        spots = np.array(SPOTS)[self.outside]  # (n, 5)
        normal = angle[:, None] + sides * np.pi / 2  # (n, 4)
        n_hat = np.stack([np.cos(normal), np.sin(normal)], -1)[:, :, None]  # (n, 4, 1, 2)
        t_hat = np.stack([-np.sin(normal), np.cos(normal)], -1)[:, :, None]
        q = self.wall[:, None, None, None] * n_hat + spots[:, None, :, None] * t_hat  # (n, 4, 5, 2)
        shape = q.shape[:3]
        flat = q.reshape(len(q), -1, 2)
        rest, _ = self._left_after(flat, np.repeat(normal, shape[2], 1), left, turn)
        rest = rest.min((2, 3)).reshape(shape)
        now_left = np.linalg.norm(left, axis=1) + ARM * np.abs(turn)
        rest += np.where(rest > now_left[:, None, None] - 0.003, 0.2, 0.0)  # a push that only makes it worse
        away = np.linalg.norm(q - tool[:, None, None], axis=-1)
        apart = np.abs((np.arctan2(local[:, 1], local[:, 0])[:, None] - sides * np.pi / 2 - np.pi * self.outside[:, None]
                        + np.pi) % (2 * np.pi) - np.pi)  # fmt: skip
        cost = rest + np.where(self.outside[:, None, None] == 1, 0.012 * apart[:, :, None] + 0.1 * away, 0.15 * away)
        same = (sides == self.side[:, None])[:, :, None] & (np.abs(spots - self.along[:, None]) < 0.009)[:, None]
        cost = np.where(same, cost - self.stay[:, None, None], cost)
        best = cost.reshape(len(q), -1).argmin(1)
        side, spot = best // shape[2], best % shape[2]
        change = now & ~same[self.rows, side, spot]
        self.side[change] = side[change]
        self.along[change] = spots[self.rows, spot][change]
        self.phase[change & (self.phase == PUSH)] = MOVE

    def command(self, k: int) -> np.ndarray:
        """(n, 3) m."""
        env = self.env
        centre, angle, left, self.turn = self._errors()
        tool, z = env.tcp_pos[:, :2], env.tcp_pos[:, 2]
        rel = tool - centre
        choosing = (self.phase == FLY) | (self.side < 0) | ((self.pushed % 5 == 4) & (self.phase == PUSH))
        self._choose(choosing, rel, angle, left, self.turn)
        normal = angle + self.side * np.pi / 2
        n_hat = np.stack([np.cos(normal), np.sin(normal)], -1)
        t_hat = np.stack([-np.sin(normal), np.cos(normal)], -1)
        gap = np.where(self.outside == 1, 0.014, 0.008)
        before = centre + n_hat * (self.wall - gap)[:, None] + t_hat * self.along[:, None]
        landing = np.where((self.outside == 1)[:, None], before - 0.02 * n_hat, centre + 0.5 * (before - centre))

        over = np.linalg.norm(landing - tool, axis=1)
        low = z < self.low + 0.012
        slow = np.linalg.norm(self.hand.velocity[:, :2], axis=1) < 0.005
        self.phase[(self.phase == FLY) & (over < 0.01) & slow] = DESCEND
        self.phase[(self.phase == DESCEND) & low] = MOVE
        there = (self.phase == MOVE) & (np.linalg.norm(before - tool, axis=1) < 0.008)
        self.phase[there] = PUSH
        lost = (self.phase == PUSH) & (
            ((rel * n_hat).sum(1) < self.wall - 0.03) | (np.abs((rel * t_hat).sum(1) - self.along) > 0.02)
        )
        self.phase[lost] = MOVE
        self.waited = np.where((self.phase == MOVE) | (self.phase == DESCEND), self.waited + 1, 0)
        astray = (self.phase >= MOVE) & np.where(
            self.outside == 1, np.abs(turned(rel, -angle)).max(1) < 0.045, np.abs(turned(rel, -angle)).max(1) > 0.06
        )
        self.phase[astray | (self.waited > 70)] = FLY
        self.waited[self.phase == FLY] = 0
        self.pushed = np.where(self.phase == PUSH, self.pushed + 1, 0)

        # pushing: the best force here, then the motion of the contact point that such a force gives
        rest, force = self._left_after(rel[:, None], normal[:, None], left, self.turn)
        best = rest[:, 0].min(2).argmin(1)
        force = force[self.rows, 0, best]
        across = np.stack([-rel[:, 1], rel[:, 0]], 1)
        motion = unit(force + across * ((across * force).sum(1) / self.grip**2)[:, None])
        near = np.clip((np.linalg.norm(left, axis=1) + ARM * np.abs(self.turn)) / 0.09, self.slowest, 1.0)
        touching = (rel * n_hat).sum(1) > self.wall - 0.003
        aside = (rel * t_hat).sum(1) - self.along
        onto = unit(n_hat - 40.0 * t_hat * aside[:, None])  # straight onto the wall
        push = np.where(touching[:, None], motion, onto) * (self.speed * near)[:, None]

        goal = np.where((self.phase == MOVE)[:, None], before, landing)
        direct = unit(goal - tool)
        walk = around(tool, goal, centre[:, None], np.full((len(z), 1), REACH))
        way = np.where(((self.phase == MOVE) & (self.outside == 1))[:, None], walk, direct)
        pace = np.minimum(self.free, 0.3 * np.linalg.norm(goal - tool, axis=1) + 0.001)
        pace = np.where((self.phase == FLY) & (z < CLEAR_Z - 0.01) & (k > 30), 0.0, pace)
        plane = np.where((self.phase == PUSH)[:, None], push, way * pace[:, None])
        height = np.where(self.phase == FLY, np.maximum(CLEAR_Z, 0.25 - 0.0003 * k), self.low)
        climb = np.clip(0.3 * (height - z), -self.free, self.free)
        climb = np.where((self.phase == DESCEND) & (over > 0.012), np.maximum(climb, 0.0), climb)
        wanted = np.concatenate([plane, climb[:, None]], 1)
        press = np.where(self.phase == PUSH, self.press, 0.0)
        actions = self.hand.move(k, env.tcp_pos, env.setpoint[:, :3], wanted, press)
        let_go = np.clip(env.tcp_pos - env.setpoint[:, :3], -MAX_STEP, MAX_STEP)  # when the tray is where it should be
        return np.where(env.success[:, None], let_go, actions)
