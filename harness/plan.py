"""The plan: which cells to run, with which configuration, in which order. A DAG, made before anything is spent."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import lease, shipped
from harness import record as records
from harness.backends import BUILTIN, check_task
from harness.config import Config, Sets, digest, resolve
from harness.errors import UserError
from harness.registry import Suites, check_runs, check_teacher, task_block, teacher_of

SCHEMA = 1


@dataclass(frozen=True)
class Data:
    """Where a task's demonstrations come from: `official` or `scripted`, and what identifies them.

    contexts: SHA-256 of the task's evaluation contexts, None for a task without. episodes: how many are used, None: all.
    """

    source: str
    identity: str
    contexts: str | None = None
    episodes: int | None = None


@dataclass(frozen=True)
class Teacher:
    """The policy that a cell starts from: another cell's (`trained`) or one that comes with the project (`shipped`)."""

    cell: str
    origin: str
    path: str
    sha256: str | None  # known beforehand for a shipped one
    hyper: dict[str, Any]  # the teacher's own resolved hyper block


@dataclass(frozen=True)
class Cell:
    """One (task, method, seed) with everything that decides its result."""

    task: str
    method: str
    seed: int
    role: str
    config: Config
    data: Data
    teacher: Teacher | None
    config_hash: str
    needs: tuple[str, ...] = ()
    requested: bool = True  # False: added because another cell needs it
    state: records.State = field(default=records.State("missing"), compare=False)

    @property
    def key(self) -> str:
        return records.key_of(self.task, self.method, self.seed)

    @property
    def evaluate_only(self) -> bool:
        """True when the cell's weights exist already: one-step cells and shipped teachers."""
        return self.role == "one_step" or (self.role == "teacher" and self.teacher is not None)


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    tasks: list[str]
    methods: list[str]
    seeds: list[int]
    budget: str
    sets: Sets
    out: Path
    train_teachers: bool = False
    teachers: Path = shipped.TEACHERS
    teacher: str | None = None  # of the students, instead of their usual one
    backend: str = BUILTIN  # which simulation evaluates
    encoder_weights: str | None = None  # SHA-256 of the file that image encoders start from


@dataclass(frozen=True)
class Plan:
    """Cells in an order that respects `needs`."""

    cells: tuple[Cell, ...]
    budget: str
    out: Path
    backend: str = BUILTIN

    @cached_property
    def by_key(self) -> dict[str, Cell]:
        return {cell.key: cell for cell in self.cells}

    @property
    def to_run(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.state.name != "done"]


def build(suites: Suites, request: Request, data: dict[str, Data], metric_version: int | str) -> Plan:
    """The cells asked for and the teachers they need, each with its state in the out folder."""
    cells: dict[str, Cell] = {}
    made: dict[tuple[str, str], Cell] = {}  # seeds differ in nothing else, and there may be thousands
    if request.teacher is not None:
        check_teacher(suites, request.methods, request.teacher)

    def add(task: str, method: str, seed: int, requested: bool) -> Cell:
        key = records.key_of(task, method, seed)
        if key not in cells:
            first = made.get((task, method))
            if first is None:
                first = made[task, method] = make_cell(task, method, seed, requested)
            cells[key] = replace(first, seed=seed, requested=requested)
        elif requested:
            cells[key] = replace(cells[key], requested=True)
        return cells[key]

    def make_cell(task: str, method: str, seed: int, requested: bool) -> Cell:
        check_runs(suites, task, method)
        check_task(request.backend, task, suites.tasks[task])
        block = suites.methods[method]
        config = resolve(suites, task, method, request.budget, request.sets)
        if request.encoder_weights and config.get("encoder", {}).get("encoder_start") == "own":
            config["encoder"]["encoder_weights"] = request.encoder_weights
        teacher: Teacher | None = None
        needs: tuple[str, ...] = ()
        weights: dict[str, str] | None = None
        source = method if block["role"] == "teacher" else teacher_of(suites, task, method)
        if block["role"] == "student" and request.teacher not in (None, source):
            source = request.teacher
            config["teacher"] = {"method": source}
        if source is not None:
            hyper = resolve(suites, task, source, request.budget, request.sets)["hyper"]
            given = find_shipped(task, source)
            if given is not None:
                weights = {"origin": "shipped", "sha256": given.sha256}
                teacher = Teacher(records.key_of(task, source, 0), "shipped", str(given.path), given.sha256, hyper)
            elif source != method:
                needed = add(task, source, 0, requested=False)
                path = records.work_path(request.out, needed.key) / shipped.WEIGHTS
                weights = {"origin": "trained", "config_hash": needed.config_hash}
                teacher = Teacher(needed.key, "trained", str(path), None, hyper)
                needs = (needed.key,)
        identity: dict[str, Any] = {"config": config, "data": data[task].identity, "metric_version": metric_version}
        if data[task].contexts is not None:
            identity["contexts"] = data[task].contexts
        config_hash = digest({**identity, "backend": request.backend, "teacher": weights})
        return Cell(task, method, seed, block["role"], config, data[task], teacher, config_hash, needs, requested)

    def find_shipped(task: str, method: str) -> shipped.Shipped | None:
        if request.train_teachers:
            return None
        config = resolve(suites, task, method, request.budget, request.sets)
        sampling = suites.methods[method].get("sampling", [])
        return shipped.find(request.teachers, data[task].source, task, method, config, sampling, data[task].identity)

    for task in request.tasks:
        for method in request.methods:
            for seed in [0] if suites.methods[method]["seeds"] == "first" else request.seeds:
                add(task, method, seed, requested=True)
    ordered = in_order(cells.values())
    return Plan(tuple(with_states(ordered, request.out)), request.budget, request.out, request.backend)


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Cells whose needs are met first; otherwise as they came. A circle of needs is a ValueError."""
    waiting, ordered = list(cells), []
    done: set[str] = set()
    while waiting:
        ready = [cell for cell in waiting if done.issuperset(cell.needs)]
        if not ready:
            raise ValueError(f"these cells need one another: {', '.join(cell.key for cell in waiting)}")
        ordered += ready
        done.update(cell.key for cell in ready)
        waiting = [cell for cell in waiting if cell.key not in done]
    return ordered


def with_states(cells: list[Cell], out: Path) -> list[Cell]:
    """Each cell with what its record says. A done teacher whose weights are gone, but needed, counts as missing."""
    stated = [replace(cell, state=records.state(out, cell.key, cell.config_hash)) for cell in cells]
    needed = {need for cell in stated if cell.state.name != "done" for need in cell.needs}
    return [weights_checked(cell, out) if cell.key in needed else cell for cell in stated]


def weights_checked(cell: Cell, out: Path) -> Cell:
    """A done cell's own weights must still be there and be those of its record."""
    if cell.state.name != "done" or cell.state.record is None:
        return cell
    found = cell.state.record
    path = records.work_path(out, cell.key) / shipped.WEIGHTS
    if path.is_file() and path.with_suffix(".json").is_file():
        if shipped.policy_sha256(path) == shipped.sha256_in(found):
            return cell
        return replace(cell, state=records.State("missing", found, "its weights are not those of its record"))
    return replace(cell, state=records.State("missing", found, "its weights are gone and a student needs them"))


