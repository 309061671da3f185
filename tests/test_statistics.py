"""Standard errors, intervals and comparisons across tasks, against SciPy and by hand."""

import math
import random

import numpy as np
import pytest
from scipy import stats
from standins import verb, write_record

from harness import compare, registry, statistics, tables
from harness.metrics import compute

SUITES = registry.load_suites()


def test_errors_of_rates():
    assert statistics.rate_error(0.5, 100) == pytest.approx(0.05, rel=0.02)
    none, every = statistics.rate_error(0.0, 100), statistics.rate_error(1.0, 100)
    assert 0 < none < 0.02 and none == pytest.approx(every)
    posterior = stats.beta(31, 71)  # 30 of 100 under a uniform prior
    assert statistics.rate_error(0.3, 100) == pytest.approx(posterior.std())


def test_errors_of_means():
    assert statistics.standard_error([1.0, 2.0, 4.0]) == pytest.approx(stats.sem([1.0, 2.0, 4.0]))
    assert statistics.standard_error([0.5]) is None and statistics.standard_error([]) is None
    assert statistics.standard_error([0.5], 100) == statistics.rate_error(0.5, 100)
    assert statistics.printed_error(0.9, 0.1, 4) == 0.05
    assert statistics.printed_error(0.9, None, 4) is None and statistics.printed_error(0.9, None, 4, 50) > 0


def test_in_errors():
    assert statistics.in_errors(0.5, 0.3, 0.4) == 1.0
    assert statistics.in_errors(0.5, None, 0.4) is None and statistics.in_errors(0.5, 0.0, 0.0) is None
    assert statistics.in_errors(0.0, 0.0, 0.1) == 0.0


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 30])
def test_intervals_agree_with_scipys_bootstrap(n):
    rng = random.Random(n)
    values = [rng.random() for _ in range(n)]
    result = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1))
    ours, width = statistics.interval(values), max(values) - min(values)
    theirs = (result.confidence_interval.low, result.confidence_interval.high)
    assert ours == statistics.interval(values)  # reproducible
    assert all(abs(a - b) < 0.03 * width for a, b in zip(ours, theirs, strict=True))


def test_intervals_of_few_and_of_many():
    assert statistics.interval((0.5,)) is None and statistics.interval((0.5, 0.5)) == (0.5, 0.5)
    low, high = statistics.interval([0.0, 1.0] * 300)
    assert (low, high) == pytest.approx((0.46, 0.54), abs=0.001)


def test_percentile_is_numpys():
    values = sorted(random.Random(0).random() for _ in range(37))
    for share in (0.0, 0.025, 0.5, 0.975, 1.0):
        assert statistics.percentile(values, share) == pytest.approx(np.percentile(values, 100 * share))


A = {"x": [0.9, 0.8, 0.95, 0.7], "y": [0.5, 0.6, 0.4, 0.55]}
B = {"x": [0.6, 0.8, 0.5, 0.75], "y": [0.3, 0.2, 0.5, 0.35], "z": [1.0]}


def test_interquartile_mean():
    assert statistics.iqm({"x": [0.0, 1.0, 2.0, 100.0]}) == 1.5  # without the lowest and the highest quarter
    assert statistics.iqm({"x": [0.0, 100.0], "y": [1.0, 2.0]}) == 1.5
    low, high = statistics.stratified(statistics.iqm, A)
    assert low < statistics.iqm(A) < high and (low, high) == statistics.stratified(statistics.iqm, A)


def test_probability_of_improvement():
    u = [stats.mannwhitneyu(A[t], B[t]).statistic / (len(A[t]) * len(B[t])) for t in A]
    assert statistics.probability_of_improvement(A, B) == pytest.approx(np.mean(u))  # task z: A has none
    both = statistics.probability_of_improvement(A, B) + statistics.probability_of_improvement(B, A)
    assert both == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no task"):
        statistics.probability_of_improvement({"x": [1.0]}, {"y": [1.0]})


def test_performance_profiles():
    assert statistics.performance_profile({"x": [0.1, 0.5], "y": [0.9, 0.5]}, [0.0, 0.5, 0.9]) == [1.0, 0.25, 0.0]
    curve = statistics.performance_profiles({"a": A, "b": B})["a"]
    assert len(curve["threshold"]) == len(curve["share"]) == 51
    assert all(
        low <= share <= high for low, share, high in zip(curve["low"], curve["share"], curve["high"], strict=True)
    )
    assert curve["share"] == sorted(curve["share"], reverse=True)


