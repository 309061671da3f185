"""The command line: light verbs, dry runs, exit codes, and a whole run on the smoke budget."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from standins import call, make_demonstrations, verb, write_plan, write_record

from harness import record

ROOT = Path(__file__).parent.parent
LIGHT = """
import sys
from harness import cli
from harness.__main__ import main
code = cli.guarded(main, sys.argv[1:])
heavy = {"torch", "mujoco", "numba", "matplotlib", "pandas"} & set(sys.modules)
sys.exit(code if not heavy else f"imported {heavy}")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(make_demonstrations(tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize(
    "argv",
    [["ls"], ["plan", "--seeds", "4"],
     ["plan", "--data-root", "DATA", "--tasks", "avoiding", "--methods", "vdd,cd", "--seeds", "3,7"],
     ["plan", "--launcher", "slurm", "--profile", "gpu"], ["cancel", "--out", "OUT"], ["retry", "--out", "OUT"],
     ["status", "--out", "OUT"], ["tables", "--out", "OUT", "--format", "all"], ["--help"],
     ["tables", "--table", "7", "--out", "OUT"], ["claims", "--out", "OUT"],
     ["plan", "--study", "steps", "--tasks", "avoiding"],
     ["validate", "--out", "OUT"], ["status", "--out", "OUT", "--all"]],
)  # fmt: skip
def test_light_verbs_import_neither_torch_nor_mujoco(argv, data, tmp_path, monkeypatch):
    monkeypatch.setenv("VDD_CACHE_DIR", str(tmp_path / "cache"))  # `validate` reads all of the user's
    write_record(tmp_path, "avoiding", "beso", 0)
    argv = [{"DATA": data, "OUT": str(tmp_path)}.get(word, word) for word in argv]
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", LIGHT, *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout and time.monotonic() - began < 10


@pytest.mark.parametrize(
    "name", ["ls", "plan", "status", "tables", "claims", "compare", "data", "ship", "validate", "reproduce"]
)
def test_every_verb_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        verb(name, "--help")
    assert "usage:" in capsys.readouterr().out


def test_dry_run_shows_the_plan_and_writes_nothing(data, tmp_path, capsys):
    out = tmp_path / "out"
    options = [
        "--methods",
        "vdd",
        "--seeds",
        "2",
        "--tasks",
        "avoiding",
        "--data-root",
        data,
        "--out",
        str(out),
        "--budget",
        "smoke",
    ]
    assert call(*options, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert re.search(r"avoiding +beso \(needed\) +0 ", shown) and re.search(r"avoiding +vdd_ve +0-1 ", shown)
    assert "6 of 6 cells to run" in shown and "avoiding: official" in shown
    assert not out.exists()
    assert verb("plan", *options) == 0
    assert capsys.readouterr().out == shown


def test_all_says_what_is_missing(data, capsys):
    assert call("--dry-run") == 0
    shown = capsys.readouterr().out
    absent = re.search(r"all tasks: without (.*) \(not available yet\)", shown)
    assert absent is None or "avoiding" not in absent[1]


def test_the_out_folder_says_budget_and_source(data, capsys):
    assert call("--tasks", "avoiding", "--data-root", data, "--budget", "smoke", "--dry-run") == 0
    assert "runs/smoke-official" in capsys.readouterr().out
    assert call("--dry-run") == 0
    assert "runs/quick-scripted" in capsys.readouterr().out


def test_status_tells_every_state(tmp_path, capsys):
    import os
    import socket

    write_record(tmp_path, "avoiding", "beso", 0)
    error = {"type": "FloatingPointError", "message": "loss", "log": "work/x/log.txt"}
    write_record(tmp_path, "avoiding", "cd", 0, status="failed", error=error)
    write_record(tmp_path, "avoiding", "ddpm", 0, config_hash="older")
    broken = write_record(tmp_path, "avoiding", "cd", 1)
    broken.write_text(broken.read_text()[:40])
    state = {
        "phase": "train", "step": 5, "total": 10, "values": {"loss": 0.5}, "seconds_left": 100.0,
        "host": socket.gethostname(), "updated": time.time(),
    }  # fmt: skip
    for seed, pid in enumerate((os.getpid(), 2**22 + 5)):
        path = tmp_path / "work" / "avoiding" / "vdd_ve" / str(seed) / "progress.json"
        record.write_atomic(path, json.dumps(state | {"pid": pid}))
    cells = [("beso", 0), ("cd", 0), ("cd", 1), ("ddpm", 0), ("vdd_ve", 0), ("vdd_ve", 1), ("vdd_ve", 2)]
    content = [{"task": "avoiding", "method": m, "seed": s, "config_hash": "h", "needs": []} for m, s in cells]
    write_plan(tmp_path, content)
    assert verb("status", "--out", str(tmp_path)) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    told = {line.split()[1]: line.split()[0] for line in lines}
    assert told == {
        "avoiding/beso/0": "done", "avoiding/cd/0": "failed", "avoiding/cd/1": "corrupt", "avoiding/ddpm/0": "outdated",
        "avoiding/vdd_ve/0": "running", "avoiding/vdd_ve/1": "interrupted", "avoiding/vdd_ve/2": "waiting",
    }  # fmt: skip
    text = "\n".join(lines)
    assert "train 5/10 · loss 0.5 · 2 min left" in text and "FloatingPointError: loss (log: " in text
    assert last.startswith("1 running, 1 failed, 1 interrupted") and last.endswith("of 7 cells")


def test_data_describe(data, capsys):
    assert verb("data", "describe", "--tasks", "avoiding", "--data-root", data) == 0
    assert "6 episodes of 69-69 rows" in capsys.readouterr().out


def test_a_run_from_demonstrations_to_tables(data, tmp_path, capsys):
    out = tmp_path / "out"
    options = [
        "--methods",
        "beso,ve1,vdd_ve",
        "--seeds",
        "2",
        "--budget",
        "smoke",
        "--tasks",
        "avoiding",
        "--data-root",
        data,
    ]
    options += ["--out", str(out), "--set", "beso.steps=3", "--set", "vdd_ve.steps=2", "--set", "vdd_ve.rollouts=3"]
    options += ["--set", "beso.sampling_steps=2"]
    assert call(*options, "--workers", "2") == 0
    shown = capsys.readouterr().out
    assert "4 cells done" in shown and re.search(r"Avoiding +VDD-VE +\d\.\d\d", shown)
    records = {p: p.read_bytes() for p in sorted((out / "records").glob("*/*/*.json"))}
    assert len(records) == 4
    student = record.read(out / "records" / "avoiding" / "vdd_ve" / "1.json", "avoiding/vdd_ve/1")
    teacher = record.read(out / "records" / "avoiding" / "beso" / "0.json")
    assert student["teacher"] == {
        "cell": "avoiding/beso/0",
        "origin": "trained",
        "sha256": teacher["weights"]["sha256"],
    }
    assert student["data"]["source"] == "official" and student["data"]["episodes"] == 6
    assert [len(v) for v in student["episodes"].values()] == [3] * 5
    assert student["training"]["steps"] == 2 and student["parameters"] > 1000
    assert list((out / "work" / "avoiding" / "vdd_ve" / "1" / "tensorboard").glob("events*"))
    assert str(tmp_path) not in json.dumps(student)  # no machine's paths in a record
    assert {p.suffix for p in (out / "tables").iterdir()} == {".csv", ".md", ".tex"}

    assert call(*options) == 0  # everything is done: nothing runs
    assert "0 of 4 cells to run" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in records} == records

    again = tmp_path / "again"  # inline, one after the other: the same numbers
    assert call(*options, "--out", str(again), "--workers", "0") == 0
    for path in records:
        first, second = record.read(path), record.read(again / path.relative_to(out))
        assert record.comparable(first) == record.comparable(second)


def test_a_diverging_cell_fails_visibly(data, tmp_path, capsys):
    options = [
        "--methods",
        "ve1",
        "--budget",
        "smoke",
        "--tasks",
        "avoiding",
        "--data-root",
        data,
        "--out",
        str(tmp_path),
        "--workers",
        "0",
    ]
    assert call(*options, "--set", "beso.lr=1e30", "--set", "beso.warmup=1") == 1
    error = capsys.readouterr().err
    assert "FAILED avoiding/beso/0: FloatingPointError" in error and "FAILED avoiding/ve1/0: needs" in error
    assert "Traceback" not in error
    assert record.read(tmp_path / "records" / "avoiding" / "beso" / "0.json")["status"] == "failed"


def test_teachers_are_shipped_and_used(data, tmp_path, capsys):
    common = [
        "--budget",
        "smoke",
        "--tasks",
        "avoiding",
        "--data-root",
        data,
        "--workers",
        "0",
        "--set",
        "beso.rollouts=3",
    ]
    first, second, teachers = (str(tmp_path / name) for name in ("first", "second", "teachers"))
    assert call("--methods", "beso", "--out", first, "--set", "beso.steps=3", *common) == 0
    assert verb("ship", "--out", first, "--to", teachers) == 0
    capsys.readouterr()
    options = [
        "--methods",
        "beso,ve1,vdd_ve",
        "--teachers",
        teachers,
        "--set",
        "vdd_ve.steps=2",
        "--set",
        "vdd_ve.rollouts=3",
    ]
    assert call(*options, "--out", second, *common) == 0
    assert "avoiding/beso/0 (shipped)" in capsys.readouterr().out
    made = {m: record.read(Path(second) / "records" / "avoiding" / m / "0.json") for m in ("beso", "ve1", "vdd_ve")}
    trained = record.read(Path(first) / "records" / "avoiding" / "beso" / "0.json")
    given = {"cell": "avoiding/beso/0", "origin": "shipped", "sha256": trained["weights"]["sha256"]}
    assert all(entry["teacher"] == given for entry in made.values())
    assert made["beso"]["episodes"] == trained["episodes"]  # the same weights and seeds
    assert made["beso"]["training"]["steps"] == 0 and made["vdd_ve"]["training"]["steps"] == 2
    assert not (Path(second) / "work" / "avoiding" / "beso" / "0" / "policy.safetensors").exists()


def test_ctrl_c_keeps_what_there_is(data, tmp_path):
    import os
    import signal

    from harness import progress

    argv = [
        sys.executable,
        "-m",
        "harness.run",
        "--methods",
        "beso",
        "--budget",
        "smoke",
        "--tasks",
        "avoiding",
        "--data-root",
        data,
    ]
    argv += ["--out", str(tmp_path), "--workers", "1", "--set", "beso.steps=100000"]
    run = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ends = time.monotonic() + 120
        while not (state := progress.read(tmp_path / "work/avoiding/beso/0")) or state["phase"] != "train":
            assert run.poll() is None and time.monotonic() < ends
            time.sleep(0.05)
        os.kill(run.pid, signal.SIGINT)
        _, error = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130 and "the same command continues" in error and "Traceback" not in error
    assert not progress.alive(state)
    assert not list(tmp_path.glob("records/*/*/*"))
