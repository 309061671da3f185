"""Roll-outs of trained mixtures on Avoiding with the path and the expert of every step, for Figure 4. Imports torch.

The episodes are the first ones of the cell's own evaluation: same random streams, so the same successes and routes. A
trace is a small sealed JSON file, so that drawing needs no weights:

    {"schema": 1, "cell", "experts": Z, "episodes": [{"x", "y" (L + 1) m, "acting", "likeliest" (L), "success", "mode"}],
     "scene": {"obstacles": [[x, y, radius]] m, "finish": y m, "start": [x, y] m}, "made_from": {...}, "provenance": {...}}

`acting` is the expert that was drawn from the gating and acted, `likeliest` the one of highest gating probability.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.avoiding import FINISH_Y, OBSTACLES, START_XY
from harness import sealed
from harness.backends import Backend
from harness.errors import UserError
from harness.figures.experts import SCHEMA, trace_path
from harness.provenance import provenance
from harness.record import Record
from harness.registry import Suites
from harness.seeds import derive
from harness.trained import load
from methods._mixture import choose
from methods.base import Method
from methods.policy import Policy

EPISODES = 100
DECIMALS = 4  # of a metre: a tenth of a millimetre


class Watched:
    """A mixture's `act` that notes, for each call, the expert that acts and the likeliest one, (n,) each."""

    def __init__(self, method: Method):
        self.method, self.act = method, method.act
        self.experts = 0
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []
        method.act = self.__call__  # type: ignore[method-assign]

    def __call__(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        mixture = self.method.mixture(obs, last, goal)
        if mixture is None:
            raise UserError(f"{type(self.method).__name__} is no mixture: it has no experts to trace")
        gating = mixture.log_gating
        self.experts = gating.shape[-1]
        self.seen.append((choose(gating, uniform).cpu().numpy(), gating.argmax(-1).cpu().numpy()))
        return self.act(obs, last, noise, uniform, goal)  # type: ignore[call-arg]


def trace(method: Method, task_block: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """The number of experts, and one episode a seed, as in a trace file."""
    env = Backend().batch_class(task_block)(len(seeds), num_threads=1)
    try:
        obs = env.reset(contexts=[0] * len(seeds), seeds=seeds)
        watched, policy = Watched(method), Policy(method)
        policy.reset(seeds)
        places, lengths = [env.tcp_pos[:, :2].copy()], np.zeros(len(seeds), int)
        while env.active.any():
            active = env.active.copy()
            obs, _, _, _, info = env.step(policy.act(obs, active))
            places.append(info["tcp_pos"][:, :2].copy())
            lengths += active
        xy = np.round(np.stack(places), DECIMALS)  # (steps + 1, n, 2)
        experts = np.stack([np.stack(pair) for pair in watched.seen])  # (steps, 2, n)
        episodes = [
            {
                "x": xy[: k + 1, i, 0].tolist(), "y": xy[: k + 1, i, 1].tolist(),
                "acting": experts[:k, 0, i].tolist(), "likeliest": experts[:k, 1, i].tolist(),
                "success": bool(info["success"][i]), "mode": env.mode_name(info["mode"][i]),
            }
            for i, k in enumerate(lengths)
        ]  # fmt: skip
        return {"experts": watched.experts, "episodes": episodes}
    finally:
        env.close()


def made_from(found: Record) -> dict[str, str]:
    """What a trace must agree in with its cell's record."""
    return {"weights": found["weights"]["sha256"], "config_hash": found["config_hash"]}


def write_trace(out: Path, key: str, suites: Suites, others: Iterable[Path] = (), episodes: int = EPISODES) -> Path:
    """Roll the policy of cell `key` in a run's folder out and write its trace; returns the path. Raises UserError.

    others: run folders whose weights serve as well, if they are those of the record.
    """
    method, task_block, found = load(out, key, suites, others=others)
    torch.set_num_threads(1)
    seed = derive(key, "rollout")
    seeds = [derive(str(seed), "episode", i) for i in range(episodes)]
    content = {
        "schema": SCHEMA, "cell": found["cell"], **trace(method.eval(), task_block, seeds),
        "scene": {"obstacles": [[x, y, radius] for _, x, y, radius, _ in OBSTACLES], "finish": FINISH_Y, "start": START_XY},
        "made_from": made_from(found), "data": found["data"], "provenance": provenance("cpu", 1),
    }  # fmt: skip
    path = trace_path(out, key)
    sealed.write_json(path, content)
    return path
