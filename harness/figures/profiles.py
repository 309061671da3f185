"""Performance profiles (Agarwal et al., NeurIPS 2021): the share of runs whose score exceeds tau, for every tau.

A run is a (task, seed), its score the success rate; one panel a task, and one over all tasks for the methods that have records
on every task shown (an average over what happens to be there would compare different tasks). Bands: 95 % percentile
bootstrap, seeds drawn anew within each task (stratified, as theirs), from two seeds on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import statistics, tables
from harness.errors import UserError
from harness.figures import style
from harness.registry import Suites, load_suites

TAUS = [i / 200 for i in range(201)]
DASHES = {"teacher": ":", "one_step": "-.", "student": "-", "scratch": "--"}  # by role
Scores = dict[str, dict[str, list[float]]]  # task -> method -> success of each seed


def load(out: Path, metric: str = "success") -> tuple[Scores, list[str]]:
    """The scores of a run's folder, and a line for each file that is no valid record."""
    found, bad = tables.read_records(out)
    scores: Scores = {}
    for (task, method), by_seed in found.items():
        values = [by_seed[seed]["metrics"][metric] for seed in sorted(by_seed) if metric in by_seed[seed]["metrics"]]
        if values:
            scores.setdefault(task, {})[method] = [float(value) for value in values]
    return scores, bad


def complete(scores: Scores) -> list[str]:
    """The methods that have records on every task."""
    return sorted(set.intersection(*(set(methods) for methods in scores.values()))) if scores else []


def draw(scores: Scores, suites: Suites, theme: str = "light") -> Any:
    """One panel a task, and one for all tasks where there are several."""
    plt = style.pyplot()
    order = [method for method in suites.methods if any(method in methods for methods in scores.values())]
    order += sorted({method for methods in scores.values() for method in methods} - set(order))
    looks = {method: look(suites, method, i) for i, method in enumerate(order)}
    panels = [(title_of(suites, task), {m: {task: s} for m, s in methods.items()}) for task, methods in scores.items()]
    shared = complete(scores)
    if len(scores) > 1 and shared:
        panels.append((f"all {len(scores)} tasks", {m: {t: scores[t][m] for t in scores} for m in shared}))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style.themed(theme):
        figure, axes = plt.subplots(
            rows, columns, figsize=(max(6.4, 3.4 * columns), 2.9 * rows), squeeze=False, layout="constrained"
        )
        for axis, (title, methods) in zip(axes.flat, panels, strict=False):
            for method in order:
                if method in methods:
                    curve(axis, methods[method], looks[method])
            axis.set_title(title, loc="left")
            axis.set(xlim=(0, 1.005), xlabel="success rate τ")
            style.percent_axis(axis, "share of runs above τ")
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        handles = [plt.Line2D([], [], **looks[m], label=method_title(suites, m)) for m in order]
        figure.legend(handles=handles, loc="outside right upper")
    return figure


def look(suites: Suites, method: str, i: int) -> dict[str, Any]:
    """Colour of the i-th method, and its role's dash; no two of a role share both up to seven methods."""
    dash = DASHES.get(suites.methods[method]["role"] if method in suites.methods else "", "-")
    return {"color": style.PALETTE[i % 7], "ls": dash}


def curve(axis: Any, scores: dict[str, list[float]], look: dict[str, Any]) -> None:
    """One method's profile over its tasks; a band where every task has several seeds."""
    drawn = statistics.performance_profiles({"": scores}, TAUS)[""]
    axis.step(TAUS, drawn["share"], where="post", lw=1.6, **look)
    if min(map(len, scores.values())) > 1:
        axis.fill_between(TAUS, drawn["low"], drawn["high"], step="post", color=look["color"], alpha=0.15, lw=0)


def title_of(suites: Suites, task: str) -> str:
    return str(suites.tasks[task].get("title", task)) if task in suites.tasks else task


def method_title(suites: Suites, method: str) -> str:
    return str(suites.methods[method]["title"]) if method in suites.methods else method


def notes(scores: Scores) -> list[str]:
    """Who is left out of the panel over all tasks, a line each."""
    shared = set(complete(scores))
    everyone = sorted({method for methods in scores.values() for method in methods})
    lacking = {m: [t for t in scores if m not in scores[t]] for m in everyone if m not in shared}
    return [
        f"{method} has no records on {', '.join(tasks)}: not in the panel over all tasks"
        for method, tasks in lacking.items()
    ]


def figure(out: Path, root: Path) -> tuple[list[Path], list[str]]:
    """Draw the profiles of a run's folder into `out`: paths and remarks. Raises UserError without any records."""
    scores, bad = load(root)
    if not scores:
        raise UserError(f"no finished records in {root / 'records'}: nothing to draw")
    return style.save(draw(scores, load_suites()), out, "profiles"), [*notes(scores), *bad]
