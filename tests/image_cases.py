"""Tiny image tasks: frames of 64 x 64, encoders of a few channels, demonstrations in which the action is where a dot is."""

from __future__ import annotations

import numpy as np
import pytest

from envs.datasets import Demonstrations, Episode
from envs.image_tasks import SortingImageBatch
from harness.errors import UserError
from methods._transformer import GPTConfig
from methods.base import Shape
from tests.method_cases import GPT

PIXELS, CAMERAS = 64, 2
IMAGE_SHAPE = Shape(obs=CAMERAS * PIXELS**2 * 3, act=2)
IMAGE_GPT = GPTConfig(
    layers=2, heads=2, embed=16, window=GPT.window, cameras=CAMERAS, pixels=PIXELS, keypoints=4, encoder_width=8
)


def frames(positions: np.ndarray, seed: int = 0) -> np.ndarray:
    """(L, D) uint8: in both cameras a bright dot at positions (L, 2) in [0, 1) on noise."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 60, (len(positions), CAMERAS, PIXELS, PIXELS, 3), dtype=np.uint8)
    for k, (x, y) in enumerate((positions * (PIXELS - 8)).astype(int)):
        pictures[k, :, y : y + 8, x : x + 8] = (250, 40, 40)
    return pictures.reshape(len(positions), -1)


def demonstrations(lengths: list[int] | None = None, seed: int = 0) -> Demonstrations:
    """Episodes in which a dot wanders, whose positions are known, and the action points to it."""
    rng, episodes = np.random.default_rng(seed), []
    for i, length in enumerate(lengths or [12, 9, 15, 10]):
        where = np.clip(rng.random(2) + np.cumsum(rng.normal(0, 0.05, (length, 2)), 0), 0, 0.999)
        actions = (where + 0.02 * rng.normal(size=(length, 2))).astype(np.float32)
        pictures, known = frames(where, seed + i), where.astype(np.float32)
        episodes.append(Episode(pictures, actions, None, str(i % 2), positions=known))
    return Demonstrations("tiny_image", "scripted", "made up", f"tiny/{seed}", "digest", episodes)


def skip_without_gl() -> None:
    """Skips a test of what the cameras see where there is no OpenGL library, and says why."""
    env = SortingImageBatch(1)
    try:
        env.reset()
    except UserError as error:
        assert "no OpenGL library" in str(error)
        pytest.skip(str(error))
    finally:
        env.close()
