"""What the report shows, read from run folders: records, tables, plans, and every file that is no valid record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import plan, record, tables
from harness.errors import UserError
from harness.registry import Suites

MOST = 2000  # records read in full; of further ones the page has the numbers alone
NAMED = 50  # bad files that the page names
Group = tuple[str, str]  # (task, method)


@dataclass(frozen=True)
class Run:
    """One folder. `records`: (task, method) -> seed -> record, done or failed; `planned`: how many cells of a group."""

    source: tables.Source
    tables: list[tables.Table]
    records: dict[Group, dict[int, record.Record]]
    planned: dict[Group, int]
    left_out: list[str]

    @property
    def out(self) -> Path:
        return self.source.out

    def done(self, group: Group) -> list[record.Record]:
        """The finished records of a group, in order of seed."""
        found = self.records.get(group, {})
        return [found[seed] for seed in sorted(found) if found[seed]["status"] == "done"]

    def failed(self, group: Group) -> list[record.Record]:
        """The failed ones."""
        found = self.records.get(group, {})
        return [found[seed] for seed in sorted(found) if found[seed]["status"] == "failed"]

    def all_done(self) -> Iterator[record.Record]:
        """Every finished record."""
        for group in self.records:
            yield from self.done(group)


def read(source: tables.Source, suites: Suites) -> Run:
    """Everything of one folder. A folder that does not exist is a UserError; an empty one has nothing in it."""
    out = source.out
    if not out.is_dir():
        raise UserError(f"no folder {out}: nothing was run with this --out")
    records: dict[Group, dict[int, record.Record]] = {}
    bad: list[str] = []
    for number, path in enumerate(sorted((out / "records").glob("*/*/*.json"))):
        key = f"{path.parts[-3]}/{path.parts[-2]}/{path.stem}"
        try:
            found = record.read(path, key) if number < MOST else record.head(path, key)
        except (OSError, record.InvalidRecord) as error:
            bad.append(f"{path.relative_to(out)} {error}")
            continue
        cell = found["cell"]
        records.setdefault((cell["task"], cell["method"]), {})[cell["seed"]] = found
    cells, damaged = plan.saved(out)
    bad += [f"{path.relative_to(out)} {why}" for path, why in damaged]
    planned: dict[Group, int] = {}
    for cell in cells.values():
        group = (cell["task"], cell["method"])
        planned[group] = planned.get(group, 0) + 1
    if len(bad) > NAMED:
        bad = [*bad[:NAMED], f"and {len(bad) - NAMED} more: python -m harness validate names them"]
    return Run(source, tables.build(source, suites, list(suites.tables)), records, planned, bad)


def doubles(runs: list[Run]) -> list[str]:
    """Cells that have a finished record in more than one folder, a line each."""
    places: dict[str, list[str]] = {}
    for run in runs:
        for found in run.all_done():
            places.setdefault(record.key_of(**found["cell"]), []).append(str(run.out))
    return [f"{key}: {' and '.join(outs)}" for key, outs in sorted(places.items()) if len(outs) > 1]
