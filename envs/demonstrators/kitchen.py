"""Scripted demonstrations of the kitchen: four of the seven tasks one after the other, in 28 orders.

A programme of motions an episode: to a task, into place, the motion that does it (as long as it takes), back out. What is
slipped off is tried again, as a person would. Microwave: fingers hooked behind the handle. Kettle: pushed along the
stove. Knobs: the fist pressed on and turned. Light: the switch pushed over. Sliding door: pushed by its handle. Hinged door:
pulled by its handle, then pushed from behind. Speeds, heights, depths, how far something is opened and the noise differ. The
hand strays and comes back, so that the episodes show what to do beside a path as well (docs/training.md).

An attempt that does not do its four tasks in their order within an episode's length is drawn again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from envs._kitchen_tasks import completed, mode_of
from envs.datasets import Episode
from envs.demonstrators._experts import Job, Outcome, Stray, try_all

if TYPE_CHECKING:
    from envs.demonstrators._kitchen_arm import Arm, Motion

GENERATOR_VERSION = "2"
OPEN, CLOSED = 0.04, 0.0  # m, each finger
EPISODES = 566
# What is done, a letter each (`envs._kitchen_tasks.LETTERS`). The sliding door is never opened after the hinged one, which
# stands in its way.
_ORDERS = (
    "mkbl mkts mkls mbls mtls mbts mktl mlbt mslb mbkt mblk kmls kbls kbtl ktls kbsl kslt kblh "
    "btls btlh tblh tbsl lsbt bkms tkms ltbh ktbl tlbs"
)
SEQUENCES = tuple(_ORDERS.split())
BATCH = 32  # episodes run together
MAX_ATTEMPTS = 60  # draws for one episode before giving up
WANDER = (0.03, 0.15)  # how fast a hand strays, of the speed it wants to have, from run to run
MEMORY = 0.6  # of a stray velocity, a step, twice: it comes and goes in a third of a second
ASTRAY = 0.02  # share of the steps in the air in which a hand begins to go astray
ASTRAY_SPEED = 0.025  # m a step and axis, at most
Motions = Generator["Motion", None, bool]


def generate(
    seed: int = 0, episodes: int = EPISODES, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None,
) -> list[Episode]:  # fmt: skip
    """Successful episodes, the sequences in turn; the same for the same seed.

    obs (L, 30) and actions (L, 9) float32 as the environment gives and takes them, with its noise; context (1,): the
    seed of that noise. What was attempted is appended to `attempts`: (sequence wanted, tasks done in their order).
    """
    wanted = [SEQUENCES[n % len(SEQUENCES)] for n in range(episodes)]
    return try_all(
        wanted, functools.partial(_attempt, seed=seed), "the kitchen", progress, attempts, BATCH, MAX_ATTEMPTS
    )


def _attempt(jobs: list[Job], seed: int) -> list[Outcome]:
    """One run of each job, in one batch: the episode, or None where it did not succeed, and the tasks done."""
    import mujoco

    from envs.demonstrators._kitchen_arm import Arm
    from envs.kitchen import KitchenBatch

    rngs = [np.random.default_rng([seed, *wanted.encode(), copy, attempt]) for wanted, copy, attempt in jobs]
    seeds = [int(rng.integers(2**31)) for rng in rngs]
    env = KitchenBatch(len(jobs), num_threads=len(os.sched_getaffinity(0)))
    env.reset(seeds=seeds)
    ghost = mujoco.MjData(env.sims.model)
    cooks = [Cook(Arm(env, i, ghost), jobs[i][0], rngs[i]) for i in range(len(jobs))]
    tails = [int(rng.integers(4, 13)) for rng in rngs]  # rows after the last task
    rows: list[list[np.ndarray]] = [[] for _ in jobs]
    moves: list[list[np.ndarray]] = [[] for _ in jobs]
    actions = np.zeros((len(jobs), env.act_dim))
    while env.active.any():
        for i in np.flatnonzero(env.active):
            actions[i] = cooks[i].arm.action(next(cooks[i].motions))
            rows[i].append(env.obs[i].copy())
            moves[i].append(actions[i].astype(np.float32))
        actions = actions.astype(np.float32).astype(np.float64)  # what is stored is what is executed
        env.step(actions)
        for i in np.flatnonzero(env.active):
            if len(env.mode[i]) >= len(jobs[i][0]):
                tails[i] -= 1
                env.active[i] = tails[i] > 0 and str(env.mode[i]) == jobs[i][0]
    result: list[Outcome] = []
    for n, (wanted, _, _) in enumerate(jobs):
        obs, mode = np.stack(rows[n]), str(env.mode[n])
        good = mode == wanted == mode_of(obs) and bool((completed(obs[-2:]).sum(1) == len(wanted)).all())  # still done
        episode = Episode(obs, np.stack(moves[n]), np.array([float(seeds[n])]), wanted) if good else None
        result.append((episode, mode))
    env.close()
    return result


class Cook:
    """One episode's expert: a programme of motions, drawn from its random generator."""

    def __init__(self, arm: Arm, tasks: str, rng: np.random.Generator):
        self.arm, self.rng = arm, rng
        self.speed = rng.uniform(0.046, 0.06)  # m a step through the air
        self.push = rng.uniform(0.018, 0.026)  # m a step against something
        self.wander = rng.uniform(*WANDER)  # of the speed
        self.stray = Stray(3, MEMORY)
        self.away, self.drift = 0, np.zeros(3)  # steps for which the hand still goes astray, and how (m a step)
        self.motions = self.programme(tasks)

    @property
    def qpos(self):
        return self.arm.data.qpos

    def programme(self, tasks: str) -> Generator[Motion, None, None]:
        does = {
            "m": self.microwave,
            "k": self.kettle,
            "b": self.bottom,
            "t": self.top,
            "l": self.light,
            "s": self.slide,
            "h": self.hinge,
        }
        for letter in tasks:
            yield from does[letter]()
        yield from self.retreat()
        while True:
            yield self.arm.motion(np.zeros(3))

    def jitter(self, size: float) -> np.ndarray:
        return self.rng.uniform(-size, size, 3)

    def go(
        self,
        target: Any,
        speed=None,
        near=0.012,
        until: Callable[[], bool] | None = None,
        lost: Callable[[], bool] | None = None,
        limit=40,
        grip=CLOSED,
        yaw=0.0,
        tilt=0.0,
        roll: Any = 0.0,
        slack=0.06,
        clear=0.52,
    ):
        speed = self.speed if speed is None else speed
        for _ in range(limit):
            goal = target() if callable(target) else target
            if until() if until is not None else float(np.linalg.norm(goal - self.arm.tip)) < near:
                return True
            if lost is not None and lost():
                return False
            way = goal - self.arm.hand
            far = float(np.linalg.norm(way))
            step = way * (min(speed, 0.7 * far) / max(far, 1e-9))
            radius = float(np.hypot(*self.arm.hand[:2]))
            if radius < clear and self.arm.hand[2] > 2.05:
                step[:2] += self.arm.hand[:2] / radius * min(0.03, clear - radius)
            turn = yaw() if callable(yaw) else yaw
            step = self.astray(step, speed)
            yield self.arm.motion(step, turn, tilt, roll() if callable(roll) else roll, grip, slack)
        return False

    def astray(self, step: np.ndarray, speed: float) -> np.ndarray:
        """A hand strays from where it wants to go, less where it is slow; in the air it goes astray now and then."""
        velocity = self.stray.step(self.rng)
        if not self.away and speed >= self.speed and self.rng.random() < ASTRAY:
            self.away, self.drift = int(self.rng.integers(2, 5)), self.rng.uniform(-ASTRAY_SPEED, ASTRAY_SPEED, 3)
        if self.away:
            self.away -= 1
            return self.drift
        return step + self.wander * speed * velocity

    def wait(self, rows: int, grip=CLOSED, yaw=0.0, tilt=0.0, roll=0.0):
        for _ in range(rows):
            yield self.arm.motion(np.zeros(3), yaw, tilt, roll, grip)

    def retreat(self, y=0.45, grip=CLOSED, tilt=0.0):
        """Straight back from the furniture."""
        tip = self.arm.tip.copy()
        if tip[1] > y + 0.02:
            yield from self.go(np.array([tip[0], y, tip[2]]), near=0.05, grip=grip, tilt=tilt, clear=0.0, limit=15)

    def microwave(self):
        """Hooks the closed fingers behind the handle's right side and pulls the door open along its circle."""
        enough, yaw = -self.rng.uniform(0.52, 0.64), 0.3
        lift = self.rng.uniform(-0.03, 0.06)
        back, right = np.array([-np.sin(yaw), np.cos(yaw), 0.0]), np.array([np.cos(yaw), np.sin(yaw), 0.0])
        z = self.arm.site("microhandle_site")[2] + lift
        pivot = np.array([-1.1276, 0.455])

        def handle():
            return np.array([*self.arm.site("microhandle_site")[:2], z])

        def ahead():
            h = handle()
            r = h[:2] - pivot
            c, s = np.cos(-0.16), np.sin(-0.16)
            h[:2] = pivot[0] + c * r[0] - s * r[1], pivot[1] + s * r[0] + c * r[1]
            return h + 0.02 * back

        for attempt in range(3):
            if attempt == 0:
                yield from self.retreat()
            else:
                yield from self.go(self.arm.tip + 0.07 * right - 0.09 * back, yaw=yaw, near=0.03)
            if self.arm.hand[0] > -0.4 and self.arm.hand[2] > 2.0:
                yield from self.go(np.array([-0.48, 0.47, 2.15]), near=0.1)
            start = handle() + 0.068 * right
            yield from self.go(start - 0.13 * back, yaw=yaw, near=0.03, limit=25)
            yield from self.go(start + 0.02 * back, yaw=yaw, speed=0.04, near=0.026, limit=15)
            done = yield from self.go(
                ahead,
                speed=0.045,
                until=lambda: self.qpos[22] < enough,
                yaw=yaw,
                limit=40,
                lost=lambda: ((self.arm.tip - handle()) @ back) < -0.03,
            )
            if done:
                break
        yield from self.go(self.arm.tip + 0.06 * right - 0.10 * back, yaw=yaw, near=0.04)

    def kettle(self):
        yield from self.retreat()
        k = self.qpos[23:26].copy()
        tilt = 0.9
        start = np.array([k[0] + self.rng.uniform(-0.01, 0.01), k[1] - 0.165, k[2] + self.rng.uniform(0.06, 0.09)])
        yield from self.go(start + np.array([0, -0.05, 0.25]), near=0.08, tilt=0.5)
        yield from self.go(start, near=0.02, tilt=tilt, limit=25)
        enough = self.rng.uniform(0.54, 0.64)

        def ahead():  # to the side where the push turns the kettle back
            yaw = 2.0 * self.qpos[29]
            return np.array(
                [self.qpos[23] + 0.3 * (-0.25 - self.qpos[23]) - 0.1 * yaw, self.arm.tip[1] + 0.06, start[2]]
            )

        yield from self.go(ahead, speed=self.push * 1.5, until=lambda: self.qpos[24] > enough, limit=40, tilt=tilt)
        yield from self.go(self.arm.tip + np.array([0, -0.10, 0.05]), near=0.03, tilt=tilt)
        yield from self.go(self.arm.tip + np.array([0, -0.05, 0.25]), near=0.1, tilt=0.3)

    def knob(self, site: str, at: int):
        """Presses the fist onto the handle and turns it: friction takes the knob along."""
        enough = -self.rng.uniform(0.78, 0.98)
        for _ in range(3):
            yield from self.retreat()
            knob, tilt = self.arm.site(site), self.rng.uniform(0.0, 0.12)
            start = -self.qpos[at]
            front = knob + np.array([0.008, -0.034, 0.0]) + self.jitter(0.004) * np.array([1.0, 0.0, 1.0])
            yield from self.go(front + np.array([0.0, -0.08, 0.0]), near=0.03, tilt=tilt, roll=start)
            yield from self.go(
                front + np.array([0.0, -0.012, 0.0]), near=0.01, speed=0.045, tilt=tilt, limit=15, roll=start
            )
            yield from self.go(front + np.array([0.0, 0.01, 0.0]), speed=0.02, tilt=tilt, limit=2, roll=start)
            done = yield from self.go(
                front + np.array([0.0, 0.012, 0.0]),
                until=lambda: self.qpos[at] < enough,
                limit=18,
                tilt=tilt,
                lost=lambda: abs(self.arm.tip[0] - self.arm.site(site)[0]) > 0.05,
                roll=lambda: 0.35 - self.qpos[at],
            )
            if done:
                break
        yield from self.retreat()

    def bottom(self):
        yield from self.knob("knob2_site", 11)

    def top(self):
        yield from self.knob("knob4_site", 15)

    def light(self):
        yield from self.retreat()
        s = self.arm.site("light_site")
        start = s + np.array([0.072, 0.0, self.rng.uniform(-0.01, 0.01)])
        yield from self.go(start + np.array([0.01, -0.14, 0]), near=0.015)
        yield from self.go(start, speed=0.045, near=0.015, limit=15)
        yield from self.go(
            lambda: np.array([self.arm.tip[0] - 0.05, s[1] + 0.005, start[2]]),
            speed=self.push,
            until=lambda: self.qpos[17] < -0.64,
            limit=50,
        )
        yield from self.go(self.arm.tip + np.array([0.03, -0.02, 0]), near=0.02, limit=6)
        yield from self.retreat()

    def slide(self):
        yield from self.retreat()
        s = self.arm.site("slide_site") + np.array([0, 0, self.rng.uniform(-0.1, 0.05)])
        start = s + np.array([-0.06, 0.005, 0])
        yield from self.go(start + np.array([0, -0.15, 0]), near=0.03)
        yield from self.go(start, speed=0.045, near=0.02, limit=15)
        enough = self.rng.uniform(0.2, 0.36)
        yield from self.go(
            lambda: np.array([self.arm.tip[0] + 0.05, start[1], start[2]]),
            speed=0.05,
            until=lambda: self.qpos[19] > enough,
            limit=60,
        )
        yield from self.go(self.arm.tip + np.array([-0.03, -0.02, 0]), near=0.02, limit=6)
        yield from self.retreat()

    def hinge(self):
        """Pulls the door by its handle, then goes behind its edge and pushes it open."""
        pivot, z = np.array([-0.224, 0.71]), self.arm.site("hinge_site2")[2] + self.rng.uniform(-0.1, 0.0)

        def handle():
            return np.array([*self.arm.site("hinge_site2")[:2], z])

        def ahead():
            r = handle()[:2] - pivot
            c, s = np.cos(0.15), np.sin(0.15)
            return np.array([pivot[0] + c * r[0] - s * r[1], pivot[1] + s * r[0] + c * r[1] + 0.01, z])

        def edge():
            return pivot - 0.377 * np.array([np.cos(self.qpos[21]), np.sin(self.qpos[21])])

        def turned():
            return float(min(self.qpos[21] + 0.05, 0.9))

        enough = self.rng.uniform(1.2, 1.35)
        for _ in range(3):
            yield from self.retreat()
            yaw = turned() - 0.05
            back = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
            yield from self.go(handle() - 0.13 * back, grip=OPEN, near=0.025, yaw=yaw)
            yield from self.go(handle() + 0.012 * back, grip=OPEN, speed=0.035, yaw=yaw, limit=15)
            yield from self.wait(5, CLOSED, yaw)
            yield from self.go(
                ahead,
                speed=1.4 * self.push,
                until=lambda: self.qpos[21] > enough,
                limit=32,
                yaw=turned,
                lost=lambda: float(np.linalg.norm(self.arm.tip - handle())) > 0.045,
            )
            if self.qpos[21] > 0.55:
                break
        yield from self.wait(3, OPEN, turned())
        yield from self.go(self.arm.tip + np.array([-0.03, -0.10, 0.0]), grip=OPEN, near=0.04)
        for _ in range(2):
            if self.qpos[21] > 1.19:
                break
            e = edge()
            yield from self.go(np.array([e[0] - 0.15, e[1] - 0.08, z]), near=0.04)
            yield from self.go(np.array([e[0] - 0.15, e[1] + 0.08, z]), near=0.04, limit=15)
            done = yield from self.go(
                lambda: np.array([self.arm.tip[0] + 0.08, edge()[1] + 0.06, z]),
                speed=0.04,
                until=lambda: self.qpos[21] > 1.35,
                limit=35,
            )
            if done:
                break
            yield from self.go(self.arm.tip + np.array([-0.03, -0.14, 0.0]), near=0.04)
        yield from self.retreat()
