"""`python -m harness figures`: the paper's figures from records. Only Figure 2 and the roll-outs of Figure 4 need torch."""

from __future__ import annotations

import importlib
from pathlib import Path

from harness import cli
from harness.errors import UserError, unknown

STUDIES = Path("results") / "studies"
RUN = Path("results") / "standard"
MEASUREMENTS = Path("results") / "measurements"
FILMS = Path("results") / "films"
FIGURES = {  # name -> (module, where its records lie unless --records says so)
    "2": ("toy", None),
    "3": ("ablations", STUDIES),
    "4": ("experts", STUDIES),
    "profiles": ("profiles", RUN),
}


def main(argv: list[str]) -> int:
    """Draw one figure, or all that need no training; prints the paths of the pictures and what they lack."""
    parser = cli.Parser(prog="python -m harness figures", description="Draw figures of the paper from records.")
    parser.add_argument("--figure", default="2", help=f"one of {', '.join(FIGURES)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument(
        "--records", type=Path, help=f"3, 4: folder of studies (default {STUDIES}); profiles: of a run (default {RUN})"
    )
    args = parser.parse_args(argv)
    if args.figure not in FIGURES:
        raise unknown("figure", args.figure, FIGURES)
    name, default = FIGURES[args.figure]
    records = args.records or default
    if args.records is not None and default is None:
        raise UserError("figure 2 is drawn from a training of its own: give no --records")
    if args.records is not None and not args.records.is_dir():
        raise UserError(f"no folder {args.records}: nothing was run there")
    cli.check_out(args.out, write=True)
    module = importlib.import_module(f"harness.figures.{name}")
    paths, notes = module.figure(args.out) if records is None else module.figure(args.out, records)
    for line in [*paths, *notes]:
        print(line)
    return 0
