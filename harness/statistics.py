"""Uncertainty of results: standard errors, bootstrap intervals, comparisons across tasks. Pure functions of numbers.

Interquartile mean, probability of improvement and performance profiles as in Agarwal et al., *Deep Reinforcement Learning at
the Edge of the Statistical Precipice* (NeurIPS 2021). SciPy is imported where a bootstrap is large, not before.
docs/metrics.md tells when to read which number.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SEED = 0  # of every bootstrap
RESAMPLES = 9999
LEVEL = 0.95
MANY = 500  # values: more would cost the bootstrap seconds and gigabytes, and the mean of so many is normal
BLOCKS = 40  # of rollouts, each left out once in `episode_error`
EXACT = 5  # values: up to here all n^n resamples are counted instead of drawn


def rate_error(rate: float, rollouts: int) -> float:
    """Standard error of a success rate over so many rollouts: the deviation of its posterior under a uniform prior.

    (k + 1)(n - k + 1) / ((n + 2)^2 (n + 3)), square root: about sqrt(p (1 - p) / n), but not 0 where all or none succeeded.
    """
    smoothed = (rate * rollouts + 1) / (rollouts + 2)
    return math.sqrt(smoothed * (1 - smoothed) / (rollouts + 3))


def standard_error(values: Sequence[float], rollouts: int = 0) -> float | None:
    """Of a mean over seeds: s / sqrt(n) with the sample deviation s. One seed: `rate_error` of its `rollouts`; without, None.

    What one seed's rollouts leave uncertain is less than what another seed would change.
    """
    if len(values) > 1:
        return statistics.stdev(values) / math.sqrt(len(values))
    return rate_error(values[0], rollouts) if values and rollouts else None


def printed_error(mean: float, std: float | None, n: int, rollouts: int = 0) -> float | None:
    """The same of a printed mean ± std over n seeds, std taken as the sample deviation; without std as one seed's."""
    if std is not None:
        return std / math.sqrt(n)
    return rate_error(mean, rollouts) if rollouts else None


