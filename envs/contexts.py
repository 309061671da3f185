"""Contexts: where a task's objects start. Evaluation contexts from the original's files or the project's own.

A context gives each object's x, y (m) and yaw (degrees). The original keeps a task's evaluation contexts in one pickle,
`<data root>/[d3il/]<task>/<file>`, which is used where it exists. Otherwise the project's own are used: drawn by `draw`
from the same distributions with a fixed seed, and kept in `assets/contexts/<task>.json`, so that they never change.

Accepted as a context: an index into the evaluation contexts; rows (x, y, yaw in degrees), one an object; the original's
own form, pairs of (x, y, yaw) and quaternion wxyz, nested in any way (the quaternion counts, its yaw is not looked at).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs import safe_pickle
from envs.image_data import STATE_TASK
from harness.errors import UserError, unknown

SEED = 2024  # of the project's own evaluation contexts
ASSETS = Path(__file__).parent / "assets" / "contexts"
YAW = (-90.0, 90.0)  # degrees, every object of every task


@dataclass(frozen=True)
class Layout:
    """What a task's contexts hold. ranges: low and high of x and of y (m) for each object, in the original's order.

    used: how many of the objects the task has (the first ones); count: evaluation contexts; shuffled: the ranges are dealt
    to the objects at random.
    """

    file: str
    count: int
    used: int
    ranges: tuple[tuple[tuple[float, float], tuple[float, float]], ...]
    shuffled: bool = False


_SLOTS = tuple((x, y) for x in ((0.4, 0.5), (0.55, 0.65)) for y in ((-0.15, -0.1), (-0.05, 0.0), (0.05, 0.1)))
LAYOUTS = {
    "aligning": Layout("test_contexts.pkl", 60, 2, (((0.4, 0.6), (-0.25, -0.1)), ((0.4, 0.6), (0.2, 0.35)))),
    "pushing": Layout("test_contexts.pkl", 30, 2, (((0.4, 0.5), (-0.15, 0.0)), ((0.55, 0.65), (-0.15, 0.0)))),
    "sorting": Layout("4_test_contexts.pkl", 60, 4, _SLOTS, shuffled=True),
    "stacking": Layout(
        "test_contexts.pkl", 60, 3,
        (((0.35, 0.45), (-0.25, -0.15)), ((0.35, 0.45), (-0.1, 0.0)), ((0.55, 0.6), (-0.2, 0.0)), ((0.4, 0.6), (0.15, 0.25))),
    ),  # its fourth object, the target, is in the files and never moved
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Contexts:
    """A task's evaluation contexts: `poses` (C, k, 7), xyz (z = 0) and quaternion wxyz; where from; SHA-256 of the poses."""

    poses: np.ndarray
    origin: str
    sha256: str


def layout(task: str) -> Layout:
    """The layout of a task's contexts; UserError for a task without contexts."""
    if task not in LAYOUTS:
        raise unknown("task with contexts", task, LAYOUTS)
    return LAYOUTS[task]


def evaluation_contexts(task: str, data_root: Path | str | None = None) -> Contexts:
    """The first `count` of the original's file under data_root (else `$VDD_DATA_ROOT`), or the project's own.

    An image task has those of its state task. Raises UserError for a file that is refused, malformed or holds too few.
    """
    root = data_root if data_root is not None else os.environ.get("VDD_DATA_ROOT")
    task = STATE_TASK.get(task, task)
    kind = layout(task)
    if root:
        for folder in (Path(root).expanduser() / "d3il" / task, Path(root).expanduser() / task):
            if (folder / kind.file).is_file():
                return _from_file(task, folder / kind.file)
    return _own(task)


