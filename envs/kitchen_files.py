"""The published demonstrations of the kitchen: play-to-policy's arrays, and Minari's data sets.

Arrays (as the BESO code reads them): `observations_seq.npy` (T, N, 60), of which the first 30 numbers are used (the rest
is the original environment's goal), `actions_seq.npy` (T, N, 9) and `existence_mask.npy` (T, N). A behaviour is the order
in which the observations show the tasks done (`envs._kitchen_tasks.mode_of`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from envs._kitchen_tasks import mode_of
from envs.array_files import episodes_of
from envs.d3il_files import Episode
from harness.errors import UserError

FILES = ("observations_seq.npy", "actions_seq.npy", "existence_mask.npy")
FOLDERS = ("kitchen", "relay_kitchen", "cbet_datasets/relay_kitchen")  # below the data root


def kitchen(files: list[tuple[Path, bytes]]) -> list[Episode]:
    """Episodes with obs (L, 30), actions (L, 9) and mode from the three files; raises UserError."""
    found = episodes_of(files, time_first=True, obs_dim=60, act_dim=9, obs_kept=30)
    return [dataclasses.replace(episode, mode=mode_of(episode.obs)) for episode in found]


def minari_episodes(name: str = "D4RL/kitchen/complete-v2") -> list[Episode]:
    """Episodes of one of Minari's kitchen data sets, from its local folder ($MINARI_DATASETS_PATH).

    Its observations (59) are joints and their rates (9 and 9), then the kitchen's positions and rates (21 and 20): the
    positions make up ours. The last observation of an episode has no action and is left out. Raises UserError.
    """
    try:
        import minari
    except ImportError:
        raise UserError("Minari's data sets need the package minari: pip install 'minari[hdf5]'") from None
    try:
        data: Any = minari.load_dataset(name)
    except Exception as error:  # whatever Minari raises for what it does not have
        raise UserError(f"Minari has no data set {name!r} here ({str(error)[:100]}); minari download {name}") from None
    found = []
    for episode in data.iterate_episodes():
        whole = episode.observations
        whole = np.asarray(whole["observation"] if isinstance(whole, dict) else whole, np.float32)
        actions = np.asarray(episode.actions, np.float32)
        if whole.ndim != 2 or whole.shape[1] != 59 or actions.shape[1:] != (9,):
            raise UserError(f"Minari's {name!r} is no kitchen: observations {whole.shape}, actions {actions.shape}")
        obs = np.concatenate([whole[:, :9], whole[:, 18:39]], 1)[: len(actions)]
        found.append(Episode(obs, actions, None, mode_of(obs)))
    return found
