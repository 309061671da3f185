"""Plans: which cells, in which order, what each needs, and what is skipped."""

import shutil
from dataclasses import replace

import pytest
from standins import done_record, write_record

from harness import config, plan, record, registry, shipped
from harness.errors import UserError

SUITES = registry.load_suites()
DATA = {"avoiding": plan.Data("scripted", "scripted/avoiding/v1/seed0/96")}


def make(tmp_path, methods, seeds=(0,), **changes):
    options = {"budget": "smoke", "sets": {}, "out": tmp_path / "out", "teachers": tmp_path / "teachers"} | changes
    request = plan.Request(["avoiding"], list(methods), list(seeds), **options)
    return plan.build(SUITES, request, DATA, 1)


def keys(made):
    return [cell.key for cell in made.cells]


def give_teacher(tmp_path, method="beso", identity=DATA["avoiding"].identity, **sets):
    """Put a shipped teacher, trained with another amount of training, where plans look for one."""
    base = tmp_path / "teachers" / "scripted" / "avoiding"
    base.mkdir(parents=True)
    weights = base / f"{method}.safetensors"
    weights.write_bytes(b"weights")
    weights.with_suffix(".json").write_text("{}")
    content = done_record("avoiding", method, 0, weights={"sha256": shipped.policy_sha256(weights)})
    content["data"]["identity"] = identity
    content["config"] = config.resolve(SUITES, "avoiding", method, "standard", {method: sets})
    record.write(base / f"{method}.record.json", content)
    return weights


def test_teachers_once_students_on_every_seed(tmp_path):
    made = make(tmp_path, ["beso", "ve1", "vdd_ve"], [3, 7])
    assert keys(made) == ["avoiding/beso/0", "avoiding/ve1/0", "avoiding/vdd_ve/3", "avoiding/vdd_ve/7"]


def test_a_teacher_is_added_when_a_student_needs_it(tmp_path):
    made = make(tmp_path, ["vdd_ve", "cd", "vp1"], [0, 1])
    assert keys(made)[:2] == ["avoiding/beso/0", "avoiding/ddpm/0"]
    assert [cell.requested for cell in made.cells] == [False, False, True, True, True, True, True]
    assert all(set(cell.needs) <= {"avoiding/beso/0", "avoiding/ddpm/0"} for cell in made.cells)


def test_order_respects_needs_whatever_the_order_asked_for(tmp_path):
    for methods in (["vdd_ve", "ve1", "beso"], ["beso", "vdd_ve", "ve1"], ["ve1", "beso", "vdd_ve"]):
        made = make(tmp_path, methods, [0, 1])
        seen = set()
        for cell in made.cells:
            assert seen.issuperset(cell.needs)
            seen.add(cell.key)
        assert next(c for c in made.cells if c.method == "beso").requested


def test_another_teacher_is_needed_and_told_apart(tmp_path):
    usual = make(tmp_path, ["beso", "vdd_ve"], [0, 1])
    other = make(tmp_path, ["beso", "vdd_ve"], [0, 1], teacher="mode")
    assert keys(other) == ["avoiding/beso/0", "avoiding/mode/0", "avoiding/vdd_ve/0", "avoiding/vdd_ve/1"]
    student = other.cells[-1]
    assert student.needs == ("avoiding/mode/0",) and student.config["teacher"] == {"method": "mode"}
    assert student.config_hash != usual.cells[-1].config_hash
    assert other.cells[0].config_hash == usual.cells[0].config_hash
    write_record(usual.out, "avoiding", "vdd_ve", 0, config_hash=usual.cells[1].config_hash)
    with pytest.raises(UserError, match="--overwrite"):
        plan.settle(make(tmp_path, ["vdd_ve"], teacher="mode"), overwrite=False)


def test_the_usual_teacher_by_name_changes_nothing(tmp_path):
    named, usual = make(tmp_path, ["vdd_ve", "cd"], teacher="beso"), make(tmp_path, ["vdd_ve", "cd"])
    assert [c.config_hash for c in named.cells] == [c.config_hash for c in usual.cells]


