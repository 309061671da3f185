"""Roll a policy out in a task's batched simulation, in chunks of fixed size that survive an interruption.

An episode's random stream derives from (cell, "episode", index) alone, a chunk always holds the same episodes, and a
simulation knows nothing of its neighbours: so the result depends neither on threads nor on workers nor on interruptions.

A task with `contexts = C` and `rollouts = R` is evaluated R / C times in each, as the original does: episode e starts
from context e // (R / C). Fewer rollouts than R take the first contexts, as often each: the entropy per context depends
on that number.

A task with goals is given one for each episode: the last observations of a training demonstration. Episode e gets that of
demonstration perm[e], perm a permutation of all of them that the cell's evaluation seed decides (over again where there are
more episodes than demonstrations). Nothing of an evaluation episode enters its goal but the scene that it starts from.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness import metrics, sealed, stop
from harness.backends import Backend
from harness.seeds import derive
from methods.base import Method
from methods.policy import Policy

CHUNK = 120  # episodes stepped together, where the back end can
BUILTIN = Backend()
Progress = Callable[[int, int, dict[str, float]], None]


def evaluate(
    method: Method,
    task: dict[str, Any],
    rollouts: int,
    seed: int,
    threads: int,
    workdir: Path,
    on_progress: Progress = lambda done, total, values: None,
    data_root: str | Path | None = None,
    goals: np.ndarray | None = None,
    backend: Backend = BUILTIN,
) -> dict[str, list[Any]]:
    """`rollouts` episodes as lists: context (its index), success (bool), mode (str), length (control steps), return (float).

    data_root: where the original's evaluation contexts may lie. goals, for tasks that have them: those of all training
    demonstrations (E, G, width), `windows.final_goals`; such tasks' episodes also have goal_return (float). backend: which
    simulation.

    Finished chunks lie in `<workdir>/rollouts/<first>.json` and are not run again. on_progress is called at every step, with
    how many episodes' worth is over; after a chunk also with the success so far.
    """
    folder = Path(workdir) / "rollouts"
    folder.mkdir(parents=True, exist_ok=True)
    keys = metrics.keys(task)
    episodes: dict[str, list[Any]] = {key: [] for key in keys}
    size = min(CHUNK, backend.most)
    for first in range(0, rollouts, size):
        count = min(size, rollouts - first)
        path = folder / f"{first}.json"
        chunk = read_chunk(path, count, keys)
        if chunk is None:
            seeds = [derive(str(seed), "episode", first + i) for i in range(count)]
            contexts = [context_of(task, first + i) for i in range(count)]
            chosen = goals_of(goals, seed, range(first, first + count))
            tell = functools.partial(report_share, on_progress, first, count, rollouts)
            chunk = run_chunk(method, task, contexts, seeds, threads, data_root, chosen, backend, tell)
            sealed.write_json(path, chunk)
        for key in keys:
            episodes[key] += chunk[key]
        on_progress(first + count, rollouts, {"success": float(np.mean(episodes["success"]))})
    return episodes


def report_share(on_progress: Progress, before: int, count: int, rollouts: int, share: float) -> None:
    """A chunk of `count` goes on: that a cell is alive can be seen. With images one takes longer than `progress.SILENT`."""
    on_progress(before + int(share * count), rollouts, {})


def goals_of(goals: np.ndarray | None, seed: int, episodes: range) -> np.ndarray | None:
    """The goals (len(episodes), G, width) of some episodes out of those of all demonstrations; None for a task without."""
    if goals is None:
        return None
    order = np.random.default_rng(derive(str(seed), "goals")).permutation(len(goals))
    return goals[order[np.array(episodes) % len(goals)]]


def read_chunk(path: Path, count: int, keys: tuple[str, ...]) -> dict[str, list[Any]] | None:
    """A finished chunk of `count` episodes, or None where there is none. A damaged one is set aside, and said so."""
    try:
        chunk = sealed.read_json(path)
        if set(chunk) != set(keys) or any(not isinstance(v, list) or len(v) != count for v in chunk.values()):
            raise sealed.Damaged(f"does not hold {count} episodes")
    except FileNotFoundError:
        return None
    except sealed.Damaged as error:
        sealed.put_away(path, str(error))
        return None
    return chunk


def context_of(task: dict[str, Any], episode: int) -> int:
    """The evaluation context of an episode: each as often as in the full evaluation, one after the other."""
    contexts = task.get("contexts", 1)
    return episode * contexts // task["rollouts"] % contexts


def run_chunk(
    method: Method, task: dict[str, Any], contexts: list[int], seeds: list[int], threads: int,
    data_root: str | Path | None = None, goals: np.ndarray | None = None, backend: Backend = BUILTIN,
    on_step: Callable[[float], None] = lambda share: None,
) -> dict[str, list[Any]]:  # fmt: skip
    """One batch of episodes to their ends. on_step: called after every step, with the share that is over: of episodes, or of
    the steps that an episode has at most, whichever is more."""
    env = backend.make(task, len(seeds), threads, data_root)
    try:
        obs = env.reset(contexts=contexts, seeds=seeds, **({} if goals is None else {"goals": goals}))
        policy = Policy(method)
        policy.reset(seeds, None if goals is None else env.goal)
        most = getattr(env, "max_steps", math.inf)
        returns, length, k = np.zeros(len(seeds)), np.zeros(len(seeds), int), 0
        while env.active.any():
            stop.check()
            active = env.active.copy()
            obs, reward, _, _, info = env.step(policy.act(obs, active))
            returns[active] += reward[active]
            length += active
            k += 1
            on_step(max(1 - env.active.mean(), min(k / most, 1.0)))
        return {
            "context": list(contexts),
            "success": info["success"].astype(bool).tolist(),
            "mode": [env.mode_name(row) for row in info["mode"]],
            "length": length.tolist(),
            "return": returns.tolist(),
            **{key: info[key].astype(float).tolist() for key in metrics.GOAL_KEYS if goals is not None},
        }
    finally:
        env.close()
