"""Demonstrations in one in-memory form, from the original benchmark's files or from the scripted demonstrators.

Format of the original files: one pickle per demonstration (`envs.d3il_files`), read by `envs.safe_pickle`.

A task's demonstrations need one entry in `OFFICIAL` (folder and parser) and one in `SCRIPTED` (generator module).
"""

import contextlib
import hashlib
import importlib
import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs import array_files, blockpush_files, d3il_files, frames, image_data, kitchen_files, safe_pickle
from envs._whole_files import write_whole
from envs.d3il_files import Episode
from harness.errors import UserError

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None] | None
TRAILER = b"\nsha256:"  # behind the archive in a cached file, before the SHA-256 of all that stands before


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """A task's episodes and where they come from.

    `source` is "official" or "scripted"; `origin` says it in words; `identity` decides whether a cached result or a
    shipped teacher matches; `sha256` is over the loaded arrays.
    """

    task: str
    source: str
    origin: str
    identity: str
    sha256: str
    episodes: list[Episode]

    @property
    def rows(self) -> int:
        """Number of (observation, action) rows over all episodes."""
        return sum(len(episode.obs) for episode in self.episodes)


# ---------------------------------------------------------------------------------------------------------------------
# Sources
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Official:
    """Where a task's files lie below the data root (with or without a leading `d3il/`), and how one of them is read.

    lists: files that name the demonstrations to use; where one of them exists, others are left out, as in the original.
    """

    folder: str
    parse: Callable[[Any, str], Episode]
    lists: tuple[str, ...] = ()


