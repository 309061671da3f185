"""Eight runners at once on one results folder: every cell once, no error; also when runners are killed meanwhile."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cells import RUN, completions

from harness import record, validate

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent), str(ROOT)]
# a cell that does nothing but leave a record: what is tested is the launcher
RUNNER = """
import json, sys
from standins import make_spec
from harness.launch import launch
if __name__ == "__main__":
    out, workers, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    teachers = [f"toy/beso/{i}" for i in range(count // 10)]
    students = [f"toy/cd/{i}" for i in range(count - len(teachers))]
    needs = {key: (teachers[i % len(teachers)],) for i, key in enumerate(students)}
    specs = [make_spec(out, key, sleep=0.03) for key in teachers + students]
    results = launch(specs, needs, workers, lambda *event: None, "standins:stand_in_cell")
    print(json.dumps({"results": len(results), "failed": [k for k, why in results.items() if why]}))
"""


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1", "VDD_LEASE_TTL": "20"}


def start(script, *argv):
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, argv)], cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def light(folder, runners, count, kills, seed):
    """Runners with the launcher alone; `kills` of them are killed and started again."""
    rng = random.Random(seed)
    script = folder / "runner.py"
    script.write_text(RUNNER)
    out = folder / "out"
    out.mkdir()
    began = time.monotonic()
    running = [start(script, out, (0, 0, 0, 2)[i % 4], count, i) for i in range(runners)]
    for _ in range(kills):
        time.sleep(rng.uniform(0.3, 1.0))
        i = rng.randrange(runners)
        os.killpg(running[i].pid, signal.SIGKILL)
        running[i].communicate()
        running[i] = start(script, out, 0, count, i)
    for process in running:
        output, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        assert json.loads(output) == {"results": count, "failed": []} and not error
    lines = [line.split() for line in (out / "trace.txt").read_text().splitlines()]
    begun, ended = ([key for kind, key, _ in lines if kind == which] for which in ("begin", "end"))
    assert sorted(set(ended)) == sorted(ended), "a cell was done twice"
    assert len(set(begun)) == count and len(begun) <= count + kills
    assert len(list(out.glob("records/*/*/*.json"))) == count
    assert validate.validate(out).bad == []
    pids = {pid for _, _, pid in lines}
    print(
        f"\n{runners} runners, {count} cells that do nothing, {kills} runners killed: each once, by {len(pids)} processes, "
        f"{time.monotonic() - began:.0f} s"
    )


def test_runners_share_a_folder(tmp_path, capsys):
    with capsys.disabled():
        light(tmp_path, 4, 40, 2, 0)


@pytest.mark.faults
def test_8_runners_200_cells(tmp_path, capsys):
    with capsys.disabled():
        light(tmp_path, 8, 200, 0, 1)


@pytest.mark.faults
def test_8_runners_200_cells_and_40_kills(tmp_path, capsys):
    with capsys.disabled():
        light(tmp_path, 8, 200, 40, 2)


@pytest.mark.faults
def test_8_real_runs_at_once(tmp_path, capsys):
    """The real command and cells, eight times the same at once; the records are those of a run alone."""
    options = [
        "--tasks",
        "toy",
        "--methods",
        "exact,beso,vdd_ve,cd",
        "--seeds",
        "5",
        "--budget",
        "smoke",
        "--workers",
        "0",
    ]
    script = tmp_path / "run.py"
    script.write_text(RUN)
    began = time.monotonic()
    running = [start(script, *options, "--out", tmp_path / "out") for _ in range(8)]
    for process in running:
        output, error = process.communicate(timeout=900)
        assert process.returncode == 0, output + error
    alone = start(script, *options, "--out", tmp_path / "alone")
    assert alone.communicate(timeout=300) and alone.returncode == 0
    counted = completions(tmp_path / "out")
    assert len(counted) == 12 and set(counted.values()) == {1}
    for path in sorted((tmp_path / "alone").glob("records/*/*/*.json")):
        twin = tmp_path / "out" / path.relative_to(tmp_path / "alone")
        assert record.comparable(record.read(path)) == record.comparable(record.read(twin))
    assert validate.validate(tmp_path / "out").bad == []
    with capsys.disabled():
        print(f"\n8 real runs at once, 12 cells: each done once, {time.monotonic() - began:.0f} s")
