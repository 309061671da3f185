"""`python -m harness reproduce RECORD`: run one cell again from its record alone, and say what differs.

A record holds its resolved configuration; its `recipe` holds the rest (class, role, the task's block, how the teacher was
trained). Older records lack a recipe: then class, role and task block are today's, and that is said. The teacher is the one of
the very SHA-256 if it still lies in the record's folder or among the given ones; else it is trained again first.

A record may come from anyone: its class must be one of the suites', its names are checked, and no path in it is followed.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.contexts import evaluation_contexts
from envs.datasets import identify
from harness import backends, cli, record, shipped
from harness.config import digest, resolve
from harness.errors import UserError
from harness.launch import TARGET, run_logged
from harness.metrics import METRIC_VERSION
from harness.registry import SUITES, Suites, load_suites, task_block
from harness.schema import TASK, check_blocks

MOST = 40  # differences that are shown
Spec = dict[str, Any]


@dataclass
class Rerun:
    """The cells to run, teacher first; what had to be assumed; the teacher's weights as the record has them."""

    specs: list[Spec]
    remarks: list[str] = field(default_factory=list)


def prepare(found: record.Record, home: Path | None, args: argparse.Namespace, suites: Suites, out: Path) -> Rerun:
    """Specs from a record. `home`: the out folder that it lies in. Raises UserError where it cannot be run again."""
    task, method, seed = (found["cell"][name] for name in ("task", "method", "seed"))
    if found["status"] != "done":
        raise UserError(f"{task}/{method}/{seed} failed: there is no result to reproduce")
    if found["metric_version"] != METRIC_VERSION:
        raise UserError(
            f"the record was made with metric version {found['metric_version']}; here it is {METRIC_VERSION}"
        )
    backend = backends.from_options(found["backend"], args.official_python, args.official_checkout)
    rerun = Rerun([])
    recipe = found.get("recipe") or assumed_recipe(found, suites, rerun.remarks)
    check_recipe(task, recipe, suites)
    episodes = recipe.get("episodes")
    source, identity = identify(task, args.data_root, episodes=episodes)
    if identity != found["data"].get("identity"):
        asked = f"{found['data'].get('source')} ({found['data'].get('identity')})"
        raise UserError(f"the record's demonstrations are {asked}, here are {source} ({identity}): see --data-root")
    threads = args.threads or found["provenance"].get("threads", 1)
    common = {
        "task": task, "budget": found["budget"], "backend": backend.name, "out": str(out), "metric_version": METRIC_VERSION,
        "task_block": recipe["task_block"], "data": {"source": source, "identity": identity, "episodes": episodes},
        "encoder_weights": args.encoder_weights,
        "data_root": args.data_root, "threads": threads, "device": args.device or found["provenance"].get("device", "cpu"),
        **backend.settings(),
    }  # fmt: skip
    spec = common | {
        "key": record.key_of(task, method, seed), "method": method, "seed": seed, "role": recipe["role"],
        "class": recipe["class"], "config": found["config"], "config_hash": found["config_hash"],
        "evaluate_only": recipe["evaluate_only"], "teacher": None,
    }  # fmt: skip
    if found["teacher"] is not None:
        spec["teacher"] = add_teacher(found, recipe, home, args, common, rerun)
    rerun.specs.append(spec)
    check_hash(spec, rerun.remarks)
    return rerun


def assumed_recipe(found: record.Record, suites: Suites, remarks: list[str]) -> dict[str, Any]:
    """A recipe from today's suites, for a record that has none."""
    task, method = found["cell"]["task"], found["cell"]["method"]
    if task not in suites.tasks or method not in suites.methods:
        raise UserError(f"the record has no recipe, and the suites have no {task}/{method}")
    remarks.append("the record has no recipe (an older version made it): class, role and task block are today's")
    block = suites.methods[method]
    teacher = None
    if found["teacher"] is not None:
        name = found["teacher"]["cell"].split("/")[1]
        if name not in suites.methods:
            raise UserError(f"the record has no recipe, and the suites have no teacher {name[:40]!r}")
        hyper = resolve(suites, task, name, found["budget"])["hyper"]
        teacher = {"class": suites.methods[name]["class"], "hyper": hyper, "trained": None}
    return {
        "class": block["class"], "role": block["role"], "teacher": teacher,
        "evaluate_only": block["role"] == "one_step" or (block["role"] == "teacher" and teacher is not None),
        "task_block": task_block(suites, task),
    }  # fmt: skip


