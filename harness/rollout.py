"""Roll a policy out in a task's batched simulation, in chunks of fixed size that survive an interruption.

An episode's random stream derives from (cell, "episode", index) alone, a chunk always holds the same episodes, and a
simulation knows nothing of its neighbours: so the result depends neither on threads nor on workers nor on interruptions.

A task with `contexts = C` and `rollouts = R` is evaluated R / C times in each, as the original does: episode e starts
from context e // (R / C). Fewer rollouts than R take the first contexts, as often each: the entropy per context depends
on that number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness import sealed, stop
from harness.backends import Backend
from harness.seeds import derive
from methods.base import Method
from methods.policy import Policy

CHUNK = 120  # episodes stepped together, where the back end can
BUILTIN = Backend()
KEYS = ("context", "success", "mode", "length", "return")
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
    backend: Backend = BUILTIN,
) -> dict[str, list[Any]]:
    """`rollouts` episodes as lists: context (its index), success (bool), mode (str), length (control steps), return (float).

    data_root: where the original's evaluation contexts may lie. backend: which simulation.

    Finished chunks lie in `<workdir>/rollouts/<first>.json` and are not run again.
    """
    folder = Path(workdir) / "rollouts"
    folder.mkdir(parents=True, exist_ok=True)
    episodes: dict[str, list[Any]] = {key: [] for key in KEYS}
    size = min(CHUNK, backend.most)
    for first in range(0, rollouts, size):
        count = min(size, rollouts - first)
        path = folder / f"{first}.json"
        chunk = read_chunk(path, count)
        if chunk is None:
            seeds = [derive(str(seed), "episode", first + i) for i in range(count)]
            contexts = [context_of(task, first + i) for i in range(count)]
            chunk = run_chunk(method, task, contexts, seeds, threads, data_root, backend)
            sealed.write_json(path, chunk)
        for key in KEYS:
            episodes[key] += chunk[key]
        on_progress(first + count, rollouts, {"success": float(np.mean(episodes["success"]))})
    return episodes


def read_chunk(path: Path, count: int) -> dict[str, list[Any]] | None:
    """A finished chunk of `count` episodes, or None where there is none. A damaged one is set aside, and said so."""
    try:
        chunk = sealed.read_json(path)
        if set(chunk) != set(KEYS) or any(not isinstance(v, list) or len(v) != count for v in chunk.values()):
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
    data_root: str | Path | None = None, backend: Backend = BUILTIN,
) -> dict[str, list[Any]]:  # fmt: skip
    """One batch of episodes to their ends."""
    env = backend.make(task, len(seeds), threads, data_root)
    try:
        obs = env.reset(contexts=contexts, seeds=seeds)
        policy = Policy(method)
        policy.reset(seeds)
        returns, length = np.zeros(len(seeds)), np.zeros(len(seeds), int)
        while env.active.any():
            stop.check()
            active = env.active.copy()
            obs, reward, _, _, info = env.step(policy.act(obs, active))
            returns[active] += reward[active]
            length += active
        return {
            "context": list(contexts),
            "success": info["success"].astype(bool).tolist(),
            "mode": [env.mode_name(row) for row in info["mode"]],
            "length": length.tolist(),
            "return": returns.tolist(),
        }
    finally:
        env.close()
