"""Shipped teachers: trained policies that come with the project, so that students need not wait for one.

`results/teachers/<source>/<task>/<method>.safetensors`, `.json` (what methods/policy.py saves) and `.record.json` (the
record of the cell that trained it). One is used when task, method, data and the gpt and hyper blocks match; the amount
of training may differ.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.config import Config, weights_key
from harness.errors import UserError
from harness.record import InvalidRecord, Record, read, record_path, work_path

TEACHERS = Path(__file__).parent.parent / "results" / "teachers"
WEIGHTS = "policy.safetensors"  # below a cell's working folder, with policy.json beside it


@dataclass(frozen=True)
class Shipped:
    """A shipped teacher that fits: the path of its weights and their SHA-256."""

    path: Path
    sha256: str


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def policy_sha256(path: Path) -> str:
    """SHA-256 over a policy's two files: the weights and the JSON beside them."""
    parts = file_sha256(path) + file_sha256(path.with_suffix(".json"))
    return hashlib.sha256(parts.encode()).hexdigest()


def find(
    root: Path, source: str, task: str, method: str, config: Config, sampling: list[str], identity: str
) -> Shipped | None:
    """The shipped teacher that fits, or None. One that fits but whose files were altered is a UserError."""
    base = root / source / task / method
    record_file = base.with_name(f"{method}.record.json")
    if not record_file.is_file():
        return None
    try:
        record = read(record_file, f"{task}/{method}/0")
    except InvalidRecord as error:
        raise UserError(f"{record_file} {error}: restore it, or pass --train-teachers") from None
    if record["data"].get("identity") != identity:
        return None
    if weights_key(record["config"], sampling) != weights_key(config, sampling):
        return None
    path = base.with_name(f"{method}.safetensors")
    if not path.is_file() or not path.with_suffix(".json").is_file() or policy_sha256(path) != sha256_in(record):
        raise UserError(f"{path} is not what its record says: restore it, or pass --train-teachers")
    return Shipped(path, sha256_in(record))


def sha256_in(record: Record) -> str:
    """The SHA-256 of the policy that a record's cell ended with; "" when it has none."""
    return (record["weights"] or {"sha256": ""})["sha256"]


def ship(out: Path, cells: list[str], root: Path) -> list[Path]:
    """Copy finished, trained teachers of a run folder to `root`; returns the paths of their weights."""
    shipped = []
    for key in cells:
        try:
            record = read(record_path(out, key), key)
        except (OSError, InvalidRecord) as error:
            raise UserError(f"{key} has no valid record in {out}: {error}") from None
        source = work_path(out, key) / WEIGHTS
        if record["status"] != "done" or not source.is_file() or policy_sha256(source) != sha256_in(record):
            raise UserError(f"{key} in {out} is not finished, or its weights are not those of its record")
        task, method, _ = key.split("/")
        target = root / record["data"]["source"] / task / f"{method}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copyfile(source.with_suffix(".json"), target.with_suffix(".json"))
        shutil.copyfile(record_path(out, key), target.with_name(f"{method}.record.json"))
        shipped.append(target)
    return shipped
