"""Scripted demonstrations of Stacking: pick and place of the three boxes in every order, executed in the simulation.

They stand in for the 1095 human demonstrations (recorded with a gamepad, at most 965 rows, orders in the shares of
`SHARES`). One run, for each box of the order: above the box, down while the fingers are right over it, close, lift, above
the target or the stack, lower, open, rise. What varies from run to run and from box to box: speed, how hard it brakes,
heights, how exactly it is above something before it goes down, where and how high a box is gripped, where in the zone and
how turned it is put down. A box that was missed is gripped again. The hand strays all the time, less where a box is gripped
or put down.

The expert moves the tool in space, as the humans did; own inverse kinematics (`envs._joint_control.joint_targets`) turn
that into the joint set-points that the task takes. It looks at the boxes all the time, and what it does next follows from
what it sees (`_Hand.reach`), as with a person who steers by eye: straying is corrected at once, fingers close when and
because they are in place. A plan that is executed by the clock looks alike and cannot be learned: its rows say nothing of
the boxes that the rows before do not say (docs/training.md).

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
from envs.demonstrators._experts import Stray
from envs.demonstrators._stacking_arm import Arms

GENERATOR_VERSION = "4"
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
MAX_TURN = 0.06  # rad a row
WANDER = (0.0004, 0.0016)  # m a row, from run to run; how fast a hand strays while it travels
SPEED = (0.009, 0.013)  # m a row, from run to run
GAIN = (0.1, 0.14)  # likewise, of the remaining way
FUNNEL = 0.015  # m; over this it goes down
TURNED = 0.03  # m a rad: how far beside a wrong heading counts
FINE_WITHIN = 0.04  # m
TURNING = 8.0  # rad/m, of a straying hand
PAST = 0.025  # m below a grip that an empty hand aims at: it is seen when the fingers have to close
FINE = 0.3  # of it where a box is gripped or put down
ASTRAY, ASTRAY_WITHIN = 0.02, 0.1  # in this share of rows an empty hand within so many m of a box begins to go astray
ASTRAY_ROWS = (7, 13)
ASTRAY_SPEED = np.array([0.004, 0.004, 0.003, 0.04])  # m and rad a row, at most
MEMORY = 0.85  # of a stray velocity, a row, twice: it comes and goes in a third of a second
FINGER_REACH = 0.062  # m from the tool's axis to the outside of an open finger

Command = tuple[np.ndarray, float]  # tool pose (4,): xyz (m), yaw (rad); commanded gripper width (m)


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
            arms.poses[i], setpoints[i, 7] = command
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

    It goes by what it sees: its velocity follows from where the tool is and where the goal is (`_wanted`), never from a
    clock, so that rows alone say what to do next. The arm follows its joint set-points like a weakly damped spring (about
    1.4 Hz), so velocities change slowly.
    """

    rng: np.random.Generator
    pose: np.ndarray  # (4,) planned
    width: float
    speed: float  # m a row, at most
    gain: float  # share of the remaining way that it goes in a row
    quick: float  # share of a wanted change of velocity that it makes in a row, twice
    height: float  # m, travelling height of the tool above the table
    wander: float  # m a row
    tight: float  # m beside its goal before it goes down
    fine: bool = False  # a box is gripped or put down: less wander
    velocity: np.ndarray = field(default_factory=lambda: np.zeros((2, 4)))  # sought, and planned, per row
    stray: Stray = field(default_factory=lambda: Stray(4, MEMORY))

    def hold(self, low: int, high: int) -> Generator[Command]:
        """Slows down where it is, for low to high rows."""
        for _ in range(int(self.rng.integers(low, high + 1))):
            yield self._row(np.zeros(4))

    def rise(self, height: float, pace: float) -> Generator[Command]:
        """Straight up by height (m), at pace (m a row)."""
        enough = self.pose[2] + height
        while self.pose[2] < enough:
            yield self._row(np.array([0, 0, pace, 0]))

    def reach(
        self, goal: Callable[[], np.ndarray], hover: float, near: float, empty: bool = False, rows: int = 260
    ) -> Generator[Command]:
        """To the pose goal() (4,), looked at in each row: up, across, and down from `hover` (m) once it is right above.

        Ends when it is at rest within `near` (m; 20 rad/m for its heading) or after `rows`. An empty hand does not come to
        rest: it ends when it passes the goal's height, within `near` beside it. It goes astray now and then: down beside the
        box, too, from where it has to rise again.
        """
        away, drift = 0, np.zeros(4)
        for _ in range(rows):
            target = goal()
            error = target - self.pose
            beside = float(np.abs(error * (1, 1, 0, 0.05)).max())
            if empty:
                if beside < near and error[2] > 0:
                    return
                target[2] -= PAST
                error[2] -= PAST
            elif max(beside, abs(error[2])) < near and np.abs(self.velocity[1, :3]).max() < near / 2:
                return
            self.fine = float(np.hypot(*error[:2])) < FINE_WITHIN
            if empty and not away and np.hypot(*error[:2]) < ASTRAY_WITHIN and self.rng.random() < ASTRAY:
                away, drift = int(self.rng.integers(*ASTRAY_ROWS)), self.rng.uniform(-1, 1, 4) * ASTRAY_SPEED
            away = max(away - 1, 0)
            yield self._row(drift if away else self._wanted(error, target[2], hover))

    def _wanted(self, error: np.ndarray, floor: float, hover: float) -> np.ndarray:
        """The velocity (4,) a row for what is left to the goal, whose height is `floor` (m)."""
        beside = float(np.hypot(*error[:2]))
        lift = hover * _ramp((beside + TURNED * abs(error[3]) - self.tight) / FUNNEL)
        cruise = max(TABLE + self.height - floor, hover)
        lift += (cruise - hover) * _ramp((beside - 0.03) / 0.09)
        up = error[2] + lift
        free = 1 - _ramp((up - 0.015) / 0.05)  # nothing sideways as long as it is far too low
        across = self.gain * error[:2] * free
        fast = float(np.hypot(*across))
        across *= min(self.speed / max(fast, 1e-9), 1.0)
        turn = np.clip(self.gain * error[3] * free, -MAX_TURN, MAX_TURN)
        return np.array([*across, np.clip(self.gain * up, -self.speed, self.speed), turn])

    def _row(self, wanted: np.ndarray) -> Command:
        """Velocities follow what is wanted; besides, the hand strays."""
        sought, planned = self.velocity
        sought += self.quick * (wanted - sought)
        planned += self.quick * (sought - planned)
        strayed = self.stray.step(self.rng)
        self.pose += planned + self.wander * (FINE if self.fine else 1.0) * np.array([1, 1, 1, TURNING]) * strayed
        return self.pose.copy(), self.width


