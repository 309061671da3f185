"""`python -m harness validate`: every file of a run folder against its hash and schema; says what is wrong with each bad one.

Records, plans, job tables, and of every cell: checkpoint, weights, rollout chunks, the end of training, lease. Besides, the
demonstrations cache and the given teachers. Nothing is changed, nothing is followed out of the folder, nothing is executed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from envs.datasets import check_cache
from harness import lease, plan, record, sealed
from harness.errors import UserError, printable
from harness.shipped import WEIGHTS, file_sha256, policy_sha256, sha256_in

ASIDE = re.compile(r".+\.(?:corrupt|old|failed)(?:-\d+)?")
BELONGS = re.compile(r"[0-9a-f]{64}(?: [0-9a-f]{64})?")
TOP = ("records", "work", "plans", "tables", "jobs", ".status.json")
CHECKPOINTS = (  # the last two of image encoders
    ("train.ckpt.safetensors",), ("encoder", "train.ckpt.safetensors"), ("encoder", "features.safetensors"),
)  # fmt: skip
UNCHECKED = ("log.txt", "progress.json")  # text for people; `progress.json` is rewritten all the time
Found = tuple[Path, str]


@dataclass
class Report:
    """bad: files that must not be used, with why; notes: what is no damage; checked: how many files of a kind were read."""

    bad: list[Found] = field(default_factory=list)
    notes: list[Found] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    def check(self, kind: str, path: Path, test: Callable[[Path], Any]) -> Any:
        """Run a test that raises on a bad file; its result, or None."""
        self.checked[kind] = self.checked.get(kind, 0) + 1
        try:
            return test(path)
        except FileNotFoundError:  # a run replaces files meanwhile
            self.notes.append((path, "is gone by now"))
        except (record.InvalidRecord, sealed.Damaged, UserError) as error:
            self.bad.append((path, " ".join(str(error).split())[:300]))
        except OSError as error:
            self.bad.append((path, f"cannot be read: {error.strerror}"))
        return None


def validate(out: Path | None, teachers: Path | None = None, cache: Path | None = None) -> Report:
    """Check a run folder, a folder of given teachers and a demonstrations cache; each may be left out."""
    report = Report()
    if out is not None:
        if not out.is_dir():
            raise UserError(f"no folder {out}: nothing was run with this --out")
        check_out(out, report)
    if teachers is not None:
        for path in sorted(teachers.glob("*/*/*.record.json")):
            report.check("given teachers", path, check_given)
    if cache is not None:
        for path in sorted((cache / "demonstrations").glob("*")):
            if path.suffix == ".npz":
                report.check("demonstrations", path, check_demonstrations)
            elif path.is_dir():
                for part in sorted(path.glob("*.frames")):
                    report.check("demonstrations", part, check_demonstrations)
            else:
                report.notes.append((path, "was set aside, or its writing never ended"))
    return report


def check_out(out: Path, report: Report) -> None:
    """A run folder."""
    for entry in sorted(os.scandir(out), key=lambda e: e.name):
        if entry.name not in TOP:
            report.notes.append((Path(entry.path), "is no file of a run"))
    records = {}
    for path in files(out / "records", report):
        key = "/".join([*path.relative_to(out / "records").parts[:-1], path.stem])
        if path.suffix != ".json" or key.count("/") != 2:
            report.bad.append((path, "is no record"))
        elif found := report.check("records", path, partial(record.read, key=key)):
            records[key] = found
    for path in files(out / "plans", report):
        report.check("plans", path, plan.read_plan)
    for path in (p for p in files(out / "jobs", report) if p.parent == out / "jobs"):
        report.check("job tables", path, check_json)
    folders: dict[Path, list[Path]] = {}
    for path in files(out / "work", report):
        parts = path.relative_to(out / "work").parts
        if len(parts) < 4:
            report.bad.append((path, "belongs to no cell"))
        else:
            folders.setdefault(out.joinpath("work", *parts[:3]), []).append(path)
    for folder, paths in folders.items():
        check_cell(folder, paths, records.get("/".join(folder.parts[-3:])), report)


def files(folder: Path, report: Report) -> Iterator[Path]:
    """The files below a folder, in order; links are bad, and what was set aside or never finished is noted."""
    if folder.is_symlink():
        report.bad.append((folder, "is a symbolic link"))
        return
    if not folder.is_dir():
        return
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = folder / entry.name
        if entry.is_symlink():
            report.bad.append((path, "is a symbolic link"))
        elif entry.is_dir():
            yield from files(path, report)
        elif ASIDE.fullmatch(entry.name):
            report.notes.append((path, "was set aside"))
        elif entry.name.endswith(".part"):
            report.notes.append((path, "is a write that is going on or never ended"))
        elif entry.is_file(follow_symlinks=False):
            yield path
        else:
            report.bad.append((path, "is no regular file"))


def check_cell(folder: Path, paths: list[Path], found: record.Record | None, report: Report) -> None:
    """The working files of a cell, and its weights against its record."""
    before = len(report.bad)
    for path in paths:
        inner = path.relative_to(folder).parts
        if inner[0] == "tensorboard" or inner in {(name,) for name in UNCHECKED}:
            continue
        if inner in CHECKPOINTS:
            report.check("checkpoints", path, lambda p: sealed.check_tensors(record.read_bytes(p)))
        elif inner == ("training.json",) or (inner[0] == "rollouts" and len(inner) == 2 and path.suffix == ".json"):
            report.check("chunks and ends of training", path, sealed.read_json)
        elif inner == ("belongs_to.txt",):
            report.check("owners of working folders", path, check_belongs)
        elif inner == (WEIGHTS,):
            report.check("weights", path, check_policy)
        elif inner == ("policy.json",):
            if folder / WEIGHTS not in paths:
                report.bad.append((path, f"has no {WEIGHTS} beside it"))
        elif lease.FILE.fullmatch(path.name) and len(inner) == 1:
            report.check("leases", path, check_lease)
        else:
            report.notes.append((path, "is no file of a cell"))
    if len(report.bad) == before and folder / WEIGHTS in paths:
        check_weights(folder, found, report)


def check_weights(folder: Path, found: record.Record | None, report: Report) -> None:
    """Weights are those that the end of training and the cell's record speak of."""
    weights = folder / WEIGHTS
    try:
        sha256 = policy_sha256(weights)
        training = sealed.read_json(folder / "training.json")
        belongs = (folder / "belongs_to.txt").read_text().split()[0]
    except (OSError, sealed.Damaged, IndexError):
        return  # training is not over, or a run is at it
    if training["sha256"] != sha256:
        report.bad.append((weights, "was altered: training.json says that training ended with other weights"))
    elif (
        found is not None
        and found["status"] == "done"
        and found["config_hash"] == belongs
        and sha256_in(found) != sha256
    ):
        report.bad.append((weights, "was altered: the cell's record speaks of other weights"))


