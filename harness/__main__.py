"""`python -m harness <verb>`: everything besides running. `python -m harness.run` runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness import backends, cli
from harness.errors import UserError, unknown
from harness.registry import SUITES, load_suites, select

if TYPE_CHECKING:
    from harness import tables


def verb_ls(argv: list[str]) -> int:
    """What exists: tasks, methods, budgets, studies, simulations."""
    from harness.studies import load_studies

    parser = cli.Parser(prog="python -m harness ls", description="List tasks, methods and budgets.")
    parser.add_argument("--suites", type=Path, default=SUITES)
    folder = parser.parse_args(argv).suites
    suites = load_suites(folder)
    for kind, built in (("tasks", suites.tasks), ("methods", suites.methods)):
        print(f"{kind}:")
        for name, block in built.items():
            if kind == "tasks":
                about = f"{block['gym_id']}, {block['modes']} behaviours, {block['rollouts']} rollouts"
            else:
                about = block["role"] + (f" of {block['teacher']}" if "teacher" in block else "")
            source = suites.plugins.get(f"{kind}/{name}")
            about += f", from {source}" if source else ""
            print(f"  {name:15} {block['title']:18} {about}")
        later = [n for n in suites.names[kind]["all"] + suites.names[kind]["extra"] if n not in built]
        if later:
            print(f"  not available yet: {', '.join(later)}")
    print("budgets:")
    for name, block in suites.budgets.items():
        print(f"  {name:15} {block['about']}")
    if (folder / "studies.toml").exists():
        print("studies:")
        for name, study in load_studies(folder, suites).items():
            print(f"  {name:15} {study.title} ({study.source}): {', '.join(v.name for v in study.variants)}")
    print(f"back ends:\n  {backends.BUILTIN:15} this project's simulation")
    print(f"  {backends.OFFICIAL:15} the original simulator: {backends.about()}")
    return 0


def verb_plan(argv: list[str]) -> int:
    """Print what a run with the same options would do."""
    from harness import run

    return run.main([*argv, "--dry-run"])


def verb_status(argv: list[str]) -> int:
    """How every cell of a folder stands."""
    from harness import status

    parser = cli.Parser(prog="python -m harness status", description="How every cell of a folder stands.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="one line a cell, however many there are")
    parser.add_argument(
        "--watch", nargs="?", const=2.0, type=float, metavar="SECONDS", help="live, looked at every 2 seconds"
    )
    args = parser.parse_args(argv)
    if args.watch is not None:
        if not 0.1 <= args.watch <= 3600:
            raise UserError(f"--watch must be seconds between 0.1 and 3600. Got {args.watch}")
        return status.watch(args.out, args.watch)
    for line in status.lines(args.out, args.all):
        print(line)
    return 0


def verb_validate(argv: list[str]) -> int:
    """Check every file of a folder against its hash."""
    from envs.datasets import cache_folder
    from harness import shipped, validate

    parser = cli.Parser(prog="python -m harness validate", description="Check every file against its hash and schema.")
    parser.add_argument("--out", type=Path, required=True, help="folder of a run")
    parser.add_argument("--teachers", type=Path, default=shipped.TEACHERS, help="folder of given teachers")
    parser.add_argument("--cache", type=Path, help="folder of cached demonstrations (default the one that runs use)")
    args = parser.parse_args(argv)
    report = validate.validate(args.out, args.teachers, args.cache or cache_folder())
    for line in validate.lines(report):
        print(line)
    return 1 if report.bad else 0


def verb_reproduce(argv: list[str]) -> int:
    """Run one cell again from its record, and compare."""
    from harness import reproduce

    return reproduce.main(argv)


def add_sources(parser: cli.Parser) -> None:
    """The options of verbs that read results."""
    from harness.tables import RESULTS, Source

    standard = Source(RESULTS / "standard")
    parser.add_argument("--out", type=Path, default=standard.out, help="folder of a run (default results/standard)")
    parser.add_argument(
        "--studies", type=Path, default=standard.studies, help="root of studies (default results/studies)"
    )
    parser.add_argument(
        "--measurements", type=Path, default=standard.measurements, help="folder (default results/measurements)"
    )


def source_of(args: argparse.Namespace) -> tables.Source:
    """What `add_sources` was given; a folder of a run that is not there is a UserError."""
    from harness.tables import Source

    if not args.out.is_dir():
        raise UserError(f"no folder {args.out}: nothing was run with this --out")
    return Source(args.out, args.studies, args.measurements)


def verb_tables(argv: list[str]) -> int:
    """Write the tables of a folder, and print them in one format."""
    from harness import tables

    parser = cli.Parser(prog="python -m harness tables", description="The paper's tables from a folder's records.")
    add_sources(parser)
    parser.add_argument("--table", help="1, 1a, 1b, 2 ...; default all")
    parser.add_argument("--format", default="md", help="md (default), csv, latex or all; what is printed")
    parser.add_argument("--suites", type=Path, default=SUITES)
    args = parser.parse_args(argv)
    if args.format not in (*tables.FORMATS, "all"):
        raise unknown("format", args.format, [*tables.FORMATS, "all"])
    suites = load_suites(args.suites)
    built = tables.build(source_of(args), suites, tables.choose(args.table, suites))
    cli.check_out(args.out, write=True)
    tables.write(args.out, built)
    for form in tables.FORMATS if args.format == "all" else [args.format]:
        print("\n".join(tables.render(table, form) for table in built))
    return 0


def verb_claims(argv: list[str]) -> int:
    """What of the paper's claims its numbers and ours support."""
    from harness import claims

    parser = cli.Parser(prog="python -m harness claims", description="The paper's claims, on its numbers and on ours.")
    add_sources(parser)
    parser.add_argument("--format", default="text", help="text (default), markdown or json")
    parser.add_argument("--suites", type=Path, default=SUITES)
    args = parser.parse_args(argv)
    if args.format not in claims.FORMATS:
        raise unknown("format", args.format, claims.FORMATS)
    print(claims.FORMATS[args.format](claims.evaluate(source_of(args), load_suites(args.suites))), end="")
    return 0


