"""Demonstrations of the toy: samples from its density, one step each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.datasets import Episode

GENERATOR_VERSION = "1"
COUNT = 4000  # maximum likelihood with the 39 parameters of 8 components then costs 39 / (2 * 3800) = 0.005 nats


def generate(seed: int = 0, progress: Callable[[int, int], None] | None = None) -> list[Episode]:
    """`COUNT` episodes with obs (1, 1) = 0 and actions (1, 2) float32; mode = the mode that drew it, "0" to "7"."""
    from envs.toy import sample

    points, modes = sample(np.random.default_rng(seed), COUNT)
    if progress is not None:
        progress(COUNT, COUNT)
    obs = np.zeros((1, 1), np.float32)
    return [Episode(obs, p[None].astype(np.float32), None, str(m)) for p, m in zip(points, modes, strict=True)]
