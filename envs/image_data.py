"""Demonstrations of the image tasks: those of the state task, seen through its cameras.

Scripted ones: the state task's demonstrator makes the same runs again, to the last bit, and the states on their way are drawn.
One file a run (`envs.frames`), so that what is there is kept when the making is interrupted, and more runs may be added. Runs
are taken evenly over the behaviours, the first ones of each.

The original's: `state/<demo>.pkl` as for the state task, and `images/<bp-cam|inhand-cam>/<demo>/<k>.jpg`, one of each camera a
row.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs import frames
from envs._whole_files import write_whole
from envs.d3il_files import Episode
from harness.errors import UserError

log = logging.getLogger(__name__)
STATE_TASK = {"sorting_image": "sorting", "stacking_image": "stacking"}
FOLDERS = ("bp-cam", "inhand-cam")  # of the original's images, in the order of `frames.CAMERAS`
IMAGES_VERSION = "2"  # of what the cameras show, `envs._cameras`, and of what is stored; 2: positions
AHEAD = 2  # episodes that wait to be written while others are drawn


def shares(counts: dict[str, int], episodes: int) -> dict[str, int]:
    """How many of `episodes` each behaviour gives, of counts there are: as even as can be, the first ones one more.

    Raises UserError where there are not so many.
    """
    if not 1 <= episodes <= sum(counts.values()):
        raise UserError(f"there are {sum(counts.values())} demonstrations; asked for {episodes}")
    found = dict.fromkeys(counts, 0)
    while (left := episodes - sum(found.values())) > 0:
        open_ones = [mode for mode in counts if found[mode] < counts[mode]]
        each, rest = divmod(left, len(open_ones))
        for n, mode in enumerate(open_ones):
            found[mode] += min(each + (n < rest), counts[mode] - found[mode])
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Scripted ones
# ---------------------------------------------------------------------------------------------------------------------


def version(task: str) -> str:
    """Of the demonstrator and of what the cameras show."""
    return f"{_demonstrator(task).GENERATOR_VERSION}.{IMAGES_VERSION}"


def number(task: str, episodes: int | None) -> int:
    """How many demonstrations to use: `episodes`, else what tasks.toml says."""
    if episodes is not None:
        return episodes
    from harness.registry import load_suites

    return int(load_suites().tasks[task]["demonstrations"])


def _demonstrator(task: str) -> Any:
    return importlib.import_module(f"envs.demonstrators.{STATE_TASK[task]}")


def scripted(
    task: str, folder: Path, seed: int, episodes: int, progress: Callable[[int, int], None] | None = None
) -> tuple[list[Episode], str]:
    """`episodes` demonstrations, drawn where `folder` does not hold them yet, and the SHA-256 over their files' own."""
    counts = _demonstrator(task).counts()
    chosen = shares({mode: counts[mode] for mode in sorted(counts)}, episodes)
    cache = frames.FrameCache()
    found: dict[Path, tuple[Episode, str]] = {}
    paths = {mode: [folder / f"{mode}-{copy:04d}.frames" for copy in range(n)] for mode, n in chosen.items()}
    for path in (path for group in paths.values() for path in group):
        if (episode := _cached(path, cache)) is not None:
            found[path] = episode

    def report() -> None:
        if progress is not None:
            progress(len(found), episodes)

    if len(found) < episodes:
        report()
        for path in _make(task, seed, paths, set(found), folder):
            found[path] = _episode(path, cache)
            report()
    parts = [found[path] for group in paths.values() for path in group]
    return [episode for episode, _ in parts], hashlib.sha256(
        "".join(digest for _, digest in parts).encode()
    ).hexdigest()


def _cached(path: Path, cache: frames.FrameCache) -> tuple[Episode, str] | None:
    """The demonstration of a file; None where there is none. A damaged one is set aside, and said so."""
    if not path.exists():
        return None
    try:
        return _episode(path, cache)
    except UserError as error:
        aside = path.with_suffix(".corrupt")
        log.warning("%s; set aside as %s, drawing it again", error, aside.name)
        with contextlib.suppress(OSError):
            os.replace(path, aside)
        return None


def _episode(path: Path, cache: frames.FrameCache) -> tuple[Episode, str]:
    images, head, digest = frames.read(path, cache)
    context, positions = np.array(head["context"]), head["positions"]
    return Episode(images, head["actions"], context, head["mode"], positions=positions), digest  # type: ignore[arg-type]


