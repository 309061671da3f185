"""The page: one HTML file that needs nothing else, made by Jinja2 with everything escaped.

Style and script stand in the page and are named by their hashes in its content security policy, which forbids everything
else: nothing is fetched, and text that slipped through as markup would not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness import tables
from harness.registry import Suites
from harness.report import cells, claims, gather, media, plots
from harness.report.details import Blocks, detail, number, short
from harness.report.gather import Run
from harness.table_text import number as two_decimals

FOLDER = Path(__file__).parent
LARGEST = 15_000_000  # bytes of a page


def render(runs: list[Run], studies: Path, films: Path | None, suites: Suites) -> str:
    """The page as text."""
    style, script = ((FOLDER / name).read_text() for name in ("report.css", "report.js"))
    blocks = Blocks()
    data = {"runs": [groups(run, suites, blocks) for run in runs], "blocks": blocks.found}
    shown_films, large = media.films(films)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        policy=policy(style, script), style=Markup(style), script=Markup(script), data=embedded(data),
        runs=[shown(run, suites) for run in runs], figures=media.figures(runs, studies, suites), films=shown_films,
        film_notes=large, doubles=gather.doubles(runs), plot=plots,
        even=cells.EVEN, large=cells.LARGE,
    )  # fmt: skip


def policy(style: str, script: str) -> str:
    """The content security policy: this style, this script, pictures inside the page, nothing else."""

    def named(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src {named(style)}; script-src {named(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def embedded(value: Any) -> Markup:
    """JSON that can stand in a script element: nothing in it ends the element or is a number that JSON lacks."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def groups(run: Run, suites: Suites, blocks: Blocks) -> dict[str, Any]:
    """What a click shows of each (task, method) of a run: its records, or the command that makes them."""
    wanted = {
        (c.task, c.method) for part in shown_tables(run, suites) for row in part["rows"] for c in row["cells"] if c.task
    }
    found = {}
    for task, method in sorted(wanted | run.records.keys()):
        records = run.records.get((task, method), {})
        why = cells.reason(suites, task, method)
        found[f"{task}/{method}"] = {
            "title": f"{plots.title_of(suites, task)} · {plots.method_title(suites, method)}",
            "seeds": [detail(run, records[seed], blocks) for seed in sorted(records)],
            "planned": max(run.planned.get((task, method), 0), len(records)),
            "command": "" if why else cells.command(run, suites, task, [method]),
            "why": why,
        }
    return {"out": str(run.out), "groups": found}


def shown_tables(run: Run, suites: Suites) -> list[dict[str, Any]]:
    """The tables of a run as the template shows them."""
    shown = []
    for table in run.tables:
        block = suites.tables[table.name]
        columns = [
            {
                "method": m,
                "title": title,
                "role": cells.ROLES.get(suites.methods[m]["role"], "") if m in suites.methods else "",
            }
            for m, title in table.columns
        ]
        notes = [note for note in table.notes if not note.startswith(("left out:", "ours: mean"))]  # said elsewhere
        shown.append({
            "name": table.name, "title": table.title, "columns": columns, "notes": notes,
            "rows": cells.rows(run, table, block), "corner": table.corner,
            "known": sum(entry.known for row in table.entries.values() for entry in row.values()),
        })  # fmt: skip
    return shown


def shown(run: Run, suites: Suites) -> dict[str, Any]:
    """Everything of a run that the template shows."""
    done = list(run.all_done())
    failed = [found for group in run.records for found in run.failed(group)]
    made = shown_tables(run, suites)
    # a number that two tables print counts once
    printed = {
        (row["row"], c.method, c.metric): bool(c.ours)
        for t in made
        for row in t["rows"]
        for c in row["cells"]
        if c.task and c.paper
    }
    return {
        "out": str(run.out), "tables": made, "list": long_list(run, suites, made), "left_out": run.left_out,
        "facts": facts(run, done, failed, sum(printed.values()), len(printed)),
        "failed": [failure_of(found) for found in failed],
        "claims": claims.read(run, suites), "missing": missing(run, suites, made), "curves": plots.learning(run, suites),
        "behaviours": plots.behaviours(run, suites),
    }  # fmt: skip


