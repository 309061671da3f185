"""One cell: its seeds and split, what it leaves, what it refuses to continue from."""

import json

import pytest
from standins import make_demonstrations

from harness import job, plan, record, registry
from harness.errors import UserError

SUITES = registry.load_suites()
SETS = {method: {"steps": 2, "rollouts": 2} for method in ("beso", "vdd_ve")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(make_demonstrations(tmp_path_factory.mktemp("data")))


def specs(data, out, methods=("vdd_ve",), sets=SETS):
    from envs.datasets import identify

    request = plan.Request(["avoiding"], list(methods), [0], "smoke", sets, out)
    made = plan.build(SUITES, request, {"avoiding": plan.Data(*identify("avoiding", data))}, 1)
    options = {"data_root": data, "threads": 1, "device": "cpu"}
    return [plan.spec(cell, SUITES, made, options, 1) for cell in made.cells]


@pytest.mark.parametrize("method", [n for n, b in SUITES.methods.items() if "avoiding" in b.get("tasks", ["avoiding"])])
def test_every_method_leaves_a_whole_record(method, data, tmp_path):
    sets = {name: {"steps": 2, "rollouts": 2} for name, block in SUITES.methods.items() if block["role"] != "one_step"}
    for spec in specs(data, tmp_path, [method], sets):
        spec = json.loads(json.dumps(spec))  # as another process or machine gets it
        job.check(spec)
        written = job.run_cell(spec)
    assert written == record.read(record.record_path(tmp_path, f"avoiding/{method}/0"), f"avoiding/{method}/0")
    assert set(written["metrics"]) >= {"success", "entropy", "length", "return"}
    assert written["config_hash"] == spec["config_hash"]
    assert not (tmp_path / "work" / spec["key"] / "progress.json").exists()


def test_work_of_another_configuration_is_not_continued(data, tmp_path):
    (spec,) = specs(data, tmp_path, ["beso"])
    first = job.run_cell(spec)
    (other,) = specs(data, tmp_path, ["beso"], {"beso": {"steps": 2, "rollouts": 2, "lr": 0.01}})
    second = job.run_cell(other)
    assert first["weights"] != second["weights"] and second["training"]["curve"] != first["training"]["curve"]
    assert record.comparable(job.run_cell(spec)) == record.comparable(first)


def test_training_that_is_over_is_not_repeated(data, tmp_path, monkeypatch):
    (spec,) = specs(data, tmp_path, ["beso"])
    first = job.run_cell(spec)
    monkeypatch.setattr(job.train, "train", lambda *_args, **_kwargs: pytest.fail("trained again"))
    assert record.comparable(job.run_cell(spec)) == record.comparable(first)


def test_a_teacher_that_is_not_its_records_is_refused(data, tmp_path):
    teacher, student = specs(data, tmp_path)
    job.run_cell(teacher)
    weights = tmp_path / "work" / "avoiding" / "beso" / "0" / "policy.json"
    weights.write_text(weights.read_text() + " ")
    with pytest.raises(UserError, match="not what the record"):
        job.run_cell(student)


def test_demonstrations_that_changed_are_refused(data, tmp_path):
    (spec,) = specs(data, tmp_path, ["beso"])
    spec["data"]["identity"] = "another"
    with pytest.raises(UserError, match="changed while"):
        job.run_cell(spec)
