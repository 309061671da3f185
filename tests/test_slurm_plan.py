"""SLURM without a cluster: arrays from a plan, batch scripts, profiles, wrong input, what squeue and sacct say."""

import os
import shutil
import stat
import time

import pytest
from cluster import PROFILES
from standins import call, make_spec, verb, write_record

from harness import cli, clusters, plan, record, run, scheduler, slurm
from harness.clusters import Profile, minutes
from harness.errors import UserError
from harness.progress import Progress
from harness.registry import load_suites

TOY = ["--tasks", "toy", "--budget", "smoke", "--launcher", "slurm"]
A, B, A0, A1, B0 = "toy/beso/0", "toy/ddpm/0", "toy/cd/0", "toy/cd/1", "toy/vdd_vp/0"
NEEDS = {A0: (A,), A1: (A,), B0: (B,)}


def failed(out):
    """The plan and the failed record of one cell, toy/beso/0."""
    options = ["--tasks", "toy", "--methods", "beso", "--budget", "smoke", "--out", str(out)]
    args = cli.run_parser("x").parse_args(options)
    made, seeds, _ = run.make_plan(args, load_suites(args.suites))
    plan.save(made, seeds)
    error = {"type": "E", "message": "m", "log": None}
    write_record(out, "toy", "beso", 0, made.cells[0].config_hash, status="failed", error=error)


def shape(arrays):
    """[(keys of each job, what the array waits for)]"""
    return [
        ([[spec["key"] for spec in pack] for pack in array.packs], [*array.after, *array.after_ids]) for array in arrays
    ]


def arrange(keys, active=None, cells_per_job=1, max_array=100, out="out"):
    return shape(slurm.arrange([make_spec(out, key) for key in keys], NEEDS, active or {}, cells_per_job, max_array))


@pytest.mark.parametrize(
    ("keys", "options", "expected"),
    [
        ([A, B, A0, A1, B0], {}, [([[A], [B]], []), ([[A0], [A1]], [(0, 0)]), ([[B0]], [(0, 1)])]),
        ([A, B, A0, A1, B0], {"cells_per_job": 2}, [([[A, B]], []), ([[A0, A1], [B0]], [(0, 0)])]),
        ([B0, A1, A0, B, A], {}, [([[B], [A]], []), ([[B0]], [(0, 0)]), ([[A1], [A0]], [(0, 1)])]),
        ([A0, A1], {}, [([[A0], [A1]], [])]),  # the teacher is done
        ([A0, A1], {"active": {A: "7_1"}}, [([[A0], [A1]], ["7_1"])]),  # the teacher is in the queue already
        ([A, A0, A1], {"max_array": 1}, [([[A]], []), ([[A0]], [(0, 0)]), ([[A1]], [(0, 0)])]),
    ],
)
def test_arrays_wait_for_the_very_jobs_that_they_need(keys, options, expected):
    assert arrange(keys, **options) == expected


def test_a_circle_of_needs_is_an_error():
    with pytest.raises(ValueError, match="need one another"):
        slurm.arrange([make_spec("out", A)], {A: (A,)}, {}, 1, 10)


