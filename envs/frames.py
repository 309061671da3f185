"""Images of a demonstration that are decoded when they are looked at.

File of one scripted demonstration, `.frames`: the line `MAGIC`; one line of JSON (rows, mode, context, sizes of the blobs); the
blobs; 64 characters, the SHA-256 of all that stands before. Blobs: actions and positions (float32), the fixed camera's
background, then for each group of `GROUP` rows the fixed camera's differences from row to row (of the first: from the
background; modulo 256) and the hand's images, one lossless WebP each, side by side. Differences suit a camera that stands
still, and halve the size.

Letters: L rows, A numbers an action, E values that the state task observes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.errors import UserError

CAMERAS = ("bp_cam", "inhand_cam")
SIZE = 96  # pixels, both directions
SHAPE = (len(CAMERAS), SIZE, SIZE, 3)  # of an observation: cameras, rows, columns, RGB
WIDTH = int(np.prod(SHAPE))
MAGIC = b"VDD frames 2\n"
GROUP = 16  # rows that are stored, and decoded, together
MEMORY = 3_000_000_000  # bytes of decoded images that a data set keeps, 54,000 rows
WEBP: tuple[dict[str, Any], ...] = ({"method": 3, "quality": 50}, {"method": 4, "quality": 30})  # size against time


_numbers = itertools.count()  # of demonstrations, in caches


class FrameCache:
    """Decoded groups of rows, the latest used ones up to `limit` bytes; shared by all demonstrations of a data set."""

    def __init__(self, limit: int = MEMORY):
        self.limit, self.used = limit, 0
        self._groups: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, owner: int, group: int, decode: Callable[[int], np.ndarray]) -> np.ndarray:
        """Group number `group` of the demonstration `owner`, decoded unless it is kept."""
        key = (owner, group)
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
        rows = decode(group)
        with self._lock:
            if key not in self._groups:
                self._groups[key] = rows
                self.used += rows.nbytes
            while self.used > self.limit and self._groups:
                self.used -= self._groups.popitem(last=False)[1].nbytes
        return rows


class Frames:
    """Reads like an array (L, 55296) uint8: `frames[3]`, `frames[2:7]`, `frames[indices]`, `np.asarray(frames)`.

    decode: a group's number -> its rows (at most `GROUP`, 55296). What was decoded is kept in `cache`.
    """

    dtype, ndim = np.dtype(np.uint8), 2

    def __init__(self, rows: int, decode: Callable[[int], np.ndarray], cache: FrameCache | None = None):
        self.shape = (rows, WIDTH)
        self._decode, self._number = decode, next(_numbers)
        self._cache = FrameCache() if cache is None else cache

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._rows(index, lambda group: self._cache.get(self._number, group, self._decode))

    def _rows(self, index: Any, read: Callable[[int], np.ndarray]) -> np.ndarray:
        rows = np.arange(len(self))[index]  # an index out of range is an IndexError here
        wanted = np.atleast_1d(rows).ravel()
        out = np.empty((len(wanted), WIDTH), np.uint8)
        for group in np.unique(wanted // GROUP):
            here = wanted // GROUP == group
            out[here] = read(int(group))[wanted[here] % GROUP]
        return out.reshape(*np.shape(rows), WIDTH)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)


def uncached(rows: Any, index: Any) -> np.ndarray:
    """`rows[index]` of an array or of `Frames`, whose cache keeps nothing of it: for who keeps the copy."""
    return rows._rows(index, rows._decode) if isinstance(rows, Frames) else rows[index]


def encode(images: np.ndarray, actions: np.ndarray, positions: np.ndarray, context: np.ndarray, mode: str) -> bytes:
    """A demonstration as the content of a file: images (L, 55296) uint8, actions (L, A), positions (L, E), context, mode."""
    views = images.reshape(len(images), *SHAPE)
    background = np.median(views[:: max(1, len(views) // 64), 0], 0).astype(np.uint8)
    before = np.concatenate([background[None], views[:-1, 0]])
    before[::GROUP] = background
    numbers = [np.ascontiguousarray(array, "<f4").tobytes() for array in (actions, positions)]
    blobs = [*numbers, _webp(background, 0)]
    for first in range(0, len(views), GROUP):
        rows = slice(first, first + GROUP)
        blobs += [_webp(views[rows, 0] - before[rows], 0), _webp(views[rows, 1], 1)]
    head = {
        "rows": len(images), "actions": actions.shape[1], "positions": positions.shape[1], "mode": mode,
        "context": np.asarray(context).tolist(), "sizes": [len(blob) for blob in blobs],
    }  # fmt: skip
    content = MAGIC + json.dumps(head).encode() + b"\n" + b"".join(blobs)
    return content + hashlib.sha256(content).hexdigest().encode()


def read(path: Path, cache: FrameCache) -> tuple[Frames, dict[str, Any], str]:
    """Images, head with `actions` (L, A) and `positions` (L, E) float32, and SHA-256 of a file. Raises UserError, naming it,
    for a damaged one."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    digest = hashlib.sha256(raw[:-64]).hexdigest()
    if not raw.startswith(MAGIC) or raw[-64:] != digest.encode():
        raise UserError(f"{path}: is no file of images, or was altered or cut: delete it, and it is made again")
    begin = raw.index(b"\n", len(MAGIC)) + 1
    head = json.loads(raw[len(MAGIC) : begin])  # whole and unaltered, so it is what `encode` wrote
    edges = (begin + np.cumsum([0, *head["sizes"]])).tolist()
    for k, name in enumerate(("actions", "positions")):
        head[name] = np.frombuffer(raw[edges[k] : edges[k + 1]], "<f4").reshape(head["rows"], head[name]).copy()
    background = _pixels(raw[edges[2] : edges[3]], path)[0]

    def decode(group: int) -> np.ndarray:
        first = edges[3 + 2 * group]
        with path.open("rb") as file:
            file.seek(first)
            part = file.read(edges[5 + 2 * group] - first)
        half = edges[4 + 2 * group] - first
        changes, hand = _pixels(part[:half], path), _pixels(part[half:], path)
        changes[0] += background
        return np.stack([np.add.accumulate(changes, dtype=np.uint8), hand], 1).reshape(-1, WIDTH)

    return Frames(head["rows"], decode, cache), head, digest


def _webp(pixels: np.ndarray, camera: int) -> bytes:
    """Images (n, 96, 96, 3), or one, side by side."""
    out = io.BytesIO()
    image = Image.fromarray(np.concatenate(pixels.reshape(-1, SIZE, SIZE, 3), 1))
    image.save(out, "WEBP", lossless=True, exact=True, **WEBP[camera])
    return out.getvalue()


def _pixels(blob: bytes, path: Path) -> np.ndarray:
    """(n, 96, 96, 3) of a blob."""
    try:
        image = np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
        return np.stack(np.split(image, image.shape[1] // SIZE, 1))
    except Exception as error:  # whatever Pillow makes of bytes that changed after they were checked
        raise UserError(f"{path}: its images cannot be decoded ({error}); delete it, and it is made again") from None
