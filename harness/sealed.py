"""Working files that carry their own SHA-256: JSON (rollout chunks, the end of training) and safetensors (checkpoints).

A cut or altered file is `Damaged` for whoever reads it. Neither needs torch.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from harness.config import digest
from harness.record import InvalidRecord, read_bytes, refuse_constant, set_aside, write_atomic

UNSEALED = "0" * 64  # the metadata's `sha256` while the hash is taken
LARGEST_HEADER = 100_000_000  # bytes; what safetensors itself admits


class Damaged(ValueError):
    """A file that is not what was written; the message says what is wrong, without its path."""


REMARKS: list[str] = []  # of the cell that this process works on; they end up in its record's provenance


def put_away(path: Path, why: str) -> None:
    """Set a damaged working file aside, say so on stderr (the cell's log) and note it for the record."""
    remark = f"{path.name} {why}"
    try:
        remark += f"; set aside as {set_aside(path, 'corrupt').name}"
    except FileNotFoundError:
        remark += "; gone by now"
    REMARKS.append(remark)
    print(f"{path.parent}: {remark}", file=sys.stderr, flush=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with a `checksum` over everything else in it."""
    write_atomic(path, encoded(content | {"checksum": digest(content)}))


def encoded(sealed: dict[str, Any]) -> bytes:
    """The one way in which a sealed object is written."""
    return (json.dumps(sealed, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote, without the checksum. Raises Damaged, and OSError where there is no file."""
    try:
        data = read_bytes(path)
        content = json.loads(data, parse_constant=refuse_constant)
    except InvalidRecord as error:
        raise Damaged(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"is cut off or no JSON ({str(error)[:80]})") from None
    if not isinstance(content, dict) or "checksum" not in content:
        raise Damaged("is no JSON object with a checksum")
    try:
        whole = encoded(content) == data  # to the last blank
        right = content.pop("checksum") == digest(content)
    except ValueError:  # 1e999 is read as infinity, which was never written
        raise Damaged("was altered: it holds a number that is not finite") from None
    if not right or not whole:
        raise Damaged("was altered: its checksum does not match")
    return content


def seal_tensors(data: bytes) -> bytes:
    """A serialised safetensors file whose metadata has `sha256` = UNSEALED -> the same with the hash over all of it."""
    return data.replace(UNSEALED.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def check_tensors(data: bytes) -> dict[str, Any]:
    """The header of a file that `seal_tensors` made. Raises Damaged."""
    header = tensor_header(data)
    metadata = header.get("__metadata__")
    claimed = metadata.get("sha256") if isinstance(metadata, dict) else None
    if not isinstance(claimed, str) or len(claimed) != 64:
        raise Damaged("carries no SHA-256")
    place = data.find(claimed.encode())
    digest = hashlib.sha256(data[:place])
    digest.update(UNSEALED.encode())
    digest.update(memoryview(data)[place + 64 :])
    if digest.hexdigest() != claimed:
        raise Damaged("was altered or cut: its SHA-256 does not match")
    return header


def tensor_header(data: bytes) -> dict[str, Any]:
    """The JSON header of a safetensors file. Raises Damaged."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(LARGEST_HEADER, len(data) - 8):
        raise Damaged("is no safetensors file, or cut")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        raise Damaged("is no safetensors file: its header is no JSON") from None
    if not isinstance(header, dict):
        raise Damaged("is no safetensors file: its header is no JSON object")
    return header
