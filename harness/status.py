"""`python -m harness status`: every cell that was planned or has a record, and how it stands."""

from __future__ import annotations

from pathlib import Path

from harness import progress, record
from harness.errors import UserError
from harness.plan import saved_cells

ORDER = ("running", "failed", "interrupted", "corrupt", "outdated", "missing", "done")


def states(out: Path) -> dict[str, tuple[str, str]]:
    """Cell key -> (state, detail); the states are those of ORDER.

    `interrupted`: began, has no record, and its process is gone. `outdated`: its record is of another configuration than
    the last plan's.
    """
    if not out.is_dir():
        raise UserError(f"no folder {out}: nothing was run with this --out")
    planned = saved_cells(out)
    keys = dict.fromkeys(planned)
    keys |= dict.fromkeys("/".join([*p.parts[-3:-1], p.stem]) for p in sorted((out / "records").glob("*/*/*.json")))
    return {key: state_of(out, key, planned.get(key, {}).get("config_hash")) for key in keys}


def state_of(out: Path, key: str, config_hash: str | None) -> tuple[str, str]:
    """One cell. A live progress file comes first: a cell that runs again still has its old record."""
    live = progress.read(record.work_path(out, key))
    if live is not None and progress.alive(live):
        return "running", progress.line(live)
    try:
        found = record.read(record.record_path(out, key), key)
    except FileNotFoundError:
        return ("interrupted", progress.line(live)) if live is not None else ("missing", "")
    except record.InvalidRecord as error:
        return "corrupt", str(error)
    if found["status"] == "failed":
        why = found["error"]
        log = f" (log: {out / why['log']})" if why.get("log") else ""
        return "failed", f"{why['type']}: {why['message']}{log}"
    if config_hash is not None and found["config_hash"] != config_hash:
        return "outdated", "made with another configuration, data or teacher than the last plan's"
    metrics = " · ".join(f"{k} {v:.2f}" for k, v in found["metrics"].items() if k in ("success", "entropy"))
    return "done", metrics


def lines(out: Path) -> list[str]:
    """The report: one line a cell, what needs attention first, then the counts."""
    found = states(out)
    if not found:
        return [f"nothing planned in {out}"]
    width = max(len(key) for key in found)
    rows = sorted(found.items(), key=lambda item: ORDER.index(item[1][0]))
    report = [f"{state:11}  {key:{width}}  {detail}".rstrip() for key, (state, detail) in rows]
    counts = [(name, sum(state == name for state, _ in found.values())) for name in ORDER]
    return [*report, ", ".join(f"{count} {name}" for name, count in counts if count) + f" of {len(found)} cells"]
