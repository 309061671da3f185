"""A fixed set of records, studies and a measurement, and all tables of them: tests/data/tables/ holds what must come out.

A change on purpose: `python tests/golden_tables.py` writes the files anew; read the difference before committing it.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
for folder in (ROOT, ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from standins import write_plan, write_record  # noqa: E402

from harness import measurement, tables  # noqa: E402
from harness.registry import Suites, load_suites  # noqa: E402

GOLDEN = ROOT / "tests" / "data" / "tables"
TASKS = ("avoiding", "aligning", "pushing", "stacking")  # whatever else the suites have by now
TRAINED = {"cell": "avoiding/beso/0", "origin": "trained", "sha256": "s"}


def suites() -> Suites:
    """The project's own, cut to TASKS."""
    whole = load_suites()
    return dataclasses.replace(whole, tasks={name: whole.tasks[name] for name in TASKS})


def make(root: Path) -> tables.Source:
    """The records: ties, missing cells, one seed, fewer seeds than planned, two kinds of data, a method of our own."""
    source = tables.Source(root / "run", root / "studies", root / "measurements")
    config = {"gpt": {}, "hyper": {}, "train": {}, "eval": {"rollouts": 480}}

    def put(task: str, method: str, *values: tuple[float, float], **changes: object) -> None:
        for seed, (success, entropy) in enumerate(values):
            metrics = {"success": success, "entropy": entropy}
            metrics |= {f"{name}_{n}": value / n for name, value in metrics.items() for n in (1, 2)}
            timings = {"train_s": 700.0 + 100 * seed, "total_s": 800.0}
            provenance = {"device": "cpu", "threads": 1}
            write_record(source.out, task, method, seed, metrics=metrics, config=config, timings=timings,
                         provenance=provenance, **{"teacher": None, **changes})  # fmt: skip

    put("avoiding", "beso", (0.95, 0.83))  # one seed
    put("avoiding", "vp1", (0.0, 0.0))
    put("avoiding", "cd", (0.901, 0.5), (0.899, 0.7), teacher=TRAINED)  # ties with the next at two decimals
    put("avoiding", "ctm", (0.9, 0.6), (0.9, 0.6), teacher=TRAINED)
    put("avoiding", "vdd_ve", (0.9, 0.9), (0.85, 0.8), (0.95, 1.0), teacher=TRAINED)  # three of four, same mean
    put("avoiding", "mode", (0.97, 0.92))
    put("avoiding", "em", (0.6, 0.2), (0.7, 0.1), (0.65, 0.15), (0.65, 0.15))
    put("avoiding", "imc", (0.65, 0.8))
    human = {"source": "official", "origin": "o", "identity": "i", "sha256": "s", "episodes": 1095, "rows": 9}
    put("stacking", "vdd_vp", (0.8, 0.1), (0.6, 0.3), data=human, budget="standard", teacher=TRAINED)
    write_plan(source.out, [{"task": "avoiding", "method": "vdd_ve", "seed": i, "config_hash": "h"} for i in range(4)])
    for experts, size in (("1", 1442300), ("2", 1444492), ("8", 1457578)):
        for seed in (0, 1):
            write_record(source.studies / "experts" / experts, "avoiding", "vdd_ve", seed, parameters=size,
                         provenance={"device": "cpu", "threads": 1}, training={"steps": 500},
                         timings={"train_s": 30.0 + seed, "total_s": 40.0})  # fmt: skip
    for number in ("16", "64"):
        metrics = {"success": 0.96, "entropy": 0.8}
        write_record(source.studies / "steps" / number, "avoiding", "beso", 0, metrics=metrics, config=config)
    measurement.write(source.measurements / "inference.json", {
        "schema": 1, "kind": "inference", "task": "pushing", "predictions": 40,
        "cases": [
            {"method": "beso", "nfe": 1, "device": "cpu", "mode": "eager", "copies": copies, "ms": times}
            for copies, times in ((False, [1.5, 1.7]), (True, [2.5, 2.7]))
        ] + [
            {"method": "beso", "nfe": 64, "device": "cpu", "mode": "eager", "copies": False, "ms": [60.0, 70.0]},
            {"method": "vdd", "nfe": 1, "device": "cpu", "mode": "compiled", "copies": False, "ms": [0.5]},
        ],
        "provenance": {"device": "Some Processor", "threads": 1, "versions": {"torch": "2.13.0"}, "load": 1.2},
    })  # fmt: skip
    return source


def rendered(root: Path) -> dict[str, str]:
    """File name -> text of every table in every format."""
    source, own = make(root), suites()
    built = tables.build(source, own, list(own.tables))
    return {
        f"table_{table.name}.{ending}": tables.render(table, form)
        for table in built
        for form, (ending, _) in tables.FORMATS.items()
    }


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in rendered(Path(scratch)).items():
            (GOLDEN / name).write_text(text)
