"""The paper's Tables 1 and 2 from records: ours, the paper's number, the difference. Pure functions of records.

Mean ± standard deviation over seeds. The deviation is the population's (divided by n, NumPy's default, which is what the
released evaluation code of this field prints); the paper does not say which it used. With one seed there is none.
The interval in the CSV is a bootstrap of the mean over seeds (SciPy, percentile, 95 %, 9,999 resamples, fixed seed), from
two seeds on (from 500 values on: its normal approximation).
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import plan, record
from harness.errors import UserError
from harness.registry import Suites
from harness.table_text import FORMATS, table_text

PAPER = Path(__file__).parent.parent / "results" / "paper"
CSV_HEAD = (
    "table", "task", "method", "metric", "ours_mean", "ours_std", "n", "n_planned", "ci_low", "ci_high",
    "paper_mean", "paper_std", "diff", "data", "budget", "backend", "teacher",
)  # fmt: skip
BOOTSTRAP_SEED = 0
MANY = 500  # values: more would cost the bootstrap seconds and gigabytes, and the mean of so many is normal
NAMED = 20  # bad files that a table names


@dataclass(frozen=True)
class Entry:
    """One (row, method) of a table: our values by seed, what was planned, and the paper's number."""

    row: str
    method: str
    metric: str
    values: tuple[float, ...] = ()  # in order of seed
    planned: int = 0
    paper_mean: float | None = None
    paper_std: float | None = None
    data: str = ""
    budget: str = ""
    backend: str = ""
    teacher: str = ""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        return statistics.pstdev(self.values) if len(self.values) > 1 else None

    @property
    def diff(self) -> float | None:
        return None if self.mean is None or self.paper_mean is None else self.mean - self.paper_mean


@dataclass(frozen=True)
class Table:
    """`entries[row][method]`; `titles` of rows and columns; `notes` for the footer."""

    name: str
    title: str
    rows: list[tuple[str, str]]  # (row, title)
    columns: list[tuple[str, str]]  # (method, title)
    entries: dict[str, dict[str, Entry]]
    notes: list[str] = field(default_factory=list)

    def present(self) -> Table:
        """Without the rows and columns that have no record."""
        rows = [r for r in self.rows if any(e.values for e in self.entries[r[0]].values())]
        columns = [c for c in self.columns if any(self.entries[r[0]][c[0]].values for r in rows)]
        return Table(self.name, self.title, rows, columns, self.entries, self.notes)


def read_records(out: Path) -> tuple[dict[tuple[str, str], dict[int, record.Record]], list[str]]:
    """Every done record below `out`: (task, method) -> seed -> its head; and a line for each file that is no valid record."""
    found: dict[tuple[str, str], dict[int, record.Record]] = {}
    bad = []
    for path in sorted((out / "records").glob("*/*/*.json")):
        try:
            entry = record.head(path, f"{path.parts[-3]}/{path.parts[-2]}/{path.stem}")
        except (OSError, record.InvalidRecord) as error:
            bad.append(f"left out: {path.relative_to(out)} {error}")
            continue
        if entry["status"] == "done":
            cell = entry["cell"]
            found.setdefault((cell["task"], cell["method"]), {})[cell["seed"]] = entry
    return found, bad


def read_paper(name: str) -> dict[tuple[str, str, str], tuple[float, float | None]]:
    """A CSV of printed numbers: (row, method, metric) -> (mean, std or None)."""
    with (PAPER / name).open(newline="") as file:
        return {
            (line["task"], line["method"], line["metric"]): (
                float(line["mean"]), float(line["std"]) if line["std"] else None,
            )
            for line in csv.DictReader(file)
        }  # fmt: skip


def build(out: Path, suites: Suites, names: list[str]) -> list[Table]:
    """The named tables from the records in `out`."""
    found, bad = read_records(out)
    cells, damaged = plan.saved(out)
    bad += [f"left out: {path.relative_to(out)} {why}" for path, why in damaged]
    if len(bad) > NAMED:
        bad = [*bad[:NAMED], f"and {len(bad) - NAMED} more files left out: python -m harness validate names them"]
    planned: dict[tuple[str, str], int] = {}
    for cell in cells.values():
        group = (cell["task"], cell["method"])
        planned[group] = planned.get(group, 0) + 1
    return [build_one(name, suites, found, planned, bad) for name in names]


def build_one(
    name: str,
    suites: Suites,
    found: dict[tuple[str, str], dict[int, record.Record]],
    planned: dict[tuple[str, str], int],
    bad: list[str],
) -> Table:
    """One table."""
    block = suites.tables[name]
    paper = read_paper(block["paper"])
    methods = [*block["columns"], *others(suites, block, found)]
    entries: dict[str, dict[str, Entry]] = {}
    used: list[record.Record] = []
    for row in block["rows"]:
        entries[row["row"]] = {}
        for method in methods:
            by_seed = found.get((row["task"], method), {})
            seeds = [seed for seed in sorted(by_seed) if row["ours"] in by_seed[seed]["metrics"]]
            mine = [by_seed[seed] for seed in seeds]
            used += mine
            mean, std = paper.get((row["row"], method, row["metric"]), (None, None))
            entries[row["row"]][method] = Entry(
                row["row"], method, row["metric"],
                tuple(float(entry["metrics"][row["ours"]]) for entry in mine),
                max(planned.get((row["task"], method), 0), len(mine)), mean, std,
                joined(entry["data"]["source"] for entry in mine),
                joined(entry["budget"] for entry in mine),
                joined(entry["backend"] for entry in mine),
                joined(teacher_text(entry) for entry in mine if entry["teacher"]),
            )  # fmt: skip
    rows = [(row["row"], row["title"]) for row in block["rows"]]
    columns = [(m, suites.methods[m]["title"] if m in suites.methods else m.upper()) for m in methods]
    return Table(name, block["title"], rows, columns, entries, footer(used) + bad)


