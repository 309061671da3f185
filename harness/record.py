"""Records: one JSON file a cell, written atomically, checked when read.

`<out>/records/<task>/<method>/<seed>.json`; working files under `<out>/work/<task>/<method>/<seed>/`.
The schema stands in docs/architecture.md. `checksum` is over everything else in the record, whatever its layout; `seal`,
the last line, is over the bytes before it, so that a reader of a few keys (`head`) verifies the file without parsing it all.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import lease
from harness.config import digest
from harness.schema import NAME

SCHEMA = 1
NOT_COMPARED = ("timings", "provenance", "checksum", "seal")  # what may differ between two runs of one cell
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
OPTIONAL: dict[str, Any] = {  # older records lack them
    "likelihood": (dict, type(None)), "quality": (dict, type(None)), "recipe": dict, "seal": str,
}  # fmt: skip
LARGEST = 1e300  # a number beyond is none that was measured
SEAL = b' "seal": "'
TAIL = len(SEAL) + 64 + len(b'"\n}\n')  # bytes from the seal's line on
HEAD = (
    "schema", "cell", "status", "error", "budget", "backend", "config", "config_hash", "metric_version", "data", "teacher",
    "weights", "metrics", "checksum",
)  # fmt: skip

HEAD_SET, HEAD_LINES = set(HEAD), {f' "{name}"'.encode(): name for name in HEAD}
SHARED = {"config", "data", "teacher", "error"}  # the same in many records: parsed once, and one object in memory

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


def write_atomic(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new one, whenever the writer dies.

    A cell whose lease another runner has taken (`harness/lease.py`) raises LeaseLost and writes nothing. durable=False:
    without waiting for the disk, for what may be lost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")  # no process id: two machines may share one
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        lease.guard()
        part.replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # not for folders here
            raise
    finally:
        os.close(handle)


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
    """SHA-256 of the record without its `checksum` and `seal`."""
    return digest({k: v for k, v in record.items() if k not in ("checksum", "seal")})


def write(path: Path, record: Record) -> Record:
    """Write a record (one line a top-level key) and return it as a reader will see it."""
    record = {k: v for k, v in plain(record).items() if k not in ("checksum", "seal")}
    record["checksum"] = checksum(record)
    check(record)
    lines = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items())
    text = ("{\n" + ",\n".join(lines) + ",\n").encode()
    record["seal"] = hashlib.sha256(text).hexdigest()
    write_atomic(path, text + SEAL + record["seal"].encode() + b'"\n}\n')
    return record


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; a symbolic link, which may lead anywhere, is an InvalidRecord."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidRecord("is a symbolic link") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InvalidRecord("is no regular file")
    with open(handle, "rb") as file:
        return file.read()


def refuse_constant(text: str) -> Any:
    """NaN and infinity are no JSON, though Python reads them."""
    raise InvalidRecord(f"holds the number {text}")


def read(path: Path, key: str | None = None) -> Record:
    """Read and check a record; InvalidRecord says what is wrong with it. `key`: the cell that it must belong to."""
    return parse(read_bytes(path), key)


def parse(data: bytes, key: str | None = None) -> Record:
    """A record from its file's bytes, everything checked."""
    try:
        record = json.loads(data, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, a number of thousands of digits
        if isinstance(error, InvalidRecord):
            raise
        raise InvalidRecord(f"is cut off or no JSON ({str(error)[:80]})") from None
    check(record)
    if "seal" in record and not sealed(data):
        raise InvalidRecord("was altered: its seal does not match")
    check_owner(record, key)
    return record


def sealed(data: bytes) -> bool:
    """Whether a record's last line is the SHA-256 of the bytes before it."""
    body, tail = data[:-TAIL], data[-TAIL:]
    return tail == SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def check_owner(record: Record, key: str | None) -> None:
    """The record belongs to cell `key`."""
    cell = record["cell"]
    if key is not None and key != key_of(**cell):
        raise InvalidRecord(f"belongs to another cell, {cell['task']}/{cell['method']}/{cell['seed']}"[:200])


@functools.lru_cache(4096)
def shared(line: bytes) -> Any:
    """The value of a record's line."""
    return json.loads(line.partition(b'": ')[2].removesuffix(b","))


def head(path: Path, key: str | None = None, more: tuple[str, ...] = ()) -> Record:
    """The keys HEAD and `more` of a record, the whole file verified by its seal: ten times as fast as `read`.

    What many records have in common is one object in memory: not to be changed. A record without a seal (older ones), or
    whose seal does not match, goes through `read`, which says what is wrong.
    """
    data = read_bytes(path)
    if not sealed(data):
        return parse(data, key)
    own, record = [], {}
    wanted = HEAD_LINES | {f' "{name}"'.encode(): name for name in more} if more else HEAD_LINES
    try:
        for line in data[:-TAIL].split(b"\n"):
            name = wanted.get(line[: line.find(b":")])
            if name in SHARED:
                record[name] = shared(line)
            elif name is not None:
                own.append(line)
        record |= json.loads("{" + b"".join(own).decode().removesuffix(",") + "}")
    except (ValueError, RecursionError):
        return parse(data, key)  # which says what is wrong
    right = record.keys() == HEAD_SET.union(more) and all(isinstance(record[k], KEYS[k]) for k in record)
    if not right or record["schema"] != SCHEMA:
        return parse(data, key)
    check_inner(record)
    check_owner(record, key)
    return record


@functools.lru_cache(1024)
def matches(name: str) -> bool:
    return NAME.fullmatch(name) is not None


def is_name(value: Any) -> bool:
    """A task's or method's name: what can be a folder and nothing else."""
    return isinstance(value, str) and matches(value)


def check_cell(cell: Any) -> None:
    """`cell` names a cell, and nothing outside the folders of records."""
    if not isinstance(cell, dict) or cell.keys() != {"task", "method", "seed"}:
        raise InvalidRecord("has a malformed 'cell'")
    if not (is_name(cell["task"]) and is_name(cell["method"])) or type(cell["seed"]) is not int or cell["seed"] < 0:
        raise InvalidRecord("has a cell that no command can ask for")


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
    check_inner(record)
    if record["status"] not in ("done", "failed"):
        raise InvalidRecord(f"has status {record['status'][:20]!r}")
    try:
        right = record["checksum"] == checksum(record)
    except ValueError:  # 1e999 is read as infinity, which no record was written with
        right = False
    if not right:
        raise InvalidRecord("was altered: its checksum does not match")
    lists = record["episodes"].values()
    if record["status"] == "done" and not all(isinstance(v, list) for v in lists):
        raise InvalidRecord("has episodes that are no lists")
    if record["status"] == "done" and len({len(v) for v in lists}) > 1:
        raise InvalidRecord("has episode lists of different lengths")


def check_inner(record: Record) -> None:
    """What readers rely on inside the keys HEAD."""
    check_cell(record["cell"])
    error, data, teacher = record["error"], record["data"], record["teacher"]
    texts: list[Any] = []
    if record["status"] == "failed":
        texts += [error.get("type"), error.get("message")] if isinstance(error, dict) else [None]
    else:
        texts += [data.get("source")]
        texts += [] if teacher is None else [teacher.get(name) for name in ("cell", "origin", "sha256")]
        texts += [] if record["weights"] is None else [record["weights"].get("sha256")]
        texts += (
            [record["config"]["teacher"].get("method")] if isinstance(record["config"].get("teacher"), dict) else []
        )
        for name in ("metrics", "timings"):
            if not all(type(value) in (int, float) and abs(value) < LARGEST for value in record.get(name, {}).values()):
                raise InvalidRecord(f"has {name} that are no finite numbers")
        if (record.get("parameters") or 0) > LARGEST:
            raise InvalidRecord("has a number of parameters that no method has")
        if type(data.get("episodes")) is not int:
            raise InvalidRecord("does not say how many demonstrations it is from")
    if not all(isinstance(text, str) for text in texts) or not all(
        isinstance(v, dict) for v in record["config"].values()
    ):
        raise InvalidRecord("has a malformed error, data, teacher, weights or config")


def set_aside(path: Path, why: str) -> Path:
    """Rename a file to `<name>.<why>-N`, N being the first that is free, and return the new path.

    Two processes may do so at once: no file replaces another, and the second finds nothing (FileNotFoundError).
    """
    for n in range(1, 10_000):
        target = path.with_name(f"{path.name}.{why}-{n}")
        try:
            target.open("xb").close()  # the name is ours
        except FileExistsError:
            continue
        try:
            if path.is_dir() and not path.is_symlink():  # which replaces no file
                target.unlink()
                return path.rename(target)
            return path.replace(target)
        except OSError:
            target.unlink(missing_ok=True)
            raise
    raise FileExistsError(f"too many files set aside beside {path}")


def comparable(record: Record) -> Record:
    """The part of a record that every run of its cell must reproduce."""
    return {k: v for k, v in record.items() if k not in NOT_COMPARED}


@dataclass(frozen=True)
class State:
    """What is known of a cell from its record: `missing`, `done`, `failed`, `other` (another configuration) or `corrupt`.

    `record` has at least the keys HEAD.
    """

    name: str
    record: Record | None = None
    why: str = ""


def state(out: Path, key: str, config_hash: str) -> State:
    """Look up a cell's record. Only a `done` record of the very configuration makes the cell finished."""
    path = record_path(out, key)
    try:
        found = head(path, key)
    except (FileNotFoundError, NotADirectoryError):
        return State("missing")
    except InvalidRecord as error:
        return State("corrupt", why=str(error))
    if found["status"] == "failed":
        return State("failed", found, f"{found['error']['type']}: {found['error']['message']}")
    if found["config_hash"] != config_hash:
        return State("other", found, "was made with another configuration, data or teacher")
    return State("done", found)
