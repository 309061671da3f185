"""Scripted demonstrations of Stacking: pick and place of the three boxes in every order, executed in the simulation.

They stand in for the 1095 human demonstrations (recorded with a gamepad, at most 965 rows, orders in the shares of
`SHARES`). One run: wait, then for each box of the order: approach with an error, look, correct, descend, close, lift,
carry in an arc, correct over the target, lower, open, rise. What varies from run to run and from box to box: tempo,
waits, heights, where and how high a box is gripped, which of a cube's two axes, the arc, how much is corrected at once,
how far a box is turned before it is put down and where in the zone. A box that was missed is gripped again. The hand
strays all the time, up to centimetres on its way, less where a box is gripped or put down, and comes back: that is where a
policy can learn how to come back (docs/training.md).

The expert moves the tool in space, as the humans did; own inverse kinematics (`envs._joint_control.joint_targets`) turn
that into the joint set-points that the task takes. It looks at the boxes like a human: between motions, not during them.

A run counts when all three boxes are stacked in the wanted order at its end, released, in at most `MAX_ROWS` rows;
otherwise the episode is drawn again, from its next random stream. Each has its own context, drawn from the original's
distribution. An episode depends on (seed, order, copy) alone, not on the batch nor the threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np

from envs.datasets import Episode
from envs.demonstrators._stacking_arm import Arms

GENERATOR_VERSION = "2"
EPISODES = 1095  # [D3IL] 1000 for training and 95 for validation
# [D3IL] mode_prob.pkl: shares of the orders among the human demonstrations
SHARES = {"rgb": 0.152, "rbg": 0.127, "grb": 0.106, "gbr": 0.287, "brg": 0.235, "bgr": 0.093}
MAX_ROWS = 965  # [D3IL] the longest human demonstration
MAX_ATTEMPTS = 20  # draws for one episode before giving up
BATCH, THREADS = 64, 2

TARGET = np.array([0.5, 0.2])  # m, as in `envs.stacking`, which needs the simulator
START = np.array([0.52498, 0.0, 0.30151, 0.0])  # m, rad: the tool after a reset
OPEN, CLOSED = 0.08, 0.0  # m, commanded width
TABLE = -0.019  # m, height of the table
HALF = 0.03  # m, half the height of a box and half the width that is gripped
LONG = 0.05  # m, half the length of the blue box
MAX_TURN = 0.09  # rad a row
WANDER = (0.001, 0.006)  # m a row, from run to run; how far a hand strays while it travels
TURNING = 8.0  # rad/m, of a straying hand
FINE = 0.3  # of it where a box is gripped or put down
MEMORY = 0.85  # of a stray velocity, a row, twice: it comes and goes in a third of a second
FINGER_REACH = 0.062  # m from the tool's axis to the outside of an open finger

# tool pose (4,): xyz (m), yaw (rad); how far the hand is astray of it, likewise; commanded gripper width (m)
Command = tuple[np.ndarray, np.ndarray, float]


@dataclass
class View:
    """What the expert sees before a step: boxes (3, 7), the tool's position (3,) m, the gripper's width (m)."""

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((3, 7)))
    tool: np.ndarray = field(default_factory=lambda: START[:3].copy())
    width: float = 0.0

    def look(self, arms: Arms, i: int) -> None:
        """At simulation i as it is."""
        self.boxes, self.tool = arms.env.object_pose[i].copy(), arms.env.tcp_pos[i].copy()
        self.width = arms.width(i)

    def yaw(self, box: int) -> float:
        """Turn of a lying box about z (rad)."""
        w, x, y, z = self.boxes[box, 3:]
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def counts(episodes: int = EPISODES) -> dict[str, int]:
    """How many episodes each order gets: the human shares, by largest remainders."""
    exact = {mode: share * episodes for mode, share in SHARES.items()}
    found = {mode: int(n) for mode, n in exact.items()}
    rest = sorted(exact, key=lambda mode: found[mode] - exact[mode])
    for mode in rest[: episodes - sum(found.values())]:
        found[mode] += 1
    return found


def generate(
    seed: int = 0, per_mode: dict[str, int] | None = None, progress: Callable[[int, int], None] | None = None,
    attempts: list[tuple[str, str]] | None = None, states: bool = False,
) -> list[Episode]:  # fmt: skip
    """The demonstrations, in order of `per_mode` (default `counts()`); the same for the same seed.

    Each has obs (L, 20) and actions (L, 8) float32: row k is what is known when set-point k is given (desired joints,
    measured gripper width, boxes), action k leads to row k + 1's set-point and is that row's measured width, as in the
    original's data. context (3, 7): the boxes' poses. attempts: gets (wanted order, shown order, "" for a failure) of every
    run, if given. states: with `Episode.states`.
    """
    wanted = [(mode, copy) for mode, n in (per_mode or counts()).items() for copy in range(n)]
    found: list[Episode | None] = [None] * len(wanted)
    draws = np.zeros(len(wanted), int)

    def store(slots: list[int], k: int, episode: Episode | None) -> None:
        n = slots[k]
        found[n] = episode
        if attempts is not None:
            attempts.append((wanted[n][0], "" if episode is None else episode.mode))
        if progress is not None and episode is not None:
            progress(sum(e is not None for e in found), len(found))

    if progress is not None:
        progress(0, len(found))
    while any(episode is None for episode in found):
        slots = [n for n, episode in enumerate(found) if episode is None]
        if draws[slots].max() >= MAX_ATTEMPTS:
            stuck = {wanted[n][0] for n in slots if draws[n] >= MAX_ATTEMPTS}
            raise RuntimeError(f"no demonstration found for {sorted(stuck)} after {MAX_ATTEMPTS} attempts")
        jobs = [(wanted[n][0], [seed, *wanted[n][0].encode(), wanted[n][1], int(draws[n])]) for n in slots]
        run(jobs, functools.partial(store, slots), states)
        draws[slots] += 1
    return [episode for episode in found if episode is not None]


def run(jobs: list[tuple[str, list[int]]], done: Callable[[int, Episode | None], None], states: bool = False) -> None:
    """One attempt for each (order, random stream), at most `BATCH` at a time; done(index, episode or None if it failed)."""
    from envs.contexts import sample
    from envs.stacking import StackingBatch

    class Recorder(StackingBatch):
        """Goes on after success, as the humans did; an expert ends its own run."""

        def _finish(self, ids: np.ndarray) -> np.ndarray:
            return np.zeros(len(ids), bool)

    n = min(BATCH, len(jobs))
    env = Recorder(n, num_threads=THREADS, max_steps=MAX_ROWS + 1)
    queue: Iterator[int] = iter(range(len(jobs)))
    runs: list[_Run | None] = [None] * n
    arms, setpoints = Arms(env, START), np.zeros((n, 8))

    def begin(i: int) -> None:
        job = next(queue, None)
        runs[i] = None
        if job is not None:
            order, stream = jobs[job]
            rng = np.random.default_rng(stream)
            env.reset([sample("stacking", rng)], ids=[i])
            runs[i] = _Run(job, order, env.context[i].copy(), rng)
            arms.begin(i)
        else:
            env.active[i] = False

    for i in range(n):
        begin(i)
    while any(runs):
        for i, current in enumerate(runs):
            if current is None:
                continue
            current.view.look(arms, i)
            command = next(current.commands, None)
            if command is None or len(current.rows) > MAX_ROWS:
                done(current.job, current.episode(env.mode_name(env.mode[i]), bool(env.success[i])))
                begin(i)
                current = runs[i]
                if current is None:
                    continue
                command = next(current.commands)
            arms.poses[i], arms.astray[i], setpoints[i, 7] = command
        setpoints[:, :7] = arms.setpoints()
        for current, data in zip(runs, env.sims.data, strict=True):
            if states and current is not None:
                current.states.append(data.qpos.copy())
        widths = [arms.width(i) for i in range(n)]
        obs = env.step_absolute(setpoints)[0]
        for i, current in enumerate(runs):
            if current is not None:
                current.rows.append(np.concatenate([setpoints[i, :7], [widths[i]], obs[i, 8:]]))
    env.close()


class _Run:
    """One attempt under way: the expert's commands, what it sees, the rows so far (desired joints, width, boxes)."""

    def __init__(self, job: int, order: str, context: np.ndarray, rng: np.random.Generator):
        self.job, self.order, self.context = job, order, context
        self.view = View()
        self.rows: list[np.ndarray] = []
        self.states: list[np.ndarray] = []  # the qpos of each row, where asked for
        self.commands = expert(order, self.view, rng)

    def episode(self, mode: str, success: bool) -> Episode | None:
        """The demonstration, or None when the run failed."""
        if not success or mode != self.order or len(self.rows) > MAX_ROWS or self.view.width < 0.07:
            return None
        rows = np.array(self.rows)  # (L + 1, 20)
        actions = np.concatenate([np.diff(rows[:, :7], axis=0), rows[1:, 7:8]], 1)
        states = np.array(self.states[:-1]) if self.states else None
        return Episode(rows[:-1].astype(np.float32), actions.astype(np.float32), self.context, mode, states)


