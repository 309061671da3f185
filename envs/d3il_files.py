"""The original's demonstration files (D3IL): what one of them holds, as an episode. NumPy only.

One pickle is one demonstration: a dict with a dict `robot` of columns and, for tasks with objects, one dict an object
with `pos` (T, 3) m and `quat` (T, 4) wxyz. Observations are all rows but the last, actions the differences between
consecutive rows of the desired position, as in the original's data set classes. The behaviour of a file is found by the
environment's own rule.

Letters: T rows of a file, L = T - 1 rows of an episode, k objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs import _labels
from harness.errors import UserError


@dataclass(frozen=True, eq=False)
class Episode:
    """One demonstration: `obs` (L, D) and `actions` (L, A), float32 and unscaled; `mode` = its behaviour as a key.

    Image tasks: `obs` is (L, D) uint8, or an `envs.frames.Frames` that behaves like it, and `positions` (L, E) float32 what
    the state task observes there; no policy sees them. `states` (L, Q): the simulation's qpos at each row, where a demonstrator
    is asked for it; never stored.
    """

    obs: np.ndarray
    actions: np.ndarray
    context: Any = None
    mode: str = ""
    states: np.ndarray | None = None
    positions: np.ndarray | None = None


LEVEL_Y = (-0.1, -0.1 + 0.18, -0.1 + 2 * 0.18)
BAND = 0.03  # half-width in y of the first two levels' bands; the third level's is everything from its y on
BORDERS = ((0.5,), (0.5 - 0.075, 0.5 + 0.075), (0.5 - 2 * 0.075, 0.5, 0.5 + 2 * 0.075))  # x between a level's gaps


def avoiding_mode(tcp_xy: np.ndarray) -> str:
    """The behaviour of a path of TCP positions (L, 2) as nine bits, one-hot per level (2 + 3 + 4), e.g. "101001000".

    The original environment's rule (D3IL, `ObstacleAvoidanceEnv.check_mode`): the first position inside a level's band
    decides it once and for all, and one exactly on a border decides nothing, except that the last two borders of the
    third level count as its last gap. "" when a level stays undecided.
    """
    x, y = np.asarray(tcp_xy, dtype=np.float64).T  # (L,), (L,)
    bits = ""
    for level, borders in enumerate(BORDERS):
        centre = LEVEL_Y[level]
        inside = y >= centre if level == 2 else (y - BAND <= centre) & (centre <= y + BAND)
        if not inside.any():
            return ""
        first = x[np.argmax(inside)]
        gap = int(np.searchsorted(borders, first))
        if first in borders:
            if level < 2 or first == borders[0]:
                return ""
            gap = len(borders)
        bits += "".join("1" if i == gap else "0" for i in range(len(borders) + 1))
    return bits


def avoiding(content: Any, name: str) -> Episode:
    """obs = desired xy, actual xy (4); action = change of desired xy (2)."""
    desired, actual = _robot(content, name)
    obs = np.concatenate([desired[:, :2], actual[:, :2]], axis=1)
    return _episode(obs, desired[:, :2], None, avoiding_mode(actual[:, :2]))


def aligning(content: Any, name: str) -> Episode:
    """obs = desired xyz, actual xyz, tray and target as xyz and quaternion (20); action = change of desired xyz (3)."""
    desired, actual = _robot(content, name)
    poses = _objects(content, ("push-box", "target-box"), len(desired), name)
    obs = np.concatenate([desired, actual, poses.reshape(len(poses), 14)], axis=1)
    return _episode(obs, desired, poses[0], str(_labels.side_of(actual[-1:], poses[-1:])[0]))


def pushing(content: Any, name: str) -> Episode:
    """obs = desired xy, actual xy, red xy and tan(yaw), green likewise (10); action = change of desired xy (2)."""
    desired, actual = _robot(content, name)
    poses = _objects(content, ("red-box", "green-box"), len(desired), name)
    first, shown = np.array([-1]), [-1]
    for row in poses:
        mode = int(_labels.update_pushing(first, row[None])[0])
        if mode >= 0:
            shown.append(mode)
    return _episode(
        plane_columns(desired, actual, poses), desired[:, :2], poses[0], "" if shown[-1] < 0 else str(shown[-1])
    )


def sorting(content: Any, name: str) -> Episode:
    """obs = desired xy, actual xy, then red 1, red 2, blue 1, blue 2: xy and tan(yaw) (16); action (2) as above."""
    desired, actual = _robot(content, name)
    poses = _objects(content, ("red-box1", "red-box2", "blue-box1", "blue-box2"), len(desired), name)
    order, counted = np.full((1, 4), -1), np.zeros((1, 4), bool)
    for row in poses:
        _labels.update_order(order, counted, row[None])
    mode = _labels.ORDERS.get(int(_labels.order_byte(order)[0]), "") if counted.all() else ""
    return _episode(plane_columns(desired, actual, poses), desired[:, :2], poses[0], mode)


def stacking(content: Any, name: str) -> Episode:
    """obs = desired joints (7), measured gripper width, then red, green, blue: xyz and tan(yaw) (20).

    action (8) = change of the desired joints, and the next row's gripper width: the measured one, which follows the command
    by a row or two. When a policy acts, its own last command stands in the width's place.
    """
    joints = _column(content, "robot", "des_j_pos", 7, name)
    width = _column(content, "robot", "gripper_width", 0, name)[:, None]
    _same_length(len(joints), len(width), "robot.gripper_width", name, "robot.des_j_pos")
    poses = _objects(content, ("red-box", "green-box", "blue-box"), len(joints), name)
    zone = _column(content, "target-box", "pos", 3, name)[0, :2]
    boxes = np.concatenate([poses[..., :3], _labels.tan_yaw(poses[..., 3:])[..., None]], -1)
    obs = np.concatenate([joints, width, boxes.reshape(len(joints), 12)], axis=1)
    actions = np.concatenate([np.diff(joints, axis=0), width[1:]], axis=1)
    mode = np.array([""], "<U3")
    for row in poses:
        _labels.update_stacking(mode, row[None], zone)
    return Episode(obs[:-1].astype(np.float32), actions.astype(np.float32), poses[0], str(mode[0]))


def plane_columns(desired: np.ndarray, actual: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """(T, 4 + 3 k) float64: desired xy, actual xy, then xy and tan(yaw) of each of k cubes."""
    cubes = np.concatenate([poses[..., :2], _labels.tan_yaw(poses[..., 3:])[..., None]], -1)
    parts = [desired[:, :2], actual[:, :2], cubes.reshape(len(desired), 3 * cubes.shape[1])]
    return np.concatenate(parts, 1)


def _episode(obs: np.ndarray, desired: np.ndarray, context: np.ndarray | None, mode: str) -> Episode:
    return Episode(obs[:-1].astype(np.float32), np.diff(desired, axis=0).astype(np.float32), context, mode)


def _robot(content: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Desired and actual tool positions (T, 3), checked. Raises `UserError`."""
    desired, actual = (_column(content, "robot", key, 3, name) for key in ("des_c_pos", "c_pos"))
    _same_length(len(desired), len(actual), "robot.c_pos", name)
    return desired, actual