def verb_compare(argv: list[str]) -> int:
    """Two methods, task by task and over all tasks."""
    from harness import compare

    parser = cli.Parser(prog="python -m harness compare", description="Two methods, task by task and over all tasks.")
    parser.add_argument("methods", nargs=2, metavar="METHOD")
    parser.add_argument("--metric", default="success", choices=sorted(compare.METRICS))
    add_sources(parser)
    parser.add_argument("--suites", type=Path, default=SUITES)
    args = parser.parse_args(argv)
    suites = load_suites(args.suites)
    for method in args.methods:
        if method not in suites.methods:
            raise unknown("method", method, suites.methods)
    first, second = args.methods
    print("\n".join(compare.lines(source_of(args), suites, first, second, args.metric)))
    return 0


def verb_ship(argv: list[str]) -> int:
    """Copy the trained teachers of a folder to where runs look for given ones."""
    from harness import plan, shipped

    parser = cli.Parser(prog="python -m harness ship", description="Make a folder's trained teachers the given ones.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run that trained them")
    parser.add_argument("--to", type=Path, default=shipped.TEACHERS)
    parser.add_argument("--suites", type=Path, default=SUITES)
    args = parser.parse_args(argv)
    methods = load_suites(args.suites).methods
    cells = [k for k, c in plan.saved_cells(args.out).items() if methods.get(c["method"], {}).get("role") == "teacher"]
    if not cells:
        raise UserError(f"no teachers were planned in {args.out}")
    for path in shipped.ship(args.out, cells, args.to):
        print(path)
    return 0