def test_the_batch_script_asks_for_the_profile(tmp_path):
    path = tmp_path / "clusters.toml"
    path.write_text(
        '[mine]\npartition="p"\naccount="a"\nqos="q"\nconstraint="a100|h100"\ntime="1-02:00:00"\ngpus=2\ncpus=4\n'
        'mem_gb=1.5\nsetup=["module load cuda"]\nsignal_s=77\nextra={exclude="node7", exclusive=true}\n'
    )
    profile = clusters.load(path, "mine", ["array_parallelism=3"])
    array = slurm.Array(1, [[make_spec(tmp_path, key)] for key in (A0, A1)], after=((0, 4),))
    text = slurm.script(array, profile, tmp_path / "jobs" / "S")
    for line in (
        "--partition=p", "--account=a", "--qos=q", "--constraint='a100|h100'", "--time=1560", "--gpus-per-node=2",
        "--cpus-per-task=4", "--mem=1536MB", "--signal=USR2@77", "--exclude=node7", "--exclusive", "--array=0-1%2",
        "--requeue", "--dependency=afterany:ARRAY0_4", "--kill-on-invalid-dep=yes", "--job-name=S-1",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "\nmodule load cuda\n" in text and "wckey" not in text
    assert text.index("module load cuda") < text.index("srun") < text.index("slurm_job died")


def test_the_example_profiles_are_whole():
    blocks = clusters.read(clusters.CLUSTERS)
    assert len(blocks) >= 4
    for name in blocks:
        assert clusters.load(clusters.CLUSTERS, name).name == name
    described = clusters.CLUSTERS.read_text()
    assert all(f"{key} " in described or f"{key}," in described for key in clusters.KEYS), "a key is not explained"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(90, 90), ("90", 90), ("04:00:00", 240), ("1-12:00:00", 2160), ("2-0", 2880), ("1-01:30", 1530), ("90:30", 91)],
)
def test_time_formats(value, expected):
    assert minutes(value) == expected


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("[gpu]\ntime=60", "gpuu", "unknown profile 'gpuu'.*Did you mean 'gpu'"),
        ("[gpu]\npartion='x'", "gpu", "unknown key 'partion'.*Did you mean 'partition'"),
        ("[gpu\n", "gpu", "no TOML"),
        ("time = 3", "time", "stands outside of a profile"),
        ("[gpu]\ntime='soon'", "gpu", "time must be minutes"),
        ("[gpu]\ntime=true", "gpu", "time must be minutes"),
        ("[gpu]\ntime=2\nsignal_s=100", "gpu", "must exceed signal_s"),
        ("[gpu]\ncpus=0", "gpu", "cpus must be at least 1"),
        ("[gpu]\ncpus='many'", "gpu", "cpus of profile gpu.*must be int"),
        ("[gpu]\nsetup='module load x'", "gpu", "setup of profile gpu"),
        ("[gpu]\nextra={array='0-3'}", "gpu", "extra may not set array"),
        (None, "gpu", "no cluster profiles in"),
        (b"\xff\xfe", "gpu", "no TOML"),
    ],
)
def test_a_wrong_cluster_file_is_one_line_and_code_2(text, name, told, tmp_path, capfd):
    path = tmp_path / "clusters.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=told):
        clusters.load(path, name)
    out = tmp_path / "out"
    assert call(*TOY, "--methods", "beso", "--clusters", str(path), "--profile", name, "--out", str(out)) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1 and not out.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--launcher", "slrum"], "Did you mean 'slurm'"),
        (["--launcher", "pool", "--profile", "x"], "--profile is for --launcher slurm"),
        (["--launcher", "local", "--wait"], "--wait is for --launcher slurm"),
        (["--launcher", "slurm", "--workers", "3"], "--array-parallelism"),
        (["--launcher", "slurm", "--cells-per-job", "0"], "at least 1"),
        (["--launcher", "slurm", "--device", "cuda"], "asks for no GPU"),
        (["--launcher", "slurm", "--threads", "4"], "more than the 1 cpus"),
        (["--launcher", "slurm", "--resource", "cpus"], "KEY=VALUE"),
        (["--launcher", "slurm", "--resource", "cpu=3"], "Did you mean 'cpus'"),
    ],
)
def test_wrong_options(options, told, tmp_path, capsys):
    assert call("--tasks", "toy", "--methods", "beso", "--out", str(tmp_path / "out"), *options) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1


def test_without_sbatch_nothing_is_submitted(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "c.toml").write_text(PROFILES)
    options = [*TOY, "--methods", "beso", "--clusters", str(tmp_path / "c.toml"), "--profile", "test"]
    assert call(*options, "--out", str(tmp_path / "out")) == 2
    assert "no sbatch on this machine" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert call(*options, "--out", str(tmp_path / "out"), "--dry-run") == 0
    assert "#SBATCH" in capsys.readouterr().out


