"""Table 4, hyper-parameters, from the suite files; and Table 5, BESO with more sampling steps, from the study `steps`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness import record, studies
from harness.config import Config, resolve
from harness.registry import Suites
from harness.tables import Entry, Found, Source, Table, footer, origin, paper_lines, rollouts_of


def hyper(name: str, suites: Suites, source: Source, found: Found) -> Table:
    """Table 4: our resolved value, and the paper's behind it where it is another one."""
    block = suites.tables[name]
    budget = budget_of(found)
    paper = {(line["method"], line["hyperparameter"]): line for line in paper_lines(block["paper"])}
    rows: list[tuple[str, str]] = []
    entries: dict[str, dict[str, Entry]] = {}
    for group in block["rows"]:
        for printed, key in group["keys"].items():
            row = f"{group['method']}/{printed}"
            rows.append((row, f"{group['title']}: {printed.replace('_', ' ')}"))
            methods = block["shared"] if group["method"] == "gpt" else [group["method"]]
            entries[row] = {}
            for task in block["tasks"]:
                theirs = paper[group["method"], printed][task]
                ours = value_text(suites, task, methods, key, budget)
                text = ours if same(ours, theirs) else theirs  # one notation for one value
                entries[row][task] = Entry(
                    row, task, printed, text=ours, paper_text=text, budget=budget if ours else ""
                )
    columns = [
        (t, suites.tasks[t]["title"] if t in suites.tasks else t.replace("_", " ").title()) for t in block["tasks"]
    ]
    notes = [
        f"ours (paper's where it differs), as resolved for budget {budget}",
        "several values: of different methods; --: no such task here",
    ]
    return Table(name, block["title"], rows, columns, entries, notes, corner="Hyper-parameter")


def budget_of(found: Found) -> str:
    """The budget of most records; `paper` without any."""
    counts = Counter(entry["budget"] for seeds in found.values() for entry in seeds.values())
    return counts.most_common(1)[0][0] if counts else "paper"


def value_text(suites: Suites, task: str, methods: list[str], key: str, budget: str) -> str:
    """The resolved value of a key, of several methods where they differ; "" for a task that is not there."""
    if task not in suites.tasks:
        return ""
    known = [method for method in methods if task in suites.methods[method].get("tasks", [task])]
    values = [shown(resolve(suites, task, method, budget), key) for method in known]
    return " / ".join(dict.fromkeys(values))


def shown(config: Config, key: str) -> str:
    """One value as the paper would print it: AdamW without weight decay is Adam."""
    (value,) = [section[key] for section in config.values() if key in section]
    if key == "optimizer":
        return "Adam" if value == "adamw" and config["train"]["weight_decay"] == 0 else str(value)
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def same(ours: str, theirs: str) -> bool:
    """Whether both mean one value."""
    try:
        return float(ours) == float(theirs)
    except ValueError:
        return ours == theirs


def steps(name: str, suites: Suites, source: Source, found: Found) -> Table:
    """Table 5: a teacher evaluated with more sampling steps; columns are their numbers."""
    block = suites.tables[name]
    variants = studies.load(source.studies).get(block["study"], {})
    paper = {
        (line["task"], line["metric"], line["steps"]): float(line["value"]) for line in paper_lines(block["paper"])
    }
    entries: dict[str, dict[str, Entry]] = {}
    used: list[tuple[str, record.Record]] = []
    for row in block["rows"]:
        entries[row["row"]] = {}
        for variant in block["variants"]:
            mine: list[Any] = variants.get(variant, {}).get((row["task"], block["method"]), [])
            mine = [entry for entry in mine if row["ours"] in entry["metrics"]]
            used += [(row["title"], entry) for entry in mine]
            entries[row["row"]][variant] = Entry(
                row["row"], variant, row["metric"], tuple(float(entry["metrics"][row["ours"]]) for entry in mine), len(mine),
                paper.get((row["row"], row["metric"], variant)), None, **rollouts_of(suites, row, mine), **origin(mine),
            )  # fmt: skip
    rows = [(row["row"], row["title"]) for row in block["rows"]]
    columns = [(variant, f"{variant} steps") for variant in block["variants"]]
    return Table(name, block["title"], rows, columns, entries, footer(used))
