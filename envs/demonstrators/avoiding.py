"""Scripted demonstrations of Avoiding: smooth, varied runs through all 24 routes, executed in the simulation.

They imitate the human demonstrations in what matters to a policy trained on them (figures of the 96 human ones in
brackets): a hold at the start (0 to 23 rows, median 4), a quick rise to a cruising speed of 12 to 15 mm a row with at
most 12.5 mm an axis, y never decreasing, a desired position that leads the arm by about 16 mm, passages anywhere in the
gaps, an end well past the finish line, 61 to 107 rows (mean 77, standard deviation 12).

A path x(y) is a shape-preserving cubic (PCHIP, Fritsch & Carlson 1980) through random passage points; the set-point
follows it at the episode's own speed profile, and the run is executed. A run that touches a cylinder, comes closer than
`CLEARANCE`, leaves its route or has a length outside 61..107 is drawn again, from its next random stream.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.datasets import Episode

START_XY = (0.52492847, -0.27973673)  # m, after a reset (as in `envs.avoiding`, which needs the simulator)
GENERATOR_VERSION = "1"

ROWS = (61, 107)  # fewest and most rows of a demonstration, as the human ones
MAX_STEP = 0.0125  # m a row and axis, the fastest human command
CLEARANCE = 0.004  # m kept between rod and cylinders
MAX_ATTEMPTS = 200  # draws for one episode before giving up

# Gaps of each row of cylinders: (low, high) of the passage's x in m, for the rod's centre.
GAPS = (
    ((0.395, 0.448), (0.560, 0.625)),
    ((0.318, 0.374), (0.474, 0.526), (0.628, 0.690)),
    ((0.262, 0.304), (0.398, 0.450), (0.548, 0.600), (0.692, 0.742)),
)
ROW_Y = (-0.1, 0.08, 0.26)  # m, the rows of cylinders


def generate(seed: int = 0, per_mode: int = 4, progress: Callable[[int, int], None] | None = None) -> list[Episode]:
    """per_mode successful episodes for each of the 24 routes, in order of route; the same for the same seed.

    Each has obs (L, 4) and actions (L, 2) float32 in m: row k is (desired xy, actual xy) when set-point k is given, and
    action k leads from set-point k to k + 1 (the last set-point has no action and is no row, as in the original).
    """
    from envs.avoiding import MODES  # the simulator is needed here only

    wanted = [(route, copy) for route in range(len(MODES)) for copy in range(per_mode)]
    found: list[Episode | None] = [None] * len(wanted)
    for attempt in range(MAX_ATTEMPTS):
        open_slots = [n for n, episode in enumerate(found) if episode is None]
        if progress is not None:
            progress(len(found) - len(open_slots), len(found))
        if not open_slots:
            return [episode for episode in found if episode is not None]
        paths = []
        for n in open_slots:
            route, copy = wanted[n]
            paths.append(_draw_path(MODES[route], np.random.default_rng([seed, route, copy, attempt])))
        for n, episode in zip(open_slots, _execute(paths), strict=True):
            if episode is not None and episode.mode == MODES[wanted[n][0]]:
                found[n] = episode
    left = {MODES[wanted[n][0]] for n in open_slots}
    raise RuntimeError(f"no demonstration found for {sorted(left)} after {MAX_ATTEMPTS} attempts")


def _draw_path(mode: str, rng: np.random.Generator) -> np.ndarray:
    """(L + 1, 2) m: random set-points along the route `mode`, one a control step, from the start position."""
    choice = (mode[:2].index("1"), mode[2:5].index("1"), mode[5:].index("1"))
    start = np.array(START_XY)
    passages = [rng.uniform(*GAPS[row][gap]) for row, gap in enumerate(choice)]
    end_y = float(np.clip(rng.normal(0.44, 0.018), 0.40, 0.48))
    heights = np.array([start[1], *(y + rng.normal(0.0, 0.012) for y in ROW_Y), 0.35, end_y + 0.02])
    lateral = np.array([start[0], *passages, 0.0, 0.0])
    lateral[4:] = passages[2] + rng.normal(0.0, 0.012) * np.array([1.0, 1.5])
    speeds = _speed_profile(rng)
    points = [start] * (1 + _hold_rows(rng))
    fine_y = np.linspace(start[1], end_y, 2000)
    fine_x = _pchip(heights, lateral, fine_y)
    points += _follow(np.stack([fine_x, fine_y], 1), speeds)
    points += [points[-1]] * int(rng.integers(0, 8))  # the human stops and waits for the arm
    return np.array(points)


def _hold_rows(rng: np.random.Generator) -> int:
    """Rows before the first motion."""
    return int(min(rng.poisson(3.5), 11))


def _speed_profile(rng: np.random.Generator) -> np.ndarray:
    """(400,) m a row: a rise within five rows to the cruising speed, which drifts slowly."""
    rows = np.arange(400)
    cruise = rng.uniform(0.0120, 0.0152)
    drift = 0.10 * np.sin(2 * np.pi * rows / rng.uniform(35, 90) + rng.uniform(0, 2 * np.pi))
    rise = 1.0 - np.array([0.45, 0.3, 0.18, 0.1, 0.05])
    speed = cruise * (1.0 + drift)
    speed[:5] *= rise
    return np.clip(speed, 0.005, 0.0152)


def _follow(curve: np.ndarray, speeds: np.ndarray) -> list[np.ndarray]:
    """Set-points along a fine curve (N, 2): each step has the profile's length, cut to MAX_STEP an axis."""
    points: list[np.ndarray] = []
    at = 0
    for speed in speeds:
        away = curve[at + 1 :] - curve[at]
        if not len(away):
            return points
        ahead = (np.hypot(away[:, 0], away[:, 1]) <= speed) & (np.abs(away).max(1) <= MAX_STEP)
        at += max(1, int(np.argmin(ahead)) if not ahead.all() else len(ahead))
        points.append(curve[at])
    return points


