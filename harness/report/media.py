"""Pictures of the page as data: figures drawn from records in both themes, and films from a folder."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.figures import ablations, experts, profiles, style
from harness.registry import Suites
from harness.report.gather import Run

FILMS = {".webp": "image/webp", ".mp4": "video/mp4", ".gif": "image/gif"}
LARGEST_FILM = 1_000_000  # bytes
ALL_FILMS = 6_000_000
NAMED = 20  # what a figure lacks


@dataclass(frozen=True)
class Picture:
    """A figure: `sources` theme -> data URI ({} where it cannot be drawn), what it lacks, the commands that fill it."""

    title: str
    caption: str
    sources: dict[str, str] = field(default_factory=dict)
    lacks: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def uri(kind: str, data: bytes) -> str:
    """A data URI, which no page has to fetch."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def themed(draw: Any, *args: Any) -> dict[str, str]:
    """The figure of `draw(*args, theme)` as SVG, an image of its own, light and dark."""
    return {theme: uri("image/svg+xml", style.svg(draw(*args, theme)).encode()) for theme in style.THEMES}


def figures(runs: list[Run], studies: Path, suites: Suites) -> list[Picture]:
    """Figures 3 and 4 from the studies, and the profiles of each run."""
    found = ablations.load(studies)
    traces = experts.load(studies)
    lacking = dict.fromkeys(
        study for (study, *_), points in found.points.items() if not all(e.values for e in points.values())
    )
    pictures = [
        Picture(
            "Figure 3: ablations",
            "Success and entropy of VDD-VE; means over seeds, bars: standard deviation. Hollow diamonds: what the paper prints "
            "elsewhere for that setting (Table 1; entropy 0 of one expert). × : no records.",
            themed(ablations.draw, found) if found else {}, found.missing[:NAMED],
            [f"python -m harness.run --study {study} --seeds 4 --budget standard --out {studies}" for study in lacking],
        ),
        Picture(
            "Figure 4: what each expert does on Avoiding",
            "Paths with Z experts, coloured by the expert of highest gating probability; below, each of the eight experts "
            "alone, with the share of states in which it is the likeliest.",
            themed(experts.draw, traces) if traces else {}, traces.missing[:NAMED],
            [f"python -m harness figures --figure 4 --records {studies} --out {studies / 'figures'}"],
        ),
    ]  # fmt: skip
    for run in runs:
        scores, _ = profiles.load(run.out)
        if scores:
            pictures.append(
                Picture(
                    f"Performance profiles, {run.out}",
                    "Share of runs (task, seed) whose success rate exceeds τ (Agarwal et al. 2021); bands: 95 % bootstrap over "
                    "seeds within each task. Dotted: teachers; dash-dotted: their single step; dashed: from scratch.",
                    themed(profiles.draw, scores, suites), profiles.notes(scores)[:NAMED],
                )
            )  # fmt: skip
    return pictures


def films(folder: Path | None) -> tuple[list[dict[str, Any]], list[str]]:
    """The films of a folder as data, and a line for each that is too large."""
    found, left_out, total = [], [], 0
    for path in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []:
        kind = FILMS.get(path.suffix.lower())
        if kind is None or not path.is_file() or path.is_symlink():
            continue
        size = path.stat().st_size
        if size > LARGEST_FILM or total + size > ALL_FILMS:
            left_out.append(
                f"{path.name}: {size:,} bytes; a film has at most {LARGEST_FILM:,}, all together {ALL_FILMS:,}"
            )
            continue
        total += size
        title = path.stem.replace("_", " ")
        found.append({"title": title, "source": uri(kind, path.read_bytes()), "video": kind.startswith("video")})
    return found, left_out
