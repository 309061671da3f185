"""Image encoders in training: where their weights start, and what becomes of windows when they stay as they are.

The methods know nothing of it: before training, `prepare` puts weights into the encoders of a method that is already built.

    encoder_start = "own"     the network's own: random, or ImageNet's (--encoder-weights FILE). Students keep what they start
                              from anyway: CD, CTM and a warm-started VDD copy their teacher's whole state encoder
                    "teacher" students: their teacher's
    encoder_frozen            its weights stay; the features of every frame are computed once, before training, and scaled;
                              a teacher's stay in its working folder, where students find them
    encoder_pretrain          iterations before it is frozen
    encoder_pretrain_batch    frames an iteration
    encoder_pretrain_lr       with AdamW; the rest of the network that learns then is thrown away
    encoder_target "loss"     what pre-training fits: the method's own loss, with a window of one state
              "positions"     what the state task observes at each frame (harness/positions.py)
    encoder_weights           SHA-256 of the file, "" without one
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from harness import stop
from harness.errors import UserError
from harness.histories import FrameRows
from harness.progress import Progress
from harness.record import InvalidRecord, read_bytes, write_atomic
from harness.sealed import UNSEALED, Damaged, check_tensors, put_away, seal_tensors
from harness.seeds import derive
from harness.train import TrainConfig, train
from harness.windows import Windows
from methods._encoder import CHUNK, ImageEncoder, read_weights
from methods.base import Method
from methods.policy import on_cpu

FOLDER, FEATURES = "encoder", "features.safetensors"  # below a cell's working folder
First = Callable[[], tuple[Method, Windows, Windows]]  # what pre-training trains, its windows, and held-out ones


@dataclass(frozen=True)
class EncoderConfig:
    """The section `encoder` of a task with images: see the module's head."""

    encoder_start: str
    encoder_frozen: bool
    encoder_pretrain: int
    encoder_pretrain_batch: int
    encoder_pretrain_lr: float
    encoder_target: str
    encoder_weights: str

    def __post_init__(self) -> None:
        if self.encoder_start not in ("own", "teacher"):
            raise ValueError(f"encoder_start must be own or teacher. Got {self.encoder_start!r}")
        if self.encoder_target not in ("loss", "positions"):
            raise ValueError(f"encoder_target must be loss or positions. Got {self.encoder_target!r}")
        if self.encoder_pretrain < 0 or self.encoder_pretrain_batch < 1 or self.encoder_pretrain_lr <= 0:
            raise ValueError(
                "encoder_pretrain must be at least 0, encoder_pretrain_batch at least 1 and encoder_pretrain_lr above 0"
            )


def check(section: dict[str, Any], role: str, train_config: TrainConfig) -> None:
    """Raises ValueError for settings that contradict one another."""
    config = EncoderConfig(**section)
    if config.encoder_frozen and role == "student" and config.encoder_start != "teacher":
        raise ValueError("a student's frozen encoder must be its teacher's: set encoder_start = teacher")
    if config.encoder_pretrain and role == "student" and config.encoder_start != "teacher":
        raise ValueError("encoder_pretrain is for methods without a teacher: set it to 0, or encoder_start = teacher")
    if train_config.setpoint_noise:
        raise ValueError("images have no values that are a desired position: set setpoint_noise = 0")
    if train_config.exchange:
        raise ValueError("things in an image have no numbers that could change places: set exchange = false")
    if (train_config.obs_noise or train_config.history_noise) and not config.encoder_frozen:
        raise ValueError(
            "images get no noise: set obs_noise = 0 and history_noise = 0, or encoder_frozen = true for noise on features"
        )


def check_file(path: Path) -> None:
    """The file of `--encoder-weights` can be read and holds a ResNet-18. Raises UserError."""
    weights, _ = read_weights(path)
    load(ImageEncoder(1, 64, 1, 64), weights, path)


def load(encoder: ImageEncoder, weights: dict[str, Tensor], path: Path) -> None:
    """ImageNet weights into one encoder. Raises UserError for those of another network."""
    try:
        encoder.load_imagenet(weights)
    except ValueError as error:
        raise UserError(f"{path} is no ResNet-18 of this encoder's sizes: {error}") from None


