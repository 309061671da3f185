"""Demonstrations published as three arrays: observations, actions and a mask of which rows exist. NumPy only.

Letters: N episodes, T rows (the longest episode's), D numbers an observation, A numbers an action.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from envs.d3il_files import Episode
from harness.errors import UserError

LIMIT = 1 << 30  # bytes of one file


def read_arrays(files: list[tuple[Path, bytes]]) -> list[np.ndarray]:
    """The arrays of .npy files, real numbers; nothing pickled is read. Raises UserError, naming the file."""
    return [_array(path, raw) for path, raw in files]


def _array(path: Path, raw: bytes) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(raw), allow_pickle=False)
    except Exception as error:  # NumPy raises many kinds for a damaged file
        raise UserError(
            f"{path}: not a readable array file ({str(error).splitlines()[0][:100]}); download it again"
        ) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: expected an array of real numbers, found {getattr(array, 'dtype', type(array).__name__)}"
        )
    return array


def episodes_of(
    files: list[tuple[Path, bytes]], time_first: bool, obs_dim: int, act_dim: int, obs_kept: int
) -> list[Episode]:
    """The episodes of (observations, actions, mask) files; behaviours are left to the caller.

    time_first: arrays are (T, N, …) instead of (N, T, …). Observations have obs_dim numbers, of which the first obs_kept
    are kept. A row exists where the mask is not 0; an episode's rows are its first ones. Raises UserError.
    """
    arrays = read_arrays(files)
    names = [path for path, _ in files]
    for array, path, width in zip(arrays, names, (obs_dim, act_dim, 0), strict=True):
        expected = f"({'T, N' if time_first else 'N, T'}{f', {width}' if width else ''})"
        if array.ndim != (3 if width else 2) or (width and array.shape[2] != width):
            raise UserError(f"{path}: expected shape {expected}, found {array.shape}; is it of this task?")
        if array.shape[:2] != arrays[0].shape[:2]:
            raise UserError(
                f"{path}: {array.shape[:2]} rows and episodes, but {names[0].name} has {arrays[0].shape[:2]}"
            )
    if time_first:
        arrays = [np.swapaxes(array, 0, 1) for array in arrays]
    observations, actions, mask = arrays
    if not np.isin(mask, (0, 1)).all():
        raise UserError(f"{names[2]}: expected zeros and ones only; download it again")
    lengths = mask.astype(bool).sum(1)  # (N,)
    found = []
    for n, length in enumerate(lengths):
        if length < 2 or not mask[n, :length].all():
            raise UserError(
                f"{names[2]}: episode {n} must have at least two rows, all before the ones that do not exist"
            )
        obs = observations[n, :length, :obs_kept].astype(np.float32)
        act = actions[n, :length].astype(np.float32)
        for array, path in ((obs, names[0]), (act, names[1])):
            if not np.isfinite(array).all():
                raise UserError(f"{path}: episode {n} holds NaN or infinity; download it again")
        found.append(Episode(obs, act))
    if not found:
        raise UserError(f"{names[0]}: holds no episode")
    return found


def read_files(folder: Path, names: tuple[str, ...]) -> list[tuple[Path, bytes]]:
    """The files of these names in a folder, with their contents. Raises UserError for a missing or unreadable one."""
    found = []
    for name in names:
        path = folder / name
        try:
            if path.stat().st_size > LIMIT:
                raise UserError(f"{path}: larger than {LIMIT >> 20} MiB; not a file of this data set")
            found.append((path, path.read_bytes()))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; needed beside it: {', '.join(names)}") from None
    return found
