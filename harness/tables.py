"""The paper's tables from records: ours, the paper's number, the difference. Pure functions of records.

Mean ± standard deviation over seeds. The deviation is the population's (divided by n, NumPy's default, which is what the
released evaluation code of this field prints); the paper does not say which it used. With one seed there is none. The
interval in the CSV is the percentile bootstrap of the mean over seeds, and `z` the difference in units of the combined
standard error (harness/statistics.py; docs/metrics.md has the formulas).

Here: what every table is made of, and Tables 1 and 2. Tables 3, 6, 7: harness/tables_costs.py; 4 and 5:
harness/tables_settings.py.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import plan, record
from harness.errors import UserError, printable
from harness.registry import Suites
from harness.statistics import in_errors, interval, printed_error, standard_error
from harness.table_text import FORMATS, table_text

RESULTS = Path(__file__).parent.parent / "results"
PAPER = RESULTS / "paper"
PAPER_SEEDS = 4  # behind every printed deviation (section 5)
CSV_HEAD = (
    "table", "task", "method", "metric", "ours_mean", "ours_std", "n", "n_planned", "ci_low", "ci_high",
    "paper_mean", "paper_std", "diff", "ours_se", "paper_se", "z", "ours_text", "paper_text",
    "data", "budget", "backend", "teacher",
)  # fmt: skip
NAMED = 20  # bad files that a table names
RATES = ("success", "success_1", "success_2", "success_3")  # metrics that are shares of the rollouts

Found = dict[tuple[str, str], dict[int, record.Record]]  # (task, method) -> seed -> record


@dataclass(frozen=True)
class Source:
    """Where numbers come from: folder of a run, root of studies, folder of measurements."""

    out: Path
    studies: Path = RESULTS / "studies"
    measurements: Path = RESULTS / "measurements"


@dataclass(frozen=True)
class Entry:
    """One (row, column) of a table: our values by seed, what was planned, and the paper's number.

    rollouts, paper_rollouts: behind one value where it is a share of them, else 0. `text`, `paper_text`: where there is
    no number (words, ranges) what stands instead.
    """

    row: str
    method: str
    metric: str
    values: tuple[float, ...] = ()  # in order of seed
    planned: int = 0
    paper_mean: float | None = None
    paper_std: float | None = None
    rollouts: int = 0
    paper_rollouts: int = 0
    text: str = ""
    paper_text: str = ""
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

    @property
    def se(self) -> float | None:
        """Standard error of our mean."""
        return standard_error(self.values, self.rollouts)

    @property
    def paper_se(self) -> float | None:
        """Standard error of the paper's."""
        if self.paper_mean is None:
            return None
        return printed_error(self.paper_mean, self.paper_std, PAPER_SEEDS, self.paper_rollouts)

    @property
    def z(self) -> float | None:
        """The difference in units of the combined standard error."""
        return None if self.diff is None else in_errors(self.diff, self.se, self.paper_se)

    @property
    def known(self) -> bool:
        """Whether there is anything of ours."""
        return bool(self.values or self.text)


@dataclass(frozen=True)
class Table:
    """`entries[row][method]`; `titles` of rows and columns; `notes` for the footer.

    bold, underline: the columns among which a row's best is marked; digits: behind the point; corner: head of the rows.
    """

    name: str
    title: str
    rows: list[tuple[str, str]]  # (row, title)
    columns: list[tuple[str, str]]  # (method, title)
    entries: dict[str, dict[str, Entry]]
    notes: list[str] = field(default_factory=list)
    bold: tuple[str, ...] = ()
    underline: tuple[str, ...] = ()
    digits: int = 2
    corner: str = "Task"

    def present(self) -> Table:
        """Without the rows and columns that have no record."""
        rows = [r for r in self.rows if any(e.known for e in self.entries[r[0]].values())]
        columns = [c for c in self.columns if any(self.entries[r[0]][c[0]].known for r in rows)]
        return replace(self, rows=rows, columns=columns)

    def best(self, row: str, among: tuple[str, ...]) -> set[str]:
        """The columns with the row's highest mean as printed, ties included; none where fewer than two have one."""
        shown = {
            column: round(mean, self.digits) for column in among
            if column in self.entries[row] and (mean := self.entries[row][column].mean) is not None
        }  # fmt: skip
        return {column for column, mean in shown.items() if mean == max(shown.values())} if len(shown) > 1 else set()


def read_records(out: Path, more: tuple[str, ...] = ()) -> tuple[Found, list[str]]:
    """Every done record below `out`, its head and the keys `more`; and a line for each file that is no valid record."""
    found: Found = {}
    bad = []
    for path in sorted((out / "records").glob("*/*/*.json")):
        try:
            entry = record.head(path, f"{path.parts[-3]}/{path.parts[-2]}/{path.stem}", more)
        except (OSError, record.InvalidRecord) as error:
            bad.append(f"left out: {path.relative_to(out)} {error}")
            continue
        if entry["status"] == "done":
            cell = entry["cell"]
            found.setdefault((cell["task"], cell["method"]), {})[cell["seed"]] = entry
    return found, bad


