"""Studies: the same cells once for each variant of a setting, as in the paper's Figure 3 and Tables 5 and 7.

`harness/suites/studies.toml` says what varies. A variant is an ordinary run with an `--out` of its own,
`<root>/<study>/<variant>`, so that every other verb works on it. Teachers that none of the given ones replaces are trained
once, in `<root>/teachers`, for all studies of a root.
"""

from __future__ import annotations

import argparse
import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import plan, record, shipped
from harness.config import resolve
from harness.display import say
from harness.errors import UserError, unknown
from harness.registry import Suites, load_suites, read_toml, select, teacher_of
from harness.schema import NAME, is_names, is_scalars, is_text

TEACHERS = "teachers"  # folder of a root that is no study
KEYS = {"title", "source", "tasks", "methods", "variants"}
Group = tuple[str, str]  # (task, method)
Loaded = dict[str, dict[str, dict[Group, list[record.Record]]]]
Runner = Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Variant:
    """One setting of a study: `changes` are keys of every method of the study with their values."""

    name: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What varies, and where the paper shows it; `tasks` and `methods` are the paper's."""

    name: str
    title: str
    source: str
    tasks: list[str]
    methods: list[str]
    variants: list[Variant]


def load_studies(folder: Path, suites: Suites) -> dict[str, Study]:
    """The studies of a suite folder. Whatever is wrong with the file is a UserError."""
    found = {}
    for name, block in read_toml(folder / "studies.toml").items():
        where = f"studies.toml [{name[:40]}]"
        if not NAME.fullmatch(name) or name == TEACHERS:
            raise UserError(f"{where}: the name must be letters, digits and _, at most 64, and not {TEACHERS!r}")
        if not isinstance(block, dict) or block.keys() != KEYS:
            raise UserError(f"{where} must have exactly {', '.join(sorted(KEYS))}")
        right = is_text(block["title"]) and is_text(block["source"])
        if not (right and is_names(block["tasks"]) and is_names(block["methods"]) and is_variants(block["variants"])):
            raise UserError(
                f"{where}: title and source are text, tasks and methods lists of names, variants name and set"
            )
        for method in block["methods"]:
            if method not in suites.methods:
                raise unknown("method", method, suites.methods, f"in {where}")
        variants = [Variant(variant["name"], variant["set"]) for variant in block["variants"]]
        if len({variant.name for variant in variants}) < len(variants):
            raise UserError(f"{where} has two variants of one name")
        found[name] = Study(name, block["title"], block["source"], block["tasks"], block["methods"], variants)
    return found


def is_variants(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, dict) and v.keys() == {"name", "set"} and isinstance(v["name"], str)
        and NAME.fullmatch(v["name"]) is not None and is_scalars(v["set"])
        for v in value
    ) and bool(value)  # fmt: skip


def levels(hyper: dict[str, Any]) -> tuple[float, float]:
    """Lowest and highest noise level of a teacher: its sigmas (VE), or its first and last step (VP). UserError: it has none."""
    if "sigma_min" in hyper:
        return hyper["sigma_min"], hyper["sigma_max"]
    if "timesteps" in hyper:
        return 0.0, hyper["timesteps"] - 1.0
    raise UserError("a teacher without sigma_min or timesteps has no lowest and highest noise level")


def overrides(
    variant: Variant, suites: Suites, task: str, methods: list[str], budget: str, teacher: str | None
) -> list[str]:
    """A variant as values for `--set`, for one task, whose teacher decides what "lowest" and "highest" are."""
    texts = []
    for method in methods:
        for key, value in variant.changes.items():
            if value in ("lowest", "highest"):
                source = teacher or teacher_of(suites, task, method)
                if source is None:
                    raise UserError(f"{variant.name}: {method} has no teacher whose noise levels {key} could be")
                value = levels(resolve(suites, task, source, budget)["hyper"])[value == "highest"]
            texts.append(f"{method}.{key}={str(value).lower() if isinstance(value, bool) else value}")
    return texts


# ---------------------------------------------------------------------------------------------------------------------
# Running
# ---------------------------------------------------------------------------------------------------------------------


def chosen(study: Study, args: argparse.Namespace, suites: Suites) -> tuple[list[str], list[str]]:
    """Tasks and methods asked for; `all` means those of the study, without tasks that do not exist yet."""
    tasks, methods = args.tasks, args.methods
    if tasks == "all":
        tasks = ",".join(task for task in study.tasks if task in suites.tasks)
    if methods == "all":
        methods = ",".join(study.methods)
    return (
        select("task", tasks, suites.tasks, suites.names["tasks"])[0],
        select("method", methods, suites.methods, suites.names["methods"])[0],
    )


def run(args: argparse.Namespace, run_cells: Runner, make_plan: Callable[..., Any]) -> int:
    """Every variant of `args.study`; returns the worst exit code. `run_cells`, `make_plan`: those of harness/run.py."""
    suites = load_suites(args.suites)
    studies = load_studies(args.suites, suites)
    if args.study not in studies:
        raise unknown("study", args.study, studies)
    study = studies[args.study]
    tasks, methods = chosen(study, args, suites)
    base = copy.copy(args)
    base.study, base.methods = None, ",".join(methods)
    runs = []  # everything that is impossible is so before the first variant
    for variant in study.variants:
        for task in tasks:
            one = copy.copy(base)
            one.tasks = task
            one.set = args.set + overrides(variant, suites, task, methods, args.budget, args.teacher)
            one.out = str(root_of(args, tasks) / study.name / variant.name)
            make_plan(one, suites)
            runs.append((variant, task, one))
    root = root_of(args, tasks)
    given = base.teachers if args.dry_run else train_teachers([one for *_, one in runs], root, run_cells, make_plan)
    codes = []
    for i, (variant, task, one) in enumerate(runs):
        say(f"\nstudy {study.name}, {i + 1} of {len(runs)}: {variant.name} on {task}")
        one.teachers = given
        if not args.dry_run:
            for line in reuse(make_plan(one, suites)[0], [root, *args.reuse]):
                say(line)
        codes.append(run_cells(one))
    if not args.dry_run:
        say("\n" + "\n".join(summary(study, load(root).get(study.name, {}))))
    return max(codes)


