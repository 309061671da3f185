"""A cell's resolved configuration: method block <- task block <- budget block <- `--set method.key=value`.

The result is `{"gpt": {...}, "hyper": {...}, "train": {...}, "eval": {...}}`; of a task with images also
`"encoder": {...}` (harness/encoder.py). A budget block is the method's, then the task's for all methods, then the task's for
this one. An override names a key alone; the section that has the key takes it, and a key that no section has is an error with a
suggestion.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from typing import Any

from harness.errors import UserError, unknown
from harness.registry import Suites

DEMONSTRATIONS = "demonstrations"  # a task's budget may limit them; no hyper-parameter: the data's identity says it
# Hyper-parameters that came after records were made, at the value that changes nothing: left out there, so that a run without
# them keeps the configuration hash that it had before.
LATER: dict[str, Any] = {"one_step_start": False}
Config = dict[str, dict[str, Any]]
Sets = dict[str, dict[str, Any]]


def parse_sets(suites: Suites, texts: list[str]) -> Sets:
    """`["vdd_ve.lr=1e-3"]` -> `{"vdd_ve": {"lr": 1e-3}}`; values are TOML, a bare word is a string."""
    sets: Sets = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise UserError(f"--set must be method.key=value. Got {text[:80]!r}")
        if method not in suites.methods:
            raise unknown("method", method, suites.methods, "in --set")
        if key in sets.setdefault(method, {}):
            raise UserError(f"--set {method}.{key} is given twice")
        sets[method][key] = parse_value(value.strip())
    return sets


def parse_value(text: str) -> Any:
    """A TOML value; what is not TOML is taken as a string."""
    if len(text) > 1000:
        raise UserError(f"--set: no value is {len(text):,} characters long")
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if found.keys() == {"value"} else text


def apply(config: Config, overrides: dict[str, Any], where: str) -> None:
    """Put each override into the section of `config` that has its key, keeping the type that is there."""
    owner = {key: section for section in config for key in config[section]}
    for key, value in overrides.items():
        if key not in owner:
            raise unknown("hyper-parameter", key, owner, where)
        config[owner[key]][key] = converted(config[owner[key]][key], value, f"{key} {where}")


def converted(old: Any, new: Any, name: str) -> Any:
    """`new` in the type of `old`: a whole number may stand for a float, nothing else changes type."""
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        try:
            new = float(new)
        except OverflowError:
            raise UserError(f"{name} must be finite. Got {str(new)[:20]}...") from None
    if type(new) is not type(old):
        raise UserError(f"{name} must be {type(old).__name__}, as in {old!r}. Got {str(new)[:80]!r}")
    if isinstance(new, float) and not abs(new) < float("inf"):
        raise UserError(f"{name} must be finite. Got {new!r}")
    return new


def resolve(suites: Suites, task: str, method: str, budget: str, sets: Sets | None = None) -> Config:
    """The configuration of one cell. A one-step method is its teacher's, with its own overrides on top."""
    sets = sets or {}
    if budget not in suites.budgets:
        raise unknown("budget", budget, suites.budgets)
    block, here = suites.methods[method], suites.tasks[task]
    if block["role"] == "one_step":
        config = resolve(suites, task, block["teacher"], budget, sets)
        apply({"hyper": config["hyper"]}, block["hyper"], f"in methods.toml [{method}.hyper]")
    else:
        config = {
            "gpt": copy.deepcopy(here["gpt"]),
            "hyper": copy.deepcopy(block["hyper"]),
            "train": block["train"] | here.get("train", {}),
            "eval": {"rollouts": rollouts(here["rollouts"], suites.budgets[budget]["rollouts"])},
            **({"encoder": dict(here["encoder"])} if "encoder" in here else {}),
        }
        keys = [key for section in config.values() for key in section]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise UserError(f"methods.toml [{method}] has {', '.join(twice)} in more than one section")
    own = dict(here.get("method", {}).get(method, {}))
    own_budget = own.pop("budget", {}).get(budget, {})
    own.pop("teacher", None)  # no hyper-parameter: `registry.teacher_of`
    apply(config, own, f"in tasks.toml [{task}.method.{method}]")
    apply(config, block.get("budget", {}).get(budget, {}), f"in methods.toml [{method}.budget.{budget}]")
    apply(
        config,
        {k: v for k, v in budget_of(suites, task, budget).items() if k != DEMONSTRATIONS},
        f"in tasks.toml [{task}.budget.{budget}]",
    )
    apply(config, own_budget, f"in tasks.toml [{task}.method.{method}.budget.{budget}]")
    apply(config, sets.get(method, {}), f"in --set {method}.KEY=VALUE")
    if "encoder" in config and block["role"] != "student":
        config["encoder"]["encoder_start"] = "own"  # there is no other network to start from
    if config["eval"]["rollouts"] < 1:
        raise UserError(f"rollouts must be at least 1. Got {config['eval']['rollouts']} for {method}")
    config["hyper"] = {k: v for k, v in config["hyper"].items() if (k, v) not in LATER.items()}
    return config


def budget_of(suites: Suites, task: str, budget: str) -> dict[str, Any]:
    """What a task's block says of a budget, for all methods."""
    return dict(suites.tasks[task].get("budget", {}).get(budget, {}))


def demonstrations(suites: Suites, task: str, budget: str) -> int | None:
    """How many of the task's demonstrations a budget uses; None: all of them."""
    return budget_of(suites, task, budget).get(DEMONSTRATIONS)


def rollouts(of_task: int, of_budget: int | str) -> int:
    """The task's own number, or fewer where the budget sets a limit."""
    return of_task if of_budget == "task" else min(of_task, int(of_budget))


def weights_key(config: Config, sampling: list[str]) -> dict[str, Any]:
    """What decides a teacher's weights, training budget apart: gpt and hyper without the keys that only sampling reads."""
    return {"gpt": config["gpt"], "hyper": {k: v for k, v in config["hyper"].items() if k not in sampling}}


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