# ---------------------------------------------------------------------------------------------------------------------
# The expert
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Hand:
    """Where the expert's commands stand, and its habits in this run.

    The arm follows its joint set-points like a weakly damped spring (about 1.4 Hz), so all motions start and end at rest
    and take their time; hasty ones would swing for half a second.
    """

    rng: np.random.Generator
    pose: np.ndarray  # (4,) commanded
    goal: np.ndarray  # (4,) where the last motion leads
    width: float
    tempo: float  # rows are divided by it
    smooth: float  # share of the way to the planned pose that the command goes in a row
    height: float  # m, travelling height of the tool above the table
    wander: float  # m a row
    fine: bool = False  # a box is gripped or put down: less wander
    stray: np.ndarray = field(default_factory=lambda: np.zeros((3, 4)))  # push, velocity (variance 1), how far (m, rad)

    def hold(self, low: int, high: int) -> Generator[Command]:
        """Where it is, for low to high rows."""
        yield from self._settle(int(self.rng.integers(low, high + 1)))

    def move(self, goal: np.ndarray, rows: float, top: float | None = None, settle: int = 3) -> Generator[Command]:
        """To the pose goal (4,) in about `rows`: straight, or over the height `top` (m) with a sideways bow."""
        start, rng = self.pose.copy(), self.rng
        way = goal - start
        count = max(round(rows / self.tempo * rng.uniform(0.9, 1.15)), int(2 * abs(way[3]) / MAX_TURN), 6)
        bow = rng.normal(0.0, 0.015) if top is not None else 0.0
        side = bow * np.array([-way[1], way[0]]) / max(float(np.hypot(way[0], way[1])), 1e-6)
        for k in range(1, count + 1):
            t = k / count
            planned = start + _ramp(t) * way
            if top is not None:
                across = _ramp((t - 0.12) / 0.8)
                planned[[0, 1, 3]] = (start + across * way)[[0, 1, 3]]
                planned[:2] += side * np.sin(np.pi * across)
                planned[2] = start[2] + _ramp(t / 0.45) * (top - start[2]) + _ramp((t - 0.5) / 0.5) * (goal[2] - top)
            yield self._follow(planned)
        self.goal = goal
        yield from self._settle(settle)

    def _settle(self, rows: int) -> Generator[Command]:
        for _ in range(rows):
            yield self._follow(self.goal)

    def _follow(self, planned: np.ndarray) -> Command:
        """A row: part of the way to the planned pose. The hand strays, and comes back as fast as it follows the plan."""
        push, velocity, astray = self.stray
        push[:] = MEMORY * push + np.sqrt(1 - MEMORY**2) * self.rng.standard_normal(4)
        velocity[:] = MEMORY * velocity + (1 - MEMORY**2) / np.sqrt(1 + MEMORY**2) * push  # of variance 1 again
        scale = self.wander * (FINE if self.fine else 1.0) * np.array([1, 1, 1, TURNING])
        astray[:] = (1 - self.smooth) * astray + scale * velocity
        self.pose += self.smooth * (planned - self.pose)
        return self.pose.copy(), astray.copy(), self.width