def _make(task: str, seed: int, paths: dict[str, list[Path]], there: set[Path], folder: Path) -> Iterator[Path]:
    """Draws and writes what is missing; gives each file's path when it is there."""
    from envs._renderers import Renderers

    cores = len(os.sched_getaffinity(0))
    renderers = Renderers(STATE_TASK[task], cores)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(cores) as writers:
            waiting: list[Future[Path]] = []
            for mode, group in paths.items():
                if there.issuperset(group):
                    continue
                made = _demonstrator(task).generate(seed, per_mode={mode: len(group)}, states=True)
                for path, run in zip(group, made, strict=True):
                    if path in there:
                        continue
                    images = renderers.draw(run.states)
                    waiting.append(writers.submit(_write, path, images, run))
                    while len(waiting) > AHEAD:
                        yield waiting.pop(0).result()
            for written in waiting:
                yield written.result()
    except OSError as error:
        raise UserError(
            f"{folder}: images cannot be kept there ({error.strerror or error}); see $VDD_CACHE_DIR"
        ) from None
    finally:
        renderers.close()


def _write(path: Path, images: np.ndarray, run: Episode) -> Path:
    return write_whole(path, frames.encode(images, run.actions, run.obs, run.context, run.mode))


# ---------------------------------------------------------------------------------------------------------------------
# The original's
# ---------------------------------------------------------------------------------------------------------------------


def with_images(named: Sequence[tuple[Path, Episode]], episodes: int) -> tuple[list[tuple[Path, Episode]], str]:
    """`episodes` of the state demonstrations (file, episode), evenly over the behaviours and in order of name, with their
    images in the place of observations; and the SHA-256 over the images. Raises UserError, naming the file, for a missing or
    damaged one.
    """
    counts: dict[str, int] = {}
    for _, episode in named:
        counts[episode.mode] = counts.get(episode.mode, 0) + 1
    left = shares({mode: counts[mode] for mode in sorted(counts)}, episodes)
    cache, digest = frames.FrameCache(), hashlib.sha256()
    found = []
    for path, episode in named:
        if left[episode.mode] > 0:
            left[episode.mode] -= 1
            images = _images(path, len(episode.actions), digest)
            rows = frames.Frames(len(episode.actions), _decoder(images), cache)
            found.append((path, replace(episode, obs=rows, positions=episode.obs)))  # type: ignore[arg-type]
    return found, digest.hexdigest()


def _images(demo: Path, rows: int, digest: Any) -> list[tuple[Path, ...]]:
    """The files of each row of a demonstration, one a camera; their contents go into digest."""
    cameras = []
    for name in FOLDERS:
        folder = demo.parents[1] / "images" / name / demo.stem
        files = [path for path in folder.glob("*.jpg") if path.stem.isascii() and path.stem.isdigit()]
        files.sort(key=lambda path: int(path.stem))
        if len(files) < rows:
            raise UserError(f"{folder}: holds {len(files)} images <number>.jpg, {demo.name} has {rows} rows to show")
        numbers = [int(path.stem) for path in files]
        if missing := sorted(set(range(numbers[0], numbers[0] + len(files))) - set(numbers)):
            raise UserError(f"{folder / f'{missing[0]}.jpg'}: this image is missing; complete the download")
        cameras.append(files[:rows])
    for path in (path for files in cameras for path in files):
        raw = path.read_bytes()
        if not (raw.startswith(b"\xff\xd8") and raw.rstrip(b"\0").endswith(b"\xff\xd9")):
            raise UserError(f"{path}: is no whole JPEG image; download it again")
        digest.update(hashlib.sha256(raw).digest())
    return list(zip(*cameras, strict=True))


def _decoder(images: list[tuple[Path, ...]]) -> Callable[[int], np.ndarray]:
    def decode(group: int) -> np.ndarray:
        rows = images[group * frames.GROUP : (group + 1) * frames.GROUP]
        return np.stack([np.stack([_jpeg(path) for path in row]).ravel() for row in rows])

    return decode


def _jpeg(path: Path) -> np.ndarray:
    """(96, 96, 3) uint8 RGB."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
    except Exception as error:  # Pillow fails in many ways
        raise UserError(f"{path}: cannot be read as an image ({str(error)[:100]}); download it again") from None
    if pixels.shape != (frames.SIZE, frames.SIZE, 3):
        raise UserError(
            f"{path}: has {pixels.shape[1]} x {pixels.shape[0]} pixels, expected {frames.SIZE} x {frames.SIZE}"
        )
    return pixels
