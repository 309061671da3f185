"""Roll a policy out in a task's batched simulation, in chunks of fixed size that survive an interruption.

An episode's random stream derives from (cell, "episode", index) alone, a chunk always holds the same episodes, and a
simulation knows nothing of its neighbours: so the result depends neither on threads nor on workers nor on interruptions.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness import stop
from harness.record import write_atomic
from harness.seeds import derive
from methods.base import Method
from methods.policy import Policy

CHUNK = 120  # episodes stepped together
KEYS = ("context", "success", "mode", "length", "return")
Progress = Callable[[int, int, dict[str, float]], None]


def batch_class(task: dict[str, Any]) -> type:
    """The simulation class of a task's block, `module:Class`."""
    module, name = task["env"].split(":")
    return getattr(importlib.import_module(module), name)


def evaluate(
    method: Method,
    task: dict[str, Any],
    rollouts: int,
    seed: int,
    threads: int,
    workdir: Path,
    on_progress: Progress = lambda done, total, values: None,
) -> dict[str, list[Any]]:
    """`rollouts` episodes as lists: context, success (bool), mode (str), length (control steps), return (float).

    Finished chunks lie in `<workdir>/rollouts/<first>.json` and are not run again.
    """
    folder = Path(workdir) / "rollouts"
    folder.mkdir(parents=True, exist_ok=True)
    episodes: dict[str, list[Any]] = {key: [] for key in KEYS}
    for first in range(0, rollouts, CHUNK):
        count = min(CHUNK, rollouts - first)
        path = folder / f"{first}.json"
        chunk = read_chunk(path, count)
        if chunk is None:
            seeds = [derive(str(seed), "episode", first + i) for i in range(count)]
            chunk = run_chunk(method, task, seeds, threads)
            write_atomic(path, json.dumps(chunk) + "\n")
        for key in KEYS:
            episodes[key] += chunk[key]
        on_progress(first + count, rollouts, {"success": float(np.mean(episodes["success"]))})
    return episodes


def read_chunk(path: Path, count: int) -> dict[str, list[Any]] | None:
    """A finished chunk, or None where there is none or it is not whole."""
    try:
        chunk = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(chunk, dict) and set(chunk) == set(KEYS) and all(len(chunk[k]) == count for k in KEYS)
    return chunk if whole else None


def run_chunk(method: Method, task: dict[str, Any], seeds: list[int], threads: int) -> dict[str, list[Any]]:
    """One batch of episodes to their ends. Asked to stop, it raises stop.Stopped: a chunk is whole or not at all."""
    env = batch_class(task)(len(seeds), num_threads=threads)
    try:
        obs = env.reset(seeds=seeds)
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
            "context": [0] * len(seeds),
            "success": info["success"].astype(bool).tolist(),
            "mode": [env.mode_name(row) for row in info["mode"]],
            "length": length.tolist(),
            "return": returns.tolist(),
        }
    finally:
        env.close()