def test_without_a_profile_it_is_a_dry_run(tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--methods", "beso,cd", "--seeds", "2", "--out", str(out), "--resource", "time=08:00:00"]
    assert call(*TOY, *options) == 0
    shown = capsys.readouterr().out
    assert "no --profile named, so nothing is submitted" in shown and "gpu-modules" in shown
    assert "3 cells in 3 jobs, 2 arrays" in shown and shown.count("#!/bin/bash") == 2
    assert "#SBATCH --time=480\n" in shown and not out.exists()


def test_gpus_decide_the_device(tmp_path, capsys):
    options = ["--methods", "beso", "--out", str(tmp_path / "out"), "--profile", "gpu", "--dry-run"]
    assert call(*TOY, *options) == 0
    assert "--gpus-per-node=1" in capsys.readouterr().out
    assert call(*TOY, *options, "--device", "cpu") == 0
    assert "gpus-per-node" not in capsys.readouterr().out


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Fake squeue and sacct that print what a test writes into their files, and count how often they are asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("squeue", "sacct"):
        script = folder / name
        script.write_text(f"#!/bin/sh\necho . >> {folder}/{name}.calls\ncat {folder}/{name}.txt\n")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def table(out, name="s1", **jobs):
    made = scheduler.Table(name, "slurm", time.time(), {}, {k.lstrip("j"): v for k, v in jobs.items()})
    made.cells = [key for keys in jobs.values() for key in keys]
    made.write(out)
    scheduler.folder(out, name).mkdir()
    return made


def test_states_of_jobs(tmp_path, told):
    out = tmp_path / "out"
    table(out, "s0", j1=[A])
    table(out, j12_0=[A], j12_1=[B], j13=[A0, A1], j14=[B0], j15=["toy/ctm/0"], j16=["toy/ctm/1"], j17=["toy/em/0"])
    write_record(out, "toy", "vdd_vp", 0)
    write_record(out, "toy", "em", 0)
    Progress(record.work_path(out, A0), tensorboard=False)
    told.joinpath("squeue.txt").write_text(
        "12_0|RUNNING|1:05|node1|s1-0\n12_1|PENDING|0:00|(Dependency)|s1-0\n13|RUNNING|2:00|node2|s1-1\n17|RUNNING|0:01|n|s1-2\n77|PENDING|0:00|(None)|a|b\n"
    )
    told.joinpath("sacct.txt").write_text("15|OUT_OF_MEMORY|0:125\n16|CANCELLED by 0|0:0\n99|FAILED|1:0\n")
    found = scheduler.jobs(out)
    assert {key: (job.state, job.job_id) for key, job in found.items()} == {
        A: ("running", "12_0"), B: ("queued", "12_1"), A0: ("running", "13"), A1: ("queued", "13"), B0: ("ended", "14"),
        "toy/em/0": ("ended", "17"),
        "toy/ctm/0": ("failed", "15"), "toy/ctm/1": ("cancelled", "16"),
    }  # fmt: skip
    assert "1:05 on node1" in found[A].detail and "Dependency" in found[B].detail
    assert found["toy/ctm/0"].detail == "out of memory, exit code 0:125"
    assert found[A].log == out / "jobs" / "s1" / "12_0_0_log.out"
    calls = [told.joinpath(f"{name}.calls").read_text().count(".") for name in ("squeue", "sacct")]
    assert calls == [1, 1]


def test_a_teacher_whose_weights_are_gone_makes_room(tmp_path):
    options = ["--tasks", "toy", "--methods", "cd", "--budget", "smoke", "--out", str(tmp_path)]
    args = cli.run_parser("x").parse_args(options)
    before, *_ = run.make_plan(args, load_suites(args.suites))
    path = write_record(tmp_path, "toy", "beso", 0, before.cells[0].config_hash)
    made, *_ = run.make_plan(args, load_suites(args.suites))
    assert [cell.key for cell in made.to_run] == [A, A0]
    (line,) = plan.settle(made, overwrite=False)
    assert "its weights are gone" in line and not path.exists() and path.with_name("0.json.old-1").exists()


def test_without_accounting_a_forgotten_job_has_ended(tmp_path, told):
    table(tmp_path, j5=[A])
    told.joinpath("squeue.txt").write_text("")
    told.joinpath("sacct").write_text("#!/bin/sh\necho Slurm accounting storage is disabled >&2\nexit 1\n")
    assert scheduler.jobs(tmp_path)[A].state == "ended"


def test_jobs_of_a_broken_off_submission_are_known_by_their_names(tmp_path, told):
    made = scheduler.Table("s1", "slurm", 0.0, {}, {"8": [B]}, cells=[A, B, A0, A1])
    made.write(tmp_path)
    slurm.write_packs(slurm.arrange([make_spec(tmp_path, k) for k in (A0, A1)], {}, {}, 1, 9), {}, Profile(),
                      scheduler.folder(tmp_path, "s1"), "t")  # fmt: skip
    text = "8|PENDING|0:00|(None)|s1-9\n9_0|PENDING|0:00|(None)|s1-0\n9_1|RUNNING|0:01|n|s1-0\n5|RUNNING|0:01|n|s2-0\n"
    told.joinpath("squeue.txt").write_text(text)
    states = {key: (job.job_id, job.state) for key, job in scheduler.jobs(tmp_path).items()}
    assert states == {B: ("8", "queued"), A0: ("9_0", "queued"), A1: ("9_1", "running")}
    assert scheduler.tables(tmp_path)[0].jobs == {"8": [B], "9_0": [A0], "9_1": [A1]}


def test_retry_on_another_launcher_leaves_its_options(tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "c.toml").write_text(PROFILES)
    clusters_file = ["--clusters", str(tmp_path / "c.toml"), "--profile", "test", "--cells-per-job", "2"]
    args = cli.run_parser("x").parse_args([*TOY, "--methods", "beso", *clusters_file, "--threads", "3"])
    scheduler.Table("s", "slurm", 0.0, cli.stored(args), cells=[A]).write(out)
    failed(out)
    assert verb("retry", "--out", str(out), "--launcher", "inline", "--dry-run") == 0
    assert "1 of 1 cells to run, in this process" in capsys.readouterr().out
    assert verb("retry", "--out", str(out), "--resource", "cpus=3", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "SLURM, profile test" in shown and "cpus_per_task" not in shown and "#SBATCH --cpus-per-task=3" in shown
    assert verb("retry", "--out", str(out), "--launcher", "inline") == 0
    assert record.read(record.record_path(out, A), A)["status"] == "done"
    assert scheduler.tables(out)[-1].launcher == "inline"


def test_a_slurm_that_does_not_answer_is_unknown(tmp_path, told, capsys):
    table(tmp_path, j5=[A])
    told.joinpath("squeue").write_text("#!/bin/sh\nexit 1\n")
    assert scheduler.jobs(tmp_path)[A].state == "unknown"
    assert verb("cancel", "--out", str(tmp_path)) == 2
    assert "does not answer" in capsys.readouterr().err
    assert call(*TOY, "--methods", "beso", "--out", str(tmp_path), "--profile", "cpu", "--dry-run") == 2
    assert "earlier submission may still run" in capsys.readouterr().err


def test_a_folder_without_slurm_asks_nothing(tmp_path, told):
    scheduler.Table("s", "pool", 0.0, {}, cells=[A]).write(tmp_path)
    assert scheduler.jobs(tmp_path) == {} and not told.joinpath("squeue.calls").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 1}', '{"schema": 9}'])
def test_a_broken_job_table_is_a_user_error(text, tmp_path):
    record.write_atomic(tmp_path / "jobs" / "x.json", text)
    with pytest.raises(UserError, match="not a job table"):
        scheduler.jobs(tmp_path)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["cancel", "--out", "NONE"], "nothing was run"),
        (["retry", "--out", "NONE"], "nothing was run"),
        (["retry"], "retry needs --out"),
        (["retry", "--out", "OUT", "--cells", "toy/nothing/*"], "names none of these 1 cells: toy/beso/0"),
        (["retry", "--out", "OUT"], "not known how toy/beso/0 was run"),
    ],
)
def test_wrong_verbs(argv, told, tmp_path, capsys):
    out = tmp_path / "out"
    failed(out)
    assert verb(*({"NONE": str(tmp_path / "none"), "OUT": str(out)}.get(word, word) for word in argv)) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1


