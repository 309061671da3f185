"""The README cannot rot: every command in it is known here, its first one runs end to end, the others run or plan."""

import re
import shlex
from pathlib import Path

import pytest
from standins import call, make_demonstrations, verb

from harness import bench, record

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OTHER = [  # commands of the README that are no harness commands: setting up, and the tests themselves
    "python -m venv .venv && . .venv/bin/activate",
    "pip install -r requirements.txt",
    "pip install -r requirements-dev.txt",
    "python -m pytest -q -n 2",
]


def commands():
    """The lines of the README's shell blocks, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


RUNS = [shlex.split(c)[3:] for c in commands() if c.startswith("python -m harness.run ")]
VERBS = [shlex.split(c)[3:] for c in commands() if c.startswith("python -m harness ")]


def replaced(argv, **values):
    """argv with other values of some options, appended where they are missing."""
    argv = list(argv)
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if option in argv:
            argv[argv.index(option) + 1] = str(value)
        else:
            argv += [option, str(value)]
    return argv


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """The out folder of the README's first command, on the smoke budget; a mark of whether and what it printed."""
    patch = pytest.MonkeyPatch()
    patch.delenv("VDD_DATA_ROOT", raising=False)
    patch.setenv("VDD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    out = tmp_path_factory.mktemp("readme") / "out"
    code = call(*replaced(RUNS[0], budget="smoke", out=out, workers=0), "--train-teachers")
    yield code, out
    patch.undo()


def test_every_command_is_known():
    verbs = {
        "ls", "plan", "status", "tables", "claims", "report", "figures", "data", "bench", "ship", "cancel", "retry", "render",
    }  # fmt: skip
    assert RUNS and {argv[0] for argv in VERBS} == verbs
    known = [c for c in commands() if c in OTHER or c.startswith(("python -m harness ", "python -m harness.run "))]
    assert commands() == known and set(OTHER) <= set(known)


def test_the_first_command_runs_end_to_end(first_run, capsys):
    code, out = first_run
    assert code == 0
    for key in ("avoiding/beso/0", "avoiding/vdd_ve/0"):
        made = record.read(record.record_path(out, key), key)
        assert made["status"] == "done" and made["data"]["source"] == "scripted" and made["data"]["episodes"] == 96
    assert {p.suffix for p in (out / "tables").iterdir()} == {".csv", ".md", ".tex"}
    assert call(*replaced(RUNS[0], budget="smoke", out=out), "--train-teachers") == 0  # the same command again
    shown = capsys.readouterr().out
    assert "0 of 2 cells to run" in shown and re.search(r"Avoiding +VDD-VE +\d\.\d\d", shown)


@pytest.mark.parametrize("argv", RUNS, ids=" ".join)
def test_runs_plan(argv, tmp_path, capsys):
    if "--data-root" in argv:
        argv = replaced(argv, data_root=make_demonstrations(tmp_path / "data"))
    assert call(*argv, "--dry-run", *([] if "--out" in argv else ["--out", str(tmp_path / "out")])) == 0
    assert "cells to run" in capsys.readouterr().out


@pytest.mark.parametrize("argv", VERBS, ids=" ".join)
def test_verbs_do_what_they_say(argv, first_run, tmp_path, capsys, monkeypatch):
    if "--out" in argv:
        argv = replaced(argv, out=first_run[1])
    if "--data-root" in argv:
        argv = replaced(argv, data_root=make_demonstrations(tmp_path / "data"))
    if argv[0] == "render":
        argv = replaced(argv, out=tmp_path / "scene.png")
    if "--records" in argv:
        argv = replaced(argv, records=first_run[1], out=tmp_path / "figures")
    if "--file" in argv:
        argv = replaced(argv, file=tmp_path / "report.html")
    if argv[0] == "ship":
        argv = replaced(argv, to=tmp_path / "teachers")
    for part in bench.PARTS:  # tests/test_bench.py measures
        monkeypatch.setattr(bench, f"bench_{part}", lambda *_: print("measured"))
    code, shown = verb(*argv), capsys.readouterr()
    if "no OpenGL library" in shown.err:
        pytest.skip("no OpenGL library")
    assert code == 0 and shown.out


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_options_in_the_text_exist(capsys):
    with pytest.raises(SystemExit):
        call("--help")
    helped = capsys.readouterr().out
    named = set(re.findall(r"`(--[a-z-]+)", README))
    assert {"--seeds", "--train-teachers", "--overwrite"} <= named
    assert [option for option in named if option not in helped] == []