def paper_lines(name: str) -> list[dict[str, str]]:
    """The lines of a CSV of printed numbers."""
    with (PAPER / name).open(newline="") as file:
        return list(csv.DictReader(file))


def read_paper(name: str) -> dict[tuple[str, str, str], tuple[float, float | None]]:
    """A CSV of printed numbers: (row, method, metric) -> (mean, std or None)."""
    return {
        (line["task"], line["method"], line["metric"]): (
            float(line["mean"]), float(line["std"]) if line["std"] else None,
        )
        for line in paper_lines(name)
    }  # fmt: skip


def build(source: Source | Path, suites: Suites, names: list[str]) -> list[Table]:
    """The named tables from the records in a folder (a Path: that of a run)."""
    from harness import tables_costs, tables_settings

    source = source if isinstance(source, Source) else Source(source)
    found, bad = read_records(source.out, ("parameters", "timings", "training", "provenance") if "6" in names else ())
    cells, damaged = plan.saved(source.out)
    bad += [f"left out: {path.relative_to(source.out)} {why}" for path, why in damaged]
    if len(bad) > NAMED:
        bad = [*bad[:NAMED], f"and {len(bad) - NAMED} more files left out: python -m harness validate names them"]
    planned: dict[tuple[str, str], int] = {}
    for cell in cells.values():
        group = (cell["task"], cell["method"])
        planned[group] = planned.get(group, 0) + 1
    makers = {
        "inference": tables_costs.inference, "hours": tables_costs.hours, "experts": tables_costs.experts,
        "hyper": tables_settings.hyper, "steps": tables_settings.steps,
    }  # fmt: skip
    return [
        build_one(name, suites, found, planned, bad)
        if (kind := suites.tables[name].get("kind", "grid")) == "grid"
        else makers[kind](name, suites, source, found)
        for name in names
    ]


def build_one(name: str, suites: Suites, found: Found, planned: dict[tuple[str, str], int], bad: list[str]) -> Table:
    """One table of tasks and methods."""
    block = suites.tables[name]
    paper = read_paper(block["paper"])
    methods, block_rows = (
        [*block["columns"], *others(suites, block, found)],
        [*block["rows"], *other_rows(suites, block, found)],
    )
    entries: dict[str, dict[str, Entry]] = {}
    used: list[tuple[str, record.Record]] = []
    for row in block_rows:
        entries[row["row"]] = {}
        for method in methods:
            by_seed = found.get((row["task"], method), {})
            mine = [by_seed[seed] for seed in sorted(by_seed) if row["ours"] in by_seed[seed]["metrics"]]
            used += [(row["title"], entry) for entry in mine]
            mean, std = paper.get((row["row"], method, row["metric"]), (None, None))
            entries[row["row"]][method] = Entry(
                row["row"], method, row["metric"],
                tuple(float(entry["metrics"][row["ours"]]) for entry in mine),
                max(planned.get((row["task"], method), 0), len(mine)), mean, std,
                **rollouts_of(suites, row, mine), **origin(mine),
            )  # fmt: skip
    rows = [(row["row"], row["title"]) for row in block_rows]
    columns = [(m, suites.methods[m]["title"] if m in suites.methods else m.upper()) for m in methods]
    bold, underline = (tuple(block.get(mark, ())) for mark in ("bold", "underline"))
    return Table(name, block["title"], rows, columns, entries, footer(used, bold, underline) + bad, bold, underline)


def others(suites: Suites, block: dict[str, Any], found: Iterable[tuple[str, str]]) -> list[str]:
    """Methods that no table of the paper has but that have a record in a task of this one, where its block asks for them."""
    known = {method for table in suites.tables.values() for method in table.get("columns", ())}
    tasks = {row["task"] for row in block["rows"] + other_rows(suites, block, found)}
    return sorted({method for task, method in found if task in tasks} - known) if block.get("others") else []