def verb_data(argv: list[str]) -> int:
    """Describe or generate demonstrations."""
    from envs.datasets import load_demonstrations
    from harness.display import Bar

    parser = cli.Parser(prog="python -m harness data", description="Describe or generate demonstrations.")
    parser.add_argument("what", choices=("describe", "generate"))
    parser.add_argument("--tasks", default="all")
    parser.add_argument("--data-root", help="folder with the original demonstrations (or $VDD_DATA_ROOT)")
    parser.add_argument("--episodes", type=int, help="how many, of an image task (default: its `demonstrations`)")
    parser.add_argument("--suites", type=Path, default=SUITES)
    args = parser.parse_args(argv)
    suites = load_suites(args.suites)
    if args.what == "generate" and args.data_root:
        raise UserError("data generate makes scripted demonstrations: give no --data-root")
    for task in select("task", args.tasks, suites.tasks, suites.names["tasks"])[0]:
        with Bar(f"generating {task}") as bar:
            demos = load_demonstrations(task, data_root=args.data_root, progress=bar, episodes=args.episodes)
        lengths = sorted(len(episode.obs) for episode in demos.episodes)
        modes = len({episode.mode for episode in demos.episodes})
        print(
            f"{task}: {demos.source} ({demos.origin}), {len(lengths)} episodes of {lengths[0]}-{lengths[-1]} rows, ",
            end="",
        )
        print(f"{demos.rows} rows, {modes} behaviours, identity {demos.identity}, sha256 {demos.sha256}")
    return 0


def verb_bench(argv: list[str]) -> int:
    """Measure speed."""
    from harness import bench

    return bench.main(argv)


def verb_figures(argv: list[str]) -> int:
    """Draw the paper's figures."""
    from harness import figures

    return figures.main(argv)


def verb_report(argv: list[str]) -> int:
    """Write one HTML page of everything that records say."""
    from harness import report

    return report.main(argv)


def verb_render(argv: list[str]) -> int:
    """Draw the scene of a task, a film of a trained policy, or the key points of its image encoder."""
    parser = cli.Parser(prog="python -m harness render", description="Draw a task's scene, or film a trained policy.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", help="draw its scene after a reset")
    what.add_argument(
        "--record", type=Path, help="film an episode of this record's policy, whose weights lie beside it"
    )
    what.add_argument("--keypoints", type=Path, metavar="RECORD", help="draw what this image policy's encoder looks at")
    parser.add_argument("--episode", type=int, help="of the record's evaluation (default: its first success)")
    parser.add_argument("--data-root", help="with --record: what its run was given (or $VDD_DATA_ROOT)")
    parser.add_argument("--out", type=Path, required=True, help="a .png file; with --record a .webp file")
    args = parser.parse_args(argv)
    ending = ".webp" if args.record is not None else ".png"
    if args.out.suffix.lower() != ending:
        raise UserError(f"--out must name a {ending} file. Got {args.out}")
    cli.check_out(args.out.parent, write=True)
    if args.keypoints is not None:
        from harness import keypoints

        print(keypoints.of_record(args.keypoints, args.out))
        return 0
    if args.record is not None:
        from harness.films import film

        print(film(args.record, args.episode, args.out, args.data_root))
        return 0
    from envs.render import render_task

    print(render_task(args.task, args.out))
    return 0


def verb_compare_backends(argv: list[str]) -> int:
    """Run the same episodes in our simulation and in the original."""
    from harness import compare_backends

    return compare_backends.main(argv)


def verb_cancel(argv: list[str]) -> int:
    """Take cells of a folder out of SLURM's queue."""
    from harness import control

    return control.cancel(argv)


def verb_retry(argv: list[str]) -> int:
    """Run the failed cells of a folder again."""
    from harness import control

    return control.retry(argv)


VERBS = {
    "ls": verb_ls, "plan": verb_plan, "status": verb_status, "tables": verb_tables, "bench": verb_bench,
    "data": verb_data, "ship": verb_ship, "figures": verb_figures, "validate": verb_validate,
    "reproduce": verb_reproduce, "cancel": verb_cancel, "retry": verb_retry,
    "render": verb_render, "compare-backends": verb_compare_backends, "report": verb_report, "claims": verb_claims,
    "compare": verb_compare,
}  # fmt: skip


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m harness VERB [options]      (VERB --help for its options)")
        for name, verb in VERBS.items():
            print(f"  {name:8} {(verb.__doc__ or '').splitlines()[0]}")
        print("  python -m harness.run trains and evaluates")
        return 0 if argv else 2
    if argv[0] not in VERBS:
        raise unknown("verb", argv[0], VERBS)
    return VERBS[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv[1:]))