def altered_weights(plan: Plan, limit: int = 2**32) -> list[str]:
    """A line for each done cell whose weights are not those of its record and that this run does not train again.

    Its record stays valid: the weights had been evaluated before. At most `limit` bytes are hashed.
    """
    lines, read = [], 0
    for cell in plan.cells:
        path = records.work_path(plan.out, cell.key) / shipped.WEIGHTS
        if cell.state.name != "done" or not path.is_file():
            continue
        read += path.stat().st_size
        if read > limit:
            lines.append("not all weights were checked: python -m harness validate does")
            break
        if weights_checked(cell, plan.out).state.name != "done":
            lines.append(
                f"{path} was altered or cut: it is not what the record of {cell.key} says, and must not be used"
            )
    return lines


def settle(plan: Plan, overwrite: bool) -> list[str]:
    """Make room for the cells to run: set broken records aside, those whose weights are gone, and other configurations' on
    `overwrite`.

    Returns what was done, a line each. Without `overwrite`, another configuration's record is a UserError. A record that
    another run has replaced since the plan was made, or is about to replace, is left alone. Damaged plans are set aside too.
    """
    others = [cell for cell in plan.cells if cell.state.name == "other"]
    if others and not overwrite:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UserError(
            f"{records.record_path(plan.out, others[0].key)}{more} {others[0].state.why}: "
            "choose another --out, or pass --overwrite to move the old aside"
        )
    done = []
    for cell in plan.to_run:
        if cell.state.name in ("other", "corrupt") or (cell.state.name == "missing" and cell.state.why):
            done += make_room(plan.out, cell)
    for path, why in saved(plan.out)[1]:
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            done.append(f"{path} {why}; set aside as {records.set_aside(path, 'corrupt').name}")
    return done


def make_room(out: Path, cell: Cell) -> list[str]:
    """Set a cell's record aside, under the cell's lease and only if it still is what the plan saw."""
    held = lease.Watch(records.work_path(out, cell.key)).take()
    if held is None:
        return [f"{cell.key}: another run is at it; its record is left to that one"]
    with lease.held(held):
        now = records.state(out, cell.key, cell.config_hash)
        if cell.state.name == "missing":  # its weights were
            now = weights_checked(replace(cell, state=now), out).state
        path = records.record_path(out, cell.key)
        if now.name != cell.state.name or not path.exists():
            return []
        moved = records.set_aside(path, now.name if now.name in ("failed", "corrupt") else "old")
        return [f"{path} {now.why}; set aside as {moved.name}"]


def clear_failed(plan: Plan) -> None:
    """Rename the failed records of cells that run again to `*.failed-N`, so that a failed record is of this run."""
    for cell in plan.to_run:
        if cell.state.name == "failed":
            make_room(plan.out, cell)


