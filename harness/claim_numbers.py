"""The numbers that claims are judged by, behind one interface: the paper's printed ones, and those of our records.

Every number is a `Value`, a mean with its standard error (harness/statistics.py), or None where there is none. `row` is a
row of Tables 1 and 2 (results/paper/table1.csv), so `stacking_1`, not `stacking`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from harness import measurement, record, statistics, studies, tables
from harness.registry import Suites

TASK_OF = {
    "stacking_1": ("stacking", "_1"),
    "stacking_2": ("stacking", "_2"),
    "stacking_image": ("stacking_image", "_1"),
}
ROLLOUTS = {"kitchen": 100, "block_push": 100}  # section 5.1; the others': tasks.toml
VDD = ("vdd_ve", "vdd_vp")


@dataclass(frozen=True)
class Value:
    """A mean and its standard error; None: not known."""

    mean: float
    se: float | None = None


class Numbers(Protocol):
    """What a claim may ask for."""

    def cell(self, row: str, method: str, metric: str, table: int = 1) -> Value | None:
        """`success`, `entropy` or (Kitchen) `return` of Table 1 or 2."""

    def inference(self, task: str, method: str, nfe: int) -> Value | None:
        """Milliseconds an action with so many network evaluations (Table 3)."""

    def sampling(self, row: str, metric: str, steps: str) -> Value | None:
        """BESO with 16, 32 or 64 sampling steps (Table 5)."""

    def cost(self, experts: str, what: str) -> Value | None:
        """`parameters` or `seconds` for 1000 iterations of VDD with so many experts (Table 7)."""

    def study(self, name: str, variant: str, row: str, metric: str) -> Value | None:
        """VDD in a variant of a study (Figure 3); metric may also be `gating_entropy`, nats at the end of training."""

    def exact_likelihood(self, row: str) -> Value | None:
        """Share of VDD's policies whose likelihood is computed exactly."""

    def toy_modes(self) -> Value | None:
        """Share of the toy's modes that VDD covers (Figure 2)."""


class Paper:
    """The printed numbers. Figures 2 and 3 and the likelihood have none."""

    def __init__(self, suites: Suites):
        self.rollouts = ROLLOUTS | {name: block["rollouts"] for name, block in suites.tasks.items()}

    @cached_property
    def _cells(self) -> dict[int, dict[tuple[str, str, str], tuple[float, float | None]]]:
        return {number: tables.read_paper(f"table{number}.csv") for number in (1, 2)}

    def _value(self, row: str, metric: str, mean: float, std: float | None) -> Value:
        count = self.rollouts.get(TASK_OF.get(row, (row, ""))[0], 0) if metric == "success" else 0
        return Value(mean, statistics.printed_error(mean, std, tables.PAPER_SEEDS, count))

    def cell(self, row: str, method: str, metric: str, table: int = 1) -> Value | None:
        found = self._cells[table].get((row, method, metric))
        return None if found is None else self._value(row, metric, *found)

    def inference(self, task: str, method: str, nfe: int) -> Value | None:
        for line in tables.paper_lines("table3.csv"):
            if (line["task"], line["method"], int(line["nfe"])) == (task, method, nfe):
                return Value(float(line["milliseconds"]))
        return None

    def sampling(self, row: str, metric: str, steps: str) -> Value | None:
        for line in tables.paper_lines("table5.csv"):
            if (line["task"], line["metric"], line["steps"]) == (row, metric, steps):
                return self._value(row, metric, float(line["value"]), None)
        return None

    def cost(self, experts: str, what: str) -> Value | None:
        key = {"parameters": "parameters", "seconds": "seconds_per_1k_iterations"}[what]
        for line in tables.paper_lines("table7.csv"):
            if line["experts"] == experts:
                return Value(float(line[key]), 0.0 if what == "parameters" else None)
        return None

    def study(self, name: str, variant: str, row: str, metric: str) -> Value | None:
        return None

    def exact_likelihood(self, row: str) -> Value | None:
        return None

    def toy_modes(self) -> Value | None:
        return None