def poses(context: Any, task: str, name: str = "context") -> np.ndarray:
    """(k, 7) poses of a context's objects, z = 0 (see the module's head for its forms). Raises UserError, naming `name`."""
    kind = layout(task)
    wanted = sorted({kind.used, len(kind.ranges)})
    objects = " or ".join(map(str, wanted))
    expected = f"expected {objects} rows (x, y, yaw in degrees), or pairs of these and a quaternion wxyz"
    leaves = list(_leaves(context, name, expected))
    rows = leaves if all(len(leaf) == 3 for leaf in leaves) else leaves[::2]
    if len(rows) not in wanted or any(len(row) != 3 for row in rows):
        raise UserError(f"{name} of {task}: {expected}; got vectors of lengths {[len(leaf) for leaf in leaves][:16]}")
    found = with_yaw(np.array(rows))
    if rows is not leaves:
        quats = leaves[1::2]
        if len(quats) != len(rows) or any(len(q) != 4 or abs(np.linalg.norm(q) - 1.0) > 1e-3 for q in quats):
            raise UserError(f"{name} of {task}: its quaternions (w, x, y, z) must have four numbers and length 1")
        found[:, 3:] = quats
    if not np.isfinite(found).all() or np.abs(found[:, :2]).max() > 2.0:
        raise UserError(f"{name} of {task}: positions must be finite and within 2 m; got {found[:, :2].tolist()}")
    return found[: kind.used]


def sample(task: str, rng: np.random.Generator) -> np.ndarray:
    """(k, 3) x, y (m), yaw (degrees) of a random context, distributed as the original's."""
    kind = layout(task)
    ranges = [kind.ranges[i] for i in (rng.permutation(len(kind.ranges)) if kind.shuffled else range(len(kind.ranges)))]
    return np.array([[rng.uniform(*x), rng.uniform(*y), rng.uniform(*YAW)] for x, y in ranges])[: kind.used]


def draw(task: str, seed: int = SEED) -> list[list[list[float]]]:
    """The project's own evaluation contexts, rounded to 1e-6 m and 1e-4 degrees."""
    rng = np.random.default_rng([seed, *task.encode()])
    found = [sample(task, rng) for _ in range(layout(task).count)]
    return [[[round(x, 6), round(y, 6), round(yaw, 4)] for x, y, yaw in rows.tolist()] for rows in found]


def with_yaw(rows: np.ndarray) -> np.ndarray:
    """(k, 7) poses at z = 0 of rows (k, 3): x, y (m), yaw (degrees)."""
    half = np.deg2rad(rows[:, 2]) / 2
    found = np.zeros((len(rows), 7))
    found[:, :2], found[:, 3], found[:, 6] = rows[:, :2], np.cos(half), np.sin(half)
    return found


def _leaves(value: Any, name: str, expected: str, depth: int = 0) -> Iterator[np.ndarray]:
    """The vectors in a nested context, in order."""
    if isinstance(value, list | tuple | np.ndarray) and len(value) and depth < 4:
        if all(isinstance(item, int | float | np.number) and not isinstance(item, bool) for item in value):
            yield np.asarray(value, np.float64)
        else:
            for item in value:
                yield from _leaves(item, name, expected, depth + 1)
    else:
        raise UserError(f"{name}: {expected}; got {value!r:.60}")


def _from_file(task: str, path: Path) -> Contexts:
    content = safe_pickle.load(path)
    count = layout(task).count
    if not isinstance(content, list | tuple) or len(content) < count:
        held = f"{len(content)} contexts" if isinstance(content, list | tuple) else type(content).__name__
        raise UserError(f"{path}: expected a list of at least {count} contexts of {task}, found {held}")
    found = np.stack([poses(content[i], task, f"{path}: context {i}") for i in range(count)])
    return Contexts(found, f"D3IL, {task}/{path.name}, the first {count}", _digest(found))


@functools.cache
def _own(task: str) -> Contexts:
    content = json.loads((ASSETS / f"{task}.json").read_text())
    found = np.stack([poses(rows, task) for rows in content["contexts"]])
    return Contexts(found, f"the project's own, seed {content['seed']}", _digest(found))


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f8").tobytes()).hexdigest()


def write_own(task: str) -> Path:
    """Writes `assets/contexts/<task>.json`; a test checks that the kept file is what this writes."""
    path = ASSETS / f"{task}.json"
    rows = ",\n".join(json.dumps(rows) for rows in draw(task))
    path.write_text(f'{{"task": "{task}", "seed": {SEED}, "contexts": [\n{rows}\n]}}\n')
    return path
