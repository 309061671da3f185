"""Cluster profiles: what a job asks SLURM for. `slurm/clusters.toml` explains every key and has examples."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.errors import UserError, unknown

CLUSTERS = Path(__file__).parent.parent / "slurm" / "clusters.toml"
EARLY = 60  # seconds by which SLURM may send a signal too early (sbatch's manual, --signal)
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")


@dataclass(frozen=True)
class Profile:
    """One block of clusters.toml. time: minutes; mem_gb: GiB; signal_s: seconds."""

    name: str = ""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    wckey: str | None = None
    time: int = 240
    gpus: int = 0
    cpus: int = 1
    mem_gb: float | None = None
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    signal_s: int = 120
    requeues: int = 100
    deaths: int = 3
    array_parallelism: int = 256
    cells_per_job: int = 1
    max_array: int = 1000
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low in LOWEST.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}. Got {getattr(self, name)}")
        if self.time * 60 <= self.signal_s + EARLY:
            raise ValueError(
                f"time must exceed signal_s by more than {EARLY} s, by which SLURM may signal early. "
                f"Got {self.time} min and {self.signal_s} s"
            )
        if taken := {"array", "dependency", "output", "error", "signal", "job-name"} & set(self.extra):
            raise ValueError(f"extra may not set {', '.join(sorted(taken))}, which the launcher sets")

    @property
    def has_gpu(self) -> bool:
        return self.gpus > 0 or (self.gres or "").startswith("gpu")


LOWEST = {
    "time": 1, "gpus": 0, "cpus": 1, "signal_s": 10, "requeues": 0, "deaths": 0, "array_parallelism": 1,
    "cells_per_job": 1, "max_array": 1,
}  # fmt: skip
KEYS = {f.name: f.type for f in fields(Profile) if f.name != "name"}


def minutes(value: Any) -> int:
    """SLURM's time formats (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S) as whole minutes, rounded up; else a ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'time must be minutes, "HH:MM:SS" or "D-HH:MM:SS". Got {value!r}')
    a, b, c = (None if match[k] is None else int(match[k]) for k in "abc")
    if match["days"] is not None:
        hours, mins, secs = a, b, c
    else:
        hours, mins, secs = (a, b, c) if c is not None else (0, a, b)
    seconds = ((int(match["days"] or 0) * 24 + (hours or 0)) * 60 + (mins or 0)) * 60 + (secs or 0)
    return -(-seconds // 60)


def load(path: Path, name: str | None, changes: Sequence[str] = ()) -> Profile:
    """Profile `name` of a file (None: a profile of defaults), with changes as `KEY=VALUE`.

    A missing or malformed file, an unknown profile or key and a bad value are UserErrors.
    """
    blocks = {} if name is None else read(path)
    if name is not None and name not in blocks:
        raise unknown("profile", name, blocks, f"in {path}")
    where = "of the default profile" if name is None else f"of profile {name} in {path}"
    block = dict(blocks.get(name or "", {})) | dict(change_of(text) for text in changes)
    for key, value in block.items():
        if key not in KEYS:
            raise unknown("key", key, KEYS, where)
        if key != "time" and not fits(value, str(KEYS[key])):
            raise UserError(f"{key} {where} must be {KEYS[key]}. Got {value!r}")
    try:
        if "time" in block:
            block["time"] = minutes(block["time"])
        return Profile(name or "", **block)
    except ValueError as error:
        raise UserError(f"{error} ({where})") from None


def change_of(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` of --resource; the value is TOML, or a bare word."""
    key, equals, value = text.partition("=")
    if not equals or not value:
        raise UserError(f"--resource takes KEY=VALUE, for example time=08:00:00. Got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return key, parsed if isinstance(
        parsed, (bool, int, float, str, list, dict)
    ) else value  # 08:00:00 is a time in TOML


def read(path: Path) -> dict[str, dict[str, Any]]:
    """All blocks of a file."""
    try:
        blocks = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"no cluster profiles in {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML: {error}") from None
    for name, block in blocks.items():
        if not isinstance(block, dict):
            raise UserError(f"{path}: {name} stands outside of a profile; write [profile] above it")
    return blocks


def fits(value: Any, kind: str) -> bool:
    """Whether a TOML value has a field's type, as written in Profile."""
    if kind == "list[str]":
        return isinstance(value, list) and all(isinstance(line, str) for line in value)
    if kind.startswith("dict"):
        return isinstance(value, dict) and all(isinstance(v, (str, int, float)) for v in value.values())
    if isinstance(value, bool):
        return False
    return isinstance(value, str) if "str" in kind else isinstance(value, (int, float) if "float" in kind else int)
