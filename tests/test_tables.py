"""Tables from records: golden text, missing cells, fewer seeds, the paper's numbers."""

import csv
import io
import json

import pytest
from standins import verb, write_plan, write_record

from harness import plan, record, registry, table_text, tables
from harness.errors import UserError

SUITES = registry.load_suites()


@pytest.fixture
def out(tmp_path):
    """BESO on one seed, VDD-VE on three of four planned."""
    given = {"cell": "avoiding/beso/0", "origin": "shipped", "sha256": "s"}
    write_record(tmp_path, "avoiding", "beso", 0, metrics={"success": 0.9, "entropy": 0.8})
    for seed, success in enumerate((0.9, 0.95, 1.0)):
        metrics = {"success": success, "entropy": 0.5}
        write_record(tmp_path, "avoiding", "vdd_ve", seed, metrics=metrics, teacher=given)
    write_plan(tmp_path, [{"task": "avoiding", "method": "vdd_ve", "seed": i, "config_hash": "h"} for i in range(4)])
    return tmp_path


def one(out, name):
    return tables.build(out, SUITES, [name])[0]


def test_markdown(out):
    shown = table_text.table_text(one(out, "1a").present(), "md")
    assert shown == (
        "**Table 1a: success rate (Kitchen: return)**\n\n"
        "| Task | VE (BESO) | VDD-VE |\n"
        "| --- | :---: | :---: |\n"
        "| Avoiding | 0.90 (0.96, -0.06, -0.3σ) | 0.95 ± 0.04 (0.95, +0.00, +0.0σ) n=3 |\n\n"
        "_demonstrations: scripted (96 episodes); budget: smoke; simulation: builtin_  \n"
        "_ours: mean ± standard deviation over seeds (paper, difference, difference in combined standard errors σ); "
        "n: fewer seeds than planned; --: no record; "
        "bold: best distilled, underlined: best but for the teachers, of those with a record_\n"
    )


def test_latex(out):
    shown = table_text.table_text(one(out, "1a").present(), "latex").splitlines()
    assert shown[5:] == [
        r"\toprule",
        r"Task & VE (BESO) & VDD-VE \\",
        r"\midrule",
        r"Avoiding & $0.90$ {\scriptsize (0.96, $-0.06$, $-0.3\sigma$)} & "
        r"$0.95 \pm 0.04$ {\scriptsize (0.95, $+0.00$, $+0.0\sigma$)} {\scriptsize $n=3$} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    assert r"$\pm$ standard deviation" in shown[3] and "±" not in "".join(shown)


def test_csv(out):
    rows = list(csv.DictReader(io.StringIO(tables.render(one(out, "1a"), "csv"))))
    assert len(rows) == 9 * 8 and tuple(rows[0]) == tables.CSV_HEAD
    (vdd,) = [row for row in rows if (row["task"], row["method"]) == ("avoiding", "vdd_ve")]
    low, high = float(vdd.pop("ci_low")), float(vdd.pop("ci_high"))
    assert 0.9 <= low < 0.95 < high <= 1.0
    assert vdd == {
        "table": "1a", "task": "avoiding", "method": "vdd_ve", "metric": "success", "ours_mean": "0.95",
        "ours_std": "0.0408248", "n": "3", "n_planned": "4", "paper_mean": "0.95", "paper_std": "0.01", "diff": vdd["diff"],
        "ours_se": "0.0288675", "paper_se": "0.005", "z": vdd["z"], "ours_text": "", "paper_text": "",
        "data": "scripted", "budget": "smoke", "backend": "builtin", "teacher": "shipped",
    }  # fmt: skip
    assert abs(float(vdd["diff"])) < 1e-9 and abs(float(vdd["z"])) < 1e-9
    (missing,) = [row for row in rows if (row["task"], row["method"]) == ("pushing", "cd")]
    assert (missing["ours_mean"], missing["n"], missing["paper_mean"]) == ("", "0", "0.66")


def test_a_missing_cell_is_visible(out):
    shown = table_text.table_text(one(out, "1a"), "md")
    assert "| Pushing | -- (0.74) | -- (0.78) |" in shown
    assert "-0.00" not in shown


def test_every_printed_number_has_its_place(tmp_path):
    """Each number of results/paper/*.csv stands in the table that is made from it, and nowhere else."""
    built = {
        table.name: table
        for table in tables.build(tables.Source(tmp_path, tmp_path, tmp_path), SUITES, list(SUITES.tables))
    }
    for number in range(1, 8):
        shown = [
            e for name, table in built.items() if name.startswith(str(number))
            for row in table.entries.values() for e in row.values() if e.paper_mean is not None or e.paper_text
        ]  # fmt: skip
        lines = tables.paper_lines(f"table{number}.csv")
        skip = {
            "task",
            "method",
            "metric",
            "std",
            "nfe",
            "default_setting",
            "steps",
            "experts",
            "hyperparameter",
            "grid",
        }
        printed = [text for line in lines for key, text in line.items() if key not in skip and text]
        assert len(shown) == len(printed), number
        if number not in (4, 6):
            scale = {"parameters/1e4": 1e4}
            ours = sorted(round(e.paper_mean * scale.get(e.metric, 1), 4) for e in shown)
            assert ours == sorted(round(float(text), 4) for text in printed), number


def test_a_method_that_the_paper_lacks_gets_its_column_where_it_has_records(out):
    assert "mode" not in dict(one(out, "1a").columns)
    write_record(out, "avoiding", "mode", 0)
    assert dict(one(out, "1a").columns)["mode"] == "VE (MoDE)"
    assert one(out, "1a").entries["avoiding"]["mode"].values
    assert "mode" not in dict(one(out, "2a").columns)


def test_plans_of_earlier_versions_are_read(out):
    (path,) = (out / "plans").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1) + "\n")
    assert one(out, "1a").entries["avoiding"]["vdd_ve"].planned == 4