@pytest.mark.parametrize(
    ("methods", "teacher", "says"),
    [
        (["cd"], "mode", "cd cannot distil it .cd distils beso; ctm distils beso; .*vdd_ve distils beso or mode"),
        (["vdd_ve"], "ddpm", "vdd_ve cannot distil it"),
        (["ve1"], "beso", "no student among"),
        (["vdd_ve"], "vdd_vp", "unknown teacher"),
    ],
)
def test_pairs_without_sense_are_refused(tmp_path, methods, teacher, says):
    with pytest.raises(UserError, match=says):
        make(tmp_path, methods, teacher=teacher)


def test_a_circle_is_an_error(tmp_path):
    a, b = make(tmp_path, ["vdd_ve"]).cells
    with pytest.raises(ValueError, match="need one another"):
        plan.in_order([replace(a, needs=(b.key,)), b])


def test_everything_that_decides_a_result_changes_its_hash(tmp_path):
    def hash_of(**changes):
        return make(tmp_path, ["vdd_ve"], **changes).cells[-1].config_hash

    first = hash_of()
    assert first == hash_of()
    assert first == hash_of(out=tmp_path / "elsewhere")
    assert first != hash_of(sets={"vdd_ve": {"lr": 0.5}})
    assert first != hash_of(sets={"beso": {"lr": 0.5}})  # the teacher's training
    assert first != hash_of(budget="quick")
    request = plan.Request(["avoiding"], ["vdd_ve"], [0], "smoke", {}, tmp_path / "out")
    assert first != plan.build(SUITES, request, DATA, 2).cells[-1].config_hash  # the metric's version
    other = {"avoiding": plan.Data("official", "another")}
    assert first != plan.build(SUITES, request, other, 1).cells[-1].config_hash


def test_done_is_skipped_failed_and_missing_run(tmp_path):
    made = make(tmp_path, ["vdd_ve"], [0, 1, 2])
    teacher, a, b, c = made.cells
    write_record(made.out, *a.key.split("/")[:2], 0, config_hash=a.config_hash)
    write_record(
        made.out, "avoiding", "vdd_ve", 1, config_hash=b.config_hash, status="failed",
        error={"type": "FloatingPointError", "message": "loss", "log": None},
    )  # fmt: skip
    again = make(tmp_path, ["vdd_ve"], [0, 1, 2])
    assert [cell.state.name for cell in again.cells] == ["missing", "done", "failed", "missing"]
    assert [cell.key for cell in again.to_run] == [teacher.key, b.key, c.key]


def test_a_done_teacher_without_weights_runs_again_only_when_needed(tmp_path):
    made = make(tmp_path, ["vdd_ve"])
    teacher, student = made.cells
    weights = record.work_path(made.out, teacher.key) / shipped.WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"w")
    weights.with_suffix(".json").write_text("{}")
    sha256 = shipped.policy_sha256(weights)
    write_record(made.out, "avoiding", "beso", 0, config_hash=teacher.config_hash, weights={"sha256": sha256})
    assert [c.key for c in make(tmp_path, ["vdd_ve"]).to_run] == [student.key]
    weights.write_bytes(b"x")
    assert [c.key for c in make(tmp_path, ["vdd_ve"]).to_run] == [teacher.key, student.key]
    weights.unlink()
    assert [c.key for c in make(tmp_path, ["vdd_ve"]).to_run] == [teacher.key, student.key]
    write_record(made.out, "avoiding", "vdd_ve", 0, config_hash=student.config_hash)
    assert make(tmp_path, ["vdd_ve"]).to_run == []


def test_another_configuration_is_never_overwritten_in_silence(tmp_path):
    made = make(tmp_path, ["beso"])
    path = write_record(made.out, "avoiding", "beso", 0, config_hash="another")
    before = path.read_bytes()
    made = make(tmp_path, ["beso"])
    with pytest.raises(UserError, match="--overwrite"):
        plan.settle(made, overwrite=False)
    assert path.read_bytes() == before
    assert len(plan.settle(made, overwrite=True)) == 1
    assert not path.exists() and path.with_name("0.json.old-1").read_bytes() == before


