"""Where a record comes from: code version, package versions, device. Nothing here identifies a machine or a person."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "scipy", "numba", "mujoco", "gymnasium", "safetensors")
ROOT = Path(__file__).parent.parent


def git(*arguments: str) -> str | None:
    """Output of a git command in the project's folder, or None where there is no git or no repository."""
    try:
        run = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def version(package: str) -> str | None:
    """A package's installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def provenance(device: str, threads: int, plugins: Iterable[str] = ()) -> dict[str, Any]:
    """The `provenance` of a record; `git_commit` and `git_dirty` are None outside a repository. `plugins`: distributions."""
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in (*PACKAGES, *plugins)},
        "device": device,
        "processor": platform.machine(),
        "threads": threads,
    }