def other_rows(suites: Suites, block: dict[str, Any], found: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows for tasks that have records and stand in no table of the paper, where the block asks for others."""
    known = {row["task"] for table in suites.tables.values() for row in table.get("rows", ()) if "task" in row}
    metric = block["rows"][-1]["metric"]
    tasks = sorted({task for task, _ in found} - known) if block.get("others") else []
    return [{"row": t, "task": t, "title": task_title(suites, t), "metric": metric, "ours": metric} for t in tasks]


def task_title(suites: Suites, task: str) -> str:
    """A task's title; its name where the suites do not know it (a plug-in's that is gone)."""
    return str(suites.tasks[task]["title"]) if task in suites.tasks else task


def rollouts_of(suites: Suites, row: dict[str, Any], mine: list[record.Record]) -> dict[str, Any]:
    """Rollouts behind one value of ours and of the paper's (the original evaluation's number), where it is a rate."""
    if row["ours"] not in RATES:
        return {}
    ours = min((entry["config"]["eval"].get("rollouts", 0) for entry in mine if "eval" in entry["config"]), default=0)
    return {"rollouts": ours, "paper_rollouts": suites.tasks.get(row["task"], {}).get("rollouts", 0)}


def origin(mine: list[record.Record]) -> dict[str, Any]:
    """Which data, budget, back end and teacher the records of an entry are from."""
    return {
        "data": joined(entry["data"]["source"] for entry in mine),
        "budget": joined(entry["budget"] for entry in mine),
        "backend": joined(entry["backend"] for entry in mine),
        "teacher": joined(teacher_text(entry) for entry in mine if entry["teacher"]),
    }


def joined(values: Any) -> str:
    """The different values, sorted, joined by `+`."""
    return "+".join(sorted(set(values)))


def teacher_text(entry: record.Record) -> str:
    """`shipped` or `trained`; with the teacher's name where it is not the method's usual one."""
    other = entry["config"].get("teacher")
    return (f"{other['method']} " if other else "") + str(entry["teacher"]["origin"])


def other_teachers(used: list[tuple[str, record.Record]]) -> list[str]:
    """A line for each method whose students distil another teacher than usual."""
    pairs = {(e["cell"]["method"], e["config"]["teacher"]["method"]) for _, e in used if "teacher" in e["config"]}
    return [f"{method} distils {teacher}, not its usual teacher" for method, teacher in sorted(pairs)]


def provenance(used: list[tuple[str, record.Record]]) -> list[str]:
    """A line for each combination of demonstrations, budget and back end, with the rows that it stands behind."""
    groups: dict[str, list[str]] = {}
    for title, entry in used:
        data = f"{entry['data']['source']} ({entry['data']['episodes']} episodes)"
        text = f"demonstrations: {data}; budget: {entry['budget']}; simulation: {entry['backend']}"
        if title not in groups.setdefault(text, []):
            groups[text].append(title)
    return [text if len(groups) == 1 else f"{', '.join(titles)}: {text}" for text, titles in groups.items()]


def footer(
    used: list[tuple[str, record.Record]], bold: tuple[str, ...] = (), underline: tuple[str, ...] = ()
) -> list[str]:
    """What a reader must know to read the numbers; `bold`, `underline`: the columns that compete for the marks."""
    if not used:
        return ["no records yet"]
    marks = "; bold: best of those with a record" if bold else ""
    if underline:
        marks = "; bold: best distilled, underlined: best but for the teachers, of those with a record"
    return [
        *provenance(used),
        "ours: mean ± standard deviation over seeds (paper, difference, difference in combined standard errors σ); "
        f"n: fewer seeds than planned; --: no record{marks}",
        *other_teachers(used),
    ]


def csv_rows(table: Table) -> list[list[str]]:
    """The table in long form, one row an entry; an absent number is an empty field."""

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.6g}" if abs(value) < 1e6 else f"{value:.10g}"

    lines = [list(CSV_HEAD)]
    for row, _ in table.rows:
        for method, _ in table.columns:
            e = table.entries[row][method]
            low, high = interval(e.values) or (None, None)
            numbers = [text(e.mean), text(e.std), str(len(e.values)), str(e.planned), text(low), text(high)]
            paper = [text(e.paper_mean), text(e.paper_std), text(e.diff), text(e.se), text(e.paper_se), text(e.z)]
            words = [e.text, e.paper_text, e.data, e.budget, e.backend, e.teacher]
            lines.append([table.name, row, method, e.metric, *numbers, *paper, *words])
    return lines


def render(table: Table, form: str) -> str:
    """The table as text in `form`: csv, md, latex or text."""
    if form == "csv":
        return "\n".join(",".join(csv_field(field) for field in line) for line in csv_rows(table)) + "\n"
    return table_text(table, form)


def csv_field(text: str) -> str:
    """Quoted where CSV needs it; a line's end becomes a space, and what a spreadsheet would take for a formula stays text."""
    text = printable(text.replace("\n", " ").replace("\r", " "))
    text = "'" + text if text[:1] in ("=", "@", "+", "-") and not is_number(text) else text
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"') else text


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write(out: Path, tables: list[Table]) -> list[Path]:
    """Every table in every format below `<out>/tables/`."""
    paths = []
    for table in tables:
        for form, (ending, _) in FORMATS.items():
            path = out / "tables" / f"table_{table.name}.{ending}"
            record.write_atomic(path, render(table, form))
            paths.append(path)
    return paths


def of_records(suites: Suites) -> list[str]:
    """The tables whose cells are tasks and methods: 1 and 2."""
    return [name for name, block in suites.tables.items() if block.get("kind", "grid") == "grid"]


def summary(out: Path, suites: Suites) -> list[str]:
    """Write Tables 1 and 2, and return as plain lines those that have records, cut to the rows and columns that do."""
    tables = build(out, suites, of_records(suites))
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