def check_policy(path: Path) -> None:
    """The weights' file is the one that the JSON beside it speaks of."""
    info = path.with_suffix(".json")
    try:
        description = json.loads(record.read_bytes(info))
        claimed = description["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise sealed.Damaged(f"{info.name} beside it is cut off or altered ({str(error)[:60]})") from None
    if file_sha256(path) != claimed:
        raise sealed.Damaged(f"was altered or cut: {info.name} has another SHA-256")
    sealed.tensor_header(record.read_bytes(path))


def check_given(path: Path) -> None:
    """A given teacher: its record, and its two files against it."""
    method = path.name.removesuffix(".record.json")
    found = record.read(path, f"{path.parent.name}/{method}/0")
    weights = path.with_name(f"{method}.safetensors")
    if (
        not weights.is_file()
        or not weights.with_suffix(".json").is_file()
        or policy_sha256(weights) != sha256_in(found)
    ):
        raise sealed.Damaged(f"speaks of other weights than {weights.name} and {method}.json")


def check_belongs(path: Path) -> None:
    if not BELONGS.fullmatch(record.read_bytes(path).decode("utf-8", "replace")):
        raise sealed.Damaged("holds no configuration's hash")


def check_lease(path: Path) -> None:
    if not lease.parsed(record.read_bytes(path)):
        raise sealed.Damaged("is no lease, or its writing never ended; it expires")


def check_json(path: Path) -> None:
    try:
        json.loads(record.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise sealed.Damaged(f"is cut off or no JSON ({str(error)[:60]})") from None


def check_demonstrations(path: Path) -> None:
    why = check_cache(path)
    if why:
        raise sealed.Damaged(why)


def lines(report: Report) -> list[str]:
    """The report for people: notes, bad files, counts."""
    text = [f"note  {path}: {why}" for path, why in report.notes]
    text += [f"BAD   {path}: {why}" for path, why in report.bad]
    counted = ", ".join(f"{n} {kind}" for kind, n in report.checked.items()) or "no files"
    return [*map(printable, text), f"checked {counted}; {len(report.bad)} bad"]