def _objects(content: Any, objects: tuple[str, ...], rows: int, name: str) -> np.ndarray:
    """(T, k, 7) poses of the objects, checked. Raises `UserError`."""
    found = np.empty((rows, len(objects), 7))
    for j, group in enumerate(objects):
        pos, quat = _column(content, group, "pos", 3, name), _column(content, group, "quat", 4, name)
        _same_length(rows, len(pos), f"{group}.pos", name)
        _same_length(rows, len(quat), f"{group}.quat", name)
        bad = np.flatnonzero(np.abs(np.linalg.norm(quat, axis=1) - 1.0) > 1e-3)
        if len(bad):
            raise UserError(f"{name}: {group}.quat is no unit quaternion in row {bad[0]}; leave the file out")
        found[:, j, :3], found[:, j, 3:] = pos, quat
    return found


def _same_length(expected: int, rows: int, column: str, name: str, first: str = "robot.des_c_pos") -> None:
    if rows != expected:
        raise UserError(
            f"{name}: {first} has {expected} rows and {column} {rows}; they must be equal: download the file again"
        )


def _column(content: Any, group: str, key: str, width: int, name: str) -> np.ndarray:
    """`content[group][key]` as float64 (rows, width), or (rows,) for width 0, checked. Raises `UserError`."""
    columns = content.get(group) if isinstance(content, dict) else None
    if not isinstance(columns, dict):
        found = f"keys {sorted(map(str, content))[:6]}" if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{name}: not a D3IL demonstration; expected a dict with a dict {group!r}, found {found}")
    if key not in columns:
        raise UserError(
            f"{name}: {group}.{key} is missing; found {', '.join(sorted(map(str, columns))[:16]) or 'no keys'}"
        )
    array = columns[key]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise UserError(f"{name}: {group}.{key} must be an array of numbers, found {found}")
    if array.shape[1:] != ((width,) if width else ()) or not array.ndim:
        expected = f"(rows, {width})" if width else "(rows,)"
        raise UserError(
            f"{name}: {group}.{key} has shape {array.shape}, expected {expected}; is this another task's file?"
        )
    if len(array) < 2:
        raise UserError(f"{name}: {group}.{key} has {len(array)} row(s), expected at least 2; leave this file out")
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise UserError(f"{name}: {group}.{key} is NaN or infinite in row {bad[0]}; repair the file or leave it out")
    return array.astype(np.float64)