def others(suites: Suites, block: dict[str, Any], found: Iterable[tuple[str, str]]) -> list[str]:
    """Methods that no table of the paper has but that have a record in a task of this one, where its block asks for them."""
    known = {method for table in suites.tables.values() for method in table["columns"]}
    tasks = {row["task"] for row in block["rows"]}
    return sorted({method for task, method in found if task in tasks} - known) if block.get("others") else []


def joined(values: Any) -> str:
    """The different values, sorted, joined by `+`."""
    return "+".join(sorted(set(values)))


def teacher_text(entry: record.Record) -> str:
    """`shipped` or `trained`; with the teacher's name where it is not the method's usual one."""
    other = entry["config"].get("teacher")
    return (f"{other['method']} " if other else "") + str(entry["teacher"]["origin"])


def other_teachers(used: list[record.Record]) -> list[str]:
    """A line for each method whose students distil another teacher than usual."""
    pairs = {(e["cell"]["method"], e["config"]["teacher"]["method"]) for e in used if "teacher" in e["config"]}
    return [f"{method} distils {teacher}, not its usual teacher" for method, teacher in sorted(pairs)]


def footer(used: list[record.Record]) -> list[str]:
    """What a reader must know to read the numbers."""
    if not used:
        return ["no records yet"]
    data = joined(f"{entry['data']['source']} ({entry['data']['episodes']} episodes)" for entry in used)
    return [
        f"demonstrations: {data}; budget: {joined(e['budget'] for e in used)}; "
        f"simulation: {joined(e['backend'] for e in used)}",
        "ours: mean ± standard deviation over seeds (paper, difference); n: fewer seeds than planned; --: no record",
        *other_teachers(used),
    ]


def interval(values: tuple[float, ...]) -> tuple[float, float] | None:
    """Bootstrap 95 % interval of the mean over seeds; None below two seeds. From MANY on the normal approximation of it."""
    if len(values) < 2:
        return None
    if len(set(values)) == 1:
        return values[0], values[0]
    if len(values) >= MANY:
        reach = 1.959964 * statistics.stdev(values) / math.sqrt(len(values))
        return statistics.fmean(values) - reach, statistics.fmean(values) + reach
    import numpy as np
    from scipy.stats import bootstrap

    rng = np.random.default_rng(BOOTSTRAP_SEED)
    result = bootstrap((np.asarray(values),), np.mean, method="percentile", n_resamples=9999, rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def csv_rows(table: Table) -> list[list[str]]:
    """The table in long form, one row an entry; an absent number is an empty field."""

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.6g}"

    lines = [list(CSV_HEAD)]
    for row, _ in table.rows:
        for method, _ in table.columns:
            e = table.entries[row][method]
            low, high = interval(e.values) or (None, None)
            numbers = [text(e.mean), text(e.std), str(len(e.values)), str(e.planned), text(low), text(high)]
            paper = [text(e.paper_mean), text(e.paper_std), text(e.diff)]
            lines.append([table.name, row, method, e.metric, *numbers, *paper, e.data, e.budget, e.backend, e.teacher])
    return lines


def render(table: Table, form: str) -> str:
    """The table as text in `form`: csv, md, latex or text."""
    if form == "csv":
        return "\n".join(",".join(csv_field(field) for field in line) for line in csv_rows(table)) + "\n"
    return table_text(table, form)


def csv_field(text: str) -> str:
    """Quoted where CSV needs it."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n\r') else text


def write(out: Path, tables: list[Table]) -> list[Path]:
    """Every table in every format below `<out>/tables/`."""
    paths = []
    for table in tables:
        for form, (ending, _) in FORMATS.items():
            path = out / "tables" / f"table_{table.name}.{ending}"
            record.write_atomic(path, render(table, form))
            paths.append(path)
    return paths


def summary(out: Path, suites: Suites) -> list[str]:
    """Write all tables, and return as plain lines those that have records, cut to the rows and columns that do."""
    tables = build(out, suites, list(suites.tables))
    write(out, tables)
    shown = [table.present() for table in tables]
    seen: set[str] = set()
    lines = []
    for table in shown:
        cells = tuple(f"{r}/{c}/{table.entries[r][c].metric}" for r, _ in table.rows for c, _ in table.columns)
        if cells and not seen.issuperset(cells):
            lines += ["", render(table, "text")]
        seen.update(cells)
    return lines


def choose(text: str | None, suites: Suites) -> list[str]:
    """`1` -> 1a and 1b; `1a` -> that; None -> all."""
    if text is None:
        return list(suites.tables)
    names = [name for name in suites.tables if text in (name, name.rstrip("abcd"))]
    if not names:
        raise UserError(f"no table {text[:20]!r}. Possible: {', '.join(suites.tables)}")
    return names