def _ramp(t: float) -> float:
    """0 to 1 while t goes from 0 to 1, with rest at both ends (cycloid)."""
    t = min(max(t, 0.0), 1.0)
    return float(t - np.sin(2 * np.pi * t) / (2 * np.pi))


def expert(order: str, view: View, rng: np.random.Generator) -> Generator[Command]:
    """Commands for one run, one a row; `view` shows what is known before each. Ends early when a box cannot be gripped."""
    tempo, smooth, height = rng.uniform(1.05, 1.45), rng.uniform(0.35, 0.6), rng.uniform(0.14, 0.2)
    hand = _Hand(rng, START.copy(), START, OPEN, tempo, smooth, height, rng.uniform(*WANDER))
    yield from hand.hold(2, 12)
    for level, letter in enumerate(order):
        box = "rgb".index(letter)
        for _ in range(3):
            yield from _pick(hand, view, box)
            if _gripped(view, box):
                break
            hand.width = OPEN
            yield from hand.hold(5, 8)
        else:
            return
        yield from _place(hand, view, box, level, ["rgb".index(c) for c in order[:level]])
    yield from hand.hold(2, 7)


def _pick(hand: _Hand, view: View, box: int) -> Generator[Command]:
    """Over the box, look, correct, down, close, a little up."""
    rng = hand.rng
    axis = _grip_axis(hand, view, box)
    along = rng.uniform(-0.018, 0.018) if box == 2 else rng.uniform(-0.006, 0.006)
    deep = float(np.clip(rng.normal(0.002, 0.004), -0.006, 0.01))  # m, of the grip above the box's centre

    def grip() -> np.ndarray:
        yaw = _nearest(view.yaw(box) + axis, hand.pose[3])
        # The fingers close along the tool's y axis, so along its x axis a grip may be off the centre.
        x, y = view.boxes[box, :2] + along * np.array([np.cos(yaw), np.sin(yaw)])
        return np.array([x, y, view.boxes[box, 2] + deep, yaw])

    goal = grip()
    above = _off(goal, rng, 0.006, rng.uniform(0.05, 0.08), 0.05)
    distance = float(np.linalg.norm(goal[:2] - hand.pose[:2]))
    cruise = TABLE + hand.height
    top = max(cruise, hand.pose[2] + 0.02) if distance > 0.05 and hand.pose[2] < cruise else None
    yield from hand.move(above, 24 + 70 * distance + 8 * abs(goal[3] - hand.pose[3]), top)
    yield from hand.hold(0, 4)
    hand.fine = True
    if rng.random() < 0.4:  # looks again before going down
        yield from hand.move(_off(grip(), rng, 0.0015, rng.uniform(0.04, 0.055), 0.012), 16)
        yield from hand.hold(0, 4)
    yield from hand.move(grip(), rng.uniform(20, 27), settle=4)
    yield from hand.hold(1, 4)
    hand.width = CLOSED
    yield from hand.hold(7, 11)
    hand.fine = False
    yield from hand.move(_off(hand.pose, rng, 0, rng.uniform(0.015, 0.025), 0), 9, settle=1)


