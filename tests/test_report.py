"""The report as a file: what it holds of records, bad input, size, and that it needs neither torch nor mujoco."""

import html
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic
from report_pages import EVIL, hostile, ordinary
from standins import verb, write_record

from harness import record, registry, tables
from harness.report import details, gather, page

ROOT = Path(__file__).parent.parent
SUITES = registry.load_suites()


def read(out):
    return gather.read(tables.Source(out, out / "studies", out / "measurements"), SUITES)


def write(tmp_path, *outs):
    """The page of some folders, its text, and its embedded data."""
    file = tmp_path / "report.html"
    options = ["--out", *map(str, outs), "--file", str(file), "--studies", str(tmp_path / "none")]
    assert verb("report", *options, "--measurements", str(tmp_path / "none")) == 0
    text = file.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return text, json.loads(found[1])


def test_the_page_has_the_tables_numbers(tmp_path):
    text, data = write(tmp_path, ordinary(tmp_path / "run"))
    (cell,) = re.findall(r'<button[^>]*data-group="avoiding/vdd_ve" data-metric="success"[^>]*>.*?</button>', text)[:1]
    shown = html.unescape(re.sub(r"<[^>]+>", " ", cell)).split()
    assert shown == ["0.95", "±0.04", "0.95", "+0.00", "n", "3/4"]
    group = data["runs"][0]["groups"]["avoiding/vdd_ve"]
    assert [seed["success"] for seed in group["seeds"]] == [0.9, 0.95, 1.0] and group["planned"] == 4
    facts = {name: data["blocks"][index] for name, index in group["seeds"][0]["sections"]}
    assert facts["versions"] == {"torch": "2.13.0"} and facts["file"]["path"].endswith("records/avoiding/vdd_ve/0.json")
    path = record.record_path(tmp_path / "run", "avoiding/vdd_ve/0")
    assert facts["file"]["SHA-256 (checksum)"] == json.loads(path.read_text())["checksum"]
    assert "FloatingPointError: loss is not finite" in html.unescape(text) and "harness retry" in text


def test_missing_cells_have_the_command_that_fills_them(tmp_path):
    _, data = write(tmp_path, ordinary(tmp_path / "run"))
    groups = data["runs"][0]["groups"]
    assert groups["pushing/cd"]["command"] == (
        f"python -m harness.run --methods cd --tasks pushing --seeds 4 --budget smoke --out {tmp_path / 'run'}"
    )
    assert groups["kitchen/cd"]["command"] == "" or "kitchen" in SUITES.tasks
    assert "no block" in groups["kitchen/cd"]["why"] or "kitchen" in SUITES.tasks


def test_the_marks_are_those_of_the_tables(tmp_path):
    run = read(ordinary(tmp_path / "run"))
    rows = page.shown_tables(run, SUITES)[0]["rows"]
    (avoiding,) = [row for row in rows if row["row"] == "avoiding"]
    marked = {cell.method: (cell.best, cell.top) for cell in avoiding["cells"] if cell.best or cell.top}
    assert marked == {"vdd_ve": (True, True)}  # not BESO, an original teacher


def test_the_same_records_make_the_same_page(tmp_path):
    out = ordinary(tmp_path / "run")
    assert write(tmp_path, out)[0] == write(tmp_path, out)[0]


def test_text_from_records_is_escaped(tmp_path):
    text, data = write(tmp_path, hostile(tmp_path / "run"))
    assert text.count("<script") == text.count("</script>") == 2  # the data and the page's own
    assert "<img src=x" not in text
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "onerror='" not in markup and "onerror=&#39;" in markup  # no attribute's end
    sections = data["runs"][0]["groups"]["avoiding/vdd_ve"]["seeds"][0]["sections"]
    assert any(
        "<script>" in value for _, i in sections for value in data["blocks"][i].values() if isinstance(value, str)
    )


def test_bad_files_are_named_and_left_out(tmp_path, capsys):
    text, data = write(tmp_path, hostile(tmp_path / "run"))
    text = html.unescape(text)
    printed = capsys.readouterr().out
    for line in (
        "records/avoiding/ctm/1.json belongs to another cell, avoiding/ctm/0",
        "records/avoiding/em/0.json holds the number NaN",
        "records/avoiding/imc/0.json has schema",
        "records/avoiding/vdd_vp/0.json has timings that are no finite numbers",
        "records/avoiding/mode/0.json has a number of parameters that no method has",
    ):
        assert line in text and line in printed
    groups = data["runs"][0]["groups"]
    assert groups["avoiding/em"]["seeds"] == [] and len(groups["avoiding/ctm"]["seeds"]) == 1
    assert "strange_task/strange_method" in groups and "no block" in groups["strange_task/strange_method"]["why"]


