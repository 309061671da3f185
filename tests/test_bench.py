"""`python -m harness bench` on its smallest settings: every part prints its figures. How fast is no matter of tests."""

import re

import pytest
import torch
from method_cases import METHODS
from standins import verb

from harness import bench
from harness.train import TrainConfig


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "BURST", 3)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def figures(text, unit):
    """{what: number} of the lines `  what   number unit`."""
    found = re.findall(rf"^  (\S.*?) +([\d.]+) {unit}", text, re.MULTILINE)
    return {what: float(number) for what, number in found}


def test_act_and_env_print_their_figures(capsys):
    assert verb("bench", "act", "env", "--rounds", "1") == 0
    shown = capsys.readouterr().out
    act = figures(shown, "ms")
    assert set(act) == {f"{name} {how}" for name in METHODS for how in ("eager", "traced")}
    env = figures(shown, "steps/s")
    assert set(env) == {"1 in a batch", "64 in a batch"}
    assert all(value > 0 for value in (*act.values(), *env.values()))


def test_train_prints_a_ratio_for_every_trained_method(capsys, monkeypatch):
    def small(**config):
        return TrainConfig(**config | {"compile": "off"})

    monkeypatch.setattr(bench, "TrainConfig", small)
    assert verb("bench", "train", "--rounds", "1", "--batch", "8") == 0
    shown = capsys.readouterr().out
    assert set(figures(shown, "ms an iteration")) == set(METHODS)
    assert re.search(r"beso .* 1\.00 x beso", shown)


def test_mode_with_a_cache_does_less(capsys):
    assert verb("bench", "mode", "--rounds", "1") == 0
    flops = {
        what: float(n) for what, n in re.findall(r"^  (\S+) .* ([\d.]+) MFLOP", capsys.readouterr().out, re.MULTILINE)
    }
    assert set(flops) == {"cached", "uncached", "dense"}
    assert flops["cached"] < flops["uncached"]


def test_alternatives_are_timed_in_turn():
    calls = []
    seconds = bench.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, burn_in=1)
    assert calls == ["a", "b"] * 3 and set(seconds) == {"a", "b"}


BAD = [
    (["acts"], "act"),
    (["act", "--rounds", "0"], "--rounds"),
    (["env", "--rounds", "x"], "--rounds"),
    (["--task", "avoidin"], "avoiding"),
    (["train", "--methods", "besso"], "beso"),
]


@pytest.mark.parametrize("argv, named", BAD)
def test_bad_requests_are_one_line(argv, named, capsys):
    assert verb("bench", *argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