def _place(hand: _Hand, view: View, box: int, level: int, below: list[int]) -> Generator[Command]:
    """Over the target or the stack, look, correct, lower, open, up."""
    rng = hand.rng
    place = np.clip(rng.normal(0, 0.009, 2), -0.02, 0.02) if not below else rng.normal(0, 0.0025, 2)
    yaw = hand.pose[3] * rng.choice([0.0, 0.0, 0.3, 1.0]) + rng.normal(0, 0.08)
    floor = TABLE + 2 * HALF * level

    def over(gap: float) -> np.ndarray:
        """Tool pose that puts the box over its spot with `gap` (m) below it, from how it hangs in the gripper now."""
        offset = view.boxes[box, :3] - view.tool
        spot = (TARGET if not below else view.boxes[below[-1], :2]) + place
        return np.array([*(spot - offset[:2]), floor + HALF + gap - offset[2], yaw])

    above = _off(over(rng.uniform(0.035, 0.055)), rng, 0.006, 0, 0)
    distance = float(np.linalg.norm(above[:2] - hand.pose[:2]))
    top = max(TABLE + hand.height, above[2] + rng.uniform(0.005, 0.03))
    yield from hand.move(above, 26 + 70 * distance + 8 * abs(yaw - hand.pose[3]), top)
    hand.fine = True
    yield from hand.hold(3, 6)
    if rng.random() < 0.4:  # looks again
        yield from hand.move(over(rng.uniform(0.02, 0.03)), 16)
        yield from hand.hold(2, 5)
    yield from hand.move(over(rng.uniform(0.001, 0.004)), rng.uniform(20, 27), settle=4)
    yield from hand.hold(3, 6)
    hand.width = OPEN
    yield from hand.hold(7, 10)
    yield from hand.move(_off(hand.pose, rng, 0, rng.uniform(0.03, 0.045), 0), 12, settle=1)
    hand.fine = False