def in_errors(difference: float, a: float | None, b: float | None) -> float | None:
    """difference / sqrt(a^2 + b^2): in units of the combined standard error; None where either is unknown or both are 0."""
    if a is None or b is None or (a == 0 and b == 0):
        return None
    return difference / math.hypot(a, b)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie, linear between neighbours (NumPy's default)."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Percentile bootstrap 95 % interval of the mean; None below two values.

    Up to EXACT values from all n^n equally likely resamples; then SciPy's, RESAMPLES drawn with a fixed seed; from MANY on
    the normal approximation of it.
    """
    n = len(values)
    if n < 2:
        return None
    if len(set(values)) == 1:
        return values[0], values[0]
    if n <= EXACT:
        means = sorted(sum(draw) / n for draw in itertools.product(values, repeat=n))
        low, high = (math.ceil(share * len(means)) - 1 for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return means[low], means[high]
    if n >= MANY:
        reach = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2) * statistics.stdev(values) / math.sqrt(n)
        return statistics.fmean(values) - reach, statistics.fmean(values) + reach
    import numpy as np
    from scipy.stats import bootstrap

    rng = np.random.default_rng(SEED)
    result = bootstrap((np.asarray(values),), np.mean, method="percentile", n_resamples=RESAMPLES, rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def episode_error(task: dict[str, Any], episodes: dict[str, list[Any]], metric: str) -> float | None:
    """Standard error of one cell's metric over its rollouts; None where the episodes cannot give the metric.

    A rate has `rate_error`; else the jackknife: the metric without each context in turn where it is a mean over contexts, else
    without each of BLOCKS parts of the rollouts. What other training seeds would change is not in it.
    """
    from harness.metrics import compute, keys

    count, wanted = len(episodes.get("success", [])), keys(task)
    if not count or not set(wanted) <= episodes.keys():
        return None
    value = compute(task, episodes).get(metric)
    if value is None or metric.startswith("success"):
        return None if value is None else rate_error(value, count)
    groups = units(episodes["context"] if task["entropy"] != "pooled" else [i % BLOCKS for i in range(count)])
    if len(groups) < 2:
        return None
    without = []
    for group in groups:
        left = set(range(count)) - set(group)
        without.append(compute(task, {key: [episodes[key][i] for i in sorted(left)] for key in wanted})[metric])
    return math.sqrt((len(groups) - 1) / len(groups) * sum((v - statistics.fmean(without)) ** 2 for v in without))


def units(contexts: Sequence[Any]) -> list[list[int]]:
    """The rollouts of every context, in order of first appearance."""
    found: dict[str, list[int]] = {}
    for i, context in enumerate(contexts):
        found.setdefault(str(context), []).append(i)
    return list(found.values())


# ---------------------------------------------------------------------------------------------------------------------
# Across tasks (Agarwal et al. 2021). Scores: task -> one value a seed, on one scale for all tasks
# ---------------------------------------------------------------------------------------------------------------------

Scores = Mapping[str, Sequence[float]]


def iqm(scores: Scores) -> float:
    """Interquartile mean over all tasks and seeds: the mean without the lowest and the highest quarter (SciPy's trim_mean)."""
    from scipy.stats import trim_mean

    return float(trim_mean([value for values in scores.values() for value in values], 0.25))


def probability_of_improvement(a: Scores, b: Scores) -> float:
    """P(a seed of A > a seed of B) in a random task of those that both have; ties count half (Mann-Whitney U / nm)."""
    shares = [
        sum((x > y) + 0.5 * (x == y) for x in a[task] for y in b[task]) / (len(a[task]) * len(b[task]))
        for task in a
        if b.get(task) and a[task]
    ]
    if not shares:
        raise ValueError("no task that both have")
    return statistics.fmean(shares)


def performance_profile(scores: Scores, thresholds: Sequence[float]) -> list[float]:
    """Share of all tasks and seeds with a score above each threshold."""
    values = [value for task in scores.values() for value in task]
    return [sum(value > threshold for value in values) / len(values) for threshold in thresholds]


def stratified(
    statistic: Callable[..., float], *scores: Scores, resamples: int = 2000
) -> tuple[float, float]:  # fmt: skip
    """Percentile bootstrap 95 % interval of `statistic(*scores)`, seeds drawn with replacement within each task."""
    import numpy as np

    rng = np.random.default_rng(SEED)

    def draw(one: Scores) -> dict[str, list[float]]:
        return {task: [values[i] for i in rng.integers(len(values), size=len(values))] for task, values in one.items()}

    found = sorted(statistic(*(draw(one) for one in scores)) for _ in range(resamples))
    return percentile(found, (1 - LEVEL) / 2), percentile(found, (1 + LEVEL) / 2)


def performance_profiles(
    methods: Mapping[str, Scores], thresholds: Sequence[float] | None = None, resamples: int = 500
) -> dict[str, dict[str, list[float]]]:
    """Curves of a performance profile: method -> `threshold`, `share`, `low`, `high` (a pointwise 95 % band over seeds)."""
    import numpy as np

    levels = [i / 50 for i in range(51)] if thresholds is None else list(thresholds)
    curves = {}
    for name, scores in methods.items():
        rng = np.random.default_rng(SEED)
        drawn = np.concatenate(
            [np.asarray(v, float)[rng.integers(len(v), size=(resamples, len(v)))] for v in scores.values()], axis=1
        )  # (resamples, tasks x seeds)
        band = (drawn[:, :, None] > np.asarray(levels)).mean(1)  # (resamples, thresholds)
        low, high = np.percentile(band, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
        curves[name] = {
            "threshold": levels, "share": performance_profile(scores, levels), "low": low.tolist(), "high": high.tolist(),
        }  # fmt: skip
    return curves


# ---------------------------------------------------------------------------------------------------------------------
# Two methods on one task
# ---------------------------------------------------------------------------------------------------------------------


def difference_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of mean(a) - mean(b), seeds drawn independently (SciPy, percentile); None below two seeds of each."""
    if min(len(a), len(b)) < 2:
        return None
    if len(set(a)) == len(set(b)) == 1:
        return a[0] - b[0], a[0] - b[0]
    import numpy as np
    from scipy.stats import bootstrap

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis) - y.mean(axis)

    result = bootstrap(
        (np.asarray(a, float), np.asarray(b, float)), difference, method="percentile", n_resamples=RESAMPLES,
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_interval(differences: Sequence[Sequence[float]], resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of the mean of (seeds, contexts) differences: both are drawn, as every seed met every context."""
    import numpy as np

    d, rng = np.asarray(differences, float), np.random.default_rng(SEED)
    seeds = rng.integers(d.shape[0], size=(resamples, d.shape[0], 1))
    contexts = rng.integers(d.shape[1], size=(resamples, 1, d.shape[1]))
    means = d[seeds, contexts].mean((1, 2))
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
