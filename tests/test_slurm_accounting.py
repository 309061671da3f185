"""With real accounts (slurmdbd on MariaDB): jobs that slurmctld has forgotten are asked of the real sacct."""

import json

import pytest
from cluster import records, squeue, start, sweep, until, why_not
from standins import verb

from harness import record, scheduler, slurm

pytestmark = pytest.mark.slurm_accounting


@pytest.fixture(scope="module")
def accounts():
    if why := why_not("slurmctld", "slurmd", "munged", "sbatch", "slurmdbd", "mariadbd"):
        pytest.skip(why)
    yield from start("accounting", MINJOBAGE="2")


def test_states_from_the_accounts(accounts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "TARGET", "slurm_cells:light_cell")
    out = tmp_path / "out"
    for method, does in {"ddpm": {"until_stopped": 60}, "mode": {"exit": 3}}.items():
        record.write_atomic(out / "light" / f"{method}.json", json.dumps(does))
    assert sweep(out, "--methods", "beso,ddpm,mode,cd") == 0
    until(lambda: scheduler.jobs(out)["toy/ddpm/0"].state == "running")
    assert verb("cancel", "--out", str(out), "--cells", "toy/ddpm/0") == 0
    until(lambda: not squeue("-t", "all"), 120)  # slurmctld remembers nothing
    found = scheduler.jobs(out)
    assert {key: job.state for key, job in found.items()} == {
        "toy/beso/0": "ended", "toy/cd/0": "ended", "toy/ddpm/0": "cancelled", "toy/mode/0": "failed",
    }  # fmt: skip
    assert found["toy/mode/0"].detail == "failed, exit code 3:0" and found["toy/mode/0"].log.is_file()
    assert set(records(out)) == {"toy/beso/0", "toy/cd/0"}
    # a job that ended without a record is a failure to retry; a cancelled one is not
    (out / "light" / "mode.json").unlink()
    assert verb("retry", "--out", str(out), "--wait") == 0
    assert scheduler.tables(out)[-1].cells == ["toy/mode/0"]