def _off(pose: np.ndarray, rng: np.random.Generator, xy: float, up: float, yaw: float) -> np.ndarray:
    """A pose (4,) beside another: by random errors of these deviations (m, rad) and `up` (m) higher."""
    return pose + np.array([*rng.normal(0, xy, 2), up, rng.normal(0, yaw)])


def _gripped(view: View, box: int) -> bool:
    """Whether the box is between the fingers and off the table."""
    held = 2 * HALF - 0.004 < view.width < 2 * HALF + 0.012
    return held and float(np.linalg.norm(view.boxes[box, :3] - view.tool)) < 0.035


def _grip_axis(hand: _Hand, view: View, box: int) -> float:
    """Turn (rad) between box and tool for the grip: the blue box's short side; a cube's freer axis, mostly."""
    if box == 2:
        return np.pi / 2
    room = []
    for axis in (0.0, np.pi / 2):
        yaw = view.yaw(box) + axis
        fingers = view.boxes[box, :2] + FINGER_REACH * np.array(
            [[-np.sin(yaw), np.cos(yaw)], [np.sin(yaw), -np.cos(yaw)]]
        )
        others = [o for o in range(3) if o != box]
        room.append(min(float(np.linalg.norm(f - view.boxes[o, :2])) for f in fingers for o in others))
    if min(room) > 0.07:  # both are free: the smaller turn of the hand, or now and then the other
        turns = [abs(_nearest(view.yaw(box) + axis, hand.pose[3]) - hand.pose[3]) for axis in (0.0, np.pi / 2)]
        pick = int(np.argmin(turns))
        return (0.0, np.pi / 2)[pick if hand.rng.random() < 0.85 else 1 - pick]
    return (0.0, np.pi / 2)[int(np.argmax(room))]


def _nearest(yaw: float, to: float) -> float:
    """The turn equal to yaw up to half turns that is nearest to `to` and at most 100 degrees, which the wrist can do."""
    options = [yaw + k * np.pi for k in range(-3, 4)]
    return min((o for o in options if abs(o) <= np.deg2rad(100)), key=lambda o: abs(o - to))
