"""Stand-ins for tests of the runner: cells that do nothing, records without training, a few demonstrations on disk."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness import cli, plan, record
from harness.config import digest


def make_demonstrations(root: Path, count: int = 6, rows: int = 70) -> Path:
    """Official-format Avoiding files: paths past the cylinders on both sides. Returns the data root."""
    folder = root / "d3il" / "avoiding" / "data"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        y = np.linspace(-0.25, 0.37, rows)
        x = 0.5 + (1 if i % 2 else -1) * (0.1 + 0.02 * i) * np.sin(np.linspace(0, np.pi, rows))
        desired = np.stack([x, y, np.full(rows, 0.12)], 1)  # (rows, 3) m
        actual = desired + rng.normal(0, 1e-3, desired.shape)
        (folder / f"env_{i:03d}_00.pkl").write_bytes(pickle.dumps({"robot": {"des_c_pos": desired, "c_pos": actual}}))
    return root


def call(*argv: str) -> int:
    """`python -m harness.run` in this process; returns the exit code."""
    from harness import run

    return cli.guarded(run.main, list(argv))


def verb(*argv: str) -> int:
    """`python -m harness` in this process; returns the exit code."""
    from harness import __main__ as verbs

    return cli.guarded(verbs.main, list(argv))


def done_record(
    task: str, method: str, seed: int, config_hash: str = "h", metrics: dict[str, float] | None = None, **changes: Any
) -> dict[str, Any]:
    """A record as a finished cell leaves it, without its checksum."""
    return {
        "schema": record.SCHEMA,
        "cell": {"task": task, "method": method, "seed": seed},
        "status": "done",
        "error": None,
        "budget": "smoke",
        "backend": "builtin",
        "config": {"gpt": {}, "hyper": {}, "train": {}, "eval": {"rollouts": 2}},
        "config_hash": config_hash,
        "metric_version": 1,
        "data": {"source": "scripted", "origin": "o", "identity": "i", "sha256": "s", "episodes": 96, "rows": 7000},
        "teacher": None,
        "weights": {"sha256": "w"},
        "metrics": {"success": 0.5, "entropy": 0.25} if metrics is None else metrics,
        "episodes": {"success": [True, False], "mode": ["a", ""]},
        "training": {},
        "parameters": 1,
        "provenance": {},
        "timings": {"total_s": 1.0},
    } | changes


def write_record(out: Path, *args: Any, **kwargs: Any) -> Path:
    """Write `done_record(...)` where it belongs."""
    content = done_record(*args, **kwargs)
    path = record.record_path(out, record.key_of(*content["cell"].values()))
    record.write(path, content)
    return path


def write_plan(out: Path, cells: list[dict[str, Any]]) -> Path:
    """A plan file as a run saves it, of cells given as task, method, seed and config_hash."""
    content = {"schema": 1, "budget": "smoke", "seeds": [0], "cells": [{"needs": [], **cell} for cell in cells]}
    path = out / "plans" / f"{digest(content)[:16]}.json"
    record.write_atomic(path, plan.plan_text(content))
    return path


def make_spec(out: Path, key: str, **options: Any) -> dict[str, Any]:
    """A spec with what the launcher reads of it; `options` reach the stand-in cell below."""
    task, method, seed = key.split("/")
    common = {
        "budget": "smoke",
        "backend": "builtin",
        "config": {},
        "config_hash": "h",
        "metric_version": 1,
        "data": {},
    }
    cell = {"key": key, "task": task, "method": method, "seed": int(seed), "out": str(out)}
    return common | cell | {"options": options}


def stand_in_cell(spec: dict[str, Any]) -> None:
    """A cell that does what its options say: sleep, fail, be killed, or leave a record."""
    options = spec["options"]
    trace = Path(spec["out"]) / "trace.txt"
    with trace.open("a") as file:
        file.write(f"begin {spec['key']} {os.getpid()}\n")
    time.sleep(options.get("sleep", 0))
    if options.get("fail"):
        raise FloatingPointError("loss is not finite")
    if options.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    write_record(Path(spec["out"]), spec["task"], spec["method"], spec["seed"])
    with trace.open("a") as file:
        file.write(f"end {spec['key']} {os.getpid()}\n")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False
