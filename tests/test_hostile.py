"""Files that someone else made: nothing in them is executed, nothing outside the folder is read or written."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from standins import call, done_record, make_spec, verb, write_plan, write_record

from harness import launch, plan, record, registry, reproduce, sealed, status, table_text, tables, validate
from harness.errors import UserError

SMOKE = ["--tasks", "toy", "--methods", "beso", "--budget", "smoke", "--workers", "0"]
SUITES = registry.load_suites()


class Runs:
    """A pickle that creates a folder when loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(capsys, code):
    shown = capsys.readouterr()
    assert code == 2 and shown.err.startswith("error: ") and shown.err.count("\n") == 1, shown
    assert "Traceback" not in shown.err + shown.out
    return shown.err


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VDD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("VDD_DATA_ROOT", raising=False)
    return tmp_path / "cache"


def test_pickles_in_place_of_working_files_are_set_aside_not_loaded(cache, tmp_path, capsys):
    out, mark = tmp_path / "out", tmp_path / "executed"
    assert call(*SMOKE, "--out", str(out)) == 0
    expected = record.comparable(record.read(record.record_path(out, "toy/beso/0")))
    workdir = out / "work/toy/beso/0"
    hostile = pickle.dumps(Runs(mark))
    for name in ("train.ckpt.safetensors", "training.json", "policy.safetensors", "policy.json", "rollouts/0.json"):
        (workdir / name).write_bytes(hostile)
    for path in (cache / "demonstrations").glob("*.npz"):
        path.write_bytes(hostile)
    assert len(validate.validate(out, None, cache).bad) >= 5
    record.record_path(out, "toy/beso/0").unlink()
    capsys.readouterr()
    assert call(*SMOKE, "--out", str(out)) == 0
    assert "training.json is cut off or no JSON" in capsys.readouterr().err
    assert record.comparable(record.read(record.record_path(out, "toy/beso/0"))) == expected
    assert "remarks" in record.read(record.record_path(out, "toy/beso/0"))["provenance"]
    assert not mark.exists()


def test_a_checkpoint_that_is_a_pickle(tmp_path):
    with pytest.raises(sealed.Damaged):
        sealed.check_tensors(pickle.dumps(Runs(tmp_path / "executed")))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("size", [2**63 - 1, 2**40, 0, 1])
def test_a_tensor_file_whose_header_claims_to_be_huge(size):
    with pytest.raises(sealed.Damaged, match="no safetensors file"):
        sealed.tensor_header(size.to_bytes(8, "little") + b"{}")


# paths

ESCAPES = ["../../x", "/etc", "..", ".", "a/b", "a\\b", "a\x00b", "", "x" * 65, "ü", "a b", "<b>", "$x$", "\\input{x}"]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("place", ["task", "method"])
def test_a_record_whose_cell_leads_elsewhere_is_none(tmp_path, name, place):
    content = done_record("toy", "beso", 0)
    content["cell"][place] = name
    with pytest.raises(record.InvalidRecord, match="cell"):
        record.write(tmp_path / "0.json", content)
    content["checksum"] = record.checksum(content)
    (tmp_path / "0.json").write_text(json.dumps(content))
    with pytest.raises(record.InvalidRecord, match="cell"):
        record.read(tmp_path / "0.json")
    assert verb("reproduce", str(tmp_path / "0.json")) == 2


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None, [0]])
def test_a_record_whose_seed_is_none(tmp_path, seed):
    content = done_record("toy", "beso", 0)
    content["cell"]["seed"] = seed
    with pytest.raises(record.InvalidRecord, match="cell"):
        record.write(tmp_path / "0.json", content)


