"""On a real SLURM (slurm/testcluster): failed teachers, retry, cancel, deaths. Whole sweeps: test_slurm_sweep.py."""

import json
import subprocess

import pytest
from cluster import cluster, records, squeue, sweep, until  # noqa: F401 (a fixture)
from standins import verb

from harness import progress, record, scheduler, slurm

pytestmark = pytest.mark.usefixtures("cluster")
SWEEP = ["--methods", "beso,ddpm,vdd_vp,cd,ctm", "--seeds", "2"]  # 2 teachers, 3 students, 2 seeds
TEACHERS = {"vdd_vp": "toy/ddpm/0", "cd": "toy/beso/0", "ctm": "toy/beso/0"}
STUDENTS = [f"toy/{method}/{seed}" for method in TEACHERS for seed in range(2)]


@pytest.fixture
def light(monkeypatch, tmp_path):
    """Cells that do nothing but what light(method, option=value) says."""
    monkeypatch.setattr(slurm, "TARGET", "slurm_cells:light_cell")

    def say(method, **options):
        record.write_atomic(tmp_path / "out" / "light" / f"{method}.json", json.dumps(options))

    return say


def states(out):
    return {key: job.state for key, job in scheduler.jobs(out).items()}


def begun(out, key):
    return progress.read(record.work_path(out, key)) is not None


def test_students_of_a_failed_teacher_are_blocked_and_retry_runs_them(tmp_path, light, capsys):
    out = tmp_path / "out"
    light("beso", fail=True)
    assert sweep(out, *SWEEP, "--wait") == 1
    found = records(out)
    assert found["toy/beso/0"]["error"]["type"] == "FloatingPointError"
    for key in STUDENTS:
        if TEACHERS[key.split("/")[1]] == "toy/beso/0":
            assert found[key]["error"] == {"type": "Blocked", "message": "needs toy/beso/0, which failed", "log": None}
        else:
            assert found[key]["status"] == "done"
    # a job may outlive the record that the run waited for by a moment
    until(lambda: states(out)["toy/cd/0"] == "failed" and states(out)["toy/vdd_vp/1"] == "ended")
    assert "Blocked: needs toy/beso/0" in capsys.readouterr().err
    # the same failure again, of one student and what it needs; then all that is left, with another time limit
    assert verb("retry", "--out", str(out), "--cells", "toy/cd/1", "--wait") == 1
    assert [table.cells for table in scheduler.tables(out)[1:]] == [["toy/beso/0", "toy/cd/1"]]
    light("beso")
    assert verb("retry", "--out", str(out), "--resource", "time=7", "--wait") == 0
    last = scheduler.tables(out)[-1]
    assert len(last.cells) == 5 and last.options["profile"] == "test" and last.options["resource"] == ["time=7"]
    assert "--time=7\n" in next(scheduler.folder(out, last.name).glob("*_submission.sh")).read_text()
    assert {made["status"] for made in records(out).values()} == {"done"}
    capsys.readouterr()
    assert verb("retry", "--out", str(out)) == 0
    assert "no cell of" in capsys.readouterr().out


def test_cancel_some_then_all(tmp_path, light, capsys):
    out = tmp_path / "out"
    for method in ("beso", "ddpm"):
        light(method, until_stopped=60)
    assert sweep(out, *SWEEP) == 0
    until(lambda: [states(out)[f"toy/{method}/0"] for method in ("beso", "ddpm")] == ["running"] * 2)
    assert states(out)["toy/cd/0"] == "queued"
    # what is in the queue already is not submitted twice
    capsys.readouterr()
    assert sweep(out, *SWEEP) == 0
    assert "8 cells are in the queue already" in capsys.readouterr().out
    assert verb("cancel", "--out", str(out), "--cells", "toy/beso/*") == 0
    shown = capsys.readouterr().out
    assert "cancelled toy/beso/0\n" in shown and "cancelled toy/cd/1 (needs a cancelled one)" in shown
    until(lambda: len(squeue("-r")) == 3)
    now = states(out)
    assert now["toy/beso/0"] == now["toy/ctm/1"] == "cancelled" and now["toy/ddpm/0"] == "running"
    assert verb("cancel", "--out", str(out)) == 0
    until(lambda: not squeue())
    assert set(states(out).values()) == {"cancelled"} and not records(out)
    assert verb("cancel", "--out", str(out)) == 0
    assert "no cell" in capsys.readouterr().out
    for method in ("beso", "ddpm"):  # the same command runs what was cancelled
        light(method)
    assert sweep(out, *SWEEP, "--wait", "--cells-per-job", "4") == 0
    assert len(records(out)) == 8


