"""Sorting and Stacking seen through two cameras instead of by positions: `sorting_image`, `stacking_image`.

Original: the image tasks of the D3IL benchmark (Jia et al., ICLR 2024). Simulation, contexts, actions, success and behaviour
are those of the state tasks (`envs.sorting`, `envs.stacking`).

Observation (55296,) uint8: `bp_cam`, then `inhand_cam`, each 96 x 96 pixels, RGB: cameras, rows, columns, channels in C
order. Gymnasium's interfaces give it the shape (2, 96, 96, 3). What the cameras show and what is left out: `envs._cameras`.

Images are drawn by `num_threads` processes of their own (`envs._renderers`), which start with the first observation and end
with `close` or with this process. They need an OpenGL library; where there is none, that is a UserError that says what to
install.

Timing. As in the state task: step k returns the image of the state before the motion towards set-point k.

Differences from the original
 1. It also passes the desired position (Stacking: joints and gripper) along with the images, and encodes the images alone; here
    the observation is the images, and the environment keeps the desired position, whose change is the action.
 2. RGB, where the original's networks are given BGR.
 3. An episode of Stacking has 1200 steps, as in the original's evaluation with images; Sorting's 700 are the same in both.
 4. An image shows the newest positions; the original's renderer those 1 ms before, as far as MuJoCo's derived quantities go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from envs._gym import SingleEnv, VectorEnv
from envs._objects import ObjectBatch
from envs._renderers import Renderers
from envs.frames import SHAPE, WIDTH
from envs.sorting import SortingBatch
from envs.stacking import StackingBatch


class CameraBatch(ObjectBatch):
    """What a batch of a state task becomes when it is seen through the cameras."""

    obs_dim, obs_dtype, obs_shape = WIDTH, np.uint8, SHAPE

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.renderers = Renderers(self.task, self.sims.num_threads)
        self._seen = np.zeros((self.num_envs, self.sims.model.nq))  # the states that the next observations show

    def close(self) -> None:
        """Ends the threads of the physics and the processes that draw."""
        self.renderers.close()
        super().close()

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        return self.renderers.draw(self._seen[ids])

    def _read(self, ids: np.ndarray) -> None:
        super()._read(ids)
        self._seen[ids] = self.sims.read("qpos", ids, np.arange(self.sims.model.nq))

    def _recall(self, i: int, rec: Mapping[str, np.ndarray], row: int) -> None:
        super()._recall(i, rec, row)
        self._seen[i] = rec["qpos"][row]


class SortingImageBatch(CameraBatch, SortingBatch):
    """N simulations of Sorting, seen through the cameras."""


class StackingImageBatch(CameraBatch, StackingBatch):
    """N simulations of Stacking, seen through the cameras."""

    max_steps = 1200


class SortingImageEnv(SingleEnv):
    """One environment of Sorting with images, with the Gymnasium interface."""

    batch_class = SortingImageBatch


class SortingImageVectorEnv(VectorEnv):
    """N environments of Sorting with images, with Gymnasium's vector interface."""

    batch_class = SortingImageBatch


class StackingImageEnv(SingleEnv):
    """One environment of Stacking with images, with the Gymnasium interface."""

    batch_class = StackingImageBatch


class StackingImageVectorEnv(VectorEnv):
    """N environments of Stacking with images, with Gymnasium's vector interface."""

    batch_class = StackingImageBatch