@pytest.mark.parametrize("name", ESCAPES)
def test_a_plan_whose_cells_lead_elsewhere_is_left_out_and_set_aside(tmp_path, name):
    out = tmp_path / "out"
    good = write_plan(out, [{"task": "toy", "method": "cd", "seed": 0, "config_hash": "h"}])
    bad = write_plan(out, [{"task": name, "method": "cd", "seed": 0, "config_hash": "h"}])
    assert set(status.states(out)) == {"toy/cd/0"}
    assert [path for path, _ in validate.validate(out).bad] == [bad]
    (line,) = plan.settle(plan.Plan((), "smoke", out), False)
    assert "set aside" in line and good.exists() and not bad.exists()


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("file", ["tasks", "methods", "budgets", "tables"])
def test_a_suite_file_whose_names_lead_elsewhere_is_refused(tmp_path, name, file, capsys):
    folder = tmp_path / "suites"
    shutil.copytree(registry.SUITES, folder)
    path = folder / f"{file}.toml"
    path.write_text(path.read_text() + f"\n[{json.dumps(name)}]\nabout = 'x'\nrollouts = 1\n")
    assert call(*SMOKE, "--suites", str(folder), "--out", str(tmp_path / "out")) == 2
    refused_text = refused(capsys, 2)
    assert f"{file}.toml" in refused_text and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("methods", 'class = "methods.beso:Beso"', 'class = "os:system"'),
        ("methods", 'class = "methods.beso:Beso"', 'class = "methods.beso:Beso.__init__"'),
        ("tasks", 'env = "envs.toy:ToyBatch"', 'env = "subprocess:Popen"'),
        ("tables", 'paper = "table1.csv"', 'paper = "../../../../etc/passwd"'),
        ("tables", 'paper = "table1.csv"', 'paper = "/etc/passwd"'),
    ],
)
def test_a_suite_file_that_names_other_code_or_files_is_refused(tmp_path, file, old, new, capsys):
    folder = tmp_path / "suites"
    shutil.copytree(registry.SUITES, folder)
    text = (folder / f"{file}.toml").read_text()
    assert old in text
    (folder / f"{file}.toml").write_text(text.replace(old, new))
    code = call(*SMOKE, "--suites", str(folder), "--out", str(tmp_path / "out"))
    assert f"{file}.toml" in refused(capsys, code)


@pytest.mark.parametrize("change", [
    {"class": "os:system"}, {"class": "subprocess:Popen"}, {"class": None}, {"teacher": {"class": "os:system"}},
    {"task_block": {"env": "os:system", "obs_dim": 1, "act_dim": 2, "goal_tokens": 0}}, {"task_block": {}}, {"role": 3},
])  # fmt: skip
def test_a_record_whose_recipe_names_other_code_is_not_run(tmp_path, change, capsys):
    block = {k: v for k, v in SUITES.tasks["toy"].items() if k not in ("gpt", "method")}
    recipe = {"class": "methods.beso:Beso", "role": "teacher", "evaluate_only": False, "task_block": block}
    content = done_record("toy", "beso", 0, metric_version=reproduce.METRIC_VERSION)
    record.write(tmp_path / "0.json", content | {"recipe": recipe | {"teacher": None} | change})
    before = tree(tmp_path)
    refused(capsys, verb("reproduce", str(tmp_path / "0.json"), "--out", str(tmp_path / "out")))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "cell", ["../../../etc/passwd", "/etc/passwd/0", "toy/beso/-1", "toy/beso", "a/../b/0", "toy/b/x"]
)
def test_a_teacher_that_leads_elsewhere_is_refused(cell):
    with pytest.raises(UserError, match="record"):
        reproduce.teacher_cell(cell)


# links


def test_a_linked_record_is_neither_read_nor_kept(tmp_path):
    secret = write_record(tmp_path / "elsewhere", "toy", "beso", 0)
    path = record.record_path(tmp_path / "out", "toy/beso/0")
    path.parent.mkdir(parents=True)
    path.symlink_to(secret)
    with pytest.raises(record.InvalidRecord, match="symbolic link"):
        record.read(path)
    found = record.state(tmp_path / "out", "toy/beso/0", "h")
    assert found.name == "corrupt"
    assert status.states(tmp_path / "out")["toy/beso/0"][0] == "corrupt"
    assert "symbolic link" in tables.read_records(tmp_path / "out")[1][0]
    cell = plan.Cell("toy", "beso", 0, "teacher", {}, plan.Data("s", "i"), None, "h", state=found)
    (line,) = plan.settle(plan.Plan((cell,), "smoke", tmp_path / "out"), False)
    assert "set aside" in line and not path.exists() and secret.is_file()  # the link moved, not what it leads to


@pytest.mark.parametrize("folder", ["records", "records/toy", "records/toy/cd", "work/toy/cd/0", "work/toy"])
def test_a_folder_that_is_a_link_is_not_written_through(tmp_path, folder):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / folder).parent.mkdir(parents=True)
    (out / folder).symlink_to(elsewhere)
    why = launch.run_logged("standins:stand_in_cell", make_spec(out, "toy/cd/0"))
    assert "symbolic link" in why and tree(elsewhere) == []
    assert [path for path, _ in validate.validate(out).bad] == [out / folder]


