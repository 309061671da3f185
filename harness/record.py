"""Records: one JSON file a cell, written atomically, checked when read.

`<out>/records/<task>/<method>/<seed>.json`; working files under `<out>/work/<task>/<method>/<seed>/`.
The schema stands in docs/architecture.md. `checksum` is over everything else in the record.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import digest

SCHEMA = 1
NOT_COMPARED = ("timings", "provenance", "checksum")  # what may differ between two runs of one cell
KEYS: dict[str, Any] = {
    "schema": int,
    "cell": dict,
    "status": str,
    "error": (dict, type(None)),
    "budget": str,
    "backend": str,
    "config": dict,
    "config_hash": str,
    "metric_version": (int, str),
    "data": dict,
    "teacher": (dict, type(None)),
    "weights": (dict, type(None)),
    "metrics": dict,
    "episodes": dict,
    "training": dict,
    "parameters": (int, type(None)),
    "provenance": dict,
    "timings": dict,
    "checksum": str,
}
OPTIONAL: dict[str, Any] = {"likelihood": (dict, type(None)), "quality": (dict, type(None))}  # older records lack them

Record = dict[str, Any]


class InvalidRecord(ValueError):
    """A file that is not a whole, unaltered record of the cell that its path names."""


def key_of(task: str, method: str, seed: int) -> str:
    """A cell's identity, which is also its path below `records/` and `work/`."""
    return f"{task}/{method}/{seed}"


def record_path(out: Path, key: str) -> Path:
    """Where the record of cell `key` lies."""
    return out / "records" / f"{key}.json"


def work_path(out: Path, key: str) -> Path:
    """Where the working files of cell `key` lie."""
    return out / "work" / key


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, whenever the writer dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """NumPy scalars and arrays, tuples and paths -> what JSON has. A number that is not finite is a ValueError."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a record cannot hold the number {value}")
    return str(value) if isinstance(value, Path) else value


def checksum(record: Record) -> str:
    """SHA-256 of the record without its `checksum`."""
    return digest({k: v for k, v in record.items() if k != "checksum"})


def write(path: Path, record: Record) -> Record:
    """Write a record (one line a top-level key) and return it as a reader will see it."""
    record = plain(record)
    record["checksum"] = checksum(record)
    check(record)
    lines = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items())
    write_atomic(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return record


def refuse_constant(text: str) -> Any:
    """NaN and infinity are no JSON, though Python reads them."""
    raise InvalidRecord(f"holds the number {text}")


def read(path: Path, key: str | None = None) -> Record:
    """Read and check a record; InvalidRecord says what is wrong with it. `key`: the cell that it must belong to."""
    try:
        record = json.loads(path.read_bytes(), parse_constant=refuse_constant)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidRecord(f"is cut off or no JSON ({str(error)[:80]})") from None
    check(record)
    cell = record["cell"]
    if key is not None and key != f"{cell['task']}/{cell['method']}/{cell['seed']}":
        raise InvalidRecord(f"belongs to another cell, {cell['task']}/{cell['method']}/{cell['seed']}"[:200])
    return record


def check(record: Any) -> None:
    """The schema, the checksum and the lengths of the episode lists."""
    if not isinstance(record, dict):
        raise InvalidRecord("is no JSON object")
    if record.get("schema") != SCHEMA:
        raise InvalidRecord(f"has schema {str(record.get('schema'))[:20]!r}; this version reads {SCHEMA}")
    for name, kind in KEYS.items():
        if name not in record or not isinstance(record[name], kind):
            raise InvalidRecord(f"lacks {name!r}, or it has the wrong type")
    for name, kind in OPTIONAL.items():
        if name in record and not isinstance(record[name], kind):
            raise InvalidRecord(f"has a {name!r} of the wrong type")
    if record["cell"].keys() != {"task", "method", "seed"}:
        raise InvalidRecord("has a malformed 'cell'")
    if record["status"] not in ("done", "failed"):
        raise InvalidRecord(f"has status {record['status'][:20]!r}")
    if record["checksum"] != checksum(record):
        raise InvalidRecord("was altered: its checksum does not match")
    if record["status"] == "done" and len({len(v) for v in record["episodes"].values()}) > 1:
        raise InvalidRecord("has episode lists of different lengths")


def set_aside(path: Path, why: str) -> Path:
    """Rename a file to `<name>.<why>-N`, N being the first that is free, and return the new path."""
    for n in range(1, 10_000):
        target = path.with_name(f"{path.name}.{why}-{n}")
        if not target.exists():
            path.rename(target)
            return target
    raise FileExistsError(f"too many files set aside beside {path}")


def comparable(record: Record) -> Record:
    """The part of a record that every run of its cell must reproduce."""
    return {k: v for k, v in record.items() if k not in NOT_COMPARED}


@dataclass(frozen=True)
class State:
    """What is known of a cell from its record: `missing`, `done`, `failed`, `other` (another configuration) or `corrupt`."""

    name: str
    record: Record | None = None
    why: str = ""


def state(out: Path, key: str, config_hash: str) -> State:
    """Look up a cell's record. Only a `done` record of the very configuration makes the cell finished."""
    path = record_path(out, key)
    try:
        found = read(path, key)
    except (FileNotFoundError, NotADirectoryError):
        return State("missing")
    except InvalidRecord as error:
        return State("corrupt", why=str(error))
    if found["status"] == "failed":
        return State("failed", found, f"{found['error']['type']}: {found['error']['message']}")
    if found["config_hash"] != config_hash:
        return State("other", found, "was made with another configuration, data or teacher")
    return State("done", found)