def facts(run: Run, done: list[Any], failed: list[Any], filled: int, printed: int) -> list[tuple[str, str]]:
    """The line at the head of a run: (what, value)."""
    planned = max(sum(run.planned.values()), len(done) + len(failed))
    commits = {str(f.get("provenance", {}).get("git_commit") or "")[:7] for f in done} - {""}
    moments = [str(f.get("provenance", {}).get("finished") or "")[:10] for f in done]
    found = [
        ("cells done", f"{len(done)} of {planned}"),
        ("numbers of Tables 1 and 2 with ours", f"{filled} of {printed}"),
    ]
    if failed:
        found.insert(1, ("failed", str(len(failed))))
    if done:
        found.append(("budget", tables.joined(f["budget"] for f in done)))
        found.append(
            ("demonstrations", tables.joined(f"{f['data']['source']} ({f['data']['episodes']})" for f in done))
        )
        found.append(("simulation", tables.joined(f["backend"] for f in done)))
    if commits:
        found.append(
            ("commits", ", ".join(sorted(commits)[:3]) + (f" and {len(commits) - 3} more" if len(commits) > 3 else ""))
        )
    if any(moments):
        found.append(("latest record", max(moments)))
    return [(name, short(value, 160)) for name, value in found]


def failure_of(found: Any) -> dict[str, str]:
    """A failed cell as a line of the list of what is missing."""
    cell = found["cell"]
    return {"cell": f"{cell['task']}/{cell['method']}/{cell['seed']}", "why": short(cells.failure(found), 400)}


def long_list(run: Run, suites: Suites, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for every row and method of the tables, and for every further group that has records."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for table in made:
        for row in table["rows"]:
            for column, cell in zip(table["columns"], row["cells"], strict=True):
                if cell.task:
                    line = lines.setdefault((row["row"], cell.method), line_of(run, cell.task, row["title"], column))
                    line.setdefault("entropy" if cell.metric == "entropy" else "success", cell)
    for task, method in sorted(run.records.keys() - {(line["task"], line["method"]) for line in lines.values()}):
        column = {"method": method, "title": plots.method_title(suites, method), "role": ""}
        line = line_of(run, task, plots.title_of(suites, task), column)
        lines[task, method] = line | {m: own_view(run, task, method, m, line) for m in ("success", "entropy")}
    return [{"success": None, "entropy": None} | line for line in lines.values()]


def own_view(run: Run, task: str, method: str, metric: str, line: dict[str, Any]) -> cells.View:
    """A cell of a group that no table has."""
    values = tuple(float(f["metrics"][metric]) for f in run.done((task, method)) if metric in f["metrics"])
    entry = tables.Entry(task, method, metric, values, run.planned.get((task, method), 0))
    return cells.view(run, task, (line["title"], line["method_title"]), entry, (False, False))


def line_of(run: Run, task: str, title: str, column: dict[str, str]) -> dict[str, Any]:
    """What a line says besides its metrics: means over the finished records."""
    done = run.done((task, column["method"]))

    def mean(section: str, key: str) -> float | None:
        values = [number(f[section].get(key)) for f in done if isinstance(f.get(section), dict)]
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if known else None

    nats, distance = mean("likelihood", "nats_per_action"), mean("quality", "energy_distance")
    seconds = mean("timings", "train_s")
    sizes = [number(f.get("parameters")) for f in done]
    size = sizes[0] if sizes else None
    state = "done" if done else "failed" if run.failed((task, column["method"])) else "missing"
    return {
        "task": task, "title": title, "method": column["method"], "method_title": column["title"], "role": column["role"],
        "state": state, "n": len(done), "planned": max(run.planned.get((task, column["method"]), 0), len(done)),
        "extra": [
            (nats, "" if nats is None else two_decimals(nats)),
            (distance, "" if distance is None else f"{distance:.3f}"),
            (size, "" if size is None else f"{size / 1e6:.2f} M"),
            (seconds, "" if seconds is None else duration(seconds)),
        ],
    }  # fmt: skip


def duration(seconds: float) -> str:
    """`42 s`, `12.4 min` or `3.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def missing(run: Run, suites: Suites, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each task with empty cells: the methods that lack records, and the command that makes them, or why there is none."""
    lacking: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for table in made:
        for row in table["rows"]:
            for cell in row["cells"]:
                if not cell.task:
                    continue
                names.setdefault(
                    cell.task, plots.title_of(suites, cell.task) if cell.task in suites.tasks else row["title"]
                )
                if cell.state in ("missing", "part", "failed") and cell.method not in lacking.setdefault(cell.task, []):
                    lacking[cell.task].append(cell.method)
    found = []
    for task, methods in lacking.items():
        able = [m for m in methods if not cells.reason(suites, task, m)]
        titles = ", ".join(plots.method_title(suites, m) for m in methods)
        if able:
            line = {"command": cells.command(run, suites, task, able), "why": ""}
            found.append({"task": names[task], "methods": titles} | line)
        elif methods:
            line = {"command": "", "why": cells.reason(suites, task, methods[0])}
            found.append({"task": names[task], "methods": titles} | line)
    return found
