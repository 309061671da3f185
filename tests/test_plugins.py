"""Methods and tasks of other packages: the two tutorials installed and run, and plug-ins that are wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from standins import call, verb

from harness import plugins, registry
from harness.errors import UserError

ROOT = Path(__file__).parent.parent
MAKE = {"add-a-method": "vdd_mlp", "add-a-task": "vdd_fork"}


def tutorial(page):
    """The files of a tutorial: `name`: and the block behind it."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which pip has installed both tutorials."""
    target = tmp_path_factory.mktemp("site")
    for page in MAKE:
        project = tmp_path_factory.mktemp(page)
        (project / MAKE[page]).mkdir()
        for name, content in {**tutorial(page), f"{MAKE[page]}/__init__.py": ""}.items():
            (project / name).write_text(content)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target),
             str(project)],
            check=True, capture_output=True, text=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )  # fmt: skip
    return target


@pytest.fixture
def fresh(monkeypatch):
    """Forgets which plug-ins there are, now and at the end; gives a way to add a folder with some."""

    def forget():
        plugins.installed.cache_clear()
        plugins.warn.cache_clear()

    def add(folder):
        monkeypatch.syspath_prepend(str(folder))
        forget()

    forget()
    yield add
    monkeypatch.undo()
    forget()


def make(folder, name, entry_points, files, version="1.0"):
    """A distribution as an installer leaves it: its packages' files and a dist-info folder."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)


METHODS = "[vdd_harness.methods]\nx = {}\n"
GOOD = tutorial("add-a-method")["vdd_mlp/methods.toml"]


def test_the_tutorials_are_short():
    for page, package in MAKE.items():
        files = tutorial(page)
        modules = [text for name, text in files.items() if name.endswith(".py")]
        assert f"{package}/{'methods' if page == 'add-a-method' else 'tasks'}.toml" in files
        assert modules and all(len(text.splitlines()) < 80 for text in modules)


def test_installed_plugins_are_listed_run_and_in_the_tables(site, fresh, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VDD_CACHE_DIR", str(tmp_path / "cache"))
    assert "mlp" not in registry.load_suites().methods
    fresh(site)
    assert verb("ls") == 0
    shown = capsys.readouterr().out
    assert re.search(r"mlp +MLP +scratch, from vdd-mlp 0\.1\.0", shown) and re.search(
        r"fork +Fork .*from vdd-fork 0\.2\.0", shown
    )
    out = tmp_path / "out"
    options = ["--methods", "mlp,beso", "--tasks", "toy,fork", "--budget", "smoke", "--workers", "0", "--out", str(out)]
    assert call(*options) == 0, capsys.readouterr().err
    record = json.loads((out / "records" / "fork" / "mlp" / "0.json").read_text())
    versions = record["provenance"]["versions"]
    assert (versions["vdd-mlp"], versions["vdd-fork"]) == ("0.1.0", "0.2.0")
    assert record["config"]["hyper"] == {"hidden": 64} and record["data"]["episodes"] == 20
    own = json.loads((out / "records" / "toy" / "beso" / "0.json").read_text())
    assert "vdd-mlp" not in own["provenance"]["versions"]
    shown = (out / "tables" / "table_1a.md").read_text()
    assert "| MLP |" in shown and re.search(r"^\| Fork \|", shown, re.MULTILINE)
    assert verb("reproduce", str(out / "records" / "fork" / "mlp" / "0.json")) == 0, capsys.readouterr().err


def test_listing_imports_nothing_of_a_plugin(fresh, tmp_path, capsys):
    make(
        tmp_path,
        "loud",
        METHODS.format("loud"),
        {"loud/__init__.py": "raise SystemExit(9)", "loud/methods.toml": GOOD.replace("vdd_mlp", "loud")},
    )
    fresh(tmp_path)
    assert verb("ls") == 0 and "from loud 1.0" in capsys.readouterr().out
    assert "loud" not in sys.modules


@pytest.mark.parametrize(
    ("value", "files", "why"),
    [("nowhere", {}, "no package 'nowhere'"), ("a.b", {}, "must name a top-level package"),
     ("p1", {"p1/__init__.py": ""}, "no file methods.toml"),
     ("p2", {"p2/__init__.py": "", "p2/methods.toml": "[x"}, "not valid TOML"),
     ("p3", {"p3/__init__.py": "", "p3/methods.toml": "[x]\nrole = 'scratch'"}, "lacks"),
     ("p4", {"p4/__init__.py": "", "p4/methods.toml": GOOD.replace("[mlp", "[beso").replace("vdd_mlp", "p4")},
      "exists already, from this project"),
     ("p5", {"p5/__init__.py": "", "p5/methods.toml": GOOD}, "class must be"),  # of another package
     ("p6", {"p6/__init__.py": "", "p6/methods.toml": GOOD.replace("[mlp", "[\"../m\"")}, "must be letters"),
     ("p7", {"p7/__init__.py": "", "p7/methods.toml": GOOD.replace("[mlp", "[all").replace("vdd_mlp", "p7")},
      "exists already")],
)  # fmt: skip
def test_a_wrong_plugin_is_one_line_and_takes_nothing_down(value, files, why, fresh, tmp_path, capsys):
    make(tmp_path, "broken", METHODS.format(value), files)
    fresh(tmp_path)
    assert verb("ls") == 0
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("plug-in broken 1.0 is left out: ") and why in line
    assert "vdd_ve" in shown.out and "broken" not in shown.out


def test_two_plugins_of_one_name(fresh, tmp_path, capsys):
    for name in ("aaa", "bbb"):
        block = GOOD.replace("vdd_mlp", name)
        make(tmp_path, name, METHODS.format(name), {f"{name}/__init__.py": "", f"{name}/methods.toml": block})
    fresh(tmp_path)
    assert verb("ls") == 0
    shown = capsys.readouterr()
    assert "from aaa 1.0" in shown.out and "method 'mlp' exists already, from aaa 1.0" in shown.err


def test_a_class_that_cannot_be_imported_is_said_before_anything_runs(fresh, tmp_path, capsys):
    files = {"rot/__init__.py": "", "rot/mlp.py": "1 / 0", "rot/methods.toml": GOOD.replace("vdd_mlp", "rot")}
    make(tmp_path / "site", "rot", METHODS.format("rot"), files)
    fresh(tmp_path / "site")
    assert (
        call(
            "--methods", "mlp", "--tasks", "toy", "--budget", "smoke", "--workers", "0", "--out", str(tmp_path / "out")
        )
        == 2
    )
    assert "rot.mlp:Mlp, of a plug-in, cannot be imported: ZeroDivisionError" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_task_without_a_generator_is_refused(fresh, tmp_path, capsys):
    block = tutorial("add-a-task")["vdd_fork/tasks.toml"]
    block = "\n".join(line for line in block.splitlines() if not line.startswith("generator")).replace(
        "vdd_fork", "dull"
    )
    make(tmp_path, "dull", "[vdd_harness.tasks]\nx = dull\n", {"dull/__init__.py": "", "dull/tasks.toml": block})
    fresh(tmp_path)
    assert "fork" not in registry.load_suites().tasks
    assert "lacks generator" in capsys.readouterr().err


def test_without_plugins_a_foreign_class_is_refused(tmp_path):
    for path in registry.SUITES.glob("*.toml"):
        text = path.read_text()
        (tmp_path / path.name).write_text(
            text.replace("methods.cd:Cd", "os:system") if path.stem == "methods" else text
        )
    with pytest.raises(UserError, match="class must be"):
        registry.load_suites(tmp_path)
