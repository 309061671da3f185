"""The fixture `cluster`: a private SLURM on this machine (slurm/testcluster), for as long as the tests of a session need it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standins import call

from harness import record, slurm

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "slurm" / "testcluster" / "cluster"
PROFILES = """
[test]
time = 10
signal_s = 20
mem_gb = 0.5
deaths = 1
"""


def why_not(*commands: str) -> str:
    """Why there can be no cluster here; "" if there can."""
    if os.geteuid() != 0:
        return "a private SLURM needs root"
    missing = [name for name in commands if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"no {', '.join(missing)}: run `slurm/testcluster/cluster install` first" if missing else ""


def start(*options: str, **settings: str) -> Iterator[Path]:
    """Bring a cluster up and make it this process's; takes it down again. Yields its folder."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the sockets' paths have a limit
    try:
        up = subprocess.run(
            [SCRIPT, "up", folder, *options], env=os.environ | settings, text=True, capture_output=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert up.returncode == 0, up.stderr[-3000:]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", up.stdout.strip().partition("=")[2])
            patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), str(ROOT)]))
            patch.setattr(slurm, "POLL", 1.0)
            yield folder
    finally:
        subprocess.run([SCRIPT, "down", folder], capture_output=True, timeout=120, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    if why := why_not("slurmctld", "slurmd", "munged", "sbatch"):
        pytest.skip(why)
    yield from start(PARAMETERS="preempt_send_user_signal")


def sweep(out: Path, *options: str, profile: str = PROFILES) -> int:
    """`python -m harness.run --launcher slurm` on the toy, in this process; returns the exit code."""
    path = out.parent / f"{out.name}.toml"
    path.write_text(profile)
    common = [
        "--tasks",
        "toy",
        "--budget",
        "smoke",
        "--launcher",
        "slurm",
        "--clusters",
        str(path),
        "--profile",
        "test",
    ]
    return call(*common, "--out", str(out), *options)


def records(out: Path) -> dict[str, record.Record]:
    """Every record of a folder, by its cell."""
    found = {}
    for path in sorted((out / "records").glob("*/*/*.json")):
        key = "/".join([*path.parts[-3:-1], path.stem])
        found[key] = record.read(path, key)
    return found


def until(met, seconds: float = 60.0) -> None:
    """Wait until met() is true."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"waited {seconds} s on {socket.gethostname()}"
        time.sleep(0.1)


def squeue(*options: str) -> list[str]:
    """Lines of squeue."""
    return subprocess.run(["squeue", "-h", *options], capture_output=True, text=True, check=True).stdout.split("\n")[
        :-1
    ]


if __name__ == "__main__":
    sys.exit("imported by tests")