@dataclass(frozen=True)
class OfficialArrays:
    """A task whose demonstrations are published as a few array files: where they may lie below the data root, what they
    are called, and how all of them together become episodes."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    parse: Callable[[list[tuple[Path, bytes]]], list[Episode]]


OFFICIAL: dict[str, Official | OfficialArrays] = {
    "avoiding": Official("avoiding/data", d3il_files.avoiding),
    "aligning": Official(
        "aligning/all_data/state", d3il_files.aligning, ("aligning/train_files.pkl", "aligning/eval_files.pkl")
    ),
    "pushing": Official("pushing/all_data", d3il_files.pushing, ("pushing/train_files.pkl", "pushing/eval_files.pkl")),
    "sorting": Official(
        "sorting/4_boxes/state", d3il_files.sorting,
        ("sorting/4_boxes_train_files.pkl", "sorting/4_boxes_eval_files.pkl"),
    ),
    "stacking": Official(
        "stacking/all_data", d3il_files.stacking, ("stacking/train_files.pkl", "stacking/eval_files.pkl")
    ),
    "sorting_image": Official(
        "sorting/4_boxes/state", d3il_files.sorting,
        ("sorting/4_boxes_train_files.pkl", "sorting/4_boxes_eval_files.pkl"),
    ),
    "stacking_image": Official(
        "stacking/vision_data/state", d3il_files.stacking,
        ("stacking/vision_train_files.pkl", "stacking/vision_eval_files.pkl"),
    ),
    "kitchen": OfficialArrays(kitchen_files.FOLDERS, kitchen_files.FILES, kitchen_files.kitchen),
    "block_push": OfficialArrays(blockpush_files.FOLDERS, blockpush_files.FILES, blockpush_files.block_push),
}  # fmt: skip


@dataclass(frozen=True)
class Scripted:
    """A module with `GENERATOR_VERSION` and `generate(seed, progress)`: `episodes` items with obs, actions, mode.

    Only `generate` may need the simulator: importing the module must not.
    """

    module: str
    episodes: int


SCRIPTED = {
    "avoiding": Scripted("envs.demonstrators.avoiding", 96),
    "aligning": Scripted("envs.demonstrators.aligning", 1000),
    "pushing": Scripted("envs.demonstrators.pushing", 2000),
    "sorting": Scripted("envs.demonstrators.sorting", 1054),
    "stacking": Scripted("envs.demonstrators.stacking", 1095),
    "block_push": Scripted("envs.demonstrators.block_push", 1000),
    "kitchen": Scripted("envs.demonstrators.kitchen", 566),
    "toy": Scripted("envs.demonstrators.toy", 4000),
}


def identify(
    task: str, data_root: Path | str | None = None, seed: int = 0, episodes: int | None = None
) -> tuple[str, str]:
    """(source, identity) of what `load_demonstrations` would give, without generating anything. Raises `UserError`."""
    root = _data_root(data_root)
    if task in image_data.STATE_TASK:
        if root is not None:
            return "official", _official_images(task, root, episodes).identity
        return "scripted", f"{_images_identity(task, seed)}/{image_data.number(task, episodes)}"
    if root is not None:
        return "official", _identity(_read(task, root))
    return "scripted", _scripted_identity(task, _generator(task), seed)


def load_demonstrations(
    task: str,
    data_root: Path | str | None = None,
    cache_dir: Path | str | None = None,
    seed: int = 0,
    progress: Progress = None,
    episodes: int | None = None,
) -> Demonstrations:
    """All demonstrations of a task; of an image task, `episodes` of them (default: `demonstrations` in tasks.toml), as evenly
    over the behaviours as can be, whose `obs` are `envs.frames.Frames`.

    `data_root` (else `$VDD_DATA_ROOT`) holds the original files; without either the scripted demonstrations of `seed`
    are generated once and kept under `cache_dir` (else `$VDD_CACHE_DIR`, else `~/.cache/vdd-harness`), and
    `progress(done, total)` is called meanwhile. Raises `UserError` for missing, malformed or refused files.
    """
    root = _data_root(data_root)
    if task in image_data.STATE_TASK:
        if root is not None:
            return _official_images(task, root, episodes)
        return _scripted_images(task, _cache_dir(cache_dir), seed, progress, episodes)
    if episodes is not None:
        raise UserError(
            f"the number of demonstrations can be chosen for {', '.join(image_data.STATE_TASK)}, not for {task}"
        )
    if root is not None:
        files, official = _read(task, root), OFFICIAL[task]
        if isinstance(official, OfficialArrays):
            found = official.parse(files)
            origin = f"{files[0][0].parent.name}, {len(files)} array files"
        else:
            found = [official.parse(safe_pickle.loads(raw, str(path)), str(path)) for path, raw in files]
            origin = f"D3IL, {official.folder}, {len(files)} files"
        return Demonstrations(task, "official", origin, _identity(files), _digest(found), found)
    module = _generator(task)
    identity = _scripted_identity(task, module, seed)
    found = _scripted(task, module, identity, _cache_dir(cache_dir), seed, progress)
    origin = f"scripted demonstrator, version {module.GENERATOR_VERSION}, seed {seed}"
    return Demonstrations(task, "scripted", origin, identity, _digest(found), found)


def _images_identity(task: str, seed: int) -> str:
    return f"scripted/{task}/v{image_data.version(task)}/seed{seed}"


def _scripted_images(task: str, cache: Path, seed: int, progress: Progress, episodes: int | None) -> Demonstrations:
    number, identity = image_data.number(task, episodes), _images_identity(task, seed)
    folder = cache / "demonstrations" / identity.replace("/", "-")
    found, sha256 = image_data.scripted(task, folder, seed, number, progress)
    origin = f"scripted demonstrator and cameras, version {image_data.version(task)}, seed {seed}"
    return Demonstrations(task, "scripted", origin, f"{identity}/{number}", sha256, found)


def _official_images(task: str, root: Path, episodes: int | None) -> Demonstrations:
    """Those of the state files that are used, with their images."""
    official = OFFICIAL[task]
    assert isinstance(official, Official)
    raws = dict(_read(task, root))
    named = [(path, official.parse(safe_pickle.loads(raw, str(path)), str(path))) for path, raw in raws.items()]
    number = min(image_data.number(task, None), len(named)) if episodes is None else episodes
    used, images = image_data.with_images(named, number)
    identity = hashlib.sha256((_identity([(path, raws[path]) for path, _ in used]) + images).encode()).hexdigest()
    origin = f"D3IL, {official.folder} and its images, {len(used)} of {len(named)} files"
    return Demonstrations(task, "official", origin, identity, images, [episode for _, episode in used])


def _data_root(data_root: Path | str | None) -> Path | None:
    root = data_root if data_root is not None else os.environ.get("VDD_DATA_ROOT")
    return Path(root).expanduser() if root else None


def _read(task: str, root: Path) -> list[tuple[Path, bytes]]:
    """The task's files in order of name, with their content."""
    if task not in OFFICIAL:
        raise UserError(
            f"task {task!r} has no loader for original files; those with one: {', '.join(sorted(OFFICIAL))}"
        )
    if not root.is_dir():
        raise UserError(
            f"data root {root}: no such folder; give an existing one by --data-root or $VDD_DATA_ROOT, "
            "or neither to use the scripted demonstrations"
        )
    official = OFFICIAL[task]
    if isinstance(official, OfficialArrays):
        return _read_arrays(task, root, official)
    folder = official.folder
    places = [root / "d3il" / folder, root / folder]
    for base, place in zip((root / "d3il", root), places, strict=True):
        if place.is_dir():
            paths = _listed(sorted(place.glob("*.pkl")), [base / name for name in official.lists], place)
            if paths:
                return [(path, safe_pickle.read_bytes(path)) for path in paths]
            raise UserError(f"{place}: holds no *.pkl files; expected one per demonstration of task {task!r}")
    raise UserError(
        f"data root {root}: nothing for task {task!r}; expected {' or '.join(map(str, places))}. "
        "Give no data root to use the scripted demonstrations"
    )