def check_recipe(task: str, recipe: Any, suites: Suites) -> None:
    """A recipe has the right form, and its classes are ones that the suites know."""
    kinds: dict[str, Any] = {
        "class": str,
        "role": str,
        "evaluate_only": bool,
        "task_block": dict,
        "teacher": (dict, type(None)),
    }
    if not isinstance(recipe, dict) or not all(isinstance(recipe.get(k), kind) for k, kind in kinds.items()):
        raise UserError("the record's recipe is malformed")
    check_blocks(
        "the record's task block", {task: recipe["task_block"]}, TASK, ("env", "obs_dim", "act_dim", "goal_tokens")
    )
    classes = {block["class"] for block in suites.methods.values()}
    teacher = recipe["teacher"]
    for name in [recipe["class"], *([] if teacher is None else [teacher.get("class")])]:
        if name not in classes:
            raise UserError(f"the record's class {str(name)[:60]!r} is none that the suites know: nothing is run")
    if recipe["task_block"]["env"] not in {block["env"] for block in suites.tasks.values()}:
        raise UserError(f"the record's env {str(recipe['task_block']['env'])[:60]!r} is none that the suites know")


def add_teacher(
    found: record.Record,
    recipe: dict[str, Any],
    home: Path | None,
    args: argparse.Namespace,
    common: Spec,
    rerun: Rerun,
) -> dict[str, Any]:
    """The `teacher` of the spec; puts the teacher's own cell into `rerun` where it has to be trained again."""
    given, told = found["teacher"], recipe["teacher"]
    cell = teacher_cell(given["cell"])
    spec = {"cell": given["cell"], "origin": given["origin"], "class": told["class"], "hyper": told["hyper"]}
    spec |= {"sha256": given["sha256"], "trained": told["trained"]}
    places = [args.teachers / found["data"]["source"] / cell["task"] / f"{cell['method']}.safetensors"]
    if home is not None:
        places.append(record.work_path(home, given["cell"]) / shipped.WEIGHTS)
    for path in places:
        if path.is_file() and path.with_suffix(".json").is_file() and shipped.policy_sha256(path) == given["sha256"]:
            return spec | {"path": str(path)}
    trained = told["trained"]
    if trained is None:
        raise UserError(
            f"the teacher {given['cell']} of SHA-256 {given['sha256']} is neither given nor in the record's folder"
        )
    rerun.remarks.append(f"the weights of {given['cell']} are not here: it is trained again first")
    rerun.specs.append(
        common | cell | {
            "key": given["cell"], "role": trained["role"], "class": told["class"], "config": trained["config"],
            "config_hash": trained["config_hash"], "evaluate_only": False, "teacher": None,
        }
    )  # fmt: skip
    path = record.work_path(Path(common["out"]), given["cell"]) / shipped.WEIGHTS
    return spec | {"path": str(path), "sha256": None}  # that of the new weights


def teacher_cell(key: Any) -> dict[str, Any]:
    """`task/method/seed` as a cell, checked. Raises UserError."""
    parts = str(key).split("/")
    cell = {"task": parts[0], "method": parts[1 % len(parts)], "seed": int(parts[-1]) if parts[-1].isdecimal() else -1}
    try:
        if len(parts) != 3:
            raise record.InvalidRecord("has a malformed teacher")
        record.check_cell(cell)
    except record.InvalidRecord as error:
        raise UserError(f"the record {error}: {str(key)[:60]!r}") from None
    return cell


