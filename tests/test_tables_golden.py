"""All tables of a fixed set of records, letter by letter; what LaTeX makes of them; files that are not what they should be."""

import json
import re
import shutil
import subprocess

import golden_tables
import pytest
from standins import write_record

from harness import measurement, record, table_text, tables

SUITES = golden_tables.suites()
NAMES = [f"table_{name}.{ending}" for name in SUITES.tables for ending, _ in table_text.FORMATS.values()]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return golden_tables.rendered(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", NAMES)
def test_golden(name, texts):
    assert texts.keys() == set(NAMES) == {path.name for path in golden_tables.GOLDEN.iterdir()}
    assert texts[name] == (golden_tables.GOLDEN / name).read_text()


def check_latex(text):
    """Balanced braces, math and environments, as many cells in every row as columns, nothing special left bare."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[\\&%$#_{}~^]", "", body)  # escaped ones are text
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0, "a brace closes nothing"
    assert depth == 0 and plain.count("$") % 2 == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", body).group(1))
    rows = [line for line in body.splitlines() if line.endswith(r" \\\\"[:3])]
    assert rows
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == columns - 1, row
    outside = re.sub(r"\$[^$]*\$", "", plain)
    assert not re.search(r"[#%^_~]", outside), outside


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".tex")])
def test_latex_is_well_formed(name, texts):
    check_latex(texts[name])


@pytest.mark.parametrize("bad", [r"\begin{tabular}{lc} a & b_c \\", r"\begin{tabular}{lc}", "{", "$", r"\end{table}"])
def test_the_check_of_latex_finds_faults(bad):
    with pytest.raises((AssertionError, AttributeError, IndexError)):
        check_latex(bad)


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex: install TeX Live with booktabs to compile the tables"
)
def test_latex_compiles(texts, tmp_path):
    inputs = "\n".join(texts[name] + r"\clearpage" for name in NAMES if name.endswith(".tex"))
    document = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + inputs + "\n\\end{document}\n"
    (tmp_path / "all.tex").write_text(document)
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0 and (tmp_path / "all.pdf").exists(), run.stdout[-2000:]


# bad input


def one(source, name="1a"):
    return tables.build(source, SUITES, [name])[0]


def test_an_empty_folder_gives_empty_tables(tmp_path):
    for table in tables.build(
        tables.Source(tmp_path, tmp_path / "no", tmp_path / "nowhere"), SUITES, list(SUITES.tables)
    ):
        if table.name != "4":  # made of the suites
            assert not any(e.known for row in table.entries.values() for e in row.values())
            assert "no records yet" in "".join(table.notes) or "no measurement yet" in "".join(table.notes)
        for form in table_text.FORMATS:
            assert tables.render(table, form)


def put(path, content):
    """A record as JSON with whatever it holds, sealed or not as `record.write` would refuse it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("change", "why"),
    [(lambda r: r | {"schema": 99}, "schema '99'"),
     (lambda r: r | {"metrics": {"success": float("nan"), "entropy": 0.5}}, "NaN"),
     (lambda r: r | {"metrics": {"success": "<b>"}}, "no finite numbers"),
     (lambda r: r | {"cell": {"task": "a_b<", "method": "x", "seed": 0}}, "no command"),
     (lambda r: [r], "no JSON object")],
)  # fmt: skip
def test_a_bad_record_is_named_and_counts_nowhere(change, why, tmp_path):
    write_record(tmp_path, "avoiding", "cd", 0)
    good = json.loads(write_record(tmp_path, "avoiding", "cd", 1).read_text())
    put(record.record_path(tmp_path, "avoiding/cd/1"), change(good))
    table = one(tmp_path)
    assert len(table.entries["avoiding"]["cd"].values) == 1
    (note,) = [note for note in table.notes if "left out" in note]
    assert "avoiding/cd/1.json" in note and why in note


@pytest.mark.parametrize("name", ["00.json", "1.json"])
def test_a_second_record_of_a_cell_is_left_out(name, tmp_path):
    first = write_record(tmp_path, "avoiding", "cd", 0, metrics={"success": 0.25, "entropy": 0.5})
    shutil.copyfile(first, first.with_name(name))
    table = one(tmp_path)
    assert table.entries["avoiding"]["cd"].values == (0.25,)
    assert any("belongs to another cell" in note for note in table.notes)


def test_specials_in_a_title_stay_text(tmp_path):
    import dataclasses

    nasty = "a_b & <i>x</i> | 50% $\\alpha$ é 漢"
    write_record(tmp_path, "avoiding", "beso", 0)
    methods = SUITES.methods | {"beso": SUITES.methods["beso"] | {"title": nasty}}
    table = tables.build(tmp_path, dataclasses.replace(SUITES, methods=methods), ["1a"])[0].present()
    check_latex(tables.render(table, "latex"))
    assert "漢" not in tables.render(table, "latex") and "[U+6F22]" in tables.render(table, "latex")
    markdown = tables.render(table, "md").splitlines()[2]
    assert "<i>" not in markdown and markdown.replace(r"\|", "").count("|") == 3


def test_csv_fields_start_no_formula():
    assert tables.csv_field("=1+1") == "'=1+1" and tables.csv_field("-0.5") == "-0.5"
    assert tables.csv_field('a,"b"\n') == '"a,""b"" "'


def test_a_bad_measurement_is_named(tmp_path):
    source = golden_tables.make(tmp_path)
    good = json.loads((source.measurements / "inference.json").read_text())
    put(source.measurements / "altered.json", good | {"task": "stacking_image"})
    put(source.measurements / "cut.json", "{")
    table = one(source, "3a")
    assert sum("left out" in note for note in table.notes) == 2
    assert table.entries["vdd/cpu/compiled"]["1"].values == (0.5,)
    good.pop("checksum")
    for wrong in ({"schema": 2}, {"cases": [{}]}, {"cases": [good["cases"][0] | {"ms": [0.0]}]}, {"kind": 3}):
        with pytest.raises(ValueError, match="measurement"):
            measurement.write(tmp_path / "x.json", good | wrong)


def test_records_of_tasks_and_methods_that_are_gone(tmp_path, capsys):
    """As those of a plug-in that is no longer installed."""
    from standins import verb

    for task, method in (("gone", "vdd_ve"), ("kitchen", "beso"), ("sorting_image", "vdd_ve"), ("avoiding", "other")):
        write_record(tmp_path, task, method, 0, metrics={"success": 0.5, "entropy": 0.5, "return": 1.0})
    table = one(tables.Source(tmp_path, tmp_path, tmp_path))
    assert ("gone", "gone") in table.rows and ("other", "OTHER") in table.columns
    for name in ("tables", "claims"):
        assert verb(name, "--out", str(tmp_path), "--studies", str(tmp_path), "--measurements", str(tmp_path)) == 0
    assert "gone" in capsys.readouterr().out