def _pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Shape-preserving cubic through (x, y), evaluated at `at`; end slopes are those of the outer segments."""
    h, d = np.diff(x), np.diff(y) / np.diff(x)
    slope = np.concatenate([d[:1], np.zeros(len(x) - 2), d[-1:]])
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    same = d[:-1] * d[1:] > 0
    inner = (w1 + w2)[same] / (w1[same] / d[:-1][same] + w2[same] / d[1:][same])
    slope[1:-1][same] = inner
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(h) - 1)
    t = (at - x[k]) / h[k]
    rise = (y[k + 1] - y[k]) * t**2 * (3 - 2 * t)
    return y[k] + rise + h[k] * t * (1 - t) * (slope[k] * (1 - t) - slope[k + 1] * t)


def _execute(paths: list[np.ndarray]) -> list[Episode | None]:
    """Runs all paths in one batch; None for a run that fails, comes too close to a cylinder or has a wrong length."""
    from envs.avoiding import OBSTACLES, ROD_RADIUS, AvoidingBatch

    class Recorder(AvoidingBatch):
        """Keeps recording after success, as the humans did; only a collision ends a run."""

        def _finish(self, ids):
            return super()._finish(ids) & ~self.success[ids]

    rows = max(len(path) for path in paths)
    env = Recorder(len(paths), max_steps=rows + 1)
    obs = np.zeros((rows, len(paths), 4), np.float32)
    env.reset()
    setpoints = env.setpoint.copy()
    for k in range(rows):
        setpoints[:, :2] = [path[min(k, len(path) - 1)] for path in paths]
        obs[k] = env.step_absolute(setpoints)[0]
    episodes: list[Episode | None] = []
    for n, path in enumerate(paths):
        seen = obs[: len(path) - 1, n]  # rows [:-1]: the last set-point has no successor
        gaps = [np.hypot(seen[:, 2] - x, seen[:, 3] - y).min() - r - ROD_RADIUS for _, x, y, r, _ in OBSTACLES]
        good = env.success[n] and not env.terminated[n] and min(gaps) >= CLEARANCE
        good = good and ROWS[0] <= len(path) <= ROWS[1] and seen[-1, 3] > 0.40
        mode = env.mode_name(env.mode[n])
        actions = np.diff(path, axis=0).astype(np.float32)
        episodes.append(Episode(seen.copy(), actions, None, mode) if good else None)
    env.close()
    return episodes