def check_hash(spec: Spec, remarks: list[str]) -> None:
    """The record's configuration hash is that of what is about to run."""
    teacher, weights = spec["teacher"], None
    if teacher is not None and teacher["origin"] == "shipped":
        weights = {"origin": "shipped", "sha256": teacher["sha256"]}
    elif teacher is not None:
        if teacher["trained"] is None:
            remarks.append("its configuration hash cannot be checked: how its teacher was trained is not recorded")
            return
        weights = {"origin": "trained", "config_hash": teacher["trained"]["config_hash"]}
    identity = {"config": spec["config"], "data": spec["data"]["identity"], "metric_version": spec["metric_version"]}
    if "contexts" in spec["task_block"]:
        identity["contexts"] = evaluation_contexts(spec["task"], spec["data_root"]).sha256
    if digest({**identity, "backend": spec["backend"], "teacher": weights}) != spec["config_hash"]:
        raise UserError("the record's configuration hash is not that of its configuration, data, contexts and teacher")


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """`metrics.success: 0.5 -> 0.6` for every value that differs; a list is one line, with its largest difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            here = f"{where}.{key}" if where else str(key)
            if key not in old or key not in new:
                yield f"{here}: only in the {'new' if key in new else 'old'} record"
            else:
                yield from differences(old[key], new[key], here)
    elif old != new:
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            other = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
            text = f"{where}: {len(other)} of {len(old)} differ, the first at {other[0]}: "
            text += f"{old[other[0]]!r} -> {new[other[0]]!r}"
            with contextlib.suppress(TypeError):
                text += f"; largest difference {max(abs(old[i] - new[i]) for i in other):.3g}"
            yield text[:300]
        else:
            yield f"{where}: {old!r} -> {new!r}"[:300]


def compare(old: record.Record, new: record.Record) -> list[str]:
    """What differs between two records of a cell, apart from what may. A key that the older version lacked is no difference."""
    first, second = record.comparable(old), record.comparable(new)
    for late in record.OPTIONAL:
        if late not in first:
            second.pop(late, None)
    return list(differences(first, second))


def main(argv: list[str]) -> int:
    """Exit code 0: the same result; 1: it differs or failed; 2: it cannot be run."""
    parser = cli.Parser(
        prog="python -m harness reproduce", description="Run one cell again from its record, and compare."
    )
    parser.add_argument("record", type=Path, help="<out>/records/<task>/<method>/<seed>.json, or a copy of it")
    parser.add_argument("--out", type=Path, help="folder for the new record (default: a temporary one)")
    parser.add_argument("--data-root", help="folder with the original demonstrations (or $VDD_DATA_ROOT)")
    cli.official_options(parser)
    parser.add_argument("--teachers", type=Path, default=shipped.TEACHERS, help="folder of given teachers")
    parser.add_argument("--encoder-weights", help="the file that the record's image encoder started from, if any")
    parser.add_argument("--threads", type=int, help="default: as in the record")
    parser.add_argument("--device", help="default: as in the record")
    parser.add_argument("--suites", type=Path, default=SUITES, help="folder with the suite files")
    args = parser.parse_args(argv)
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise UserError(f"--threads must be between 1 and 1024. Got {args.threads}")
    try:
        found = record.read(args.record)
    except (OSError, ValueError) as error:
        if isinstance(error, record.InvalidRecord):
            raise UserError(f"{args.record} {error}") from None
        raise UserError(f"no record {args.record}: {getattr(error, 'strerror', error)}") from None
    path = args.record.absolute()
    key = record.key_of(**found["cell"])
    root = path.parents[min(3, len(path.parents) - 1)]
    home = root if path == record.record_path(root, key) else None
    with contextlib.ExitStack() as stack:
        if args.out is None:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reproduce-")))
        else:
            out = args.out
            cli.check_out(out, write=False)
            if home is not None and out.absolute() == home:
                raise UserError(f"--out {out} is the record's own folder: choose another")
        try:
            rerun = prepare(found, home, args, load_suites(args.suites), out)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{args.record} lacks what it takes to run it again ({error!r})") from None
        return run(found, rerun, out)


def run(found: record.Record, rerun: Rerun, out: Path) -> int:
    """Run the cells, print what differs."""
    from harness import job

    for spec in rerun.specs:
        job.check(spec)
    cli.check_out(out, write=True)
    for remark in rerun.remarks:
        print(f"note: {remark}")
    for spec in rerun.specs:
        print(f"running {spec['key']}", flush=True)
        why = run_logged(TARGET, spec)
        if why:
            print(f"FAILED {spec['key']}: {why}")
            return 1
    new = record.read(record.record_path(out, rerun.specs[-1]["key"]), rerun.specs[-1]["key"])
    found_differences = compare(found, new)
    for line in found_differences[:MOST]:
        print(f"differs  {line}")
    if len(found_differences) > MOST:
        print(f"... and {len(found_differences) - MOST} more")
    if found_differences:
        for line in differences(found["provenance"], new["provenance"]):
            print(f"made with  {line}")
        print(f"{rerun.specs[-1]['key']}: {len(found_differences)} differences")
        return 1
    print(f"{rerun.specs[-1]['key']}: the same result, to the last bit")
    return 0