def test_submitting_is_fast(tmp_path, monkeypatch, capsys):
    """288 cells: packs, scripts and tables, with an sbatch that takes no time; one call of it for each array."""
    fake = tmp_path / "bin"
    fake.mkdir()
    for name in ("sbatch", "srun", "squeue"):
        text = f"echo $$ >> {fake}/calls; echo Submitted batch job $$" if name == "sbatch" else "true"
        (fake / name).write_text(f"#!/bin/sh\n{text}\n")
        (fake / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    (tmp_path / "c.toml").write_text(PROFILES)
    options = ["--methods", "beso,ddpm,vdd_vp,cd,ctm", "--seeds", "96", "--clusters", str(tmp_path / "c.toml")]
    out = tmp_path / "out"
    began = time.monotonic()
    assert call(*TOY, *options, "--profile", "test", "--out", str(out)) == 0
    assert time.monotonic() - began < 15
    assert "submitted 290 cells in 290 jobs" in capsys.readouterr().out
    assert len((fake / "calls").read_text().split()) == 3
    (made,) = scheduler.tables(out)
    assert len(made.jobs) == 290 and made.options["seeds"] == "96"


def test_local_executors_leave_the_records_of_the_pool(tmp_path):
    options = ["--tasks", "toy", "--methods", "cd", "--budget", "smoke"]
    found = {}
    for launcher in ("local", "debug"):
        out = tmp_path / launcher
        assert call(*options, "--launcher", launcher, "--out", str(out)) == 0
        found[launcher] = [
            record.comparable(record.read(record.record_path(out, f"toy/{method}/0"))) for method in ("beso", "cd")
        ]
        shutil.rmtree(out / "work")
    assert found["local"] == found["debug"]


def test_profile_defaults_are_possible():
    assert Profile().time * 60 > Profile().signal_s + clusters.EARLY
