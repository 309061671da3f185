"""kill -9 at random moments: no finished cell is lost, no record unreadable, no cell done twice, the end is the same."""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cells import RUN, completions

from harness import cli, launch, record, run, validate

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
OPTIONS = ["--tasks", "toy", "--methods", "exact,beso,vdd_ve", "--seeds", "2", "--budget", "smoke"]
SETS = [
    f"{method}.{text}" for method in ("beso", "vdd_ve") for text in ("steps=60", "checkpoint_seconds=0.05")
]  # fmt: skip
CELLS = 4


def options(out, workers):
    sets = [word for text in SETS for word in ("--set", text)]
    return [*OPTIONS, *sets, "--workers", str(workers), "--out", str(out)]


def start(script, out, workers):
    """A run as a user starts it; returns its process id, which is its process group's too."""
    path = os.pathsep.join([str(HERE), str(ROOT)])
    with (script.parent / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, str(script), *options(out, workers)], cwd=ROOT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, stdout=output, stderr=subprocess.STDOUT,
        ).pid  # fmt: skip


def fork(script, out):
    """The same in this process, by a fork: without the seconds that it takes to import everything."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        with (script.parent / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        run.launch = functools.partial(launch.launch, target="cells:run_cell")
        code = cli.guarded(run.main, options(out, 0))
    finally:
        os._exit(code)


def wait(pid, seconds):
    """The exit code of a child, or None when it runs longer."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def records(out):
    return {"/".join([*p.parts[-3:-1], p.stem]): record.read(p) for p in sorted(out.glob("records/*/*/*.json"))}


def kill(pid, rng):
    """The whole group at once, or the parent alone, whose workers end with it."""
    alone = rng.random() < 0.5
    os.kill(pid, signal.SIGKILL) if alone else os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ends = time.monotonic() + 20
    while True:  # until the last of the group is gone
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < ends, "a worker outlives its parent"
        time.sleep(0.01)


def kill_at_random(folder, kills, pools, seed, say):
    """`kills` kills, over as many rounds of the same run as that takes; each round is compared with an undisturbed run.

    `pools`: how many of them hit a run that was started from the shell with two workers, instead of a fork of this process.
    """
    rng = random.Random(seed)
    script = folder / "run.py"
    script.write_text(RUN)
    chosen = set(rng.sample(range(kills), pools))

    def begin(out, pool):
        return start(script, out, 2) if pool else fork(script, out)

    began = time.monotonic()
    assert wait(begin(folder / "calm", False), 300) == 0, (folder / "output.txt").read_text()
    whole = time.monotonic() - began
    expected = {key: record.comparable(r) for key, r in records(folder / "calm").items()}
    assert len(expected) == CELLS
    done = rounds = unnoted = resumed = 0
    while done < kills:
        rounds += 1
        out = folder / f"round-{rounds}"
        finished = {}
        while True:
            pool = done in chosen
            pid = begin(out, pool)
            seconds = rng.uniform(0.02, 0.9) * whole + (6 if pool else 0)
            code = wait(pid, seconds if done < kills else 300)
            if code is not None:
                assert code == 0, (folder / "output.txt").read_text()
                break
            kill(pid, rng)
            done += 1
            now = records(out)  # every record there is can be read
            assert finished.items() <= now.items(), "a finished cell was lost or changed"
            finished = now
            resumed += bool(list(out.glob("work/*/*/*/train.ckpt.safetensors")))
        found = records(out)
        assert finished.items() <= found.items()
        assert {key: record.comparable(r) for key, r in found.items()} == expected
        counted = completions(out)
        assert all(count == 1 for count in counted.values()), counted
        unnoted += CELLS - len(counted)
        assert validate.validate(out).bad == []
        assert not list(out.rglob("records/*/*/.*.part"))
        shutil.rmtree(out)
    say(
        f"{done} kills ({pools} of them of a pool) in {rounds} runs of {CELLS} cells; {resumed} left a checkpoint; 0 records "
        f"lost, broken or made twice; {unnoted} cells killed between their record and its note"
    )


def test_some_kills(tmp_path, capsys):
    with capsys.disabled():
        kill_at_random(tmp_path, 3, 0, 1, lambda text: print(f"\n{text}"))


@pytest.mark.faults
def test_200_kills(tmp_path, capsys):
    with capsys.disabled():
        kill_at_random(tmp_path, 200, 10, 2, lambda text: print(f"\n{text}"))