class Records:
    """Our records: a folder of a run, the root of studies, the folder of measurements."""

    def __init__(self, source: tables.Source, suites: Suites):
        self.source, self.suites = source, suites
        self._known: dict[tuple[str, str, str], Value | None] = {}  # several claims ask for the same cell

    @cached_property
    def _found(self) -> tables.Found:
        return tables.read_records(self.source.out)[0]

    @cached_property
    def _studies(self) -> studies.Loaded:
        return studies.load(self.source.studies)

    @cached_property
    def _measured(self) -> list[measurement.Measurement]:
        return measurement.read(self.source.measurements)[0]

    def _value(self, entries: list[record.Record], task: str, name: str, whole: bool) -> Value | None:
        """Mean over seeds of a metric; `whole`: the entries hold their episodes."""
        mine = [entry for entry in entries if name in entry["metrics"]]
        values = [float(entry["metrics"][name]) for entry in mine]
        if not values:
            return None
        if len(values) > 1:
            return Value(sum(values) / len(values), statistics.standard_error(values))
        block, cell = self.suites.tasks.get(task), record.key_of(*mine[0]["cell"].values())
        if block is None:  # a plug-in's that is gone
            return Value(values[0])
        one = mine[0] if whole else record.read(record.record_path(self.source.out, cell), cell)
        return Value(values[0], statistics.episode_error(block, one["episodes"], name))

    def cell(self, row: str, method: str, metric: str, table: int = 1) -> Value | None:
        if (row, method, metric) not in self._known:
            task, ending = TASK_OF.get(row, (row, ""))
            by_seed = self._found.get((task, method), {})
            entries = [by_seed[seed] for seed in sorted(by_seed)]
            self._known[row, method, metric] = self._value(entries, task, metric + ending, whole=False)
        return self._known[row, method, metric]

    def inference(self, task: str, method: str, nfe: int) -> Value | None:
        """The plain way of ours: eager, on a GPU where one was measured, weights not copied."""
        for device in ("cuda", "cpu"):
            for one in self._measured:
                for case in one["cases"] if one["task"] == task else []:
                    asked = (case["method"], case["nfe"], case["device"]) == (method, nfe, device)
                    if asked and case["mode"] == "eager" and not case["copies"]:
                        times = case["ms"]
                        return Value(sum(times) / len(times), statistics.standard_error(times))
        return None

    def sampling(self, row: str, metric: str, steps: str) -> Value | None:
        task, ending = TASK_OF.get(row, (row, ""))
        mine = self._studies.get("steps", {}).get(steps, {}).get((task, "beso"), [])
        return self._value(mine, task, metric + ending, whole=True)

    def _of_study(self, name: str, variant: str, task: str) -> list[record.Record]:
        """Records of the first VDD that the study was run with."""
        groups = self._studies.get(name, {}).get(variant, {})
        return next((groups[task, method] for method in VDD if (task, method) in groups), [])

    def cost(self, experts: str, what: str) -> Value | None:
        mine = self._of_study("experts", experts, "avoiding")
        if what == "parameters":
            sizes = [float(entry["parameters"]) for entry in mine if entry["parameters"]]
            return Value(sum(sizes) / len(sizes), 0.0) if sizes else None
        times = [
            1000 * entry["timings"]["train_s"] / entry["training"]["steps"]
            for entry in mine
            if entry["timings"].get("train_s") and entry["training"].get("steps")
        ]
        return Value(sum(times) / len(times), statistics.standard_error(times)) if times else None

    def study(self, name: str, variant: str, row: str, metric: str) -> Value | None:
        task, ending = TASK_OF.get(row, (row, ""))
        mine = self._of_study(name, variant, task)
        if metric != "gating_entropy":
            return self._value(mine, task, metric + ending, whole=True)
        ends = [curve[metric][-1] for entry in mine if (curve := entry["training"].get("curve", {})).get(metric)]
        return (
            Value(sum(ends) / len(ends), statistics.standard_error(ends) if len(ends) > 1 else None) if ends else None
        )

    def exact_likelihood(self, row: str) -> Value | None:
        task = TASK_OF.get(row, (row, ""))[0]
        kinds: list[bool] = []
        for method in VDD:
            for seed in self._found.get((task, method), {}):
                key = record.key_of(task, method, seed)
                found: dict[str, Any] | None = record.read(record.record_path(self.source.out, key), key).get(
                    "likelihood"
                )
                if found is not None:
                    kinds.append(found.get("kind") == "exact" and math.isfinite(found.get("nats_per_action", math.nan)))
        return Value(sum(kinds) / len(kinds), 0.0) if kinds else None

    def toy_modes(self) -> Value | None:
        by_seed = self._found.get(("toy", "vdd_ve"), {})
        shares = [e["metrics"]["modes_covered"] / 8 for e in by_seed.values() if "modes_covered" in e["metrics"]]
        if not shares:
            return None
        return Value(sum(shares) / len(shares), statistics.standard_error(shares) if len(shares) > 1 else None)
