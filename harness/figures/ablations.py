"""Figure 3: the paper's ablations of VDD, from the records of studies.

    <root>/<study>/<variant>/records/<task>/<method>/<seed>.json

a: number of experts; b, c: success and entropy without and with a learned gating; d: at which noise levels the teacher's score
is taken. Means over seeds; bars of error: their standard deviation (the tables' one). A variant without records is a gap that
says so. The paper prints no numbers in this figure; hollow diamonds are numbers that it prints elsewhere: Table 1 for its
default setting (8 experts, learned gating, interval), section 5.5 for one expert (entropy 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import tables
from harness.errors import UserError
from harness.figures import style

METHOD = "vdd_ve"
EXPERTS = ("1", "2", "4", "8", "16", "32")
LEVELS = ("min", "max", "uniform", "interval")
NAMES = {"fixed": "without", "learned": "with"}  # what a variant's folder may be called as well
GATINGS = {"fixed": "1/Z for each expert", "learned": "learned gating"}
TASKS = {"avoiding": ("Avoiding", ""), "aligning": ("Aligning", ""), "stacking": ("Stacking", "_1")}  # metric's ending
DEFAULTS = {"experts": "8", "gating": "learned", "levels": "interval"}  # the variant that the paper's Table 1 has
METRICS = ("success", "entropy")
LOOK = {"success": (style.BLUE, "o", "-"), "entropy": (style.VERMILION, "s", "--")}
Points = dict[str, tables.Entry]  # variant -> our seeds and the paper's number


@dataclass(frozen=True)
class Ablations:
    """What Figure 3 shows: (study, task, metric) -> variant -> entry; and what it lacks, a line each."""

    points: dict[tuple[str, str, str], Points]
    missing: list[str]

    def __bool__(self) -> bool:
        return any(entry.values for points in self.points.values() for entry in points.values())


def load(root: Path, method: str = METHOD) -> Ablations:
    """The studies of `method` below `root`; variants without records have entries without values."""
    paper = tables.read_paper("table1.csv")
    points: dict[tuple[str, str, str], Points] = {}
    missing: list[str] = []
    wanted = {
        "experts": (EXPERTS, ["avoiding"]),
        "gating": (tuple(GATINGS), list(TASKS)),
        "levels": (LEVELS, ["avoiding"]),
    }
    for study, (variants, tasks) in wanted.items():
        for variant in variants:
            folder = root / study / variant
            folder = folder if folder.is_dir() else root / study / NAMES.get(variant, variant)
            found, bad = tables.read_records(folder)
            missing += [f"{study}/{variant}: {line}" for line in bad]
            for task in tasks:
                by_seed = found.get((task, method), {})
                if not by_seed:
                    missing.append(f"no records of {method} on {task} in {folder}")
                for metric in METRICS:
                    entry = entry_of(study, variant, task, method, metric, by_seed, paper)
                    points.setdefault((study, task, metric), {})[variant] = entry
    return Ablations(points, missing)


def entry_of(
    study: str, variant: str, task: str, method: str, metric: str, by_seed: dict[int, Any], paper: dict[Any, Any]
) -> tables.Entry:
    """One variant's seeds with the number that the paper prints for it, where it prints one."""
    key = metric + TASKS[task][1]
    values = tuple(float(by_seed[s]["metrics"][key]) for s in sorted(by_seed) if key in by_seed[s]["metrics"])
    printed = None
    if variant == DEFAULTS[study]:
        printed = paper.get((task + TASKS[task][1], method, metric), (None, None))[0]
    elif (study, variant, metric) == ("experts", "1", "entropy"):
        printed = 0.0
    return tables.Entry(variant, method, metric, values, len(values), printed)


def draw(found: Ablations, theme: str = "light") -> Any:
    """The four panels as a matplotlib figure."""
    plt = style.pyplot()
    with style.themed(theme) as colours:
        figure, axes = plt.subplots(1, 4, figsize=(10.2, 2.75), width_ratios=(1.35, 1, 1, 1.1), layout="constrained")
        lines(axes[0], found, colours)
        gatings(axes[1], found, "success", colours)
        gatings(axes[2], found, "entropy", colours)
        levels(axes[3], found, colours)
        titles = ("number of experts (Avoiding)", "gating: success", "gating: entropy", "noise levels (Avoiding)")
        for letter, title, axis in zip("abcd", titles, axes, strict=True):
            axis.set_title(f"({letter}) {title}", loc="left")
            style.percent_axis(axis)
        legend(figure, colours, plt)
    return figure


