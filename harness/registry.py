"""What exists: the suite files in memory, and the names of the command line turned into tasks, methods and seeds.

Imports neither torch nor a simulator: `class` and `env` stay strings until a cell runs.
"""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import plugins
from harness.errors import UserError, unknown
from harness.schema import METHOD, TASK, check_blocks, check_suites, is_count

SUITES = Path(__file__).parent / "suites"
ROLES = ("teacher", "one_step", "student", "scratch")
METHOD_KEYS = {
    "class", "role", "title", "teacher", "teachers", "seeds", "sampling", "hyper", "train", "budget", "tasks",
}  # fmt: skip
TASK_KEYS = {"title", "env", "gym_id", "obs_dim", "act_dim", "modes", "entropy", "rollouts", "gpt"}
BUDGET_KEYS = {"about", "rollouts"}
TRAINING_KEYS = ("gpt", "train", "encoder", "budget", "method")  # of a task: they end up in a cell's configuration
MAX_SEED = 10_000
LARGEST_TOML = 1_000_000  # bytes


@dataclass(frozen=True)
class Suites:
    """The suite files: `tasks`, `methods` and `budgets` map a name to its block; `names`, `tables`: those files.

    `plugins`: `tasks/<name>` or `methods/<name>` -> the distribution that brings it; the project's own are not in it.
    """

    tasks: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    budgets: dict[str, dict[str, Any]]
    names: dict[str, dict[str, Any]]
    tables: dict[str, dict[str, Any]]
    plugins: dict[str, str] = field(default_factory=dict)


