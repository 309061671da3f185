"""Status from an index, records at scale, and a cell run again from its record alone."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic
from standins import call, verb, write_plan, write_record

from harness import lease, record, registry, reproduce, status, tables, validate
from harness.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv("VDD_DATA_ROOT", raising=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("done")
    options = ["--tasks", "toy", "--methods", "beso,cd", "--budget", "smoke", "--workers", "0", "--out", str(out)]
    assert call(*options) == 0
    return out


# status


def test_synthetic_records_are_records_of_a_plan(tmp_path, capsys):
    options = synthetic.generate(tmp_path, 300, 20)
    for path in tmp_path.glob("records/*/*/*.json"):
        key = f"{path.parts[-3]}/{path.parts[-2]}/{path.stem}"
        whole = record.read(path, key)  # checksum and seal are right
        assert record.head(path, key) == {name: whole[name] for name in record.HEAD}
    assert len(list(tmp_path.glob("records/*/*/*.json"))) == 300
    assert call(*options, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert " of " in shown and "300 done" in status.lines(tmp_path)[-1]
    left = int(shown.splitlines()[-1].split()[0])
    assert 0 <= left - (len(status.states(tmp_path)) - 300) <= 3  # teachers without weights that students need
    grouped = [line for line in status.lines(tmp_path) if "avoiding/cd " in line]
    assert len(grouped) == 1 and "seeds 0-" in grouped[0]
    assert len(status.lines(tmp_path, True)) == len(status.states(tmp_path)) + 1
    assert tables.read_records(tmp_path)[1] == []


def test_the_index_is_believed_only_while_the_file_is_the_same(tmp_path, monkeypatch):
    path = write_record(tmp_path, "toy", "cd", 0, metrics={"success": 0.25})
    monkeypatch.setattr(status, "RACY", -1e18)  # as if the file had been there for long
    assert status.states(tmp_path)["toy/cd/0"] == ("done", "success 0.25")
    assert (tmp_path / status.INDEX).is_file()
    monkeypatch.setattr(record, "head", lambda *_: pytest.fail("read again"))
    assert status.states(tmp_path)["toy/cd/0"] == ("done", "success 0.25")
    monkeypatch.undo()
    write_record(tmp_path, "toy", "cd", 0, metrics={"success": 0.75})  # the same size
    assert status.states(tmp_path)["toy/cd/0"] == ("done", "success 0.75")
    path.write_bytes(path.read_bytes().replace(b"0.75", b"0.95"))
    assert status.states(tmp_path)["toy/cd/0"][0] == "corrupt"
    path.unlink()
    assert status.states(tmp_path) == {}


def test_a_record_of_this_moment_is_not_indexed(tmp_path):
    write_record(tmp_path, "toy", "cd", 0)
    status.states(tmp_path)
    assert status.read_index(tmp_path) == {}  # it may change once more within one tick of the clock


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": 1, "records": {"toy/cd/0": 3}}', '{"schema": 1, "records": []}']
)
def test_a_broken_index_is_no_index(content, tmp_path):
    write_record(tmp_path, "toy", "cd", 0)
    (tmp_path / status.INDEX).write_text(content)
    assert status.states(tmp_path)["toy/cd/0"][0] == "done"


def test_what_waits_says_for_what(tmp_path):
    cells = [{"task": "toy", "method": "beso", "seed": 0, "config_hash": "h"}]
    cells += [{"task": "toy", "method": "cd", "seed": 0, "config_hash": "h", "needs": ["toy/beso/0"]}]
    write_plan(tmp_path, cells)
    assert {state for state, _ in status.states(tmp_path).values()} == {"missing"}  # nobody works here
    workdir = record.work_path(tmp_path, "toy/beso/0")
    held = lease.Watch(workdir).take()
    state = {"phase": "train", "step": 1, "total": 9, "values": {}, "pid": os.getpid(), "host": "x", "updated": 0}
    (workdir / "progress.json").write_text(json.dumps(state))
    found = status.states(tmp_path)  # its last write is decades old, but its lease is held by a process that lives
    assert found["toy/beso/0"][0] == "running" and "log.txt" in found["toy/beso/0"][1]
    assert found["toy/cd/0"] == ("waiting", "needs toy/beso/0")
    held.release()
    assert status.states(tmp_path)["toy/beso/0"][0] == "interrupted"


def test_watch_ends_when_nothing_is_left_to_wait_for(tmp_path, capsys):
    write_plan(tmp_path, [{"task": "toy", "method": "cd", "seed": 0, "config_hash": "h"}])
    command = [sys.executable, "-m", "harness", "status", "--out", str(tmp_path), "--watch", "0.2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(1.5)
        assert process.poll() is None
        write_record(tmp_path, "toy", "cd", 0)
        shown, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and not error
    assert "1 done of 1 cells" in " ".join(shown.split())  # a long path breaks the line


# weights


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_a_done_teacher_whose_weights_a_student_needs_is_trained_again(damage, done, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    weights = record.work_path(out, "toy/beso/0") / "policy.safetensors"
    weights.unlink() if damage == "gone" else weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    before = {key: record.read(record.record_path(out, key)) for key in ("toy/beso/0", "toy/cd/0")}
    record.record_path(out, "toy/cd/0").unlink()
    options = ["--tasks", "toy", "--methods", "beso,cd", "--budget", "smoke", "--workers", "0", "--out", str(out)]
    assert call(*options) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "its weights are" in shown and "set aside as 0.json.old-1" in shown
    for key, old in before.items():
        new = record.read(record.record_path(out, key))
        assert record.comparable(new) == record.comparable(old) and new["checksum"] != old["checksum"]
    assert validate.validate(out).bad == []


# reproduce


def altered(source, target, **changes):
    """A valid record with other content."""
    record.write(target, record.read(source) | changes)
    return target


def test_the_same_result_from_the_record_and_its_folder(done, tmp_path, capsys):
    path = record.record_path(done, "toy/cd/0")
    assert verb("reproduce", str(path), "--out", str(tmp_path / "again")) == 0
    shown = capsys.readouterr().out
    assert "the same result, to the last bit" in shown and "trained again" not in shown
    assert not (tmp_path / "again" / "records" / "toy" / "beso").exists()


def test_from_the_record_alone_its_teacher_is_trained_again(done, tmp_path, capsys):
    copy = tmp_path / "cd.json"
    copy.write_bytes(record.record_path(done, "toy/cd/0").read_bytes())
    assert verb("reproduce", str(copy)) == 0
    shown = capsys.readouterr().out
    assert "toy/beso/0 are not here: it is trained again first" in shown and "the same result" in shown


def test_what_differs_is_named(done, tmp_path, capsys):
    path = record.record_path(done, "toy/beso/0")
    whole = record.read(path)
    other = altered(path, tmp_path / "0.json", metrics=whole["metrics"] | {"success": 0.99})
    assert verb("reproduce", str(other)) == 1
    shown = capsys.readouterr().out
    assert "differs  metrics.success: 0.99 -> " in shown and "1 differences" in shown


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "failed", "error": {"type": "E", "message": "m"}}, "no result to reproduce"),
        ({"metric_version": 99}, "metric version 99"),
        ({"config_hash": "0" * 64}, "configuration hash"),
        ({"data": {"source": "official", "identity": "x", "episodes": 1}}, "demonstrations"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(done, tmp_path, capsys, changes, says):
    other = altered(record.record_path(done, "toy/beso/0"), tmp_path / "0.json", **changes)
    assert verb("reproduce", str(other), "--out", str(tmp_path / "out")) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_older_record_without_a_recipe(done, tmp_path):
    args = reproduce.argparse.Namespace(
        data_root=None, threads=None, device=None, teachers=tmp_path, official_python=None, official_checkout=None,
        encoder_weights=None,
    )  # fmt: skip
    found = record.read(record.record_path(done, "toy/cd/0"))
    recipe = found.pop("recipe")
    rerun = reproduce.prepare(found, done, args, registry.load_suites(), tmp_path)
    assert rerun.specs[0]["class"] == recipe["class"] and rerun.specs[0]["task_block"] == recipe["task_block"]
    assert "no recipe" in rerun.remarks[0]
    with pytest.raises(UserError, match="neither given nor"):
        reproduce.prepare(found, None, args, registry.load_suites(), tmp_path)


def test_differences_are_paths():
    old = {"a": {"b": [1, 2, 3], "c": 1}, "d": 1}
    new = {"a": {"b": [1, 5, 4], "c": 1}, "e": 2}
    assert list(reproduce.differences(old, new)) == [
        "a.b: 2 of 3 differ, the first at 1: 2 -> 5; largest difference 3", "d: only in the old record",
        "e: only in the new record",
    ]  # fmt: skip
