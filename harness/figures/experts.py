"""Figure 4: paths of VDD on Avoiding with Z = 1, 2, 4, 8 experts, coloured by expert, and each expert of Z = 8 alone.

    <root>/experts/<Z>/traces/avoiding/<method>/<seed>.json        (harness/figures/traces.py)

As in the paper a colour is the expert of highest gating probability in that state, while the expert that acts is drawn from
the gating. A trace that is not there is made from the trained weights of the same folder, where those are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import record, sealed
from harness.errors import UserError
from harness.figures import style

METHOD, TASK = "vdd_ve", "avoiding"
SIZES = (1, 2, 4, 8)
ALONE = 8  # the student whose experts are shown one by one
SCHEMA = 1
LONGEST = 20_000  # points of a path
Trace = dict[str, Any]


@dataclass(frozen=True)
class Traces:
    """Number of experts -> trace, and what is missing, a line each."""

    by_size: dict[int, Trace]
    missing: list[str]

    def __bool__(self) -> bool:
        return bool(self.by_size)


def trace_path(out: Path, key: str) -> Path:
    """Where the trace of cell `key` lies in a run's folder."""
    return out / "traces" / f"{key}.json"


def read_trace(path: Path) -> Trace:
    """A trace, its seal and its shapes checked. Raises Damaged, and OSError where there is no file."""
    trace = sealed.read_json(path)
    if trace.get("schema") != SCHEMA:
        raise sealed.Damaged(f"has schema {str(trace.get('schema'))[:20]!r}; this version reads {SCHEMA}")
    try:
        for episode in trace["episodes"]:
            xy, experts = np.array([episode["x"], episode["y"]], float), np.array(episode["likeliest"], int)
            if xy.shape != (2, len(experts) + 1) or not len(experts) < LONGEST or not np.isfinite(xy).all():
                raise ValueError
            if not ((experts >= 0) & (experts < trace["experts"])).all():
                raise ValueError
        scene = trace["scene"]
        (
            np.array(scene["obstacles"], float).reshape(-1, 3),
            float(scene["finish"]),
            np.array(scene["start"], float).reshape(2),
        )
        str(trace["made_from"]["weights"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise sealed.Damaged("is no trace of paths and experts") from None
    return trace


def load(root: Path, make: bool = False, method: str = METHOD) -> Traces:
    """The traces below `root`, of the lowest seed that has a record. make: write those that are missing (torch)."""
    by_size, missing = {}, []
    for size in SIZES:
        out = root / "experts" / str(size)
        seeds = sorted(int(p.stem) for p in (out / "records" / TASK / method).glob("*.json") if p.stem.isdecimal())
        if not seeds:
            missing.append(f"no record of {method} on {TASK} in {out}")
            continue
        key = record.key_of(TASK, method, seeds[0])
        try:
            by_size[size] = one(out, key, make)
        except (UserError, sealed.Damaged) as error:
            missing.append(f"Z = {size}: {error}")
    return Traces(by_size, missing)


def one(out: Path, key: str, make: bool) -> Trace:
    """The trace of a cell. Raises UserError or Damaged saying why there is none."""
    path = trace_path(out, key)
    try:
        found = record.head(record.record_path(out, key), key)
    except record.InvalidRecord as error:
        raise UserError(f"{record.record_path(out, key)} {error}") from None
    if found["status"] != "done":
        raise UserError(f"{record.record_path(out, key)} is of a failed cell")
    try:
        trace = read_trace(path)
        if trace["made_from"]["weights"] == (found["weights"] or {}).get("sha256"):
            return trace
        why = f"{path} was made with other weights than {key} has now"
    except OSError:
        why = f"no trace {path}"
    except sealed.Damaged as error:
        why = f"{path} {error}"
    if not make:
        raise UserError(f"{why}: python -m harness figures --figure 4 writes it where the weights are")
    from harness.figures.traces import write_trace
    from harness.registry import load_suites

    return read_trace(write_trace(out, key, load_suites(), sorted(p for p in out.parents[1].glob("*/*") if p.is_dir())))


def colour(expert: int, colours: dict[str, str]) -> str:
    """An expert's colour; beyond the palette they repeat."""
    own = (*style.PALETTE[:6], style.BROWN, colours["ink"])  # no grey: that is the scene
    return own[expert % len(own)]


def draw(found: Traces, theme: str = "light") -> Any:
    """Above, a panel for each Z; below, the experts of Z = 8 one by one."""
    plt = style.pyplot()
    with style.themed(theme) as colours:
        figure = plt.figure(figsize=(10.2, 5.6), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.75, 1))
        for axis, size in zip(upper.subplots(1, len(SIZES)), SIZES, strict=True):
            panel(axis, found.by_size.get(size), colours)
            axis.set_title(f"Z = {size}")
        for expert, axis in enumerate(lower.subplots(1, ALONE)):
            trace = found.by_size.get(ALONE)
            panel(axis, trace, colours, expert)
            share = "" if trace is None else f"  {share_of(trace, expert):.0%}"
            axis.set_title(f"z{expert + 1}{share}", color=colour(expert, colours))
    return figure


def share_of(trace: Trace, expert: int) -> float:
    """The share of all states in which an expert is the likeliest."""
    states = np.concatenate([np.array(episode["likeliest"], int) for episode in trace["episodes"]])
    return float((states == expert).mean()) if len(states) else 0.0


def panel(axis: Any, trace: Trace | None, colours: dict[str, str], alone: int | None = None) -> None:
    """All paths of a trace; alone: one expert's part of them in its colour, the rest faint."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Circle

    axis.set(xticks=(), yticks=(), aspect="equal", xlim=(0.2, 0.82), ylim=(-0.31, 0.42))
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)
    if trace is None:
        axis.text(0.5, 0.5, "no trace", transform=axis.transAxes, ha="center", color=colours["soft"])
        return
    segments, experts = pieces(trace)
    tints = [colour(e, colours) if alone in (None, e) else colours["faint"] for e in experts]
    order = np.argsort(experts == alone, kind="stable") if alone is not None else np.arange(len(experts))
    axis.add_collection(
        LineCollection(
            list(segments[order]), colors=[tints[i] for i in order], linewidths=0.7, alpha=0.75, rasterized=True
        )
    )
    for x, y, radius in trace["scene"]["obstacles"]:
        axis.add_patch(Circle((x, y), radius, facecolor=colours["soft"], alpha=0.55, lw=0))
    axis.axhline(trace["scene"]["finish"], color=colours["soft"], lw=0.9, ls="--")
    axis.plot(*trace["scene"]["start"], "o", color=colours["ink"], ms=3)


def pieces(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Every step as a line (steps, 2 ends, xy) with the likeliest expert at its beginning (steps,)."""
    segments, experts = [np.zeros((0, 2, 2))], [np.zeros(0, int)]
    for episode in trace["episodes"]:
        xy = np.stack([episode["x"], episode["y"]], 1)
        segments.append(np.stack([xy[:-1], xy[1:]], 1))
        experts.append(np.array(episode["likeliest"], int))
    return np.concatenate(segments), np.concatenate(experts)


def figure(out: Path, root: Path) -> tuple[list[Path], list[str]]:
    """Draw Figure 4 into `out`: the paths and what is missing. Raises UserError without any trace or trained student."""
    found = load(root, make=True)
    if not found:
        raise UserError(f"nothing to draw below {root / 'experts'}: {'; '.join(found.missing[:2])}")
    return style.save(draw(found), out, "figure_4"), found.missing
