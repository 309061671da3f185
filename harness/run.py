"""`python -m harness.run`: plan, show the plan, run the cells, print the tables.

Exit code: 0 all cells done, 1 a cell failed, 2 something asked for is impossible, 130 interrupted.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from harness import cli, local, plan, scheduler, slurm, studies, tables
from harness.backends import OFFICIAL, from_options, from_spec
from harness.config import demonstrations, parse_sets
from harness.display import Display, say, show_plan
from harness.errors import UserError, unknown
from harness.launch import launch
from harness.lease import ttl_setting
from harness.metrics import METRIC_VERSION
from harness.registry import Suites, load_suites, select, select_seeds
from harness.shipped import file_sha256


def make_plan(args: argparse.Namespace, suites: Suites) -> tuple[plan.Plan, list[int], list[str]]:
    """The plan that the options ask for, the seeds, and remarks. Reads data and records, writes nothing."""
    from envs.contexts import evaluation_contexts
    from envs.datasets import identify

    seeds = select_seeds(args.seeds)
    methods, no_methods = select("method", args.methods, suites.methods, suites.names["methods"])
    tasks, no_tasks = select("task", args.tasks, suites.tasks, suites.names["tasks"])
    absent = {"methods": no_methods, "tasks": no_tasks}
    remarks = [f"all {kind}: without {', '.join(names)} (not available yet)" for kind, names in absent.items() if names]
    sets = parse_sets(suites, args.set)
    if args.budget not in suites.budgets:
        raise unknown("budget", args.budget, suites.budgets)
    weights = encoder_file(args, tasks, suites)
    data = {
        task: plan.Data(
            *identify(task, args.data_root, episodes=demonstrations(suites, task, args.budget)),
            evaluation_contexts(task, args.data_root).sha256 if "contexts" in suites.tasks[task] else None,
            demonstrations(suites, task, args.budget),
        )
        for task in tasks
    }
    sources = "+".join(sorted({entry.source for entry in data.values()}))
    name = f"{args.budget}-{sources}" + (f"-{args.teacher}" if args.teacher else "")
    name += f"-{OFFICIAL}" if args.backend == OFFICIAL else ""
    out = Path(args.out if args.out is not None else f"runs/{name}")
    if args.launcher == "slurm":  # jobs run elsewhere than we
        out = Path(os.path.abspath(out))
    cli.check_out(out, write=False)
    request = plan.Request(
        tasks, methods, seeds, args.budget, sets, out, args.train_teachers, args.teachers, args.teacher, args.backend,
        weights,
    )  # fmt: skip
    made = plan.build(suites, request, data, METRIC_VERSION)
    used = {cell.method for cell in made.cells} | {
        cell.teacher.cell.split("/")[1] for cell in made.cells if cell.teacher
    }
    if idle := sets.keys() - used:
        raise UserError(f"--set names {', '.join(sorted(idle))}, which this plan does not run")
    return made, seeds, remarks


def encoder_file(args: argparse.Namespace, tasks: list[str], suites: Suites) -> str | None:
    """SHA-256 of `--encoder-weights`, None without it."""
    if args.encoder_weights is None:
        return None
    if not any("encoder" in suites.tasks[task] for task in tasks):
        raise UserError(f"--encoder-weights is for tasks with images. Got {', '.join(tasks)}")
    args.encoder_weights = os.path.abspath(args.encoder_weights)
    try:
        return file_sha256(Path(args.encoder_weights))
    except OSError as error:
        raise UserError(f"cannot read --encoder-weights {args.encoder_weights}: {error.strerror}") from None


def check_numbers(args: argparse.Namespace) -> None:
    """Workers, threads, device and $VDD_LEASE_TTL make sense, and every option has a launcher that heeds it."""
    ttl_setting()
    if args.launcher not in cli.LAUNCHERS:
        raise unknown("launcher", args.launcher, cli.LAUNCHERS)
    if args.launcher != "slurm":
        for name in ("profile", "resource", "cells_per_job", "array_parallelism", "wait"):
            if getattr(args, name):
                raise UserError(f"--{name.replace('_', '-')} is for --launcher slurm. Got --launcher {args.launcher}")
    elif args.workers is not None:
        raise UserError("--workers is for this machine; with --launcher slurm give --array-parallelism")
    for name in ("threads", "cells_per_job", "array_parallelism"):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= (1024 if name == "threads" else 1_000_000):
            raise UserError(f"--{name.replace('_', '-')} must be at least 1 and no absurd number. Got {value}")
    if args.workers is not None and not 0 <= args.workers <= 1024:
        raise UserError(f"--workers must be between 0 and 1024. Got {args.workers}")
    kind, _, number = (args.device or "cpu").partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UserError(f"--device must be cpu, cuda or cuda:N. Got {args.device!r}")


def check_before(specs: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Everything that would fail in each worker fails here, once: data, hyper-parameters, device."""
    import torch

    from envs.datasets import load_demonstrations
    from harness import encoder, job

    if args.device.startswith("cuda") and args.launcher != "slurm":  # a machine that submits may have none
        count = torch.cuda.device_count()
        if int(args.device.partition(":")[2] or 0) >= count:
            raise UserError(f"--device {args.device}: this machine has {count} CUDA devices")
    if args.encoder_weights is not None:
        encoder.check_file(Path(args.encoder_weights))
    for task, spec in {spec["task"]: spec for spec in specs}.items():
        if args.launcher != "slurm":  # a machine that submits may not simulate
            from_spec(spec).versions(spec["task_block"])  # the original starts
        limit = spec["data"]["episodes"]
        load_demonstrations(task, data_root=args.data_root, progress=Generating(task), episodes=limit)
    for spec in {(spec["task"], spec["method"]): spec for spec in specs}.values():  # seeds differ in nothing else
        job.check(spec)


