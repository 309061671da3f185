"""What may stand in the suite files: names that become folders, classes of this project, values of the right type.

A suite file may come from anyone (`--suites DIR`). Whatever is wrong with one is a UserError that names block and key.
"""

from __future__ import annotations

import re
from typing import Any

from harness import plugins
from harness.errors import UserError

NAME = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
CLASS = re.compile(r"(?:methods|envs)(?:\.[a-z_][a-z0-9_]*)+:[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
OTHER_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
CSV_FILE = re.compile(r"[A-Za-z0-9_]+\.csv", re.ASCII)
LONGEST = 200  # characters of a title


def is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def is_scalar(value: Any) -> bool:
    """A truth value, a word, or a number that is finite and of a size that numbers have."""
    return isinstance(value, (bool, str)) or (isinstance(value, (int, float)) and abs(value) < 1e300)


def is_scalars(value: Any) -> bool:
    return isinstance(value, dict) and all(is_scalar(v) for v in value.values())


def is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def is_class(value: Any) -> bool:
    """A class of this project, or of a package that an installed plug-in brings."""
    if not isinstance(value, str) or len(value) > LONGEST:
        return False
    if CLASS.fullmatch(value):
        return True
    return OTHER_CLASS.fullmatch(value) is not None and value.partition(":")[0].split(".")[0] in plugins.packages()


def is_module(value: Any) -> bool:
    """A module, of which the same holds."""
    return isinstance(value, str) and is_class(f"{value}:X")


def is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 10**9


def is_budgets(value: Any) -> bool:
    return isinstance(value, dict) and all(is_scalars(block) for block in value.values())


def is_overrides(value: Any) -> bool:
    """A task's `method` section: overrides by method, each with an optional `budget` section."""
    return isinstance(value, dict) and all(
        isinstance(block, dict)
        and is_scalars({k: v for k, v in block.items() if k != "budget"})
        and is_budgets(block.get("budget", {}))
        for block in value.values()
    )


def is_rows(value: Any) -> bool:
    keys = {"row", "task", "title", "metric", "ours"}
    return isinstance(value, list) and all(
        isinstance(row, dict) and row.keys() >= keys and all(is_text(row[k]) for k in keys) for row in value
    )


def is_key_rows(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and is_text(row.get("title")) and is_text(row.get("method"))
        and isinstance(row.get("keys"), dict) and is_names(list(row["keys"].values()))
        for row in value
    )  # fmt: skip


METHOD = {
    "class": (is_class, "methods.<file>:<Class>"),
    "role": (is_text, "a word"),
    "title": (is_text, f"text of at most {LONGEST} characters"),
    "teacher": (is_text, "a method's name"),
    "teachers": (is_names, "a list of names"),
    "seeds": (is_text, "a word"),
    "sampling": (is_names, "a list of names"),
    "tasks": (is_names, "a list of names"),
    "hyper": (is_scalars, "a section of numbers, words and truth values"),
    "train": (is_scalars, "a section of numbers, words and truth values"),
    "budget": (is_budgets, "sections of numbers, words and truth values"),
}
TASK = {
    "title": (is_text, f"text of at most {LONGEST} characters"),
    "env": (is_class, "envs.<file>:<Class>"),
    "gym_id": (is_text, "text"),
    "obs_dim": (is_count, "a whole number from 1 on"),
    "act_dim": (is_count, "a whole number from 1 on"),
    "goal_tokens": (lambda v: type(v) is int and v >= 0, "a whole number from 0 on"),
    "modes": (is_count, "a whole number from 1 on"),
    "rollouts": (is_count, "a whole number from 1 on"),
    "entropy": (is_text, "a word"),
    "metrics": (is_names, "a list of names"),
    "generator": (is_module, "a module with GENERATOR_VERSION and generate"),
    "demonstrations": (is_count, "a whole number from 1 on"),
    "gpt": (is_scalars, "a section of numbers"),
    "train": (is_scalars, "a section of numbers, words and truth values"),
    "encoder": (is_scalars, "a section of numbers, words and truth values"),
    "budget": (is_budgets, "sections of numbers, words and truth values"),
    "method": (is_overrides, "sections of overrides by method"),
}
BUDGET = {
    "about": (is_text, "text"),
    "rollouts": (lambda v: v == "task" or is_count(v), '"task" or a whole number from 1 on'),
}
TABLE = {
    "title": (is_text, "text"),
    "paper": (lambda v: isinstance(v, str) and CSV_FILE.fullmatch(v) is not None, "the name of a CSV file"),
    "kind": (lambda v: v in TABLE_KINDS, "grid, inference, hyper, steps, hours or experts"),
    "columns": (is_names, "a list of names"),
    "bold": (is_names, "a list of names"),
    "underline": (is_names, "a list of names"),
    "others": (lambda v: isinstance(v, bool), "true or false"),
    "methods": (is_names, "a list of names"),
    "variants": (is_names, "a list of names"),
    "tasks": (is_names, "a list of names"),
    "shared": (is_names, "a list of names"),
    "state": (is_names, "a list of names"),
    "image": (is_names, "a list of names"),
    "task": (is_text, "a task's name"),
    "method": (is_text, "a method's name"),
    "study": (is_text, "a study's name"),
    "evaluations": (lambda v: isinstance(v, list) and all(is_count(n) for n in v), "a list of whole numbers"),
}
TABLE_KINDS: dict[str, tuple[str, ...]] = {  # what a table of each kind must have besides title and paper
    "grid": ("columns", "rows"),
    "inference": ("task", "evaluations", "methods"),
    "hyper": ("tasks", "shared", "rows"),
    "steps": ("study", "method", "variants", "rows"),
    "hours": ("methods", "state", "image"),
    "experts": ("study", "task", "methods", "variants"),
}
NAMES = {"all": (is_names, "a list of names"), "extra": (is_names, "a list of names")}


def check_blocks(file: str, blocks: dict[str, Any], rules: dict[str, Any], needed: tuple[str, ...] = ()) -> None:
    """Every block is a section under a name that can be a folder, and its values have the right type."""
    for name, block in blocks.items():
        if not NAME.fullmatch(name):
            raise UserError(f"{file}: the name {name[:40]!r} must be letters, digits and _, at most 64")
        if not isinstance(block, dict):
            raise UserError(f"{file} [{name}] must be a section. Got {str(block)[:40]!r}")
        if missing := set(needed) - block.keys():
            raise UserError(f"{file} [{name}] lacks {', '.join(sorted(missing))}")
        for key, (good, about) in rules.items():
            if key in block and not good(block[key]):
                raise UserError(f"{file} [{name}] {key} must be {about}. Got {str(block[key])[:60]!r}")


def check_table(name: str, block: dict[str, Any]) -> None:
    """A table has what its kind needs, and rows of the right form."""
    kind = block.get("kind", "grid")
    if missing := set(TABLE_KINDS[kind]) - block.keys():
        raise UserError(f"tables.toml [{name}] lacks {', '.join(sorted(missing))}")
    if "rows" in block and not (is_key_rows if kind == "hyper" else is_rows)(block["rows"]):
        about = "title, method, keys" if kind == "hyper" else "row, task, title, metric, ours"
        raise UserError(f"tables.toml [{name}] rows must be rows with {about}. Got {str(block['rows'])[:60]!r}")


def check_suites(tasks: Any, methods: Any, budgets: Any, names: Any, tables: Any) -> None:
    """The types of all five files; what the values mean is checked in harness/registry.py."""
    check_blocks("tasks.toml", tasks, TASK)
    check_blocks("methods.toml", methods, METHOD)
    check_blocks("budgets.toml", budgets, BUDGET)
    check_blocks("tables.toml", tables, TABLE, ("title", "paper"))
    for name, block in tables.items():
        check_table(name, block)
    if missing := {"tasks", "methods"} - names.keys():
        raise UserError(f"names.toml lacks {', '.join(sorted(missing))}")
    check_blocks("names.toml", names, NAMES, ("all", "extra"))
    groups = names["methods"].get("groups", {})
    if not isinstance(groups, dict) or not all(is_names(group) for group in groups.values()):
        raise UserError("names.toml [methods.groups] must be lists of names")
