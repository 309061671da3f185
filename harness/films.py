"""`python -m harness render --record RECORD --out FILM.webp`: one episode of a trained policy as an animated WebP.

The episode is one of the record's own evaluation: same random stream, context and success. Imports torch and mujoco.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from envs.render import SceneRenderer, write_film
from harness import record
from harness.backends import Backend
from harness.errors import UserError
from harness.registry import load_suites
from harness.rollout import context_of
from harness.seeds import derive
from harness.trained import load
from methods.base import Method
from methods.policy import Policy

SIZE = (320, 240)
EVERY = 2  # control steps a frame
STILL = 8  # further frames of the last state


def film(path: Path, episode: int | None, out: Path) -> Path:
    """Film an episode of the policy of the record at `path`, which lies in a run's folder; returns the film's path."""
    method, task, key, found = policy_of(path)
    number = choose(found, episode)
    where = {"data_root": None} if "contexts" in task else {}
    simulation = Backend().batch_class(task)
    env = simulation(1, num_threads=1, **where)
    try:
        renderer = SceneRenderer(simulation, *SIZE)
        try:
            seed = derive(str(derive(key, "rollout")), "episode", number)
            obs = env.reset(contexts=[context_of(task, number)], seeds=[seed])
            policy = Policy(method)
            policy.reset([seed])
            frames, step = [], 0
            while env.active.any():
                if step % EVERY == 0:
                    frames.append(renderer.picture(env.sims.data[0].qpos, moved=env.scene_poses(0)))
                obs, *_ = env.step(policy.act(obs))
                step += 1
            frames += [renderer.picture(env.sims.data[0].qpos, moved=env.scene_poses(0))] * STILL
        finally:
            renderer.close()
        return write_film(frames, out, EVERY * env.substeps)
    finally:
        env.close()


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
