"""The launcher: order, failures, killed workers, a killed parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from standins import alive, make_spec

from harness import record
from harness.launch import launch

TARGET = "standins:stand_in_cell"
TEACHER, STUDENTS = "avoiding/beso/0", ["avoiding/vdd_ve/0", "avoiding/vdd_ve/1"]
NEEDS = dict.fromkeys(STUDENTS, (TEACHER,))


def run(out, specs, workers, needs=NEEDS):
    events = []
    results = launch(specs, needs, workers, lambda *event: events.append(event), TARGET)
    return results, [event for event in events if event[0] != "tick"]


def trace(out):
    return [line.split()[:2] for line in (out / "trace.txt").read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_teachers_before_students(tmp_path, workers):
    specs = [make_spec(tmp_path, key) for key in (*STUDENTS, "avoiding/cd/0")] + [
        make_spec(tmp_path, TEACHER, sleep=0.2)
    ]
    results, events = run(tmp_path, specs, workers)
    assert results == dict.fromkeys([*STUDENTS, "avoiding/cd/0", TEACHER], "")
    order = trace(tmp_path)
    assert order.index(["end", TEACHER]) < min(order.index(["begin", key]) for key in STUDENTS)
    assert {key for name, key, _ in events if name == "done"} == set(results)


def test_cells_run_at_once(tmp_path):
    specs = [make_spec(tmp_path, f"avoiding/cd/{i}", sleep=1.0) for i in range(2)]
    run(tmp_path, specs, 2)
    assert [kind for kind, _ in trace(tmp_path)] == ["begin", "begin", "end", "end"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failed_cell_stops_only_those_that_need_it(tmp_path, workers):
    specs = [make_spec(tmp_path, TEACHER, fail=True), *(make_spec(tmp_path, key) for key in STUDENTS)]
    results, _ = run(tmp_path, [*specs, make_spec(tmp_path, "avoiding/ddpm/0")], workers)
    assert results["avoiding/ddpm/0"] == ""
    assert "FloatingPointError: loss is not finite" in results[TEACHER]
    assert all(results[key] == f"needs {TEACHER}, which failed" for key in STUDENTS)
    failed = record.read(record.record_path(tmp_path, TEACHER), TEACHER)
    assert failed["status"] == "failed" and failed["error"]["type"] == "FloatingPointError"
    assert "Traceback" in (tmp_path / failed["error"]["log"]).read_text()
    assert record.read(record.record_path(tmp_path, STUDENTS[0]))["error"]["type"] == "Blocked"


def test_a_killed_worker_is_a_failed_cell(tmp_path):
    specs = [make_spec(tmp_path, "avoiding/cd/0", die=True), make_spec(tmp_path, "avoiding/cd/1")]
    results, _ = run(tmp_path, specs, 2)
    assert results["avoiding/cd/1"] == "" and "SIGKILL" in results["avoiding/cd/0"]
    assert record.read(record.record_path(tmp_path, "avoiding/cd/0"))["error"]["type"] == "WorkerDied"


PARENT = """
import sys; sys.path[:0] = {path!r}
from standins import make_spec
from harness.launch import launch
if __name__ == "__main__":
    launch([make_spec({out!r}, "avoiding/cd/0", sleep=60)], {{}}, 1, lambda *event: None, "standins:stand_in_cell")
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path, how):
    script = tmp_path / "parent.py"
    path = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    script.write_text(PARENT.format(path=path, out=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    try:
        worker = wait_for_worker(tmp_path / "trace.txt")
        os.kill(parent.pid, how)
        parent.wait(20)
        ends = time.monotonic() + 20
        while alive(worker) and time.monotonic() < ends:
            time.sleep(0.05)
        assert not alive(worker)
    finally:
        parent.kill()
        parent.wait()


def wait_for_worker(trace_file):
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        if trace_file.exists() and trace_file.read_text().endswith("\n"):
            return int(trace_file.read_text().split()[2])
        time.sleep(0.05)
    raise AssertionError("the worker did not start")
