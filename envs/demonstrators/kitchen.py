"""Scripted demonstrations of the kitchen."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from envs.datasets import Episode
from envs.demonstrators._kitchen_arm import CLOSED, OPEN, Arm, Motion

GENERATOR_VERSION = "1"
Motions = Generator[Motion, None, bool]


PULL_A, PULL_D, PULL_P, PULL_S = 0.16, 0.02, 0.04, 0.045


class Cook:
    """One episode's expert: a programme of motions, drawn from its random generator."""

    def __init__(self, arm: Arm, tasks: str, rng: np.random.Generator):
        self.arm, self.rng = arm, rng
        self.speed = rng.uniform(0.034, 0.048)  # m a step through the air
        self.push = rng.uniform(0.018, 0.026)  # m a step against something
        self.log: list = []
        self.tasks = tasks
        self.motions = self.programme(tasks)

    @property
    def qpos(self):
        return self.arm.data.qpos

    def programme(self, tasks: str):
        does = {"m": self.microwave, "k": self.kettle, "b": self.bottom, "t": self.top, "l": self.light,
                "s": self.slide, "h": self.hinge}
        for letter in tasks:
            yield from does[letter]()
        yield from self.retreat()
        while True:
            yield Motion(np.zeros(3))

    def jitter(self, size: float) -> np.ndarray:
        return self.rng.uniform(-size, size, 3)

    def go(self, target: Any, speed=None, near=0.012, until: Callable[[], bool] | None = None, limit=40, grip=CLOSED,
           yaw=0.0, tilt=0.0, roll: Any = 0.0, slack=0.06, clear=0.47):
        speed = self.speed if speed is None else speed
        for _ in range(limit):
            goal = target() if callable(target) else target
            if until() if until is not None else float(np.linalg.norm(goal - self.arm.tip)) < near:
                return True
            way = goal - self.arm.hand
            far = float(np.linalg.norm(way))
            step = way * (min(speed, 0.7 * far) / max(far, 1e-9))
            radius = float(np.hypot(*self.arm.hand[:2]))
            if radius < clear and self.arm.hand[2] > 2.05:
                step[:2] += self.arm.hand[:2] / radius * min(0.03, clear - radius)
            turn = yaw() if callable(yaw) else yaw
            yield Motion(step, turn, tilt, roll() if callable(roll) else roll, grip, slack)
        m, d = self.arm.model, self.arm.data
        con = {(m.body(m.geom_bodyid[c.geom[0]]).name, m.body(m.geom_bodyid[c.geom[1]]).name) for c in list(d.contact)[: d.ncon]}
        con = {c for c in con if any("panda" in x for x in c)}
        self.log.append(("limit", np.round(goal, 3), np.round(self.arm.tip, 3), np.round(self.arm.hand, 3).tolist(), self.arm.reference.round(2).tolist(), (self.arm.reference - self.qpos[:7]).round(2).tolist(), con))
        return False

    def wait(self, rows: int, grip=CLOSED, yaw=0.0, tilt=0.0, roll=0.0):
        for _ in range(rows):
            yield Motion(np.zeros(3), yaw, tilt, roll, grip)

    def retreat(self, y=0.45, grip=CLOSED, tilt=0.0):
        """Straight back from the furniture."""
        tip = self.arm.tip.copy()
        if tip[1] > y + 0.02:
            yield from self.go(np.array([tip[0], y, tip[2]]), near=0.03, grip=grip, tilt=tilt)

    def microwave(self):
        yield from self.retreat()
        yaw, tilt = 0.3, 0.0
        back, right = np.array([-np.sin(yaw), np.cos(yaw), 0.0]), np.array([np.cos(yaw), np.sin(yaw), 0.0])
        lift = np.array([0, 0, self.rng.uniform(-0.03, 0.06)])
        z = self.arm.site("microhandle_site")[2] + lift[2]
        start = self.arm.site("microhandle_site") + lift + 0.068 * right
        yield from self.go(start - 0.14 * back, yaw=yaw, tilt=tilt, near=0.02)
        yield from self.go(start + 0.02 * back, yaw=yaw, tilt=tilt, speed=0.03, near=0.02, limit=25)
        enough = -self.rng.uniform(0.62, 0.85)
        pivot = np.array([-1.1276, 0.455])
        def ahead():
            h = self.arm.site("microhandle_site")
            r = h[:2] - pivot
            c, s = np.cos(-PULL_A), np.sin(-PULL_A)
            h[:2] = pivot + [c * r[0] - s * r[1], s * r[0] + c * r[1]]
            h[2] = z
            return h + PULL_D * back + (0.04 - PULL_P) * right
        yield from self.go(ahead, speed=PULL_S, until=lambda: self.qpos[22] < enough, yaw=yaw, tilt=tilt, limit=60)
        yield from self.go(self.arm.tip + np.array([0.06, -0.10, 0.02]), yaw=yaw, tilt=tilt, near=0.03)

    def kettle(self):
        yield from self.retreat()
        k = self.qpos[23:26].copy()
        tilt = 0.9
        start = np.array([k[0] + self.rng.uniform(-0.015, 0.015), k[1] - 0.165, k[2] + self.rng.uniform(0.06, 0.09)])
        yield from self.go(start + np.array([0, -0.05, 0.25]), near=0.06, tilt=0.5)
        yield from self.go(start, near=0.02, tilt=tilt)
        enough = self.rng.uniform(0.60, 0.70)
        yield from self.go(lambda: np.array([start[0], self.arm.tip[1] + 0.06, start[2]]), speed=self.push * 1.5,
                           until=lambda: self.qpos[24] > enough, limit=70, tilt=tilt)
        yield from self.go(self.arm.tip + np.array([0, -0.10, 0.05]), near=0.03, tilt=tilt)
        yield from self.go(self.arm.tip + np.array([0, -0.05, 0.25]), near=0.05, tilt=0.3)

    def knob(self, site: str, at: int):
        """Presses the fist onto the handle and turns it: friction takes the knob along."""
        yield from self.retreat()
        knob, tilt = self.arm.site(site), self.rng.uniform(0.0, 0.15)
        front = knob + np.array([0.0, -0.034, 0.0]) + self.jitter(0.006) * np.array([1.0, 0.0, 1.0])
        yield from self.go(front + np.array([0.0, -0.10, 0.0]), near=0.025, tilt=tilt)
        yield from self.go(front + np.array([0.0, -0.015, 0.0]), near=0.008, speed=0.03, tilt=tilt, limit=15)
        yield from self.go(front + np.array([0.0, 0.03, 0.0]), speed=0.03, tilt=tilt, limit=3)
        enough = -self.rng.uniform(0.78, 0.98)
        yield from self.go(front + np.array([0.0, 0.035, 0.0]), until=lambda: self.qpos[at] < enough, limit=30, tilt=tilt,
                           roll=lambda: 0.3 - self.qpos[at])
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
        yield from self.go(start, speed=0.03)
        yield from self.go(lambda: np.array([self.arm.tip[0] - 0.05, s[1] + 0.005, start[2]]), speed=self.push,
                           until=lambda: self.qpos[17] < -0.64, limit=50)
        yield from self.go(self.arm.tip + np.array([0.03, -0.02, 0]), near=0.02, limit=6)
        yield from self.retreat()

    def slide(self):
        yield from self.retreat()
        s = self.arm.site("slide_site") + np.array([0, 0, self.rng.uniform(-0.1, 0.05)])
        start = s + np.array([-0.06, 0.005, 0])
        yield from self.go(start + np.array([0, -0.15, 0]), near=0.03)
        yield from self.go(start, speed=0.03)
        enough = self.rng.uniform(0.2, 0.36)
        yield from self.go(lambda: np.array([self.arm.tip[0] + 0.05, start[1], start[2]]), speed=self.push * 1.2,
                           until=lambda: self.qpos[19] > enough, limit=60)
        yield from self.go(self.arm.tip + np.array([-0.03, -0.02, 0]), near=0.02, limit=6)
        yield from self.retreat()

    def hinge(self):
        yield from self.retreat()
        h = self.arm.site("hinge_site2") + np.array([0, 0, self.rng.uniform(-0.1, 0.0)])
        z = h[2]
        yield from self.go(h + np.array([0, -0.16, 0]), grip=OPEN, near=0.03)
        yield from self.go(h + np.array([0, 0.01, 0]), grip=OPEN, speed=0.03)
        yield from self.wait(6, CLOSED)
        pivot = np.array([-0.224, 0.71])
        def ahead():
            r = self.arm.site("hinge_site2")[:2] - pivot
            c, s = np.cos(0.15), np.sin(0.15)
            return np.r_[pivot + [c * r[0] - s * r[1], s * r[0] + c * r[1]], z]
        yield from self.go(ahead, speed=self.push, until=lambda: self.qpos[21] > 0.8, limit=60, yaw=lambda: min(self.qpos[21] + 0.05, 0.7))
        yield from self.wait(4, OPEN)
        yield from self.go(self.arm.tip + np.array([-0.02, -0.13, 0]), grip=OPEN, near=0.03)
        def edge():
            a = self.qpos[21]
            return pivot - 0.377 * np.array([np.cos(a), np.sin(a)])
        e = edge()
        yield from self.go(np.array([e[0] - 0.15, e[1] - 0.08, z]), near=0.03)
        yield from self.go(np.array([e[0] - 0.15, e[1] + 0.08, z]), near=0.03)
        yield from self.go(lambda: np.array([self.arm.tip[0] + 0.08, edge()[1] + 0.06, z]), speed=self.push * 1.5,
                           until=lambda: self.qpos[21] > 1.40, limit=60)
        yield from self.retreat()