def test_a_cell_of_a_shared_job_is_cancelled_alone(tmp_path, light):
    out = tmp_path / "out"
    light("beso", until_stopped=60)
    light("mode", until_stopped=60)
    assert sweep(out, "--methods", "beso,ddpm,mode", "--cells-per-job", "3") == 0
    until(lambda: states(out)["toy/beso/0"] == "running")
    assert verb("cancel", "--out", str(out), "--cells", "toy/beso/0,toy/mode/0") == 0
    until(lambda: not squeue())
    assert list(records(out)) == ["toy/ddpm/0"]
    assert states(out) == {"toy/beso/0": "cancelled", "toy/ddpm/0": "ended", "toy/mode/0": "cancelled"}


def test_a_cell_that_dies_too_often_fails_and_the_rest_of_its_job_goes_on(tmp_path, light, monkeypatch):
    for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT"):  # submitted from within another job
        monkeypatch.setenv(f"SLURM_{name}", "77")
    out = tmp_path / "out"
    light("beso", die=True)
    assert sweep(out, "--methods", "beso,ddpm,cd", "--cells-per-job", "2", "--wait") == 1
    found = records(out)
    assert found["toy/beso/0"]["error"]["message"] == "the cell's process was killed 2 times, by SIGKILL at last"
    assert found["toy/ddpm/0"]["status"] == "done" and found["toy/cd/0"]["error"]["type"] == "Blocked"


def test_what_scancel_ends_stays_away(tmp_path, light):
    out = tmp_path / "out"
    light("beso", until_stopped=60)
    light("ddpm", until_stopped=60)
    assert sweep(out, "--methods", "beso,ddpm") == 0
    until(lambda: begun(out, "toy/beso/0") and begun(out, "toy/ddpm/0"))
    job = scheduler.jobs(out)["toy/ddpm/0"].job_id
    subprocess.run(["scancel", job], check=True)
    until(lambda: not squeue("-j", job))
    assert states(out) == {"toy/beso/0": "running", "toy/ddpm/0": "cancelled"}
    assert "stopped   toy/ddpm/0 on SIGTERM, saved" in scheduler.jobs(out)["toy/ddpm/0"].log.read_text()
    verb("cancel", "--out", str(out))
    until(lambda: not squeue())


def test_a_job_comes_back_as_often_as_its_profile_says(tmp_path, light):
    out = tmp_path / "out"
    light("beso", until_stopped=60)
    assert sweep(out, "--methods", "beso,cd", "--resource", "requeues=0") == 0
    until(lambda: begun(out, "toy/beso/0"))
    subprocess.run(["scancel", "--signal=USR2", scheduler.jobs(out)["toy/beso/0"].job_id], check=True)
    until(lambda: len(records(out)) == 2)
    found = records(out)
    assert found["toy/beso/0"]["error"]["type"] == "Requeued" and found["toy/cd/0"]["error"]["type"] == "Blocked"


def test_a_refused_submission_is_one_line(tmp_path, capfd):
    assert sweep(tmp_path / "out", "--methods", "beso,cd", "--resource", "partition=nowhere") == 2
    error = capfd.readouterr().err
    assert "sbatch refused array 0 of profile test" in error and "invalid partition" in error
    assert len(error.splitlines()) == 1