def test_a_broken_record_is_named_and_left_out(out):
    path = record.record_path(out, "avoiding/beso/0")
    path.write_bytes(path.read_bytes()[:50])
    table = one(out, "1a")
    assert table.entries["avoiding"]["beso"].values == ()
    assert any("avoiding/beso/0.json" in note and "cut off" in note for note in table.notes)


@pytest.mark.parametrize("text", ["a_b & 5% #1 {x} ^~ \\ $", "<b>|x|</b>\n"])
def test_specials_are_escaped(text):
    import re

    latex = table_text.latex_escape(text)
    assert not re.search(r"(?<!\\)[&%#_]", latex.replace(r"\textbackslash{}", ""))
    markdown = table_text.markdown_escape(text)
    assert "<" not in markdown and "\n" not in markdown and not re.search(r"(?<!\\)\|", markdown)


def test_the_verb_prints_and_writes(out, capsys):
    assert verb("tables", "--out", str(out), "--table", "1", "--format", "latex") == 0
    printed = capsys.readouterr().out
    assert printed.count(r"\begin{table}") == 2
    assert {p.name for p in (out / "tables").iterdir()} == {
        f"table_{name}.{ending}" for name in ("1a", "1b") for ending in ("csv", "md", "tex")
    }
    assert verb("tables", "--out", str(out), "--format", "csv") == 0
    assert len(list((out / "tables").iterdir())) == 3 * len(SUITES.tables)
    assert verb("tables", "--out", str(out / "nowhere")) == 2
    with pytest.raises(UserError, match="no table"):
        tables.choose("9", SUITES)


def test_the_summary_shows_what_there_is(out):
    text = "\n".join(tables.summary(out, SUITES))
    assert "Table 1a" in text and "Table 1b" in text and "Pushing" not in text and "VP-1" not in text
    assert text.count("0.95 ± 0.04") == 1  # Table 2 repeats nothing


def test_saved_plan_of_another_shape_is_named_and_left_out(out):
    (out / "plans" / "x.json").write_text("[]")
    assert len(plan.saved_cells(out)) == 4
    (note,) = [note for note in one(out, "1a").notes if "left out" in note]
    assert "x.json was altered" in note


def test_another_teacher_is_named(tmp_path):
    config = {"gpt": {}, "hyper": {}, "train": {}, "eval": {"rollouts": 2}, "teacher": {"method": "mode"}}
    given = {"cell": "avoiding/mode/0", "origin": "trained", "sha256": "s"}
    write_record(tmp_path, "avoiding", "vdd_ve", 0, teacher=given, config=config)
    table = one(tmp_path, "1a")
    assert table.entries["avoiding"]["vdd_ve"].teacher == "mode trained"
    for form in ("md", "latex", "text"):
        assert "distils mode, not its usual teacher" in table_text.table_text(table, form)
