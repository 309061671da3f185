"""Studies: what a variant sets, a whole study at smoke with its teacher trained once, reading them back."""

import json
from pathlib import Path

import pytest
from standins import call, write_record

from harness import cli, record, registry, studies
from harness.errors import UserError

SUITES = registry.load_suites()
STUDIES = studies.load_studies(registry.SUITES, SUITES)
EXPERTS = ["--study", "experts", "--tasks", "toy", "--budget", "smoke", "--workers", "0"]


def sets(study, variant, task, methods, teacher=None):
    (found,) = [v for v in STUDIES[study].variants if v.name == variant]
    return studies.overrides(found, SUITES, task, methods, "standard", teacher)


def test_the_studies_are_the_papers():
    assert [v.changes["components"] for v in STUDIES["experts"].variants] == [1, 2, 4, 8, 16, 32]  # Figure 3a
    assert STUDIES["gating"].tasks == ["avoiding", "aligning", "stacking"]  # Figures 3b and 3c
    assert [v.name for v in STUDIES["levels"].variants] == ["min", "max", "uniform", "interval"]  # Figure 3d
    assert [v.changes["sampling_steps"] for v in STUDIES["steps"].variants] == [16, 32, 64]  # Table 5
    names = SUITES.names["tasks"]
    assert all(task in names["all"] + names["extra"] for study in STUDIES.values() for task in study.tasks)


@pytest.mark.parametrize("study", STUDIES)
def test_every_variant_of_every_study_can_be_resolved_and_differs(study):
    from harness.config import digest, parse_sets, resolve

    for method in STUDIES[study].methods:
        made = [
            resolve(
                SUITES, "avoiding", method, "standard", parse_sets(SUITES, sets(study, v.name, "avoiding", [method]))
            )
            for v in STUDIES[study].variants
        ]
        assert len({digest(config) for config in made}) == len(made)


def test_levels_are_the_ends_of_the_teachers_range():
    assert sets("levels", "min", "aligning", ["vdd_ve"]) == [
        "vdd_ve.level_min=0.01",
        "vdd_ve.level_max=0.01",
    ]  # Table 4
    assert sets("levels", "max", "avoiding", ["vdd_vp"]) == [
        "vdd_vp.level_min=7.0",
        "vdd_vp.level_max=7.0",
    ]  # of 8 steps
    assert sets("levels", "uniform", "avoiding", ["vdd_ve"], "mode") == [
        "vdd_ve.level_min=0.02",
        "vdd_ve.level_max=5.0",
    ]
    with pytest.raises(UserError, match="no teacher"):
        sets("levels", "min", "avoiding", ["em"])
    with pytest.raises(UserError, match="no lowest"):
        sets("levels", "min", "toy", ["vdd_ve"])


def test_a_study_runs_its_variants_with_one_teacher_and_is_read_back(tmp_path, capsys):
    out = tmp_path / "root"
    own = tmp_path / "suites"
    own.mkdir()
    for path in registry.SUITES.glob("*.toml"):
        text = path.read_text()
        (own / path.name).write_text(text[: text.index('    { name = "4"')] + "]\n" if path.stem == "studies" else text)
    argv = [*EXPERTS, "--suites", str(own), "--out", str(out), "--set", "exact.std=0.4"]
    assert call(*argv) == 0, capsys.readouterr().err
    found = studies.load(out)
    assert {s: list(v) for s, v in found.items()} == {"experts": ["1", "2"]}
    (one,), (two,) = (found["experts"][v][("toy", "vdd_ve")] for v in ("1", "2"))
    assert (one["config"]["hyper"]["components"], two["config"]["hyper"]["components"]) == (1, 2)
    assert one["teacher"] == two["teacher"] and one["teacher"]["origin"] == "shipped"
    assert (out / "teachers" / "records" / "toy" / "exact" / "0.json").exists()
    printed = capsys.readouterr().out
    assert "Number of experts" in printed and "seeds: 1" in printed
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/records/*/*/*.json")}
    assert call(*argv) == 0 and "0 of 1 cells to run" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*/records/*/*/*.json")}
    again = tmp_path / "again"  # another root takes what is done
    assert (
        call(
            *argv[:-4],
            "--out",
            str(again),
            *argv[-2:],
            "--teachers",
            str(out / "teachers" / "given"),
            "--reuse",
            str(out),
        )
        == 0
    )
    assert "whose record is taken" in capsys.readouterr().out
    assert studies.load(again)["experts"]["1"] == found["experts"]["1"]


def test_reading_says_what_is_left_out(tmp_path):
    for variant, seed in (("16", 0), ("2", 1), ("2", 0)):
        write_record(tmp_path / "experts" / variant, "avoiding", "vdd_ve", seed)
    path = write_record(tmp_path / "experts" / "2", "avoiding", "vdd_ve", 2)
    path.write_bytes(path.read_bytes()[:40])
    other = record.record_path(tmp_path / "experts" / "4", "avoiding/vdd_ve/0")
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"schema": 99}))
    found, bad = studies.read(tmp_path)
    assert list(found["experts"]) == ["2", "16"]
    assert [entry["cell"]["seed"] for entry in found["experts"]["2"]["avoiding", "vdd_ve"]] == [0, 1]
    assert len(bad) == 2 and "cut off" in bad[0] and "schema '99'" in bad[1]
    assert studies.load(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--study", "expert"], "Did you mean 'experts'"), (["--reuse", "x"], "--reuse is for --study"),
     ([*EXPERTS, "--methods", "em", "--set", "em.components=3"], "given twice"),
     (["--study", "levels", "--methods", "em", "--tasks", "avoiding"], "no teacher")],
)  # fmt: skip
def test_what_is_impossible_is_said_before_anything_is_run(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*argv) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    ["[teachers]\n", "[a]\ntitle = 1\n", '[a]\ntitle="t"\nsource="s"\ntasks=[]\nmethods=["x"]\nvariants=[]\n',
     '[a]\ntitle="t"\nsource="s"\ntasks=[]\nmethods=["nope"]\nvariants=[{name="1",set={}}]\n',
     '[a]\ntitle="t"\nsource="s"\ntasks=[]\nmethods=["em"]\nvariants=[{name="1",set={}},{name="1",set={}}]\n',
     '[a]\ntitle="t"\nsource="s"\ntasks=[]\nmethods=["em"]\nvariants=[{name="../x",set={}}]\n'],
)  # fmt: skip
def test_a_bad_studies_file_is_one_line(text, tmp_path):
    (tmp_path / "studies.toml").write_text(text)
    with pytest.raises(UserError, match="studies.toml"):
        studies.load_studies(Path(tmp_path), SUITES)


def test_a_study_is_planned_without_writing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from harness import run

    argv = ["--study", "steps", "--tasks", "avoiding", "--dry-run"]
    assert cli.guarded(run.main, argv) == 0
    assert capsys.readouterr().out.count("1 of 1 cells to run") == 3 and not list(tmp_path.iterdir())