def save(plan: Plan, seeds: list[int]) -> Path:
    """Write the plan below `<out>/plans/`, named after its content, for `status` and `tables`; one line a cell."""
    cells = [
        {"task": c.task, "method": c.method, "seed": c.seed, "config_hash": c.config_hash, "needs": list(c.needs)}
        for c in plan.cells
    ]
    content = {"schema": SCHEMA, "budget": plan.budget, "seeds": seeds, "cells": cells}
    path = plan.out / "plans" / f"{digest(content)[:16]}.json"
    if path.exists():
        with contextlib.suppress(OSError):  # another user's
            os.utime(path)  # the latest plan says what a cell's configuration should be
    else:
        records.write_atomic(path, plan_text(content))
    return path


def plan_text(content: dict[str, Any]) -> bytes:
    """The one way in which a plan is written: a line a cell."""
    return (json.dumps(content).replace("}, {", "},\n {") + "\n").encode()


def read_plan(path: Path) -> list[dict[str, Any]]:
    """The cells of a saved plan. Raises InvalidRecord, saying why, for one that is damaged or was never one."""
    try:
        data = records.read_bytes(path)
        content = json.loads(data, parse_constant=records.refuse_constant)
        name = digest(content)[:16]  # a ValueError for 1e999, which is read as infinity
    except (ValueError, RecursionError) as error:
        if isinstance(error, records.InvalidRecord):
            raise
        raise records.InvalidRecord(f"is cut off or no JSON ({str(error)[:80]})") from None
    if not isinstance(content, dict) or name != path.stem:
        raise records.InvalidRecord("was altered: its name is not that of its content")
    cells = content.get("cells")
    if content.get("schema") != SCHEMA or not isinstance(cells, list):
        raise records.InvalidRecord("is not a plan that this version wrote")
    for cell in cells:
        if not isinstance(cell, dict) or cell.keys() != {"task", "method", "seed", "config_hash", "needs"}:
            raise records.InvalidRecord("has a malformed cell")
        records.check_cell({name: cell[name] for name in ("task", "method", "seed")})
    # written line by line; with an indent by earlier versions, which is slow to make and so looked at last
    if data != plan_text(content) and data != (json.dumps(content, indent=1) + "\n").encode():
        raise records.InvalidRecord("was altered: its layout is not that of a plan")
    return cells


def saved(out: Path) -> tuple[dict[str, dict[str, Any]], list[tuple[Path, str]]]:
    """Every cell that any plan saved in `out` has, key -> its entry of the latest; and the damaged plans, with why."""
    cells: dict[str, dict[str, Any]] = {}
    bad = []
    dated = []
    for path in (out / "plans").glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # set aside by another run just now
            dated.append((path.lstat().st_mtime, path.name, path))
    for *_, path in sorted(dated):
        try:
            cells |= {records.key_of(c["task"], c["method"], c["seed"]): c for c in read_plan(path)}
        except FileNotFoundError:
            continue
        except records.InvalidRecord as error:
            bad.append((path, str(error)))
    return cells, bad


def saved_cells(out: Path) -> dict[str, dict[str, Any]]:
    """The cells of all undamaged plans saved in `out`: key -> entry."""
    return saved(out)[0]


def spec(cell: Cell, suites: Suites, plan: Plan, options: dict[str, Any], metric_version: int | str) -> dict[str, Any]:
    """Everything that `job.run_cell` needs, as plain data that any launcher can carry.

    `options`: data_root, threads, device; `official`, where the back end is that (harness/backends.py).
    """
    return {
        "key": cell.key,
        "task": cell.task,
        "method": cell.method,
        "seed": cell.seed,
        "role": cell.role,
        "budget": plan.budget,
        "backend": plan.backend,
        "out": str(plan.out),
        "class": suites.methods[cell.method]["class"],
        "task_block": task_block(suites, cell.task),
        "config": cell.config,
        "config_hash": cell.config_hash,
        "metric_version": metric_version,
        "data": {"source": cell.data.source, "identity": cell.data.identity, "episodes": cell.data.episodes},
        "teacher": None if cell.teacher is None else teacher_spec(cell.teacher, suites, plan),
        "evaluate_only": cell.evaluate_only,
        "plugins": plugins_of(cell, suites),
        **options,
    }


def plugins_of(cell: Cell, suites: Suites) -> list[str]:
    """The distributions outside of this project that a cell's task, method or teacher is from."""
    used = [f"tasks/{cell.task}", f"methods/{cell.method}"]
    used += [] if cell.teacher is None else [f"methods/{cell.teacher.cell.split('/')[1]}"]
    return sorted({suites.plugins[name].rsplit(" ", 1)[0] for name in used if name in suites.plugins})


def teacher_spec(teacher: Teacher, suites: Suites, plan: Plan) -> dict[str, Any]:
    """A teacher as plain data, with the class that its weights belong to; of a trained one also how its cell is run."""
    method = teacher.cell.split("/")[1]
    trained = None
    if teacher.origin == "trained":
        cell = plan.by_key[teacher.cell]
        trained = {"config": cell.config, "config_hash": cell.config_hash, "role": cell.role}
    return {**vars(teacher), "class": suites.methods[method]["class"], "trained": trained}
