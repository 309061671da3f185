"""Real cells with small rollout chunks that note, in an append-only file, when they have left their record."""

import os
from pathlib import Path

from harness import job, rollout

DONE = "completions.txt"
RUN = """
import functools, sys
from harness import cli, run
run.launch = functools.partial(run.launch, target="cells:run_cell")
if __name__ == "__main__":
    sys.exit(cli.guarded(run.main, sys.argv[1:]))
"""


def run_cell(spec):
    rollout.CHUNK = 2
    written = job.run_cell(spec)
    handle = os.open(Path(spec["out"]) / DONE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, f"{spec['key']}\n".encode())
    os.close(handle)
    return written


def completions(out):
    """Cell key -> how often it left a record."""
    path = Path(out) / DONE
    keys = path.read_text().split() if path.exists() else []
    return {key: keys.count(key) for key in keys}
