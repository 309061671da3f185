"""A cell's metrics: pure functions of its episodes, so that they can be computed again from a record at any time.

Behaviour entropy: Eq. 40 of the VDD paper, sum over behaviours of -p log p / log |B|, computed as the original
evaluation code does (D3IL, one variant per task family):

    pooled            one distribution over all successful rollouts (Avoiding)
    per_context_zero  one per context, averaged; a context without any success counts as 0 (Aligning, Pushing)
    per_context_drop  one per context, averaged over the contexts with a success (Sorting, Stacking)

A task may count sub-goals (Stacking: `levels = [3, 6]`): its behaviour is a sequence with one letter for each sub-goal
reached. `success_n` is then the share of rollouts with at least n letters, and `entropy_n` the entropy of the first n
letters among those, to the base `levels[n - 1]`; `success` and `entropy` are the whole task's.

Differences from the original: without any success the entropy is 0.0, where the original divides 0 by 0. A success
whose sequence is not complete (boxes that arrive together in the last steps) has no order and is left out of `entropy`,
where the original takes it for the first in its list of orders.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np

from harness.errors import UserError

METRIC_VERSION = 1  # part of what makes a finished record valid: raise it when a number below changes
KEYS = ("context", "success", "mode", "length", "return")
GOAL_KEYS = ("goal_return",)  # further ones of tasks with goals


def keys(task_block: dict[str, Any]) -> tuple[str, ...]:
    """The lists that the episodes of a task have."""
    return KEYS + GOAL_KEYS if task_block.get("goal_tokens", 0) else KEYS


def compute(task_block: dict[str, Any], episodes: dict[str, list]) -> dict[str, float]:
    """`{"success", "entropy", "length", "return"}`: success rate and entropy in [0, 1], mean steps, mean return.

    Tasks with goals also have "goal_return", the mean of what counts towards an episode's own goal.
    `task_block` gives `modes` (|B|) and `entropy` (a variant above), and perhaps `modes_also`: further |B|, each with its
    `entropy_base_<|B|>`, and `levels` (above), which add `success_n` and `entropy_n`; `episodes` one list per key of
    `keys`, one entry per rollout. Failed rollouts count in everything but the entropy. Raises `UserError` for a variant
    that does not exist, for lists of different lengths and for no rollouts at all.
    """
    wanted = keys(task_block)
    missing = [key for key in wanted if key not in episodes]
    if missing:
        raise UserError(f"metrics: the episodes lack {', '.join(missing)}; expected {', '.join(wanted)}")
    counts = {key: len(episodes[key]) for key in wanted}
    if len(set(counts.values())) != 1 or not counts["success"]:
        raise UserError(f"metrics: every list must have one entry per rollout and at least one; got {counts}")
    success = np.asarray(episodes["success"], dtype=bool)  # (rollouts,)
    levels = task_block.get("levels", [])
    mode = [m if len(m) > len(levels) else "" for m in episodes["mode"]] if levels else episodes["mode"]
    shown = (task_block["entropy"], success.tolist(), mode, episodes["context"])
    return {
        "success": float(success.mean()),
        "entropy": behaviour_entropy(*shown, task_block["modes"]),
        **{f"entropy_base_{n}": behaviour_entropy(*shown, n) for n in task_block.get("modes_also", ())},
        **_levels(task_block["entropy"], levels, episodes["mode"], episodes["context"]),
        "length": float(np.mean(episodes["length"])),
        "return": float(np.mean(episodes["return"])),
        **{key: float(np.mean(episodes[key])) for key in GOAL_KEYS if key in wanted},
    }


def _levels(variant: str, levels: list[int], mode: list[str], context: list) -> dict[str, float]:
    """`success_n` and `entropy_n` of every n from 1 to the number of levels, whose numbers of behaviours are given."""
    found = {}
    for n, modes in enumerate(levels, 1):
        reached = [len(m) >= n for m in mode]
        found[f"success_{n}"] = float(np.mean(reached))
        found[f"entropy_{n}"] = behaviour_entropy(variant, reached, [m[:n] for m in mode], context, modes)
    return found


def behaviour_entropy(
    variant: str, success: Iterable[bool], mode: Iterable[Hashable], context: Iterable[Hashable], modes: int
) -> float:
    """Entropy of the successful rollouts' behaviours to the base `modes`.

    Behaviours are keys: two rollouts show the same one when their keys are equal. A success whose behaviour is
    incomplete (key "", None or negative) is treated as in the original: pooled, which counts distinct encodings, it is
    a behaviour of its own; per context, where the known behaviours are counted one by one, it is left out.
    """
    if variant not in VARIANTS:
        raise UserError(f"metrics: unknown entropy {variant!r}; possible: {', '.join(VARIANTS)}")
    if modes < 2:
        raise UserError(f"metrics: an entropy needs at least 2 modes, got {modes}")
    rollouts = [(_key(c), bool(s), m) for s, m, c in zip(success, mode, context, strict=True)]
    return VARIANTS[variant](rollouts, modes)


Rollout = tuple[Hashable, bool, Hashable]  # context, success, mode


def _pooled(rollouts: list[Rollout], modes: int) -> float:
    return _entropy((m for _, s, m in rollouts if s), modes)


def _per_context_zero(rollouts: list[Rollout], modes: int) -> float:
    return float(np.mean([_entropy(keys, modes) for keys in _by_context(rollouts).values()]))


def _per_context_drop(rollouts: list[Rollout], modes: int) -> float:
    values = [_entropy(keys, modes) for keys in _by_context(rollouts).values() if keys]
    return float(np.mean(values)) if values else 0.0


VARIANTS: dict[str, Callable[[list[Rollout], int], float]] = {
    "pooled": _pooled,
    "per_context_zero": _per_context_zero,
    "per_context_drop": _per_context_drop,
}


def _by_context(rollouts: list[Rollout]) -> dict[Hashable, list[Hashable]]:
    """The complete behaviours of the successes in every context that was tried, in order of first appearance."""
    shown: dict[Hashable, list[Hashable]] = {}
    for context, success, mode in rollouts:
        shown.setdefault(context, [])
        if success and not _incomplete(mode):
            shown[context].append(mode)
    return shown


def _incomplete(mode: Hashable) -> bool:
    return mode is None or mode == "" or (isinstance(mode, int | float) and mode < 0)


def _entropy(keys: Iterable[Hashable], modes: int) -> float:
    """-sum p log p / log(modes) over the frequencies p of the keys; 0.0 for none."""
    counts = np.array(sorted(Counter(keys).values()), dtype=np.float64)  # sorted: the sum does not depend on the order
    if len(counts) <= 1:
        return 0.0
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum() / np.log(modes))


def _key(context: Any) -> Hashable:
    """Contexts come back from JSON as lists; as keys they must be tuples."""
    return tuple(_key(item) for item in context) if isinstance(context, list | tuple) else context
