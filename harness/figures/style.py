"""How the figures look: one palette for every kind of colour vision, light and dark, sizes for print, files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Okabe and Ito's palette, which every kind of colour vision tells apart
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
BROWN = "#8C6239"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, "#7F7F7F", YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
THEMES = {
    "light": {"ink": "#1c2024", "soft": "#6b7280", "faint": "#d6d9de", "paper": "white"},
    "dark": {"ink": "#e6e8eb", "soft": "#9aa3ae", "faint": "#3a4048", "paper": "none"},
}
FILES = {"svg.fonttype": "path", "svg.hashsalt": "figures", "pdf.fonttype": 42}  # the same figure, the same bytes
ENDINGS = ("pdf", "svg", "png")


def pyplot() -> Any:
    """matplotlib.pyplot without a window."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


@contextmanager
def themed(theme: str = "light") -> Iterator[dict[str, str]]:
    """Matplotlib's settings for a theme; gives its colours: ink, soft (paler text), faint (lines), paper."""
    colours = THEMES[theme]
    ink, soft = colours["ink"], colours["soft"]
    settings = {
        "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8, "legend.fontsize": 7.5, "font.family": "DejaVu Sans",
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.edgecolor": soft,
        "axes.labelcolor": ink, "axes.titlecolor": ink, "text.color": ink, "xtick.color": ink, "ytick.color": ink,
        "axes.facecolor": "none", "figure.facecolor": colours["paper"], "savefig.facecolor": colours["paper"],
        "legend.frameon": False, "grid.color": colours["faint"], "grid.linewidth": 0.6, "lines.linewidth": 1.5,
    }  # fmt: skip
    with pyplot().rc_context(settings):
        yield colours


def save(figure: Any, out: Path, name: str) -> list[Path]:
    """The figure as PDF, SVG and PNG (200 dots an inch) below `out`; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.{ending}" for ending in ENDINGS]
    with pyplot().rc_context(FILES):
        for path in paths:
            figure.savefig(path, dpi=200, metadata=undated(path.suffix[1:]))
    pyplot().close(figure)
    return paths


def svg(figure: Any) -> str:
    """The figure as SVG text, the same for the same figure."""
    file = io.StringIO()
    with pyplot().rc_context(FILES):
        figure.savefig(file, format="svg", metadata=undated("svg"))
    pyplot().close(figure)
    return file.getvalue()


def undated(ending: str) -> dict[str, Any]:
    """Metadata that keep the moment of drawing out of a file."""
    return {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(ending, {})


def percent_axis(axis: Any, label: str = "") -> None:
    """A y axis for shares: 0 to 1, a faint grid."""
    axis.set(ylim=(-0.03, 1.05), yticks=(0, 0.25, 0.5, 0.75, 1.0), ylabel=label)
    axis.set_yticklabels(("0", "", "0.5", "", "1"))
    axis.grid(axis="y")
    axis.set_axisbelow(True)