def encoders(method: Method) -> list[ImageEncoder]:
    """All of a method's own, target networks' too; not its teacher's."""
    return [module for module in method.modules() if isinstance(module, ImageEncoder)]


def prepare(
    section: dict[str, Any], method: Method, teacher: Method | None, data: Windows, held: Windows,
    train_config: TrainConfig, key: str, workdir: Path, progress: Progress, first: First, weights: str | None, frames: str,
    teacher_dir: Path | None,
) -> tuple[Windows, Windows, dict[str, Any]]:  # fmt: skip
    """Put weights into the method's encoders; returns training and held-out windows, features if frozen, and remarks for the
    record. `first` makes what pre-training needs; `frames` names the demonstrations; `teacher_dir` is the teacher's working
    folder.

    Resumes: pre-training like any training, and what is finished is read from the working folder.
    """
    config = EncoderConfig(**section)
    if method.encoder is None:
        raise UserError(
            f"{key}: this method's network, `net`, has no image encoder (docs/images.md): it runs on other tasks"
        )
    if config.encoder_weights:
        start_from_file(method, None if weights is None else Path(weights), config.encoder_weights)
    if config.encoder_start == "teacher":
        assert teacher is not None and teacher.encoder is not None, "the teacher sees images too"
        share(method, teacher.encoder.state_dict())
    notes: dict[str, Any] = {"parameters": sum(p.numel() for p in method.encoder.parameters())}
    if not config.encoder_frozen and not config.encoder_pretrain:
        return data, held, notes
    own = config.encoder_start == "own"
    cached = read_cache(workdir / FOLDER / FEATURES)
    if cached is None:
        if config.encoder_pretrain and own:
            notes |= pretrain(config, method, train_config, key, workdir / FOLDER, progress, first)
            gc.collect()  # a trainer's parts refer to one another; its frames are gigabytes
        tensors: dict[str, Tensor] = {}
        if config.encoder_frozen:
            ready = None if own else of_teacher(teacher_dir, method.encoder, frames)
            tensors = ready or frozen_features(method, data, held, progress, scale=own)
        if own:
            tensors |= {f"encoder/{name}": value for name, value in method.encoder.state_dict().items()}
        cached = Cached(tensors, notes, frames, weights_sha256(method.encoder)).write(workdir / FOLDER / FEATURES)
    tensors, notes = cached.tensors, cached.notes
    if own:
        share(method, {name.removeprefix("encoder/"): t for name, t in tensors.items() if name.startswith("encoder/")})
    if not config.encoder_frozen:
        return data, held, notes
    for encoder in encoders(method):
        encoder.requires_grad_(False)
    data, held = (replace(w, obs=w.obs.with_rows(tensors[n])) for w, n in ((data, "rows"), (held, "held")))
    return data, held, notes


def share(method: Method, state: dict[str, Tensor]) -> None:
    """Load one encoder's weights into all of a method's."""
    for encoder in encoders(method):
        try:
            encoder.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"the encoder to start from has other sizes: {str(error).splitlines()[-1].strip()}"
            ) from None


def start_from_file(method: Method, path: Path | None, sha256: str) -> None:
    """ImageNet weights into all encoders of a method. Raises UserError for a missing or altered file, or another network's."""
    if path is None:
        raise UserError(
            f"this cell starts from an encoder of SHA-256 {sha256[:12]}…: name its file by --encoder-weights"
        )
    weights, found = read_weights(path)
    if found != sha256:
        raise UserError(
            f"{path} changed: its SHA-256 is {found[:12]}…, planned was {sha256[:12]}…; start the run again"
        )
    for encoder in encoders(method):
        load(encoder, weights, path)