def _ramp(t: float) -> float:
    """0 to 1 while t goes from 0 to 1, with rest at both ends."""
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def expert(order: str, view: View, rng: np.random.Generator) -> Generator[Command]:
    """Commands for one run, one a row; `view` shows what is known before each. Ends early when a box cannot be gripped."""
    hand = _Hand(
        rng, START.copy(), OPEN, speed=rng.uniform(*SPEED), gain=rng.uniform(*GAIN), quick=rng.uniform(0.35, 0.5),
        height=rng.uniform(0.14, 0.2), wander=rng.uniform(*WANDER), tight=rng.uniform(0.003, 0.006),
    )  # fmt: skip
    yield from hand.hold(1, 5)
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
    """Over the box, down where the fingers fit, close, a little up."""
    rng = hand.rng
    along = rng.uniform(-0.012, 0.012) if box == 2 else rng.uniform(-0.004, 0.004)
    deep = float(
        np.clip(rng.normal(0.006, 0.001), 0.003, 0.009)
    )  # m above its centre, where the fingers begin to close

    def grip() -> np.ndarray:
        yaw = _nearest(view.yaw(box) + _grip_axis(hand, view, box), hand.pose[3])
        # The fingers close along the tool's y axis, so along its x axis a grip may be off the centre.
        x, y = view.boxes[box, :2] + along * np.array([np.cos(yaw), np.sin(yaw)])
        return np.array([x, y, view.boxes[box, 2] + deep, yaw])

    yield from hand.reach(grip, rng.uniform(0.05, 0.08), 0.008, empty=True)
    hand.width = CLOSED
    yield from hand.hold(6, 8)
    yield from hand.rise(0.015, 0.004)


def _place(hand: _Hand, view: View, box: int, level: int, below: list[int]) -> Generator[Command]:
    """Over the target or the stack, lower, open, up."""
    rng = hand.rng
    place = np.clip(rng.normal(0, 0.007, 2), -0.015, 0.015) if not below else rng.normal(0, 0.0015, 2)
    yaw = rng.normal(0, 0.08)
    gap = rng.uniform(0.001, 0.003)
    floor = TABLE + 2 * HALF * level

    def over() -> np.ndarray:
        """Tool pose that puts the box over its spot with `gap` (m) below it, from how it hangs in the gripper now."""
        offset = view.boxes[box, :3] - view.tool
        spot = (TARGET if not below else view.boxes[below[-1], :2]) + place
        return np.array([*(spot - offset[:2]), floor + HALF + gap - offset[2], yaw])

    yield from hand.reach(over, rng.uniform(0.035, 0.055), 0.003)
    yield from hand.hold(2, 4)
    hand.width = OPEN
    yield from hand.hold(6, 8)
    yield from hand.rise(0.03, 0.005)


def _gripped(view: View, box: int) -> bool:
    """Whether the box is between the fingers and off the table."""
    held = 2 * HALF - 0.004 < view.width < 2 * HALF + 0.012
    return held and float(np.linalg.norm(view.boxes[box, :3] - view.tool)) < 0.035


def _grip_axis(hand: _Hand, view: View, box: int) -> float:
    """Turn (rad) between box and tool for the grip: the blue box's short side; the freer axis of a cube, or the nearer one."""
    if box == 2:
        return np.pi / 2
    others = [view.boxes[o, :2] for o in range(3) if o != box]
    axes = (0.0, np.pi / 2)
    room = []
    for axis in axes:
        yaw = view.yaw(box) + axis
        reach = FINGER_REACH * np.array([-np.sin(yaw), np.cos(yaw)])
        fingers = (view.boxes[box, :2] + reach, view.boxes[box, :2] - reach)
        room.append(min(float(np.hypot(*(finger - other))) for finger in fingers for other in others))
    if min(room) > 0.07:
        return min(axes, key=lambda axis: abs(_nearest(view.yaw(box) + axis, hand.pose[3]) - hand.pose[3]))
    return axes[int(np.argmax(room))]


def _nearest(yaw: float, to: float) -> float:
    """The turn equal to yaw up to half turns that is nearest to `to` and at most 100 degrees, which the wrist can do."""
    options = [yaw + k * np.pi for k in range(-3, 4)]
    return min((o for o in options if abs(o) <= np.deg2rad(100)), key=lambda o: abs(o - to))
