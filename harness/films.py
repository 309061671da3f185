"""`python -m harness render --record RECORD --out FILM.webp`: one episode of a trained policy as an animated WebP.

The episode is one of the record's own evaluation: same random stream, context and success. Imports torch and mujoco.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs.datasets import load_demonstrations
from envs.render import SceneRenderer, write_film
from harness import record, rollout
from harness.backends import BUILTIN, Backend
from harness.errors import UserError
from harness.job import evaluation_goals
from harness.registry import load_suites
from harness.rollout import context_of
from harness.seeds import derive
from harness.trained import load
from methods.base import Method
from methods.policy import Policy

SIZE = (320, 240)
EVERY = 2  # control steps a frame
STILL = 8  # further frames of the last state


def film(path: Path, episode: int | None, out: Path, data_root: str | None = None) -> Path:
    """Film an episode of the policy of the record at `path`, which lies in a run's folder; returns the film's path.

    data_root: where the original's contexts and demonstrations lie, if the record's run was given any. UserError where the
    demonstrations, which goals come from, or the episode's end are not the record's.
    """
    method, task, key, found = policy_of(path)
    if found["backend"] != BUILTIN:
        raise UserError(f"{path} was rolled out in the original simulator; films show this project's own")
    number = choose(found, episode)
    goals = goals_of(found, task, derive(key, "rollout"), number, data_root)
    env = Backend().make(task, 1, 1, data_root)
    try:
        renderer = SceneRenderer(Backend().batch_class(task), *SIZE)
        try:
            seed = derive(str(derive(key, "rollout")), "episode", number)
            obs = env.reset(
                contexts=[context_of(task, number)], seeds=[seed], **({} if goals is None else {"goals": goals})
            )
            policy = Policy(method)
            policy.reset([seed], None if goals is None else env.goal)
            frames, step = [], 0
            while env.active.any():
                if step % EVERY == 0:
                    frames.append(renderer.picture(env.sims.data[0].qpos, moved=env.scene_poses(0)))
                obs, _, _, _, info = env.step(policy.act(obs))
                step += 1
            frames += [renderer.picture(env.sims.data[0].qpos, moved=env.scene_poses(0))] * STILL
        finally:
            renderer.close()
        if bool(info["success"][0]) != found["episodes"]["success"][number]:
            raise UserError(
                f"episode {number} ends otherwise than in {path}: it was run with other contexts (give its --data-root) or on "
                "a machine with other arithmetic"
            )
        return write_film(frames, out, EVERY * env.substeps)
    finally:
        env.close()


def goals_of(
    found: record.Record, task: dict[str, Any], seed: int, number: int, data_root: str | None
) -> np.ndarray | None:
    """The goal (1, G, width) of an episode of the record's evaluation; None where the task has none."""
    if not task["goal_tokens"]:
        return None
    demos = load_demonstrations(found["cell"]["task"], data_root=data_root)
    if demos.identity != found["data"]["identity"]:
        raise UserError(f"the record's goals come from other demonstrations than {demos.origin}: give its --data-root")
    return rollout.goals_of(evaluation_goals(demos, task), seed, range(number, number + 1))


def policy_of(path: Path) -> tuple[Method, dict[str, Any], str, record.Record]:
    """(policy, its task's block, cell, record) of a record that lies in a run's folder."""
    parts = path.absolute().parts
    if len(parts) < 5 or parts[-4] != "records" or path.suffix != ".json":
        raise UserError(f"{path} is no record in a run's folder: <out>/records/<task>/<method>/<seed>.json")
    home, key = path.absolute().parents[3], "/".join((*parts[-3:-1], path.stem))
    torch.set_num_threads(1)
    method, task, found = load(home, key, load_suites())
    return method, task, key, found


def choose(found: record.Record, episode: int | None) -> int:
    """The episode asked for, or the record's first success (its first episode where there is none)."""
    success = found["episodes"]["success"]
    if episode is None:
        return success.index(True) if True in success else 0
    if not 0 <= episode < len(success):
        raise UserError(f"--episode must be between 0 and {len(success) - 1}. Got {episode}")
    return episode
