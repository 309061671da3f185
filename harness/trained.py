"""The policy that a cell ended with, loaded from its run's folder and checked against its record. Imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness import record, shipped
from harness.errors import UserError
from harness.registry import Suites, resolve_class
from harness.reproduce import assumed_recipe, check_recipe, teacher_cell
from methods import policy
from methods.base import Method


def read_done(out: Path, key: str) -> record.Record:
    """The record of a finished cell; anything else is a UserError."""
    path = record.record_path(out, key)
    try:
        found = record.read(path, key)
    except record.InvalidRecord as error:
        raise UserError(f"{path} {error}") from None
    except OSError as error:
        raise UserError(f"no record {path}: {error.strerror}") from None
    if found["status"] != "done":
        raise UserError(f"{path} is of a failed cell: it has no policy")
    return found


def load(
    out: Path, key: str, suites: Suites, teachers: Path = shipped.TEACHERS, others: Iterable[Path] = ()
) -> tuple[Method, dict[str, Any], record.Record]:
    """(policy, its task's block, record) of cell `key`: weights of the record's very SHA-256, acting as its hyper block says.

    They lie in the cell's working folder, here or in one of `others` (a study may take over an equal cell's record); those of a
    teacher that was given, or acts in one step, with the teacher.
    Raises UserError where no file has that SHA-256.
    """
    found = read_done(out, key)
    task, method = found["cell"]["task"], found["cell"]["method"]
    recipe = found.get("recipe") or assumed_recipe(found, suites, [])
    check_recipe(task, recipe, suites)
    places = [record.work_path(folder, key) / shipped.WEIGHTS for folder in (out, *others)]
    if found["teacher"] is not None:
        teacher = teacher_cell(found["teacher"]["cell"])["method"]
        places += [
            record.work_path(out, found["teacher"]["cell"]) / shipped.WEIGHTS,
            teachers / found["data"]["source"] / task / f"{teacher}.safetensors",
        ]
    wanted, cls = shipped.sha256_in(found), resolve_class(recipe["class"])
    for path in places:
        if path.is_file() and path.with_suffix(".json").is_file() and shipped.policy_sha256(path) == wanted:
            return policy.load(path, lambda _name: cls, **found["config"]["hyper"]), recipe["task_block"], found
    raise UserError(
        f"the weights of {key} ({method}, SHA-256 {wanted[:12]}…) are not in {places[0].parent}: run the cell there first"
    )