def read_toml(path: Path) -> dict[str, Any]:
    """One TOML file; a missing, malformed, huge or absurdly deep one is a UserError."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TOML + 1)
        if len(data) > LARGEST_TOML:
            raise UserError(f"{path} is larger than {LARGEST_TOML:,} bytes: no suite file is")
        return tomllib.loads(data.decode().replace("\r\n", "\n"))
    except OSError as error:
        raise UserError(f"cannot read the suite file {path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid TOML: nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not valid TOML: {str(error)[:200]}") from None


def load_suites(folder: Path | None = None) -> Suites:
    """Read and check the five suite files of a folder (default: the project's own), and the blocks of installed plug-ins.

    A plug-in that is wrong is left out, whole, with a line on stderr.
    """
    folder = Path(folder) if folder is not None else SUITES
    suites = Suites(
        *(read_toml(folder / f"{name}.toml") for name in ("tasks", "methods", "budgets", "names", "tables"))
    )
    check_suites(suites.tasks, suites.methods, suites.budgets, suites.names, suites.tables)
    for name, block in suites.methods.items():
        check_method(suites, name, block)
    for name, block in suites.tasks.items():
        check_task(suites, name, block)
    for name, block in suites.budgets.items():
        if block.keys() != BUDGET_KEYS:
            raise UserError(f"budgets.toml [{name}] must have exactly {', '.join(sorted(BUDGET_KEYS))}")
    for points in plugins.installed().values():
        try:
            suites = with_plugin(suites, points)
        except UserError as error:
            plugins.warn(f"plug-in {points[0].source} is left out: {error}")
    return suites


def with_plugin(suites: Suites, points: list[plugins.EntryPoint]) -> Suites:
    """The suites with the blocks of one distribution. Raises UserError for a wrong block, and for a name that is taken."""
    added: dict[str, dict[str, Any]] = {"tasks": {}, "methods": {}}
    for point in points:
        path = point.path()
        blocks = read_toml(path)
        check_blocks(path.name, blocks, METHOD if point.kind == "methods" else TASK)
        names = suites.names[point.kind]
        taken = {
            *getattr(suites, point.kind),
            *names["all"],
            *names["extra"],
            *names.get("groups", {}),
            "all",
            *added[point.kind],
        }
        if clash := sorted(blocks.keys() & taken):
            owner = suites.plugins.get(f"{point.kind}/{clash[0]}", "this project")
            raise UserError(f"{point.kind[:-1]} {clash[0]!r} exists already, from {owner}: rename one of them")
        added[point.kind] |= blocks
    both = {f"{kind}/{name}": points[0].source for kind, blocks in added.items() for name in blocks}
    more = replace(
        suites, tasks=suites.tasks | added["tasks"], methods=suites.methods | added["methods"],
        plugins=suites.plugins | both,
    )  # fmt: skip
    for name, block in added["methods"].items():
        check_method(more, name, block)
    for name, block in added["tasks"].items():
        check_task(more, name, block)
        if missing := {"generator", "demonstrations", "goal_tokens"} - block.keys():
            raise UserError(f"tasks.toml [{name}] lacks {', '.join(sorted(missing))}")
    return more


def check_task(suites: Suites, name: str, block: dict[str, Any]) -> None:
    """A task block has what it needs, and the methods that it sets values of exist."""
    if missing := TASK_KEYS - block.keys():
        raise UserError(f"tasks.toml [{name}] lacks {', '.join(sorted(missing))}")
    for budget, values in block.get("budget", {}).items():
        if budget not in suites.budgets:
            raise unknown("budget", budget, suites.budgets, f"in tasks.toml [{name}.budget]")
        if "demonstrations" in values and not is_count(values["demonstrations"]):
            raise UserError(f"tasks.toml [{name}.budget.{budget}] demonstrations must be a whole number from 1 on")
    for method, overrides in block.get("method", {}).items():
        if method not in suites.methods:
            raise unknown("method", method, suites.methods, f"in tasks.toml [{name}.method]")
        if "teacher" in overrides:
            check_is_teacher(suites, overrides["teacher"], f"tasks.toml [{name}.method.{method}]")


def check_method(suites: Suites, name: str, block: dict[str, Any]) -> None:
    """A method block has the right keys, and its teacher and budgets exist."""
    for key in block:
        if key not in METHOD_KEYS:
            raise unknown("key", key, METHOD_KEYS, f"in methods.toml [{name}]")
    role = block.get("role")
    if role not in ROLES:
        raise UserError(f"methods.toml [{name}] role must be one of {', '.join(ROLES)}. Got {role!r}")
    needed = {"class", "title", "seeds", "hyper"} | ({"train"} if role != "one_step" else set())
    needed |= {"teacher"} if role in ("one_step", "student") else set()
    if missing := needed - block.keys():
        raise UserError(f"methods.toml [{name}] lacks {', '.join(sorted(missing))}")
    if block["seeds"] not in ("first", "all"):
        raise UserError(f'methods.toml [{name}] seeds must be "first" or "all". Got {block["seeds"]!r}')
    for budget in block.get("budget", {}):
        if budget not in suites.budgets:
            raise unknown("budget", budget, suites.budgets, f"in methods.toml [{name}.budget]")
    for task in block.get("tasks", []):
        if task not in suites.tasks:
            raise unknown("task", task, suites.tasks, f"in methods.toml [{name}]")
    if "teachers" in block and (role != "student" or block["teacher"] not in block["teachers"]):
        raise UserError(
            f"methods.toml [{name}] teachers is for students, and must hold its teacher {block['teacher']!r}"
        )
    for teacher in possible_teachers(block):
        check_is_teacher(suites, teacher, f"methods.toml [{name}]")


def check_is_teacher(suites: Suites, teacher: str, where: str) -> None:
    """A name in the suites stands for a method with role teacher."""
    if suites.methods.get(teacher, {}).get("role") != "teacher":
        raise UserError(f"{where} teacher {teacher!r} is not a method with role teacher")


def teacher_of(suites: Suites, task: str, method: str) -> str | None:
    """The method that a student or one-step method needs: the task's choice, else the method's own."""
    chosen = suites.tasks[task].get("method", {}).get(method, {}).get("teacher")
    return chosen or suites.methods[method].get("teacher")


def check_runs(suites: Suites, task: str, method: str) -> None:
    """A method that exists for some tasks alone is not asked for on another."""
    tasks = suites.methods[method].get("tasks", [task])
    if task not in tasks:
        raise UserError(f"method {method} exists for {', '.join(tasks)} alone, not for {task}")


def task_block(suites: Suites, task: str) -> dict[str, Any]:
    """What a cell has to know of its task besides its configuration."""
    return {k: v for k, v in suites.tasks[task].items() if k not in TRAINING_KEYS}


def possible_teachers(block: dict[str, Any]) -> list[str]:
    """The teachers that a method can start from; its usual one, unless its block lists `teachers`."""
    return list(block.get("teachers", [block["teacher"]] if "teacher" in block else []))


def check_teacher(suites: Suites, methods: list[str], teacher: str) -> None:
    """`--teacher` makes sense for the methods asked for: each student among them can distil it, and there is one."""
    teachers = [name for name, block in suites.methods.items() if block["role"] == "teacher"]
    if teacher not in teachers:
        raise unknown("teacher", teacher, teachers)
    students = {name: possible_teachers(b) for name, b in suites.methods.items() if b["role"] == "student"}
    pairs = "; ".join(f"{name} distils {' or '.join(possible)}" for name, possible in students.items())
    asked = [name for name in methods if name in students]
    if not asked:
        raise UserError(f"--teacher {teacher}: no student among the methods asked for ({pairs})")
    for name in asked:
        if teacher not in students[name]:
            raise UserError(f"--teacher {teacher}: {name} cannot distil it ({pairs})")


def select(kind: str, text: str, built: dict[str, Any], names: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Names from a comma-separated list -> (those to run, those that `all` stands for but have no block yet).

    `kind` is "task" or "method". Naming one explicitly that has no block yet, or none at all, is a UserError.
    """
    known = [*names["all"], *names["extra"], *(n for n in built if n not in names["all"] + names["extra"])]
    groups: dict[str, list[str]] = names.get("groups", {})
    chosen: list[str] = []
    absent: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        if not word:
            continue
        if word == "all":
            chosen += [name for name in names["all"] if name in built]
            absent += [name for name in names["all"] if name not in built]
        elif word not in groups and word not in known:
            raise unknown(kind, word, [*known, *groups, "all"])
        else:
            for name in groups.get(word, [word]):
                if name not in built:
                    raise UserError(f"{kind} {name!r} is not available yet. Available: {', '.join(built)}")
                chosen.append(name)
    if not chosen:
        raise UserError(f"no {kind} given: name at least one of {', '.join(built) or 'none'}, or all")
    return list(dict.fromkeys(chosen)), list(dict.fromkeys(absent))


def select_seeds(text: str) -> list[int]:
    """`4` -> [0, 1, 2, 3]; `3,7` -> [3, 7]; `3,` -> [3]."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts if part) or not any(parts):
        raise UserError(f"--seeds must be a count (4 means 0,1,2,3) or a list such as 3,7. Got {text[:80]!r}")
    numbers = [int(part) for part in parts if part]
    if len(parts) == 1:
        if not 1 <= numbers[0] <= MAX_SEED:
            raise UserError(f"--seeds {numbers[0]}: the count must be between 1 and {MAX_SEED}")
        return list(range(numbers[0]))
    if max(numbers) > MAX_SEED:
        raise UserError(f"--seeds {max(numbers)}: a seed must be at most {MAX_SEED}")
    return list(dict.fromkeys(numbers))


def resolve_class(path: str) -> Any:
    """`package.module:Name` -> the object, imported now. UserError where a plug-in's cannot be."""
    module, _, name = path.partition(":")
    if module.split(".")[0] not in plugins.packages():
        return getattr(importlib.import_module(module), name)
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever its code does
        raise UserError(f"{path}, of a plug-in, cannot be imported: {type(error).__name__}: {error}") from error


def method_class(name: str) -> Any:
    """The class of a registered method of the project's own suites, imported now."""
    methods = load_suites().methods
    if name not in methods:
        raise unknown("method", name, methods)
    return resolve_class(methods[name]["class"])
