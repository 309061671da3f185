"""Table 3's measurement: a small one is written, read and stands in the table; what is impossible is said."""

import numpy as np
import pytest
import torch
from standins import verb

from harness import bench_inference, measurement, registry, tables
from harness.claim_numbers import Records
from methods.policy import Policy

SUITES = registry.load_suites()


def test_a_measurement_becomes_table_3(tmp_path, capsys):
    options = ["--task", "toy", "--evaluations", "1,2", "--rounds", "2", "--burst", "2"]
    assert verb("bench", "inference", "--out", str(tmp_path), *options) == 0
    assert "x VDD" in capsys.readouterr().out
    (content,), bad = measurement.read(tmp_path)
    assert not bad and content["predictions"] == 4
    ways = {(c["method"], c["nfe"], c["mode"], c["copies"]) for c in content["cases"] if c["device"] == "cpu"}
    teachers = {(m, n, mode, copies) for m in ("beso", "ddpm") for n in (1, 2) for mode, copies in bench_inference.WAYS}
    assert ways == teachers | {("vdd", 1, "eager", False), ("vdd", 1, "compiled", False)}
    assert all(len(c["ms"]) == 2 for c in content["cases"])
    content["task"] = "pushing"
    measurement.write(tmp_path / "pushing.json", content)
    source = tables.Source(tmp_path, tmp_path, tmp_path)
    table = tables.build(source, SUITES, ["3a"])[0]
    assert len(table.rows) == 8 and table.entries["vdd/cpu/eager"]["1"].paper_mean == 2.16
    assert Records(source, SUITES).inference("pushing", "ddpm", 1) is not None


def test_evaluations_are_what_they_say():
    from harness.bench import build

    calls = []
    for name in ("beso", "ddpm"):
        for n in (1, 2, 5):
            method = build("toy", name, **bench_inference.hyper_of(name, n))
            calls.clear()
            method.net.register_forward_hook(lambda *_: calls.append(1))
            policy = Policy(method)
            policy.reset([0])
            policy.act(np.zeros((1, 1), np.float32))
            assert len(calls) == n, name


def test_copied_weights_are_the_same_afterwards():
    from harness.bench import build

    method = build("toy", "beso")
    before = [p.clone() for p in method.parameters()]
    policy = Policy(method)
    policy.reset([0])
    bench_inference.acting(policy, np.zeros((1, 1), np.float32), copies=True)()
    assert all(torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "why"),
    [(["--evaluations", "1,x"], "--evaluations must be"), (["--rounds", "0"], "--rounds must be"),
     (["--task", "no"], "invalid choice")],
)  # fmt: skip
def test_what_is_impossible_is_said(options, why, tmp_path, capsys):
    assert verb("bench", "inference", "--out", str(tmp_path / "x"), *options) == 2
    assert why in capsys.readouterr().err and not (tmp_path / "x").exists()
