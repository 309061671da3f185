"""kill -9 in the middle of training and of rollouts: the next run ends with the record of an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from standins import make_demonstrations, verb

from harness import progress, record

ROOT = Path(__file__).parent.parent
TEACHER, STUDENT = "avoiding/beso/0", "avoiding/vdd_ve/0"
KEPT = {"train": "train.ckpt.safetensors", "rollout": "rollouts/0.json"}
# one process, small chunks
RUN = """
import sys
from harness import cli, rollout, run
rollout.CHUNK = 4
sys.exit(cli.guarded(run.main, sys.argv[1:]))
"""
OPTIONS = ["--tasks", "avoiding", "--methods", "vdd_ve", "--budget", "smoke", "--workers", "0"]
STEPS = {"beso": 60, "vdd_ve": 24}
SETS = [f"{m}.{s}" for m in STEPS for s in (f"steps={STEPS[m]}", "checkpoint_seconds=0.3", "rollouts=8")]
SETS.append("beso.sampling_steps=2")


def command(data, out):
    sets = [word for text in SETS for word in ("--set", text)]
    return [sys.executable, "-c", RUN, *OPTIONS, *sets, "--data-root", str(data), "--out", str(out)]


def run(data, out):
    result = subprocess.run(command(data, out), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr


def killed_at(data, out, key, phase, step):
    """Start the run and kill it as soon as the cell has done `step` steps of `phase`, and has kept some of them."""
    kept = record.work_path(out, key) / KEPT[phase]
    process = subprocess.Popen(command(data, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            state = progress.read(record.work_path(out, key))
            if state and state["phase"] == phase and state["step"] >= step and kept.exists():
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_demonstrations(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    run(data, out)
    return {key: record.read(record.record_path(out, key), key) for key in (TEACHER, STUDENT)}


@pytest.mark.parametrize(
    "kills",
    [[(TEACHER, "train", 20), (STUDENT, "train", 10)], [(TEACHER, "rollout", 4), (STUDENT, "rollout", 4)]],
    ids=["train", "rollout"],
)
def test_the_record_is_that_of_an_undisturbed_run(kills, data, undisturbed, tmp_path, capsys):
    for key, phase, step in kills:
        killed_at(data, tmp_path, key, phase, step)
        assert not record.record_path(tmp_path, key).exists()
        assert verb("status", "--out", str(tmp_path)) == 0
        assert f"interrupted  {key}" in capsys.readouterr().out
        assert (record.work_path(tmp_path, key) / KEPT[phase]).is_file()
    run(data, tmp_path)
    for key, expected in undisturbed.items():
        found = record.read(record.record_path(tmp_path, key), key)
        assert record.comparable(found) == record.comparable(expected)
    assert not list(tmp_path.rglob("*.part"))
