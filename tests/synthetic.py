"""Records without training, as many as asked for, to measure what a folder of many cells costs.

    python tests/synthetic.py --out DIR --cells 100000 [--episodes 480]

They are those of a real plan (tasks avoiding and toy, every method, up to 10,000 seeds), with its hashes, so that a
run of that plan finds them done: the command is printed. Contents are made up; checksum and seal are right.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from envs.datasets import identify  # noqa: E402
from harness import plan, record  # noqa: E402
from harness.metrics import METRIC_VERSION  # noqa: E402
from harness.registry import load_suites  # noqa: E402

TASKS = ["avoiding", "toy"]
SEED, SUCCESS, ENTROPY = 987654321, 0.1234567891, 0.9876543219  # places in the template


def content(cell: plan.Cell, episodes: int) -> dict[str, Any]:
    """A record of a cell's (task, method) with SEED, SUCCESS and ENTROPY to be replaced."""
    rng = random.Random(cell.method)
    data = {"source": cell.data.source, "origin": "synthetic", "identity": cell.data.identity, "sha256": "0" * 64}
    given = None
    if cell.teacher is not None:
        given = {"cell": cell.teacher.cell, "origin": cell.teacher.origin, "sha256": "0" * 64}
    return {
        "schema": record.SCHEMA,
        "cell": {"task": cell.task, "method": cell.method, "seed": SEED},
        "status": "done", "error": None, "budget": "smoke", "backend": "builtin",
        "config": cell.config, "config_hash": cell.config_hash, "metric_version": METRIC_VERSION,
        "data": data | {"rows": 7000, "episodes": 96}, "teacher": given, "weights": {"sha256": "0" * 64},
        "metrics": {"success": SUCCESS, "entropy": ENTROPY, "length": 70.5, "return": 0.5},
        "episodes": {
            "context": [0] * episodes,
            "success": [rng.random() < 0.5 for _ in range(episodes)],
            "mode": [f"{rng.getrandbits(9):09b}" for _ in range(episodes)],
            "length": [rng.randrange(50, 120) for _ in range(episodes)],
            "return": [float(rng.random() < 0.5) for _ in range(episodes)],
        },
        "training": {"curve": {"step": list(range(100)), "loss": [rng.random() for _ in range(100)]}, "val": {}, "steps": 100},
        "parameters": 250_000, "provenance": {"device": "cpu", "threads": 1}, "timings": {"total_s": 1.0},
    }  # fmt: skip


class Template:
    """Both texts of a record, the canonical one that the checksum is over and the one in the file, with places to fill."""

    def __init__(self, made: dict[str, Any]):
        self.canonical = json.dumps(made, sort_keys=True, separators=(",", ":"))
        lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in made.items())
        self.layout = "{\n" + ",\n".join(lines) + ",\n"

    def fill(self, seed: int, success: float, entropy: float) -> bytes:
        def filled(text: str) -> str:
            for place, value in ((SEED, seed), (SUCCESS, success), (ENTROPY, entropy)):
                text = text.replace(json.dumps(place), json.dumps(value))
            return text

        checksum = hashlib.sha256(filled(self.canonical).encode()).hexdigest()
        body = (filled(self.layout) + f' "checksum": "{checksum}",\n').encode()
        return body + record.SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def generate(out: Path, count: int, episodes: int) -> list[str]:
    """Write `count` records and their plan; returns the options of the run that they are the records of."""
    suites = load_suites()
    methods = [name for name, block in suites.methods.items() if "tasks" not in block]
    each = sum(block["seeds"] == "all" for name, block in suites.methods.items() if name in methods) * len(TASKS)
    seeds = min(10_000, -(-count // each))
    request = plan.Request(TASKS, methods, list(range(seeds)), "smoke", {}, out, train_teachers=True)
    made = plan.build(suites, request, {task: plan.Data(*identify(task)) for task in TASKS}, METRIC_VERSION)
    rng = random.Random(0)
    templates: dict[tuple[str, str], Template] = {}
    for cell in made.cells[:count]:
        key = (cell.task, cell.method)
        if key not in templates:
            templates[key] = Template(content(cell, episodes))
            record.record_path(out, cell.key).parent.mkdir(parents=True, exist_ok=True)
        text = templates[key].fill(cell.seed, round(rng.random(), 6), round(rng.random(), 6))
        record.record_path(out, cell.key).write_bytes(text)
    plan.save(made, request.seeds)
    options = ["--tasks", ",".join(TASKS), "--methods", ",".join(methods), "--seeds", str(seeds), "--budget", "smoke"]
    return [*options, "--train-teachers", "--out", str(out)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=480)
    args = parser.parse_args()
    print("python -m harness.run", *generate(args.out, args.cells, args.episodes))