def test_difference_of_two_methods():
    low, high = statistics.difference_interval([0.9, 0.8, 0.95, 0.7], [0.1, 0.2, 0.15, 0.1])
    assert 0.5 < low < 0.7 < high < 0.85
    assert statistics.difference_interval([0.9], [0.1, 0.2]) is None
    assert statistics.difference_interval([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25)


def test_pairing_takes_what_contexts_share_out_of_the_interval():
    rng = np.random.default_rng(0)
    hard = rng.random(40)  # how hard a context is, for both methods
    a, b = ([np.clip(hard + shift + 0.05 * rng.standard_normal(40), 0, 1) for _ in range(3)] for shift in (0.05, 0.0))
    low, high = statistics.paired_interval(np.array(a) - np.array(b))
    assert 0 < low < 0.05 < high + 0.02
    loose = statistics.difference_interval(np.array(a).ravel(), np.array(b).ravel())
    assert high - low < (loose[1] - loose[0]) / 2


def episodes(successes, contexts):
    return {
        "context": contexts, "success": successes, "mode": ["0" if i % 2 else "1" for i in range(len(successes))],
        "length": [5] * len(successes), "return": [float(s) for s in successes],
    }  # fmt: skip


@pytest.mark.parametrize("task", ["avoiding", "aligning", "stacking"])
def test_the_error_of_one_cell_is_that_of_many(task):
    """The jackknife error of an entropy is near the spread of entropies of cells drawn anew."""
    block, rng = SUITES.tasks[task], random.Random(0)

    def cell():
        count = 30 * 8
        made = episodes([rng.random() < 0.8 for _ in range(count)], [i // 8 for i in range(count)])
        made["mode"] = [
            rng.choice(["0", "0", "0", "1"]) for _ in range(count)
        ]  # at an even spread the error is second order
        if task == "stacking":
            made["mode"] = [rng.choice(["rgb", "rbg", "bgr"]) for _ in range(count)]
        return made

    spread = np.std([compute(block, cell())["entropy"] for _ in range(60)], ddof=1)
    guessed = np.mean([statistics.episode_error(block, cell(), "entropy") for _ in range(3)])
    assert 0.5 * spread < guessed < 2 * spread


@pytest.mark.parametrize("task", ["kitchen", "block_push"])
def test_episode_errors_of_tasks_with_goals(task):
    rng = np.random.default_rng(0)
    returns = rng.integers(0, 5, 100).astype(float)
    made = {**episodes([True] * 100, [0] * 100), "return": returns.tolist(), "goal_return": (returns / 4).tolist()}
    error = statistics.episode_error(SUITES.tasks[task], made, "return")
    assert error == pytest.approx(returns.std(ddof=1) / 10, rel=0.5)
    assert statistics.episode_error(SUITES.tasks[task], made, "goal_return") == pytest.approx(error / 4)
    del made["goal_return"]  # of another task
    assert statistics.episode_error(SUITES.tasks[task], made, "return") is None


def test_episode_errors_that_do_not_exist():
    block = SUITES.tasks["avoiding"]
    assert statistics.episode_error(block, {"success": [True]}, "entropy") is None
    assert statistics.episode_error(block, episodes([True, False], [0, 0]), "nothing") is None


def test_comparing_two_methods(tmp_path, capsys):
    rng = random.Random(0)
    hard = [rng.random() for _ in range(60)]
    contexts = [i // 8 for i in range(480)]
    for method, shift in (("cd", 0.0), ("vdd_ve", 0.15)):
        for seed in (0, 1):
            made = episodes([rng.random() < min(1.0, hard[c] + shift) for c in contexts], contexts)
            write_record(
                tmp_path, "aligning", method, seed, metrics=compute(SUITES.tasks["aligning"], made), episodes=made
            )
            write_record(
                tmp_path, "avoiding", method, seed, metrics={"success": 0.5 + shift + 0.01 * seed, "entropy": 0.5}
            )
    source = tables.Source(tmp_path)
    rows = {row.row: row for row in compare.compare(source, SUITES, "vdd_ve", "cd", "success")}
    assert rows["aligning"].how == "paired: 2 seed(s), 60 contexts" and rows["avoiding"].how == "seeds"
    assert 0 < rows["aligning"].interval[0] < rows["aligning"].difference < rows["aligning"].interval[1] < 0.3
    assert rows["avoiding"].difference == pytest.approx(0.15)
    whole = compare.overall(source, SUITES, "vdd_ve", "cd", "success")
    assert whole["tasks"] == 2 and whole["improvement"] == 1.0 and whole["iqm"]["vdd_ve"] > whole["iqm"]["cd"]
    assert verb("compare", "vdd_ve", "cd", "--out", str(tmp_path)) == 0
    assert "paired: 2 seed(s), 60 contexts" in capsys.readouterr().out
    assert verb("compare", "vdd_ve", "em", "--out", str(tmp_path)) == 2 and "no task" in capsys.readouterr().err
    assert verb("compare", "vdd_ve", "vdd", "--out", str(tmp_path)) == 2
    made = compare.scores(tables.read_records(tmp_path)[0], SUITES, ["cd", "em"], "success")
    assert made.keys() == {"cd"} and math.isclose(sum(made["cd"]["avoiding"]), 1.01)
