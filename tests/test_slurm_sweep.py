"""On a real SLURM, sweeps with real cells: dependencies hold, and what was interrupted ends with the very same records.

In the default suite one sweep with signals and kill -9; with `-m slurm_long` preemptions by another partition and time limits
that really run out, in training, roll-outs and while the record is written.
"""

import json
import os

import pytest
import slurm_cells
from cluster import PROFILES, cluster, records, start, sweep, why_not  # noqa: F401 (a fixture)

from harness import record, scheduler, slurm

SETS = [word for m in ("beso", "ddpm", "vdd_vp", "cd", "ctm") for word in ("--set", f"{m}.checkpoint_seconds=0.001")]
SWEEP = ["--methods", "beso,ddpm,vdd_vp,cd,ctm", "--seeds", "2", *SETS]  # 2 teachers, 3 students, 2 seeds
SMALL = ["--methods", "beso,cd,ctm", *(word for i in (0, 3, 4) for word in SETS[2 * i : 2 * i + 2])]
TEACHERS = {"vdd_vp": "toy/ddpm/0", "cd": "toy/beso/0", "ctm": "toy/beso/0"}
SHORT = PROFILES.replace("time = 10", "time = 2").replace("signal_s = 20", "signal_s = 40")


@pytest.fixture(autouse=True)
def struck(monkeypatch):
    monkeypatch.setattr(slurm, "TARGET", "slurm_cells:struck_cell")


def check(out, strikes, expected):
    """Every strike hit, every cell came back where it was, and the records are those of an undisturbed sweep."""
    for key, _, phase in strikes:
        base = out / "faults" / key.replace("/", "-")
        assert base.with_suffix(".struck").exists(), f"{key} was never struck"
        if phase == "train":
            assert json.loads(base.with_suffix(".resumed").read_text()) >= 9
    assert comparable(out) == expected
    assert not list(out.rglob("*.part"))


def disturbed(out, options, strikes, profile=PROFILES):
    for strike in strikes:
        slurm_cells.order(out, *strike)
    assert sweep(out, *options, "--wait", profile=profile) == 0


def comparable(out):
    return {key: record.comparable(made) for key, made in records(out).items()}


def check_order(found):
    """No student began before its teacher had ended, and it distilled what that teacher had learned."""
    for key, made in found.items():
        if key.split("/")[1] in TEACHERS:
            teacher = found[TEACHERS[key.split("/")[1]]]
            assert made["provenance"]["started"] >= teacher["provenance"]["finished"]
            assert made["teacher"]["sha256"] == teacher["weights"]["sha256"]


def check_preview(out, options, capsys):
    """The dry run's scripts are those that were submitted."""
    (made,) = scheduler.tables(out)
    other = out.with_name("preview")
    capsys.readouterr()
    assert sweep(other, *options, "--dry-run") == 0
    previewed = [text.partition("\n")[2] for text in capsys.readouterr().out.split("\n--- ")[1:]]
    paths = list(scheduler.folder(out, made.name).glob("*_submission.sh"))
    first, *_ = written = [path.read_text().strip() for path in sorted(paths, key=lambda p: int(p.name.split("_")[0]))]
    job = min(int(path.name.split("_")[0]) for path in paths)
    changes = {str(other): str(out), "SUBMISSION": made.name, "ARRAY0": str(job)}
    for old, new in changes.items():
        previewed = [text.replace(old, new) for text in previewed]
    assert [text.strip() for text in previewed] == written and len(written) == 3 and "--array=0-1%2" in first


def test_a_sweep_and_one_that_is_struck(cluster, tmp_path, capsys):  # noqa: F811
    plain, struck = tmp_path / "plain", tmp_path / "struck"
    options = [*SWEEP, "--array-parallelism", "2"]
    assert sweep(plain, *options, "--wait") == 0
    found = records(plain)
    assert len(found) == 8 and {made["status"] for made in found.values()} == {"done"}
    check_order(found)
    check_preview(plain, options, capsys)
    strikes = [("toy/beso/0", "kill", "train"), ("toy/cd/0", "usr2", "rollout"), ("toy/ctm/0", "term", "train")]
    disturbed(struck, SMALL, strikes)
    expected = comparable(plain)
    check(struck, strikes, {key: expected[key] for key, *_ in strikes})
    check_order(records(struck))


@pytest.fixture(scope="module")
def plain(cluster, tmp_path_factory):  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm, "TARGET", "slurm_cells:struck_cell")
        out = tmp_path_factory.mktemp("plain") / "out"
        assert sweep(out, *SWEEP, "--cells-per-job", "2", "--wait") == 0
        return comparable(out)


STRIKES = {
    "kill-and-time-limit": [
        ("toy/beso/0", "kill", "train"), ("toy/ddpm/0", "kill", "rollout"), ("toy/ctm/1", "kill", "write"),
        ("toy/vdd_vp/0", "wait", "train"), ("toy/cd/1", "wait", "rollout"), ("toy/ctm/0", "wait", "write"),
    ],
    "preemption": [
        ("toy/ddpm/0", "preempt", "train"), ("toy/cd/0", "preempt", "rollout"), ("toy/vdd_vp/1", "preempt", "write"),
    ],
}  # fmt: skip


@pytest.mark.slurm_long
@pytest.mark.parametrize("name", STRIKES)
def test_every_fault_in_every_phase(name, plain, tmp_path):
    out = tmp_path / "out"
    disturbed(out, SWEEP, STRIKES[name], SHORT)
    check(out, STRIKES[name], plain)


@pytest.mark.slurm_long
def test_preemption_that_only_sends_term(plain, tmp_path):
    """Without SlurmctldParameters=preempt_send_user_signal, the default of clusters."""
    before = os.environ["SLURM_CONF"]
    for _ in start():
        assert os.environ["SLURM_CONF"] != before
        out, strikes = tmp_path / "out", [("toy/ddpm/0", "preempt", "train"), ("toy/vdd_vp/0", "preempt", "rollout")]
        disturbed(out, ["--methods", "ddpm,vdd_vp", *SETS[2:6]], strikes)
        keys = [key for key, *_ in strikes]
        check(out, strikes, {key: plain[key] for key in keys})