def _read_arrays(task: str, root: Path, official: OfficialArrays) -> list[tuple[Path, bytes]]:
    """The array files of the first folder that holds any of them."""
    for place in (root / folder for folder in official.folders):
        if any((place / name).exists() for name in official.files):
            return array_files.read_files(place, official.files)
    raise UserError(
        f"data root {root}: nothing for task {task!r}; expected {', '.join(official.files)} in "
        f"{' or '.join(str(root / folder) for folder in official.folders)}. "
        "Give no data root to use the scripted demonstrations"
    )


def _listed(paths: list[Path], lists: list[Path], place: Path) -> list[Path]:
    """Those of the paths that the lists name; all of them where there is no list."""
    lists = [path for path in lists if path.is_file()]
    if not lists or not paths:
        return paths
    wanted: set[str] = set()
    for path in lists:
        names = safe_pickle.load(path)
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            raise UserError(f"{path}: expected a list of file names, found {type(names).__name__}; download it again")
        wanted.update(names)
    missing = sorted(wanted - {path.name for path in paths})
    if missing:
        raise UserError(
            f"{place}: {len(missing)} of the {len(wanted)} files that {lists[0].name} and the like name are missing, "
            f"e.g. {missing[0]!r}; complete the download, or remove the lists to use what is there"
        )
    return [path for path in paths if path.name in wanted]


def _identity(files: list[tuple[Path, bytes]]) -> str:
    """SHA-256 over the files' contents in order of name; independent of where they lie and of what they are called."""
    digest = hashlib.sha256()
    for _, raw in files:
        digest.update(hashlib.sha256(raw).digest())
    return digest.hexdigest()


