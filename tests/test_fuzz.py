"""Generated bad command lines and suite files: exit code 2, one line that says why, no traceback, nothing written."""

import os
import random
import shutil
import tomllib

import pytest
from standins import call, verb

from harness import registry

BASE = ["--tasks", "toy", "--methods", "exact,beso", "--budget", "smoke", "--seeds", "1", "--workers", "0"]
ODD = "abz019_-./\\,;:=+*?!'\"<>|&$#@~^(){}[] \t\n\r\x00\x1b\x7fäß中\u202e\udcff\U0001f600"
WORDS = [
    "vdd",
    "beso",
    "toy",
    "all",
    "smoke",
    "../..",
    "/etc/passwd",
    "1e999",
    "-1",
    "0x10",
    "nan",
    "None",
    "True",
    "%s",
    "{}",
]


def text(rng, longest=30):
    if rng.random() < 0.3:
        return rng.choice(WORDS) + rng.choice(ODD)
    return "".join(rng.choice(ODD) for _ in range(rng.choice((0, 1, 2, longest, 40 * longest))))


def number(rng):
    return rng.choice(
        ["", " ", "x", "1.5", "1e3", "--", "0x1", "-1", "2000", "9" * 30, "９x", "1,2", "+", "inf", text(rng)]
    )


def with_value(option, bad):
    """A generator of `option VALUE` that is never right."""

    def make(rng):
        return [*BASE, f"{option}={bad(rng)}"]

    return make


def not_a(kind, good):
    """Text that is no list of names of that kind."""

    def make(rng):
        word = text(rng)
        parts = [part.strip() for part in word.split(",")]
        return "no_such" if all(not p or p in good for p in parts) and any(parts) else word

    return make


def set_value(rng):
    return rng.choice([
        "beso", "beso.", ".lr=1", "beso.lr", "=", "beso.lr=", f"beso.a{rng.random()}=1", "nobody.lr=1",
        f"beso.steps={text(rng)}x", f"beso.lr={'9' * rng.randrange(400, 2000)}", "beso.lr=inf", "beso.lr=-inf",
        "beso.steps=1.5",
        "beso.steps=true", "beso.batch=[1]", "beso.optimizer=1", "cd.N=2", "beso.rollouts=0", "beso.lr={a=1}", f"{text(rng)}=1",
        f"beso.compile={'[' * rng.randrange(1000)}", "beso.lr=0x", "beso.class=os:system", "beso.steps=1979-05-27",
    ])  # fmt: skip


def bad_out(rng, folder):
    file = folder / "file"
    return rng.choice([
        str(file), str(file / "below"), "/dev/null/x", "/proc/none", f"{folder}/{'x' * 300}", f"{folder}/a\x00b", "/sys/x",
    ])  # fmt: skip


def twice(rng):
    return [*BASE, "--set", "beso.lr=1e-3", "--set", f"beso.lr={rng.random()}"]


def missing_value(rng):
    return [*BASE, rng.choice(["--out", "--set", "--seeds", "--budget", "--workers", "--data-root", "--device"])]


def bad_verb(rng, folder):
    nowhere = str(folder / f"none{rng.randrange(10**6)}")
    return rng.choice([
        [text(rng) or "x"], ["status"], ["status", "--out", nowhere], ["status", "--out", str(folder / "file")],
        ["status", "--out", str(folder), "--watch", rng.choice(["-1", "0", "x", "nan", "inf", "1e9"])],
        ["tables", "--out", nowhere], ["tables", "--out", str(folder), "--table", f"x{text(rng)}"],
        ["tables", "--out", str(folder), "--format", f"x{text(rng)}"], ["validate"], ["validate", "--out", nowhere],
        ["validate", "--out", str(folder / "file")], ["reproduce"], ["reproduce", nowhere], ["reproduce", str(folder)],
        ["reproduce", str(folder / "file")], ["reproduce", str(folder / "file"), "--threads", number(rng)],
        ["ship", "--out", nowhere], ["ship"], ["data", text(rng) or "x"], ["data", "describe", "--tasks", f"x{text(rng)}"],
        ["plan", f"--seeds=x{number(rng)}"], ["bench", f"x{text(rng)}"], ["bench", "--rounds", "0"],
        ["figures", "--figure", "99", "--out", nowhere], ["ls", f"x{text(rng)}"], ["ls", "--suites", nowhere],
    ])  # fmt: skip


SUITES = registry.load_suites()
NAMES = {"methods": {*SUITES.methods, "vdd", "all"}, "tasks": {*SUITES.tasks, "all"}}
RUNS = [
    with_value("--methods", not_a("method", NAMES["methods"])),
    with_value("--tasks", not_a("task", NAMES["tasks"])),
    with_value("--budget", lambda rng: text(rng) + "x"),
    with_value("--teacher", lambda rng: text(rng) + "x"),
    with_value(
        "--seeds",
        lambda rng: rng.choice(["", ",", "0", "-1", "1.5", "99999999", "1;2", "x", "1,x", "²", text(rng) + "x"]),
    ),
    with_value("--workers", lambda rng: number(rng) + "x"),
    with_value("--threads", lambda rng: rng.choice(["0", "-1", "1025", "x", number(rng) + "x"])),
    with_value("--device", lambda rng: text(rng) + "x"),
    with_value("--data-root", lambda rng: "/none/" + text(rng)),
    with_value("--suites", lambda rng: "/none/" + text(rng)),
    with_value("--set", set_value),
    lambda rng: [*BASE, f"--x{text(rng)}"],
    lambda rng: [*BASE, f"x{text(rng)}"],
    twice,
    missing_value,
]


