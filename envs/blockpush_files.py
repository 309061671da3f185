"""The published Block Push demonstrations: three arrays of NumPy's own format. NumPy only; nothing is ever unpickled.

    multimodal_push_observations.npy (N, T, 16)     multimodal_push_actions.npy (N, T, 2)     multimodal_push_masks.npy (N, T)

N sequences, padded to T rows; a mask is 1 for the rows that count, which come first. Row k is the observation before action k,
in the order of `envs.block_push`. Written by `notmahi/bet`, read so by `intuitive-robots/beso`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from envs import safe_pickle
from envs.d3il_files import Episode
from harness.errors import UserError

FOLDERS = ("block_push", "multimodal_push_fixed_target")  # below the data root
PARTS = ("actions", "masks", "observations")  # in order of name
WIDTH = {"observations": 16, "actions": 2}
TOLERANCE = 0.05  # m from a target's centre (as in `envs.block_push`, which needs the simulator)


def read(root: Path) -> list[tuple[Path, bytes]]:
    """The three files below a data root, in order of name. Raises UserError where they, or one of them, are missing."""
    places = [root / folder for folder in FOLDERS]
    for place in places:
        found = [place / f"multimodal_push_{part}.npy" for part in PARTS]
        there = [path for path in found if path.is_file()]
        if there and len(there) < len(found):
            missing = ", ".join(path.name for path in found if path not in there)
            raise UserError(
                f"{place}: {missing} is missing beside {there[0].name}; download it too, it belongs to the set"
            )
        if there:
            return [(path, safe_pickle.read_bytes(path)) for path in found]
    raise UserError(
        f"data root {root}: nothing for task 'block_push'; expected multimodal_push_observations.npy, _actions.npy and "
        f"_masks.npy in {' or '.join(map(str, places))}. Give no data root to use the scripted demonstrations"
    )


def parse(files: list[tuple[Path, bytes]]) -> list[Episode]:
    """Episodes of what `read` gives: obs (L, 16) and actions (L, 2) float32. Raises UserError for malformed files."""
    arrays = {part: _array(raw, path) for part, (path, raw) in zip(PARTS, files, strict=True)}
    path, masks = files[1][0], arrays["masks"]
    if masks.ndim != 2 or not np.isin(masks, (0, 1)).all() or (np.diff(masks, axis=1) > 0).any():
        raise UserError(
            f"{path}: expected (N, T) ones, followed by zeros, found shape {masks.shape}; download it again"
        )
    lengths = masks.sum(1).astype(int)
    if not len(lengths) or lengths.min() < 2:
        raise UserError(f"{path}: every sequence needs two rows or more; download it again")
    for part, width in WIDTH.items():
        path = files[PARTS.index(part)][0]
        if arrays[part].shape != (*masks.shape, width):
            raise UserError(
                f"{path}: expected shape {(*masks.shape, width)}, as the masks say, found {arrays[part].shape}"
            )
        if not all(np.isfinite(rows[:n]).all() for rows, n in zip(arrays[part], lengths, strict=True)):
            raise UserError(f"{path}: holds values that are not finite; download it again")
    return [
        Episode(obs[:n].astype(np.float32), actions[:n].astype(np.float32), None, mode_of(obs[:n]))
        for obs, actions, n in zip(arrays["observations"], arrays["actions"], lengths, strict=True)
    ]


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


def _array(raw: bytes, path: Path) -> np.ndarray:
    try:
        found = np.load(io.BytesIO(raw), allow_pickle=False)
    except Exception as error:  # whatever a damaged file makes NumPy raise
        raise UserError(f"{path}: is not an array of numbers ({str(error)[:80]}); download it again") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
        raise UserError(f"{path}: is not an array of numbers; download it again")
    return found