def _digest(episodes: list[Episode]) -> str:
    """SHA-256 over the episodes' arrays, modes and contexts."""
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(repr((episode.obs.shape, episode.actions.shape, episode.mode)).encode())
        for array in (episode.obs, episode.actions):
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        if episode.context is not None:
            digest.update(np.ascontiguousarray(episode.context, dtype="<f8").tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Scripted demonstrations and their cache
# ---------------------------------------------------------------------------------------------------------------------


def _scripted_source(task: str) -> Scripted:
    """The task's entry in `SCRIPTED`, or what a plug-in's block names."""
    if task in SCRIPTED:
        return SCRIPTED[task]
    from harness.registry import load_suites

    block = load_suites().tasks.get(task, {})
    if "generator" in block:
        return Scripted(block["generator"], block["demonstrations"])
    known = ", ".join(sorted(SCRIPTED))
    raise UserError(f"task {task!r} has no scripted demonstrator; those with one: {known}. Give a --data-root")


def _generator(task: str) -> Any:
    module = _scripted_source(task).module
    if task in SCRIPTED:
        return importlib.import_module(module)
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a plug-in's code does
        raise UserError(f"{module}, of a plug-in, cannot be imported: {type(error).__name__}: {error}") from error


def _scripted_identity(task: str, module: Any, seed: int) -> str:
    return f"scripted/{task}/v{module.GENERATOR_VERSION}/seed{seed}/{_scripted_source(task).episodes}"


def _cache_dir(cache_dir: Path | str | None) -> Path:
    chosen = cache_dir or os.environ.get("VDD_CACHE_DIR") or Path.home() / ".cache" / "vdd-harness"
    return Path(chosen).expanduser()


def _scripted(task: str, module: Any, identity: str, cache_dir: Path, seed: int, progress: Progress) -> list[Episode]:
    """From the cache where it holds `identity` undamaged, else generated and cached."""
    path = cache_dir / "demonstrations" / (identity.replace("/", "-") + ".npz")
    if path.exists():
        try:
            return _read_cache(path)
        except Exception as error:  # whatever is wrong with the file, it can be made again
            aside = path.with_suffix(".corrupt")
            log.warning("%s: damaged (%s); set aside as %s, generating again", path, error, aside.name)
            with contextlib.suppress(OSError):
                os.replace(path, aside)  # fails if another process was first; a read-only folder is reported below
    made = module.generate(seed=seed, progress=progress)
    expected = _scripted_source(task).episodes
    if len(made) != expected:
        raise RuntimeError(f"{module.__name__}.generate gave {len(made)} episodes, expected {expected}")
    episodes = [
        Episode(
            np.asarray(e.obs, dtype=np.float32),
            np.asarray(e.actions, dtype=np.float32),
            getattr(e, "context", None),
            e.mode,
        )
        for e in made
    ]
    try:
        _write_cache(path, episodes)
    except OSError as error:
        log.warning("%s: demonstrations not cached (%s)", path, error.strerror or error)
    return episodes


def _write_cache(path: Path, episodes: list[Episode]) -> None:
    """Written under another name, then renamed: readers and other writers never see half a file."""
    arrays = {
        "obs": np.concatenate([e.obs for e in episodes]),  # (rows, D)
        "actions": np.concatenate([e.actions for e in episodes]),  # (rows, A)
        "lengths": np.array([len(e.obs) for e in episodes]),
        "modes": np.array([e.mode for e in episodes]),
        "sha256": np.array(_digest(episodes)),
    }
    if episodes[0].context is not None:
        arrays["contexts"] = np.stack([np.asarray(e.context, dtype=np.float64) for e in episodes])
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_whole(path, buffer.getvalue() + TRAILER + hashlib.sha256(buffer.getvalue()).hexdigest().encode())


def check_cache(path: Path) -> str:
    """What is wrong with a cached file of demonstrations; "" for an undamaged one. Raises OSError."""
    with path.open("rb"):
        pass
    try:
        frames.read(path, frames.FrameCache()) if path.suffix == ".frames" else _read_cache(path)
    except Exception as error:  # whatever a damaged file makes NumPy raise
        return f"is damaged: {str(error)[:120]}"
    return ""


def cache_folder() -> Path:
    """Where scripted demonstrations are kept."""
    return _cache_dir(None)


def _read_cache(path: Path) -> list[Episode]:
    """Raises ValueError for a file that is not the one that was written, byte for byte, and what NumPy raises."""
    raw = path.read_bytes()
    end = len(raw) - len(TRAILER) - 64
    if raw[max(end, 0) :] != TRAILER + hashlib.sha256(raw[: max(end, 0)]).hexdigest().encode():
        raise ValueError("was altered or cut, or is of an older version: the SHA-256 at its end does not match")
    with np.load(io.BytesIO(raw[:end]), allow_pickle=False) as file:
        arrays = dict(file)
    ends = np.cumsum(arrays["lengths"])[:-1]
    contexts = arrays.get("contexts", [None] * len(arrays["lengths"]))
    episodes = [
        Episode(obs, actions, context, str(mode))
        for obs, actions, context, mode in zip(
            np.split(arrays["obs"], ends), np.split(arrays["actions"], ends), contexts, arrays["modes"], strict=True
        )
    ]
    if _digest(episodes) != str(arrays["sha256"]):
        raise ValueError("SHA-256 differs")
    return episodes