def mutated(content, rng):
    """A suite file with one thing changed for the worse."""
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    settings = [i for i, line in enumerate(lines) if " = " in line and line[0] not in "# "]
    setting = rng.choice(settings)
    key = lines[setting].split(" = ")[0]
    how = rng.randrange(7)
    if how == 0:
        lines.insert(place, rng.choice(["[", "]]", "= 1", "x = ", "[a", 'y = "', "\x00", "a = 1 = 2", "[[[["]))
    elif how == 1:
        lines[setting] = f"{key} = " + rng.choice(
            ["[[1]]", "{ a = [1] }", "1979-05-27", "[{}]", "nan", "[1, 'a']", "9" * 5000]
        )
    elif how == 2:
        lines[setting] = rng.choice(["", f"{key}_x = 1", f"# {lines[setting]}"])
    elif how == 3:
        lines.insert(setting, lines[setting])
    elif how == 4:
        return content[: rng.randrange(1, len(content))] + rng.choice(["[", '"', "= =", "'''"])
    elif how == 5:
        lines[setting] = f"{key} = " + rng.choice(
            ["-1", "0", "1e400", "true", '""', "'\\u202e'", "'../../x'", f"'{'y' * 300}'"]
        )
    else:
        lines.insert(place, f'["{text(rng, 5)!r}"]')
    return "\n".join(lines) + "\n"


def tree(folder):
    return sorted((str(p), p.stat().st_size) for p in folder.rglob("*"))


def check(code, capsys, before, folder, what):
    shown = capsys.readouterr()
    assert code == 2, (what, code, shown)
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and shown.err.endswith("\n"), (
        what,
        shown.err,
    )
    assert len(shown.err) < 2500 and shown.err.rstrip("\n").isprintable(), (what, shown.err)
    assert "Traceback" not in shown.err + shown.out, (what, shown)
    assert tree(folder) == before, what


def fuzz(count, seed, folder, capsys, monkeypatch):
    rng = random.Random(seed)
    home, suites = folder / "home", folder / "suites"
    home.mkdir()
    (home / "file").write_text("a file")
    monkeypatch.chdir(home)
    monkeypatch.setenv("VDD_CACHE_DIR", str(folder / "cache"))
    monkeypatch.delenv("VDD_DATA_ROOT", raising=False)
    shutil.copytree(registry.SUITES, suites)
    before = tree(home)
    lines = files = harmless = 0
    while lines + files < count:
        kind = rng.random()
        if kind < 0.45:
            argv = rng.choice(RUNS)(rng)
            check(call(*argv), capsys, before, home, argv)
            lines += 1
        elif kind < 0.55:
            argv = [*BASE, "--out", bad_out(rng, home)]
            check(call(*argv), capsys, before, home, argv)
            lines += 1
        elif kind < 0.75:
            argv = bad_verb(rng, home)
            check(verb(*argv), capsys, before, home, argv)
            lines += 1
        else:
            name = rng.choice(("tasks", "methods", "budgets", "names", "tables"))
            whole = (registry.SUITES / f"{name}.toml").read_text()
            worse = mutated(whole, rng)
            (suites / f"{name}.toml").write_bytes(worse.encode("utf-8", "surrogatepass"))
            argv = [
                "--tasks",
                "all",
                "--methods",
                "all,mode",
                "--suites",
                str(suites),
                "--out",
                str(home / "out"),
                "--dry-run",
            ]
            code = call(*argv)
            if code == 0:  # the change does no harm: a comment, a title, another number
                harmless += 1
                shown = capsys.readouterr()
                assert not shown.err and tree(home) == before, worse
            else:
                check(code, capsys, before, home, worse)
                files += 1
            (suites / f"{name}.toml").write_text(whole)
    with capsys.disabled():
        print(f"\n{lines} bad command lines and {files} bad suite files refused ({harmless} changes that do no harm)")


def test_bad_input(tmp_path, capsys, monkeypatch):
    fuzz(150, 1, tmp_path, capsys, monkeypatch)


@pytest.mark.faults
def test_2000_bad_inputs(tmp_path, capsys, monkeypatch):
    fuzz(2000, 2, tmp_path, capsys, monkeypatch)


def test_the_suites_are_valid_before_they_are_changed():
    for path in registry.SUITES.glob("*.toml"):
        assert tomllib.loads(path.read_text()) and os.path.getsize(path) < registry.LARGEST_TOML