def root_of(args: argparse.Namespace, tasks: list[str]) -> Path:
    """`--out`, or `runs/studies-<budget>-<data source>`."""
    from envs.datasets import identify

    if args.out is not None:
        return Path(args.out)
    sources = "+".join(sorted({identify(task, args.data_root)[0] for task in tasks}))
    return Path(f"runs/studies-{args.budget}-{sources}" + (f"-{args.teacher}" if args.teacher else ""))


def train_teachers(
    runs: list[argparse.Namespace], root: Path, run_cells: Runner, make_plan: Callable[..., Any]
) -> Path:
    """Train, once, the teachers that several runs need; returns the folder of given teachers for them all."""
    suites = load_suites(runs[0].suites)
    plans = [make_plan(one, suites)[0] for one in runs]
    missing = {(cell.task, cell.method) for made in plans for cell in made.cells if needs_training(cell)}
    if not missing:
        return Path(runs[0].teachers)
    to = root / TEACHERS / "given"
    for task, method in sorted(missing):
        say(f"\nteacher {method} of {task}, for every variant")
        one = copy.copy(runs[0])
        one.tasks, one.methods, one.seeds, one.out, one.teacher = task, method, "1", str(root / TEACHERS), None
        one.set, one.wait = [text for text in runs[0].set if text.startswith(f"{method}.")], one.launcher == "slurm"
        if run_cells(one):
            raise UserError(f"the teacher {method} of {task} failed, and every variant needs it")
        shipped.ship(Path(one.out), [record.key_of(task, method, 0)], to)
    for made in plans:  # and those that need no training stay in use
        for cell in made.cells:
            if cell.teacher is not None and cell.teacher.origin == "shipped":
                copy_given(Path(cell.teacher.path), to / cell.data.source)
    return to


def needs_training(cell: plan.Cell) -> bool:
    """A teacher's cell without given weights."""
    return cell.role == "teacher" and cell.teacher is None


def copy_given(weights: Path, folder: Path) -> None:
    """A given teacher's three files, `<source>/<task>/<method>.*`, to another folder of them."""
    target = folder / weights.parent.name
    target.mkdir(parents=True, exist_ok=True)
    for path in weights.parent.glob(f"{weights.stem}.*"):
        if not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)


def reuse(made: plan.Plan, roots: list[Path]) -> list[str]:
    """Copy the records of cells that another variant, or the run in one of `roots`, has done with the same settings."""
    lines = []
    for cell in made.to_run:
        path = record.record_path(made.out, cell.key)
        for root in [] if path.exists() else roots:
            for other in sorted([*root.glob(f"records/{cell.key}.json"), *root.glob(f"*/*/records/{cell.key}.json")]):
                state = record.state(other.parents[3], cell.key, cell.config_hash)
                if state.name == "done" and not path.exists():
                    record.write_atomic(path, record.read_bytes(other))
                    lines.append(f"{cell.key}: the same settings as {other.parents[3]}, whose record is taken")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def load(root: Path) -> Loaded:
    """study -> variant -> (task, method) -> its done records, whole, in order of seed; invalid files are left out."""
    return read(root)[0]


def read(root: Path) -> tuple[Loaded, list[str]]:
    """As `load`, and a line for each file below the root that is no valid record."""
    found: Loaded = {}
    bad = []
    paths = [p for p in root.glob("*/*/records/*/*/*.json") if p.stem.isdecimal()]
    for path in sorted(paths, key=lambda p: (natural(p.parts[-6]), natural(p.parts[-5]), p.parts[-3:-1], int(p.stem))):
        study, variant, _, task, method, name = path.parts[-6:]
        try:
            entry = record.read(path, f"{task}/{method}/{path.stem}")
        except (OSError, record.InvalidRecord) as error:
            bad.append(f"left out: {study}/{variant}/{task}/{method}/{name} {error}")
            continue
        if entry["status"] == "done":
            found.setdefault(study, {}).setdefault(variant, {}).setdefault((task, method), []).append(entry)
    return found, bad


def natural(name: str) -> tuple[int, str]:
    """Numbers in their order, before words."""
    return (int(name), "") if name.isdecimal() else (10**9, name)


def summary(study: Study, variants: dict[str, dict[Group, list[record.Record]]]) -> list[str]:
    """Success and entropy of every variant, mean over seeds, a line a (task, method)."""
    lines = [f"{study.title} ({study.source} of the paper)"]
    for variant in study.variants:
        for (task, method), entries in variants.get(variant.name, {}).items():
            means = [
                f"{name} {sum(e['metrics'][name] for e in entries) / len(entries):.3f}"
                for name in ("success", "entropy")
                if all(name in e["metrics"] for e in entries)
            ]
            lines.append(f"  {variant.name:10} {task:10} {method:8} {'  '.join(means)}  seeds: {len(entries)}")
    return lines
