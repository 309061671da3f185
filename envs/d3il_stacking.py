"""The original's files of human Stacking demonstrations (D3IL, Jia et al. 2024), as its own data set class reads them.

One pickle a demonstration, `stacking/all_data/*.pkl`: a dict with `robot` (des_j_pos (T, 7) rad, gripper_width (T,) m and
more), `red-box`, `green-box`, `blue-box` and `target-box` (each pos (T, 3) m, quat (T, 4) wxyz), one row every 35 ms.

    observation k (20)   des_j_pos[k], gripper_width[k], then red, green, blue: pos[k], tan(yaw[k])       k < T - 1
    action k (8)         des_j_pos[k + 1] - des_j_pos[k], gripper_width[k + 1]

The gripper's width is the measured one, which follows the command by a row or two; a policy's own command takes its place
when it acts. The behaviour is counted from the boxes' positions by the environment's own rule, with the recorded target.

Imported only to parse files: it needs the simulator's package for the rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from envs._objects import tan_yaw
from envs.datasets import Episode
from envs.stacking import update_mode
from harness.errors import UserError

BOXES = ("red-box", "green-box", "blue-box")
COLUMNS = (
    ("robot", "des_j_pos", 7), ("robot", "gripper_width", 0), ("target-box", "pos", 3),
    *((box, key, width) for box in BOXES for key, width in (("pos", 3), ("quat", 4))),
)  # fmt: skip


def episode(content: Any, name: str) -> Episode:
    """The demonstration in a file's content; context (3, 7): the boxes' first poses. Raises `UserError`, naming the file."""
    columns = {f"{part}.{key}": _column(content, part, key, width, name) for part, key, width in COLUMNS}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) != 1:
        held = ", ".join(f"{key} {n}" for key, n in lengths.items())
        raise UserError(f"{name}: columns of different lengths ({held}); download the file again")
    joints, width = columns["robot.des_j_pos"], columns["robot.gripper_width"][:, None]
    poses = np.stack([np.hstack([columns[f"{b}.pos"], columns[f"{b}.quat"]]) for b in BOXES], 1)  # (T, 3, 7)
    features = np.concatenate([poses[:, :, :3], tan_yaw(poses[:, :, 3:])[:, :, None]], 2).reshape(-1, 12)
    obs = np.hstack([joints, width, features])[:-1]
    actions = np.hstack([np.diff(joints, axis=0), width[1:]])
    mode = np.array([""], "<U3")
    for boxes in poses:
        update_mode(mode, boxes[None], columns["target-box.pos"][0, :2])
    return Episode(obs.astype(np.float32), actions.astype(np.float32), poses[0], str(mode[0]))


def _column(content: Any, part: str, key: str, width: int, name: str) -> np.ndarray:
    """`content[part][key]` as float64, (T, width), or (T,) for width 0; checked. Raises `UserError`."""
    group = content.get(part) if isinstance(content, dict) else None
    if not isinstance(group, dict):
        found = f"keys {sorted(map(str, content))[:8]}" if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{name}: not a demonstration of Stacking; expected a dict with a dict {part!r}, found {found}")
    array = group.get(key)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise UserError(f"{name}: {part}.{key} must be an array of numbers, found {found}")
    shape = ("rows", width) if width else ("rows",)
    if array.ndim != len(shape) or (width and array.shape[1] != width):
        raise UserError(f"{name}: {part}.{key} has shape {array.shape}, expected {shape}; is this another task's file?")
    if len(array) < 2:
        raise UserError(f"{name}: {part}.{key} has {len(array)} row(s), expected at least 2; leave this file out")
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise UserError(f"{name}: {part}.{key} is NaN or infinite in row {bad[0]}; repair the file or leave it out")
    return array.astype(np.float64)
