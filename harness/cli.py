"""The options that `run`, `plan`, `status`, `tables` and the other verbs share, and how a wrong one is reported."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from harness.clusters import CLUSTERS
from harness.errors import UserError, printable
from harness.registry import SUITES
from harness.shipped import TEACHERS

DEFAULT_BUDGET = "quick"
LONGEST = 2000  # characters of a message
LAUNCHERS = ("pool", "inline", "local", "debug", "slurm")


class Parser(argparse.ArgumentParser):
    """Reports a wrong option as a UserError, one line, instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def run_parser(prog: str) -> Parser:
    """The options of `python -m harness.run` and `python -m harness plan`."""
    parser = Parser(prog=prog, description="Train and evaluate methods on tasks; one record a (task, method, seed).")
    parser.add_argument("--methods", default="all", help="comma-separated; vdd = vdd_vp,vdd_ve; all (default)")
    parser.add_argument("--tasks", default="all", help="comma-separated; all (default)")
    parser.add_argument("--seeds", default="1", help="4 means 0,1,2,3; 3,7 means those (default 1)")
    parser.add_argument("--budget", default=DEFAULT_BUDGET, help="smoke, quick (default), standard or paper")
    parser.add_argument("--data-root", help="folder with the original demonstrations (or $VDD_DATA_ROOT)")
    parser.add_argument("--out", help="folder for records (default runs/<budget>-<data source>[-<teacher>][-official])")
    parser.add_argument("--workers", type=int, help="cells at once; 0 = in this process (default: cores / threads)")
    parser.add_argument("--threads", type=int, help="threads of a cell (default 1; SLURM: the profile's cpus)")
    parser.add_argument("--device", help="cpu (default; SLURM: cuda if the profile has GPUs), cuda or cuda:N")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.KEY=VALUE", help="override one value")
    parser.add_argument(
        "--train-teachers", action="store_true", help="do not use the teachers that come with the project"
    )
    parser.add_argument(
        "--teachers", type=Path, default=TEACHERS, help="folder of given teachers (default the project's)"
    )
    parser.add_argument("--teacher", help="what students distil, instead of their usual teacher: beso, ddpm or mode")
    parser.add_argument(
        "--study", help="run every variant of a study: experts, gating, levels, steps (docs/architecture.md)"
    )
    parser.add_argument(
        "--reuse",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="study: take equal cells' records from there",
    )
    parser.add_argument(
        "--encoder-weights", help="image tasks: ResNet-18 weights that encoders start from, a safetensors file"
    )
    parser.add_argument(
        "--backend", default="builtin", help="simulation of the rollouts: builtin (default) or official"
    )
    official_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="move records of another configuration aside")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    parser.add_argument("--suites", type=Path, default=SUITES, help="folder with the suite files")
    jobs = parser.add_argument_group("where the cells run (docs/slurm.md)")
    jobs.add_argument(
        "--launcher", default="pool", help=f"{', '.join(LAUNCHERS)}; default pool: processes of this machine"
    )
    jobs.add_argument("--profile", help="slurm: block of the cluster file; without one nothing is submitted")
    jobs.add_argument("--clusters", type=Path, default=CLUSTERS, help="slurm: cluster file (default the project's)")
    jobs.add_argument("--resource", action="append", default=[], metavar="KEY=VALUE", help="slurm: change the profile")
    jobs.add_argument("--cells-per-job", type=int, help="slurm: cells run one after the other in a job")
    jobs.add_argument("--array-parallelism", type=int, help="slurm: jobs of one array at once")
    jobs.add_argument(
        "--wait", action="store_true", help="slurm: stay until the jobs have ended, then print the tables"
    )
    return parser


def official_options(parser: argparse.ArgumentParser) -> None:
    """Where the original simulator is, for every verb that may use it."""
    parser.add_argument("--official-python", help="interpreter with the original's packages (or $VDD_OFFICIAL_PYTHON)")
    parser.add_argument("--official-checkout", help="checkout of the original, where not installed (or $VDD_D3IL)")


def stored(args: argparse.Namespace) -> dict[str, Any]:
    """The options as JSON for a job table: paths absolute, without what concerns one call alone."""
    once = ("out", "dry_run", "overwrite", "wait", "cells", "study", "reuse")
    paths = ("data_root", "teachers", "suites", "clusters", "encoder_weights")
    return {
        name: os.path.abspath(value) if name in paths and value is not None else value
        for name, value in vars(args).items()
        if name not in once
    }


def restored(options: dict[str, Any]) -> argparse.Namespace:
    """What `stored` made, as parsed options again."""
    paths = ("teachers", "suites", "clusters")
    options = {"encoder_weights": None} | options  # job tables of earlier versions lack it
    return argparse.Namespace(**{k: Path(v) if k in paths and v is not None else v for k, v in options.items()})


def guarded(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Call a verb; a UserError is one line on stderr and exit code 2, Ctrl-C is 130."""
    try:
        return main(argv)
    except UserError as error:
        print("error: " + printable(" ".join(str(error).split()))[:LONGEST], file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command continues the rest", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_out(out: Path, write: bool) -> None:
    """The out folder can be made and written to; with `write` it is made."""
    try:
        if "\0" in str(out):
            raise OSError(errno.EINVAL, "a name cannot hold a zero byte")
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    except OSError as error:
        raise UserError(f"--out {str(out)[:200]} is not writable: {error.strerror}") from None
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--out {out} is not writable: {existing} is no folder that you may write to")
    if write:
        try:
            out.mkdir(parents=True, exist_ok=True)
            probe = out / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"--out {out} is not writable: {error.strerror}") from None
