"""Folders for the tests of the report: an ordinary one, and one whose every text tries to be markup."""

from __future__ import annotations

import json
from pathlib import Path

from standins import write_plan, write_record

EVIL = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'>&amp;\"'\u2028"


def ordinary(out: Path) -> Path:
    """BESO on one seed, VDD-VE on three of four planned, one failed cell, curves and episodes."""
    write_record(out, "avoiding", "beso", 0, metrics={"success": 0.9, "entropy": 0.8})
    steps = list(range(0, 500, 5))
    for seed, success in enumerate((0.9, 0.95, 1.0)):
        curve = {"step": steps, "loss": [1 / (1 + step) for step in steps]}
        write_record(
            out, "avoiding", "vdd_ve", seed, metrics={"success": success, "entropy": 0.5, "length": 60.0},
            training={"curve": curve, "val": {"step": [0, 250], "loss": [2.0, 1.0]}, "steps": 500},
            episodes={"success": [True, True, False], "mode": ["a", "b", ""]}, parameters=1_457_578,
            provenance={"git_commit": "0123456789", "versions": {"torch": "2.13.0"}, "finished": "2026-01-02T03:04:05+00:00"},
        )  # fmt: skip
    write_record(out, "avoiding", "cd", 0, metrics={"success": 0.4, "entropy": 0.2})
    write_record(
        out, "avoiding", "ctm", 0, status="failed", metrics={}, episodes={}, teacher=None,
        error={"type": "FloatingPointError", "message": "loss is not finite", "log": "work/log.txt"},
    )  # fmt: skip
    write_plan(out, [{"task": "avoiding", "method": "vdd_ve", "seed": i, "config_hash": "h"} for i in range(4)])
    return out


def hostile(out: Path) -> Path:
    """Markup in every text that a record can hold, and files that are no records of their place."""
    given = {"cell": EVIL, "origin": EVIL, "sha256": EVIL}
    data = {"source": EVIL, "origin": EVIL, "identity": EVIL, "sha256": EVIL, "episodes": 96, "rows": 1}
    deep: dict = {}
    for _ in range(200):
        deep = {EVIL: deep}
    write_record(
        out, "avoiding", "vdd_ve", 0, budget=EVIL, backend=EVIL, config_hash=EVIL, teacher=given, data=data,
        config={EVIL: {EVIL: EVIL}, "eval": {"rollouts": 2}}, weights={"sha256": EVIL}, timings={EVIL: 1.0},
        provenance={"git_commit": EVIL, "finished": [EVIL], EVIL: deep, "versions": {EVIL: EVIL}},
        training={"curve": {"step": [EVIL], "loss": 3}, "val": [EVIL], EVIL: [[[[[[[[EVIL]]]]]]]]},
        episodes={"success": [True, True], "mode": [EVIL, "b"]}, metrics={"success": 0.5, EVIL: 1.0},
    )  # fmt: skip
    error = {"type": EVIL, "message": EVIL * 200, "log": EVIL}
    write_record(out, "avoiding", "cd", 0, status="failed", error=error, metrics={}, episodes={})
    write_record(out, "strange_task", "strange_method", 0)
    copy = write_record(out, "avoiding", "ctm", 0)
    copy.with_name("1.json").write_bytes(copy.read_bytes())  # two files of one cell
    changed(write_record(out, "avoiding", "em", 0), '"success": 0.5', '"success": NaN')
    changed(write_record(out, "avoiding", "imc", 0), '"schema": 1', f'"schema": {json.dumps(EVIL)}')
    changed(write_record(out, "avoiding", "vdd_vp", 0), '"total_s": 1.0', f'"train_s": {json.dumps(EVIL)}')
    changed(write_record(out, "avoiding", "mode", 0), '"parameters": 1', '"parameters": 1' + "0" * 400)
    return out


def changed(path: Path, old: str, new: str) -> None:
    """Replace text in a file that has it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