class Generating:
    """Says once that demonstrations are being generated, which takes seconds to minutes; the next run finds them cached."""

    def __init__(self, task: str):
        self.task, self.said = task, False

    def __call__(self, done: int, total: int) -> None:
        if not self.said:
            say(f"generating {total} scripted demonstrations of {self.task}")
            self.said = True


def interrupt(number: int, _frame: Any) -> NoReturn:
    """A terminated run stops as an interrupted one does."""
    raise KeyboardInterrupt(number)


def execute(made: plan.Plan, specs: list[dict[str, Any]], workers: int, table: scheduler.Table) -> dict[str, str]:
    """Run the specs on this machine under a display; key -> "" or why the cell failed."""
    needs = {cell.key: cell.needs for cell in made.cells}
    runner = None
    if table.launcher in ("local", "debug"):
        runner = local.Jobs(table.launcher, made.out, table, max(1, workers))
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with Display(made, workers) as display:
            return launch(specs, needs, workers, display.event, runner=runner)
    finally:
        signal.signal(signal.SIGTERM, before)


def restrict(made: plan.Plan, keys: Collection[str]) -> plan.Plan:
    """The plan's cells among `keys`, and those that they need and that are not done."""
    wanted = set(keys)
    for cell in reversed(made.cells):  # needs stand before what needs them
        if cell.key in wanted and cell.state.name != "done":
            wanted.update(cell.needs)
    return replace(made, cells=tuple(cell for cell in made.cells if cell.key in wanted))


def main(argv: list[str]) -> int:
    args = cli.run_parser("python -m harness.run").parse_args(argv)
    if args.study is not None:
        return studies.run(args, functools.partial(run, show_tables=False), make_plan)
    if args.reuse:
        raise UserError("--reuse is for --study: the same command with the same --out skips what is done")
    return run(args)


def run(args: argparse.Namespace, only: Collection[str] | None = None, show_tables: bool = True) -> int:
    """Do what the options say; `only`: of their plan, these cells and what they need; `show_tables`: write and print them."""
    check_numbers(args)
    backend = from_options(args.backend, args.official_python, args.official_checkout)
    if backend.installation is not None:  # found by environment variables, which a later `retry` may lack
        args.official_python, args.official_checkout = backend.installation.python, backend.installation.d3il
    options = cli.stored(args)
    profile = slurm.settle(args) if args.launcher == "slurm" else None
    args.device, args.threads = args.device or "cpu", args.threads or 1
    suites = load_suites(args.suites)
    made, seeds, remarks = make_plan(args, suites)
    if only is not None:
        made = restrict(made, only)
    default_workers = 1 if args.device != "cpu" else max(1, cli.cores() // args.threads)
    workers = args.workers if args.workers is not None else min(default_workers, max(1, len(made.to_run)))
    workers = 0 if args.launcher in ("inline", "debug") else workers
    for line in remarks:
        say(line)
    where = "in this process" if workers < 1 else f"{workers} at once, {args.threads} thread(s) each"
    show_plan(made, suites, slurm.describe(profile) if profile else where)
    data_root = os.path.abspath(args.data_root) if args.data_root else None
    settings = {"data_root": data_root, "threads": args.threads, "device": args.device, **backend.settings()}
    settings |= {"encoder_weights": args.encoder_weights} if args.encoder_weights else {}
    specs = [plan.spec(cell, suites, made, settings, METRIC_VERSION) for cell in made.to_run]
    if profile is not None and (args.dry_run or not profile.name):
        slurm.preview(specs, made, profile)
        return 0
    if args.dry_run:
        return 0
    if specs:
        check_before(specs, args)
    cli.check_out(made.out, write=True)  # from here on things are written
    for line in plan.settle(made, args.overwrite):
        say(line)
    for line in plan.altered_weights(made):
        say(line)
    if only is None:
        plan.save(made, seeds)
    name = scheduler.new_name()
    table = scheduler.Table(name, args.launcher, time.time(), options, cells=[spec["key"] for spec in specs])
    results: dict[str, str] = {}
    if profile is not None:
        results = slurm.launch_plan(specs, made, profile, table, args.wait)
        if not args.wait:
            return 0
    elif specs:
        if args.launcher != "pool":
            plan.clear_failed(made)
        table.write(made.out)
        results = execute(made, specs, workers, table)
    return report(made, suites, results, show_tables)


def report(made: plan.Plan, suites: Suites, results: dict[str, str], show_tables: bool) -> int:
    """Print tables and failures; returns the exit code."""
    failed = {key: why for key, why in results.items() if why}
    for line in tables.summary(made.out, suites) if show_tables else []:
        print(line)
    for key, why in failed.items():
        print(f"FAILED {key}: {why}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(made.cells)} cells failed; the same command tries them again", file=sys.stderr)
    else:
        where = f"records in {made.out / 'records'}" + (f", tables in {made.out / 'tables'}" if show_tables else "")
        say(f"{len(made.cells)} cells done; {where}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv[1:]))