def test_a_metric_that_is_no_finite_number_reaches_no_table(tmp_path):
    """NaN as a seal over it would have it, and a number too large for a float."""
    import hashlib

    for seed, text in enumerate(("NaN", "1e999", "-Infinity")):
        path = write_record(tmp_path, "avoiding", "em", seed)
        body = path.read_bytes()[: -record.TAIL].replace(b'"success": 0.5', b'"success": ' + text.encode())
        path.write_bytes(body + record.SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n')
        with pytest.raises(record.InvalidRecord):
            record.head(path)
    run = read(tmp_path)
    assert run.done(("avoiding", "em")) == [] and len(run.left_out) == 3


def test_one_cell_in_two_folders_is_shown_apart_and_said(tmp_path):
    for name, success in (("a", 0.25), ("b", 0.75)):
        write_record(tmp_path / name, "avoiding", "cd", 0, metrics={"success": success, "entropy": 0.5})
    text, data = write(tmp_path, tmp_path / "a", tmp_path / "b")
    values = [run["groups"]["avoiding/cd"]["seeds"][0]["success"] for run in data["runs"]]
    assert values == [0.25, 0.75]
    shown = re.findall(r'data-group="avoiding/cd" data-metric="success"[^>]*>\s*<span class="ours">([0-9.]+)', text)
    assert shown == ["0.25", "0.75"]  # Table 1a of either folder
    assert f"never averaged: avoiding/cd/0: {tmp_path / 'a'} and {tmp_path / 'b'}" in html.unescape(text)


@pytest.mark.parametrize("folders", [[], ["records"], ["records/avoiding/cd"]])
def test_an_empty_folder_makes_a_page_that_says_what_to_run(folders, tmp_path):
    (tmp_path / "run").mkdir()
    for folder in folders:
        (tmp_path / "run" / folder).mkdir(parents=True)
    text, data = write(tmp_path, tmp_path / "run")
    assert "no records yet" in text and "0 of 0" in text
    assert data["runs"][0]["groups"]["avoiding/vdd_ve"]["command"].startswith("python -m harness.run --methods vdd_ve")


@pytest.mark.parametrize(
    "options, why",
    [
        (["--out", "nowhere"], "no folder nowhere"), (["--file", "report.txt"], ".html"),
        (["--films", "nowhere"], "no folder nowhere"), (["--file", "/proc/x/report.html"], "not writable"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_an_error_of_one_line(options, why, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert verb("report", "--out", "run", *options) == 2
    shown = capsys.readouterr().err
    assert why in shown and shown.count("\n") == 1


def test_films_are_in_the_page_below_a_size(tmp_path):
    from PIL import Image

    (tmp_path / "films").mkdir()
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(0, 200, 50)]
    frames[0].save(tmp_path / "films/avoiding_<b>_0.webp", save_all=True, append_images=frames[1:])
    (tmp_path / "films/huge.mp4").write_bytes(bytes(1_000_001))
    (tmp_path / "films/notes.txt").write_text("no film")
    (tmp_path / "run").mkdir()
    options = ["--out", str(tmp_path / "run"), "--films", str(tmp_path / "films"), "--file", str(tmp_path / "r.html")]
    assert verb("report", *options) == 0
    text = (tmp_path / "r.html").read_text()
    assert text.count("data:image/webp;base64,") == 1 and "avoiding &lt;b&gt; 0" in text and "<b> 0" not in text
    assert "huge.mp4: 1,000,001 bytes" in text and "notes" not in text.split('id="films"')[1].split("</section>")[0]


def test_the_report_imports_neither_torch_nor_mujoco(tmp_path):
    ordinary(tmp_path / "run")
    code = (
        "import sys; from harness.__main__ import main; "
        f"main(['report', '--out', {str(tmp_path / 'run')!r}, '--file', {str(tmp_path / 'r.html')!r}]); "
        "sys.exit(bool({'torch', 'mujoco', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_many_records_stay_a_page(tmp_path, monkeypatch):
    """Hundreds of records with curves and 480 episodes each; beyond MOST the numbers alone."""
    synthetic.generate(tmp_path / "run", 600, 480)
    began = time.monotonic()
    run = read(tmp_path / "run")
    text = page.render([run], tmp_path / "none", None, SUITES)
    assert len(text.encode()) < page.LARGEST and time.monotonic() - began < 120
    monkeypatch.setattr(gather, "MOST", 10)
    short = page.render([read(tmp_path / "run")], tmp_path / "none", None, SUITES)
    assert len(short) < len(text) and sum(map(len, run.records.values())) == 600


def test_values_of_any_kind_become_bounded_json():
    deep: dict = {}
    for _ in range(100):
        deep = {"k": deep}
    value = {
        "n": float("nan"),
        "i": 10**400,
        "t": "x" * 10_000,
        "l": list(range(1000)),
        "d": deep,
        "b": True,
        "z": None,
    }
    found = details.plain(value)
    json.dumps(found, allow_nan=False)
    assert found["n"] == "nan" and len(found["t"]) == details.LONGEST and len(found["l"]) == details.ITEMS
    assert len(found["i"]) <= 80 and found["b"] is True and found["z"] is None
    assert details.numbers([1, 2.5]) == [1.0, 2.5] and details.numbers([1, EVIL]) == details.numbers(EVIL) == []