def pretrain(
    config: EncoderConfig, method: Method, train_config: TrainConfig, key: str, folder: Path, progress: Progress,
    first: First,
) -> dict[str, Any]:  # fmt: skip
    """Train what `first` makes from the method's encoder on, and take its encoder; returns its curves for the record."""
    assert method.encoder is not None
    learner, data, held = first()
    learner.to(method.device)
    share(learner, method.encoder.state_dict())
    changes: dict[str, Any] = {"steps": config.encoder_pretrain, "optimizer": "adamw", "lr": config.encoder_pretrain_lr}
    changes["batch"] = config.encoder_pretrain_batch
    changes |= {"lr_final": config.encoder_pretrain_lr / 10, "warmup": min(20, config.encoder_pretrain)}
    changes |= {"obs_noise": 0.0, "history_noise": 0.0, "history_cut": 0.0, "validations": 5}
    progress.phase("pre-train encoder", config.encoder_pretrain)
    seed = derive(key, "encoder")
    result = train(learner, data, held, replace(train_config, **changes), seed, folder, progress.report)
    assert learner.encoder is not None
    share(method, learner.encoder.state_dict())
    return {"pretraining": result.curve, "pretraining_val": result.val}


def frozen_features(method: Method, data: Windows, held: Windows, progress: Progress, scale: bool) -> dict[str, Tensor]:
    """Features (R, F) of all frames of the two data sets; `scale`: and make those of the training frames its unit."""
    assert method.encoder is not None
    parts = {"rows": data.obs.rows, "held": held.obs.rows}
    total = sum(len(rows) for rows in parts.values())
    progress.phase("encode", total)
    found, done = {}, 0
    for name, rows in parts.items():
        assert isinstance(rows, FrameRows)
        features = []
        for chunk in rows.chunks(CHUNK):
            stop.check()
            with torch.no_grad():
                features.append(method.encoder(chunk.to(method.device)))
            done += len(chunk)
            progress.report(done, total)
        found[name] = torch.cat(features)
    if scale:
        method.encoder.scale_features(found["rows"])
        found = {name: method.encoder.scaled(features) for name, features in found.items()}
    return found


@dataclass(frozen=True)
class Cached:
    """Features; until training is over, weights of an encoder of its own; remarks for the record; what they were made from."""

    tensors: dict[str, Tensor]
    notes: dict[str, Any]
    frames: str  # identity of the demonstrations
    encoder: str  # `weights_sha256`

    def write(self, path: Path) -> Cached:
        """Seal and write; returns what `read_cache` would."""
        notes = json.dumps(self.notes)
        metadata = {"sha256": UNSEALED, "notes": notes, "frames": self.frames, "encoder": self.encoder}
        kept = on_cpu(self.tensors)
        write_atomic(path, seal_tensors(serialise(kept, metadata)))
        return replace(self, tensors=kept)


def read_cache(path: Path) -> Cached | None:
    """What `Cached.write` wrote, or None where there is none. A damaged file is set aside, and said so."""
    try:
        content = read_bytes(path)
        metadata = check_tensors(content)["__metadata__"]
    except FileNotFoundError:
        return None
    except (Damaged, InvalidRecord) as error:
        put_away(path, str(error))
        return None
    return Cached(deserialise(content), json.loads(metadata["notes"]), metadata["frames"], metadata["encoder"])


def of_teacher(folder: Path | None, encoder: ImageEncoder, frames: str) -> dict[str, Tensor] | None:
    """The features in a teacher's working folder, if they are of these demonstrations and exactly this encoder."""
    found = None if folder is None else read_cache(folder / FOLDER / FEATURES)
    return found.tensors if found and (found.frames, found.encoder) == (frames, weights_sha256(encoder)) else None


def weights_sha256(encoder: ImageEncoder) -> str:
    """SHA-256 of an encoder's weights."""
    return hashlib.sha256(serialise(on_cpu(encoder.state_dict()))).hexdigest()


def clear(workdir: Path, keep: bool) -> None:
    """Training is over: what only it needed goes. keep: the features stay, for students."""
    path = workdir / FOLDER / FEATURES
    cached = read_cache(path) if keep else None
    shutil.rmtree(workdir / FOLDER, ignore_errors=True)
    if cached is not None:
        features = {name: t for name, t in cached.tensors.items() if not name.startswith("encoder/")}
        replace(cached, tensors=features).write(path)
