"""`python -m harness.run`: plan, show the plan, run the cells, print the tables.

Exit code: 0 all cells done, 1 a cell failed, 2 something asked for is impossible, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from harness import cli, plan, tables
from harness.config import parse_sets
from harness.display import Display, say, show_plan
from harness.errors import UserError, unknown
from harness.launch import launch
from harness.lease import ttl_setting
from harness.metrics import METRIC_VERSION
from harness.registry import Suites, load_suites, select, select_seeds


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
    data = {
        task: plan.Data(
            *identify(task, args.data_root),
            evaluation_contexts(task, args.data_root).sha256 if "contexts" in suites.tasks[task] else None,
        )
        for task in tasks
    }
    sources = "+".join(sorted({entry.source for entry in data.values()}))
    name = f"{args.budget}-{sources}" + (f"-{args.teacher}" if args.teacher else "")
    out = Path(args.out if args.out is not None else f"runs/{name}")
    cli.check_out(out, write=False)
    request = plan.Request(
        tasks, methods, seeds, args.budget, sets, out, args.train_teachers, args.teachers, args.teacher
    )
    made = plan.build(suites, request, data, METRIC_VERSION)
    used = {cell.method for cell in made.cells} | {
        cell.teacher.cell.split("/")[1] for cell in made.cells if cell.teacher
    }
    if idle := sets.keys() - used:
        raise UserError(f"--set names {', '.join(sorted(idle))}, which this plan does not run")
    return made, seeds, remarks


def check_numbers(args: argparse.Namespace) -> None:
    """Workers, threads and device make sense, and so does $VDD_LEASE_TTL."""
    ttl_setting()
    if args.threads < 1 or args.threads > 1024:
        raise UserError(f"--threads must be between 1 and 1024. Got {args.threads}")
    if args.workers is not None and not 0 <= args.workers <= 1024:
        raise UserError(f"--workers must be between 0 and 1024. Got {args.workers}")
    kind, _, number = args.device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UserError(f"--device must be cpu, cuda or cuda:N. Got {args.device!r}")


def check_before(specs: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Everything that would fail in each worker fails here, once: data, hyper-parameters, device."""
    import torch

    from envs.datasets import load_demonstrations
    from harness import job

    if args.device.startswith("cuda"):
        count = torch.cuda.device_count()
        if int(args.device.partition(":")[2] or 0) >= count:
            raise UserError(f"--device {args.device}: this machine has {count} CUDA devices")
    for task in dict.fromkeys(spec["task"] for spec in specs):
        load_demonstrations(task, data_root=args.data_root, progress=Generating(task))
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


def execute(made: plan.Plan, specs: list[dict[str, Any]], workers: int) -> dict[str, str]:
    """Run the specs under a display; key -> "" or why the cell failed."""
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with Display(made, workers) as display:
            return launch(specs, {cell.key: cell.needs for cell in made.cells}, workers, display.event)
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str]) -> int:
    args = cli.run_parser("python -m harness.run").parse_args(argv)
    check_numbers(args)
    suites = load_suites(args.suites)
    made, seeds, remarks = make_plan(args, suites)
    default_workers = 1 if args.device != "cpu" else max(1, cli.cores() // args.threads)
    workers = args.workers if args.workers is not None else min(default_workers, max(1, len(made.to_run)))
    for line in remarks:
        say(line)
    show_plan(made, suites, workers, args.threads)
    if args.dry_run:
        return 0
    cli.check_out(made.out, write=True)
    data_root = os.path.abspath(args.data_root) if args.data_root else None
    options = {"data_root": data_root, "threads": args.threads, "device": args.device}
    specs = [plan.spec(cell, suites, made, options, METRIC_VERSION) for cell in made.to_run]
    if specs:
        check_before(specs, args)
    for line in plan.settle(made, args.overwrite):
        say(line)
    for line in plan.altered_weights(made):
        say(line)
    plan.save(made, seeds)
    results = execute(made, specs, workers) if specs else {}
    failed = {key: why for key, why in results.items() if why}
    for line in tables.summary(made.out, suites):
        print(line)
    for key, why in failed.items():
        print(f"FAILED {key}: {why}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(made.cells)} cells failed; the same command tries them again", file=sys.stderr)
    else:
        say(f"{len(made.cells)} cells done; records in {made.out / 'records'}, tables in {made.out / 'tables'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv[1:]))