def test_a_file_that_never_ends_is_not_waited_for(tmp_path):
    path = record.record_path(tmp_path, "toy/beso/0")
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert record.state(tmp_path, "toy/beso/0", "h").name == "corrupt"
    assert validate.validate(tmp_path).bad == [(path, "is no regular file")]


# TOML

BOMBS = {
    "deep": "x = " + "[" * 100_000 + "]" * 100_000,
    "deep tables": "x = " + "{a=" * 20_000 + "1" + "}" * 20_000,
    "dotted": ".".join("a" for _ in range(20_000)) + " = 1",
    "huge": "x = '" + "y" * 3_000_000 + "'",
    "digits": "x = " + "9" * 100_000,
    "binary": "\x00\x01\x02",
    "cut": "[beso",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_toml_bombs_are_one_message(bomb, tmp_path, capsys):
    folder = tmp_path / "suites"
    shutil.copytree(registry.SUITES, folder)
    (folder / "methods.toml").write_text(BOMBS[bomb])
    assert "methods.toml" in refused(capsys, call(*SMOKE, "--suites", str(folder), "--out", str(tmp_path / "out")))


@pytest.mark.parametrize("value", ["[" * 900, "[" * 100_000, "9" * 900, "9" * 100_000, "1\nclass = 'os:system'", "nan"])
def test_bombs_as_a_value_on_the_command_line(value, tmp_path, capsys):
    code = call(*SMOKE, "--set", f"beso.lr={value}", "--out", str(tmp_path / "out"))
    assert "--set" in refused(capsys, code) and not (tmp_path / "out").exists()


# JSON


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 50_000, "9" * 100_000, '{"seal": ' + "1" * 5000 + "}", "\ud800"]
)
@pytest.mark.parametrize(
    "place", ["records/toy/beso/0.json", "plans/0.json", "work/toy/beso/0/training.json", ".status.json"]
)
def test_json_bombs_are_damage_like_any_other(text, place, tmp_path):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert [p for p, _ in validate.validate(tmp_path).bad] == ([] if place == ".status.json" else [path])
    status.lines(tmp_path)
    tables.build(tmp_path, SUITES, ["1a"])


# text


FRAGMENTS = [
    "<script>alert(1)</script>",
    "\\input{/etc/passwd}",
    "$\\write18{x}$",
    "a|b",
    "a&b%c#d",
    "[red]x[/red]",
    "\x1b[2J",
]


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_fragments_in_titles_are_printed_as_they_stand(fragment, tmp_path):
    write_record(tmp_path, "avoiding", "beso", 0)
    table = tables.build(tmp_path, SUITES, ["1a"])[0].present()
    table = tables.Table(
        fragment, fragment, [(r, fragment) for r, _ in table.rows], table.columns, table.entries, [fragment]
    )
    markdown, latex = table_text.table_text(table, "md"), table_text.table_text(table, "latex")
    assert "<script" not in markdown and "\x1b" not in markdown + latex
    assert "\\input" not in latex and "\\write18" not in latex and "a&b" not in latex
    assert all(line.count(" | ") <= 1 for line in markdown.splitlines() if line.startswith("| a"))


def test_a_message_in_a_record_is_text(tmp_path, capsys):
    error = {"type": "[bold]X", "message": "\x1b[2J<script>", "log": "../../../etc/passwd"}
    write_record(tmp_path, "toy", "cd", 0, status="failed", error=error)
    assert verb("status", "--out", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "[bold]X" in shown
    assert Path(tmp_path / "records").exists()


@pytest.mark.parametrize("change", [
    {"metrics": {"success": "x"}}, {"metrics": {"success": True}}, {"data": {}}, {"teacher": {}}, {"weights": {}},
    {"config": {"teacher": 3}}, {"status": "failed"}, {"status": "failed", "error": {}}, {"config": {"teacher": {}}},
])  # fmt: skip
def test_a_record_with_a_right_checksum_and_wrong_insides_is_corrupt(change, tmp_path):
    path = write_record(tmp_path, "toy", "cd", 1)
    content = done_record("toy", "cd", 0) | change
    with pytest.raises(record.InvalidRecord):
        record.write(path, content)
    content["checksum"] = record.checksum(content)
    path = record.record_path(tmp_path, "toy/cd/0")
    path.write_text(json.dumps(content))
    assert status.states(tmp_path)["toy/cd/0"][0] == "corrupt"
    tables.summary(tmp_path, SUITES)
