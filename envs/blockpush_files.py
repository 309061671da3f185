"""The published Block Push demonstrations: three arrays of NumPy's own format. NumPy only; nothing is ever unpickled.

    multimodal_push_observations.npy (N, T, 16)     multimodal_push_actions.npy (N, T, 2)     multimodal_push_masks.npy (N, T)

N sequences, padded to T rows; a mask is 1 for the rows that count, which come first. Row k is the observation before action k,
in the order of `envs.block_push`. Written by `notmahi/bet`, read so by `intuitive-robots/beso`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from envs.array_files import episodes_of
from envs.d3il_files import Episode

FOLDERS = ("block_push", "multimodal_push_fixed_target")  # below the data root
FILES = ("multimodal_push_observations.npy", "multimodal_push_actions.npy", "multimodal_push_masks.npy")
TOLERANCE = 0.05  # m from a target's centre (as in `envs.block_push`, which needs the simulator)


def block_push(files: list[tuple[Path, bytes]]) -> list[Episode]:
    """Episodes with obs (L, 16), actions (L, 2) and mode from the three files; raises UserError."""
    found = episodes_of(files, time_first=False, obs_dim=16, act_dim=2, obs_kept=16)
    return [dataclasses.replace(episode, mode=mode_of(episode.obs)) for episode in found]


def mode_of(obs: np.ndarray) -> str:
    """The behaviour of whole observations (L, 16): "0" to "3", 2 b + t of the block b that came into its final target t first.

    A file ends before its last action, when the second block may not have arrived: its target is the one that is nearest.
    "" where both are nearest to the same, or none has arrived.
    """
    blocks = obs[:, [[0, 1], [3, 4]]]  # (L, 2, 2)
    targets = obs[-1, [[10, 11], [13, 14]]]  # (2, 2)
    nearest = np.linalg.norm(blocks[-1, :, None] - targets, axis=-1).argmin(-1)  # (2,): of each block
    inside = np.linalg.norm(blocks - targets[nearest], axis=-1) < TOLERANCE  # (L, 2)
    if nearest[0] == nearest[1] or not inside.any():
        return ""
    outside = ~inside[::-1]  # when each block came, never to leave again: after its last row outside
    since = np.where(outside.any(0), len(obs) - outside.argmax(0), 0)
    first = int(since.argmin())
    return str(2 * first + int(nearest[first]))
