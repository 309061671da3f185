"""`python -m harness report`: one HTML page of everything that the records say. Imports neither torch nor mujoco."""

from __future__ import annotations

from pathlib import Path

from harness import cli
from harness.errors import UserError
from harness.figures import FILMS, MEASUREMENTS, RUN, STUDIES
from harness.record import write_atomic
from harness.registry import SUITES, load_suites
from harness.tables import Source


def main(argv: list[str]) -> int:
    """Write the page, print its path and what was left out."""
    parser = cli.Parser(prog="python -m harness report", description="One HTML page of everything that records say.")
    parser.add_argument(
        "--out", type=Path, nargs="+", action="extend", help=f"folders of runs, shown apart (default {RUN})"
    )
    parser.add_argument("--file", type=Path, default=Path("report.html"), help="the page (default report.html)")
    parser.add_argument("--studies", type=Path, default=STUDIES, help=f"folder of studies (default {STUDIES})")
    parser.add_argument("--measurements", type=Path, default=MEASUREMENTS, help=f"folder (default {MEASUREMENTS})")
    parser.add_argument(
        "--films", type=Path, help=f"folder of .webp, .mp4 or .gif films, at most 1 MB each (default {FILMS}, if there)"
    )
    parser.add_argument("--suites", type=Path, default=SUITES)
    args = parser.parse_args(argv)
    if args.file.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--file must name an .html file. Got {args.file}")
    if args.films is not None and not args.films.is_dir():
        raise UserError(f"no folder {args.films} with films")
    from harness.report import gather, page  # matplotlib and Jinja2: not for --help

    suites = load_suites(args.suites)
    outs = dict.fromkeys(args.out or [RUN])
    runs = [gather.read(Source(out, args.studies, args.measurements), suites) for out in outs]
    text = page.render(runs, args.studies, args.films or FILMS, suites).encode()
    if len(text) > page.LARGEST:
        raise UserError(
            f"the page would have {len(text):,} bytes, more than {page.LARGEST:,}: give fewer folders or films at once"
        )
    cli.check_out(args.file.parent, write=True)
    write_atomic(args.file, text)
    for run in runs:
        for line in run.left_out:
            print(f"left out: {run.out}: {line}")
    print(f"{args.file} ({len(text):,} bytes)")
    return 0