def test_a_broken_record_is_set_aside(tmp_path):
    made = make(tmp_path, ["beso"])
    path = write_record(made.out, "avoiding", "beso", 0, config_hash=made.cells[0].config_hash)
    path.write_bytes(path.read_bytes()[:100])
    made = make(tmp_path, ["beso"])
    assert len(made.to_run) == 1
    (line,) = plan.settle(made, overwrite=False)
    assert "cut off" in line and "0.json.corrupt-1" in line
    assert not path.exists() and path.with_name("0.json.corrupt-1").exists()


def test_a_shipped_teacher_replaces_its_cell(tmp_path):
    plain = make(tmp_path, ["vdd_ve"]).cells[-1]
    weights = give_teacher(tmp_path)
    (student,) = make(tmp_path, ["vdd_ve"]).cells
    assert student.teacher.origin == "shipped" and student.teacher.path == str(weights) and student.needs == ()
    assert student.teacher.sha256 == shipped.policy_sha256(weights)
    assert student.config_hash != plain.config_hash
    (one,) = make(tmp_path, ["ve1"]).cells
    assert one.evaluate_only and one.teacher.origin == "shipped"
    (teacher,) = make(tmp_path, ["beso"]).cells
    assert teacher.evaluate_only and teacher.teacher.origin == "shipped"
    assert make(tmp_path, ["vdd_ve"], train_teachers=True).cells[-1].config_hash == plain.config_hash


@pytest.mark.parametrize(
    ("sets", "fits"),
    [
        ({}, True),
        ({"steps": 123}, True),  # the amount of training may differ
        ({"sampling_steps": 32}, True),  # how it samples may differ
        ({"sigma_min": 0.05}, False),
        ({"layers": 2}, False),
    ],
)
def test_a_shipped_teacher_must_match(tmp_path, sets, fits):
    give_teacher(tmp_path)
    made = make(tmp_path, ["vdd_ve"], sets={"beso": sets})
    assert (made.cells[-1].teacher.origin == "shipped") == fits


def test_a_shipped_teacher_of_other_data_is_not_used(tmp_path):
    give_teacher(tmp_path, identity="another")
    assert make(tmp_path, ["vdd_ve"]).cells[-1].teacher.origin == "trained"


def test_an_altered_shipped_teacher_is_refused(tmp_path):
    weights = give_teacher(tmp_path)
    weights.write_bytes(b"weighty")
    with pytest.raises(UserError, match="not what its record says"):
        make(tmp_path, ["vdd_ve"])


def test_ship_copies_what_plans_then_find(tmp_path):
    made = make(tmp_path, ["beso"])
    weights = record.work_path(made.out, "avoiding/beso/0") / shipped.WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"w")
    weights.with_suffix(".json").write_text("{}")
    content = done_record("avoiding", "beso", 0, weights={"sha256": shipped.policy_sha256(weights)})
    content["data"]["identity"] = DATA["avoiding"].identity
    content["config"] = made.cells[0].config
    record.write(record.record_path(made.out, "avoiding/beso/0"), content)
    shipped.ship(made.out, ["avoiding/beso/0"], tmp_path / "teachers")
    assert make(tmp_path, ["vdd_ve"]).cells[-1].teacher.origin == "shipped"
    shutil.rmtree(made.out)
    with pytest.raises(UserError, match="no valid record"):
        shipped.ship(made.out, ["avoiding/beso/0"], tmp_path / "teachers")


def test_saved_plans_add_up(tmp_path):
    plan.save(make(tmp_path, ["beso"]), [0])
    made = make(tmp_path, ["vdd_ve"], [0, 1])
    assert plan.save(made, [0, 1]) == plan.save(made, [0, 1])
    assert set(plan.saved_cells(made.out)) == {"avoiding/beso/0", "avoiding/vdd_ve/0", "avoiding/vdd_ve/1"}


def test_a_spec_is_plain_data(tmp_path):
    import json

    made = make(tmp_path, ["vdd_ve"])
    specs = [
        plan.spec(cell, SUITES, made, {"data_root": None, "threads": 1, "device": "cpu"}, 1) for cell in made.cells
    ]
    assert json.loads(json.dumps(specs)) == specs
    assert specs[1]["teacher"]["class"] == SUITES.methods["beso"]["class"]
