"""Bytes flipped and files cut at random: `validate` and the next run name each one, and nothing else is affected."""

import random
import shutil
from pathlib import Path

import pytest
from standins import call, verb

from harness import job, record, validate

OPTIONS = ["--tasks", "toy", "--methods", "exact,beso,vdd_ve,cd", "--budget", "smoke", "--workers", "0"]
WORK = "work/toy/beso/0"
INTERRUPTED = "toy/beso/0"  # in the second folder: killed between its last checkpoint and its weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run and one that was interrupted, with their cache of demonstrations."""
    folder = tmp_path_factory.mktemp("whole")
    patch = pytest.MonkeyPatch()
    patch.setenv("VDD_CACHE_DIR", str(folder / "cache"))
    patch.delenv("VDD_DATA_ROOT", raising=False)
    assert call(*OPTIONS, "--out", str(folder / "done")) == 0

    def interrupted(*_):
        raise KeyboardInterrupt

    patch.setattr(job.policy, "save", interrupted)
    assert call(*OPTIONS, "--methods", "beso", "--out", str(folder / "begun")) == 130
    assert (folder / "begun" / WORK / "train.ckpt.safetensors").is_file()
    patch.undo()
    return folder


def kinds(folder):
    """Kind of file -> the files of that kind, relative to the folder."""
    found = {
        "record": "done/records/*/*/*.json", "plan": "done/plans/*.json", "checkpoint": "begun/work/*/*/*/train.ckpt.*",
        "weights": "done/work/*/*/*/policy.safetensors", "description": "done/work/*/*/*/policy.json",
        "training": "done/work/*/*/*/training.json", "chunk": "done/work/*/*/*/rollouts/*.json",
        "demonstrations": "cache/demonstrations/*.npz",
    }  # fmt: skip
    files = {kind: sorted(p.relative_to(folder) for p in folder.glob(pattern)) for kind, pattern in found.items()}
    assert all(files.values())
    return files


def damage(path, rng):
    """Flip a byte or cut the file; returns what was done."""
    data = path.read_bytes()
    if rng.random() < 0.3:
        size = rng.randrange(len(data))
        path.write_bytes(data[:size])
        return f"cut to {size} of {len(data)} bytes"
    place = rng.randrange(len(data))
    path.write_bytes(data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :])
    return f"byte {place} of {len(data)}"


def comparable(out):
    return {p.relative_to(out): record.comparable(record.read(p)) for p in sorted(out.glob("records/*/*/*.json"))}


def one_fault(kind, name, rng, whole, folder, capsys, monkeypatch):
    """Damage one file of a fresh copy; validate; run again; compare."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    monkeypatch.setenv("VDD_CACHE_DIR", str(folder / "cache"))
    path = folder / name
    out = folder / name.parts[0] if name.parts[0] != "cache" else folder / "done"
    where = f"{name}: {damage(path, rng)}"
    report = validate.validate(out, None, folder / "cache")
    named = {bad for bad, _ in report.bad}
    pair = {path.with_suffix(".safetensors"), path}  # weights and the JSON beside them vouch for each other
    assert len(named) == 1 and named <= pair, (where, report.bad)
    before = {p: p.read_bytes() for p in folder.rglob("records/*/*/*.json") if p != path}
    key = "/".join(Path(name).parts[2:5]) if "work" in name.parts else "toy/cd/0"
    if kind in ("training", "chunk", "demonstrations"):  # read where a record is not there yet
        record.record_path(out, key).unlink()
        before.pop(record.record_path(out, key))
    methods = ["--methods", "beso"] if out.name == "begun" else []
    capsys.readouterr()
    assert call(*OPTIONS, *methods, "--out", str(out)) == 0, where
    shown = capsys.readouterr()
    told = shown.out + shown.err
    if kind == "description":
        assert "policy.safetensors was altered" in told, where
    elif kind != "demonstrations":  # which the loader's own log names
        assert path.name in told and ("set aside" in told or "altered" in told), (where, told)
    assert all(p.read_bytes() == content for p, content in before.items()), where
    expected = comparable(whole / "done")
    assert all(expected[key] == found for key, found in comparable(out).items()), where
    if out.name == "done":
        assert len(comparable(out)) == len(expected)
    if kind not in ("weights", "description"):  # those of a done cell are told of, not replaced
        assert validate.validate(out, None, folder / "cache").bad == [], where


def faults(whole, tmp_path, capsys, monkeypatch, caplog, count, seed):
    rng = random.Random(seed)
    files = kinds(whole)
    counts = dict.fromkeys(files, 0)
    for i in range(count):
        kind = list(files)[i % len(files)]
        caplog.clear()
        one_fault(kind, rng.choice(files[kind]), rng, whole, tmp_path / "copy", capsys, monkeypatch)
        if kind == "demonstrations":
            assert "damaged" in caplog.text and ".npz" in caplog.text
        counts[kind] += 1
    with capsys.disabled():
        print(f"\n{count} faults, each named by validate and by the next run: " + ", ".join(
            f"{n} {kind}" for kind, n in counts.items()))  # fmt: skip


def test_some_damage(whole, tmp_path, capsys, monkeypatch, caplog):
    faults(whole, tmp_path, capsys, monkeypatch, caplog, 8, 1)


@pytest.mark.faults
def test_damage_in_300_places(whole, tmp_path, capsys, monkeypatch, caplog):
    faults(whole, tmp_path, capsys, monkeypatch, caplog, 300, 2)


def test_every_kind_of_file_is_checked_densely(whole, tmp_path):
    """Without running again: many more places, `validate` alone."""
    rng = random.Random(3)
    total = 0
    for names in kinds(whole).values():
        name = rng.choice(names)
        content = (whole / name).read_bytes()
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "copy")
        out = tmp_path / "copy" / (name.parts[0] if name.parts[0] != "cache" else "done")
        for _ in range(15):
            (tmp_path / "copy" / name).write_bytes(content)
            where = damage(tmp_path / "copy" / name, rng)
            assert len(validate.validate(out, None, tmp_path / "copy" / "cache").bad) == 1, (name, where)
            total += 1
    print(total)


def test_validate_says_what_it_checked_and_exits_by_it(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VDD_CACHE_DIR", str(whole / "cache"))
    assert verb("validate", "--out", str(whole / "done")) == 0
    shown = capsys.readouterr().out
    assert "4 records" in shown and "4 weights" in shown and "1 demonstrations" in shown and "0 bad" in shown
    shutil.copytree(whole / "done", tmp_path / "out")
    path = tmp_path / "out" / "records/toy/cd/0.json"
    path.write_bytes(path.read_bytes()[:-20])
    (tmp_path / "out" / "records/toy/cd/7.json").symlink_to(whole / "done/records/toy/cd/0.json")
    (tmp_path / "out" / "records/toy/note.txt").write_text("hello")
    assert verb("validate", "--out", str(tmp_path / "out")) == 1
    shown = capsys.readouterr().out
    assert f"BAD   {path}: " in shown and "symbolic link" in shown and "note.txt: is no record" in shown
    assert shown.endswith("3 bad\n")
