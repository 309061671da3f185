"""Files that are there whole or not at all, for caches that several processes may share.

A run's own files are written by `harness.record.write_atomic`, which a cell that has lost its lease may not call; a cache
belongs to no cell.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """Written under another name, then renamed: nobody sees half a file. It is readable as other files are. Raises OSError."""
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
