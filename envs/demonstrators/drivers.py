"""The experts as drivers of any batch of a task: our own simulation's or the original's (`python -m harness compare-backends`).

An episode here is the task's own, from an evaluation context to the end that the task sets, in one attempt that may fail. (The
demonstrations are made by the same experts, which try again and may go on after success.) What a driver reads of a batch:
tcp_pos, object_pose, setpoint, success, active, num_envs; Stacking also the simulations' joints and mass matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.demonstrators import aligning, avoiding, pushing, sorting, stacking

Rngs = list[np.random.Generator]
Step = Callable[[int], None]  # steps the batch with row k
VERSION = "1"  # of this file; the experts have versions of their own


def modes(task: str) -> list[str]:
    """The behaviours that a task's expert can show. Imports the simulator for Avoiding."""
    if task == "avoiding":
        from envs.avoiding import MODES

        return list(MODES)
    found = {
        "aligning": list(aligning.MODES), "pushing": list(pushing.ORDERS), "sorting": sorted(sorting.ORDERS.values()),
        "stacking": sorted(stacking.SHARES),
    }  # fmt: skip
    return found[task]


def version(task: str) -> str:
    """Of an expert's behaviour."""
    module = {"avoiding": avoiding, "aligning": aligning, "pushing": pushing, "sorting": sorting, "stacking": stacking}
    return f"{VERSION}.{module[task].GENERATOR_VERSION}"


def run(task: str, env: Any, contexts: list[int], wanted: list[str], seeds: list[int]) -> dict[str, list[Any]]:
    """One episode in each environment of a batch, trying to show the behaviours `wanted`; the lists of a roll-out.

    The random numbers of an episode derive from its seed alone.
    """
    rngs = [np.random.default_rng([seed, *mode.encode()]) for seed, mode in zip(seeds, wanted, strict=True)]
    env.reset(contexts=None if task == "avoiding" else contexts)
    step = DRIVERS[task](env, wanted, rngs)
    returned, length = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    for k in range(env.max_steps):
        active = env.active.copy()
        if not active.any():
            break
        before = env.success.copy()
        step(k)
        returned += active & env.success & ~before
        length += active
    return {
        "context": list(contexts),
        "success": env.success.astype(bool).tolist(),
        "mode": [env.mode_name(row) for row in env.mode],
        "length": length.tolist(),
        "return": returned.tolist(),
    }


def _closed_loop(expert: type) -> Callable[[Any, list[str], Rngs], Step]:
    def driver(env: Any, wanted: list[str], rngs: Rngs) -> Step:
        controller = expert(env, wanted, rngs)
        return lambda k: env.step(controller.command(k))

    return driver


def _along_paths(env: Any, wanted: list[str], rngs: Rngs) -> Step:
    """Avoiding: set-points drawn beforehand; about one in six paths grazes a cylinder."""
    paths = [avoiding._draw_path(mode, rng) for mode, rng in zip(wanted, rngs, strict=True)]
    setpoints = env.setpoint.copy()

    def step(k: int) -> None:
        setpoints[:, :2] = [path[min(k, len(path) - 1)] for path in paths]
        env.step_absolute(setpoints)

    return step


def _stacking(env: Any, wanted: list[str], rngs: Rngs) -> Step:
    """Stacking: an expert's tool poses, as joints. Who gives up a box, or is ready, has ended."""
    views = [stacking.View() for _ in wanted]
    commands = [stacking.expert(mode, view, rng) for mode, view, rng in zip(wanted, views, rngs, strict=True)]
    arms, setpoints = stacking.Arms(env, stacking.START), env.setpoint.copy()

    def step(k: int) -> None:
        for i in np.flatnonzero(env.active):
            views[i].look(arms, int(i))
            command = next(commands[i], None)
            if command is None:
                env.active[i] = False
            else:
                arms.poses[i], setpoints[i, 7] = command
        setpoints[:, :7] = arms.setpoints()
        env.step_absolute(setpoints)

    return step


DRIVERS: dict[str, Callable[[Any, list[str], Rngs], Step]] = {
    "avoiding": _along_paths,
    "aligning": _closed_loop(aligning.AligningExpert),
    "pushing": _closed_loop(pushing.PushingExpert),
    "sorting": _closed_loop(sorting.SortingExpert),
    "stacking": _stacking,
}