def legend(figure: Any, colours: dict[str, str], plt: Any) -> None:
    """One legend for all panels, below them."""
    line, patch = plt.Line2D, plt.Rectangle
    handles = [
        *(line([], [], color=LOOK[m][0], marker=LOOK[m][1], ls=LOOK[m][2], ms=4, label=m) for m in METRICS),
        patch(
            (0, 0),
            1,
            1,
            facecolor="none",
            edgecolor=colours["ink"],
            hatch="////",
            label=f"without ({GATINGS['fixed']})",
        ),
        patch((0, 0), 1, 1, facecolor=colours["soft"], label="with learned gating"),
        line([], [], color=colours["ink"], marker="D", mfc="none", ls="", ms=5, label="printed in the paper"),
        line([], [], color=colours["soft"], marker="x", ls="", ms=4, label="no records"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6)


def lines(axis: Any, found: Ablations, colours: dict[str, str]) -> None:
    """(a) success and entropy over the number of experts; a missing number interrupts the line."""
    places = range(len(EXPERTS))
    for metric in METRICS:
        points = found.points["experts", "avoiding", metric]
        colour, marker, dash = LOOK[metric]
        means = [float("nan") if points[v].mean is None else points[v].mean for v in EXPERTS]
        reach = [points[v].std or 0.0 for v in EXPERTS]
        axis.errorbar(places, means, reach, color=colour, marker=marker, ls=dash, ms=4, capsize=2.5, elinewidth=1)
        for place, variant in enumerate(EXPERTS):
            printed(axis, place, points[variant], colour)
    for place, variant in enumerate(EXPERTS):
        gap(axis, place, found.points["experts", "avoiding", "success"][variant], colours)
    axis.set(xticks=places, xticklabels=EXPERTS, xlabel="number of experts Z", xlim=(-0.5, len(EXPERTS) - 0.5))


def gatings(axis: Any, found: Ablations, metric: str, colours: dict[str, str]) -> None:
    """(b), (c) bars without and with a learned gating for each task."""
    colour = LOOK[metric][0]
    for i, task in enumerate(TASKS):
        for j, variant in enumerate(GATINGS):
            bar(
                axis, i + (j - 0.5) * 0.38, found.points["gating", task, metric][variant], 0.34, colour, colours, j == 0
            )
    axis.set(
        xticks=range(len(TASKS)), xticklabels=[title for title, _ in TASKS.values()], xlim=(-0.6, len(TASKS) - 0.4)
    )


def levels(axis: Any, found: Ablations, colours: dict[str, str]) -> None:
    """(d) bars of success and entropy for each choice of noise levels."""
    for i, variant in enumerate(LEVELS):
        for j, metric in enumerate(METRICS):
            entry = found.points["levels", "avoiding", metric][variant]
            bar(axis, i + (j - 0.5) * 0.38, entry, 0.34, LOOK[metric][0], colours)
    axis.set(xticks=range(len(LEVELS)), xticklabels=LEVELS, xlim=(-0.6, len(LEVELS) - 0.4))


def bar(
    axis: Any,
    place: float,
    entry: tables.Entry,
    width: float,
    colour: str,
    colours: dict[str, str],
    hatched: bool = False,
) -> None:
    """A bar with its error, or a gap."""
    if entry.mean is not None:
        look = {"facecolor": "none", "hatch": "/////"} if hatched else {"facecolor": colour}
        axis.bar(place, entry.mean, width, edgecolor=colour, linewidth=0.8, **look)
        axis.errorbar(place, entry.mean, entry.std or 0.0, color=colours["ink"], capsize=2, elinewidth=0.9)
        if entry.mean < 0.02:  # a bar that cannot be seen
            axis.text(place, 0.02, "0", ha="center", va="bottom", fontsize=7, color=colour)
    gap(axis, place, entry, colours)
    printed(axis, place, entry, colours["ink"])


def gap(axis: Any, place: float, entry: tables.Entry, colours: dict[str, str]) -> None:
    """The mark of a variant without records."""
    if entry.mean is None:
        axis.plot(place, 0.0, "x", color=colours["soft"], ms=4, clip_on=False)


def printed(axis: Any, place: float, entry: tables.Entry, colour: str) -> None:
    """The paper's number."""
    if entry.paper_mean is not None:
        axis.plot(place, entry.paper_mean, "D", mfc="none", mec=colour, ms=5.5, zorder=5)


def figure(out: Path, root: Path) -> tuple[list[Path], list[str]]:
    """Draw Figure 3 into `out`: the paths, and a line for everything that it lacks. Raises UserError without any records."""
    found = load(root)
    if not found:
        raise UserError(
            f"no records of {METHOD} below {root}/{{{','.join(DEFAULTS)}}}/<variant>/records: run the studies first"
        )
    return style.save(draw(found), out, "figure_3"), found.missing
