"""Uncertainty of results: standard errors, bootstrap intervals, comparisons across tasks. Pure functions of numbers.

Interquartile mean, probability of improvement and performance profiles as in Agarwal et al., *Deep Reinforcement Learning at
the Edge of the Statistical Precipice* (NeurIPS 2021). SciPy is imported where a bootstrap is large, not before.
docs/metrics.md tells when to read which number.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

SEED = 0  # of every bootstrap
RESAMPLES = 9999
LEVEL = 0.95
MANY = 500  # values: more would cost the bootstrap seconds and gigabytes, and the mean of so many is normal
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
        return percentile(means, (1 - LEVEL) / 2), percentile(means, (1 + LEVEL) / 2)
    if n >= MANY:
        reach = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2) * statistics.stdev(values) / math.sqrt(n)
        return statistics.fmean(values) - reach, statistics.fmean(values) + reach
    import numpy as np
    from scipy.stats import bootstrap

    rng = np.random.default_rng(SEED)
    result = bootstrap((np.asarray(values),), np.mean, method="percentile", n_resamples=RESAMPLES, rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def episode_error(
    task: dict[str, Any], episodes: dict[str, list[Any]], metric: str, resamples: int = 200
) -> float | None:
    """Standard error of one cell's metric over its rollouts, by bootstrap; None where the episodes cannot give the metric.

    Whole contexts are drawn where the metric is a mean over them (entropy per context), else rollouts. What other training
    seeds would change is not in it. A rate of 0 or 1 has `rate_error`.
    """
    from harness.metrics import KEYS, compute

    count = len(episodes.get("success", []))
    if not count or not set(KEYS) <= episodes.keys() or metric not in compute(task, episodes):
        return None
    value = compute(task, episodes)[metric]
    if metric.startswith("success"):
        return rate_error(value, count)
    import numpy as np

    rng = np.random.default_rng(SEED)
    groups = units(episodes["context"]) if task["entropy"] != "pooled" else [[i] for i in range(count)]
    drawn = []
    for _ in range(resamples):
        drawn.append(compute(task, resampled(episodes, groups, rng.integers(len(groups), size=len(groups))))[metric])
    return float(np.std(drawn, ddof=1))


def units(contexts: Sequence[Any]) -> list[list[int]]:
    """The rollouts of every context, in order of first appearance."""
    found: dict[str, list[int]] = {}
    for i, context in enumerate(contexts):
        found.setdefault(str(context), []).append(i)
    return list(found.values())


def resampled(episodes: dict[str, list[Any]], groups: list[list[int]], drawn: Iterable[int]) -> dict[str, list[Any]]:
    """The episodes of the drawn groups; a group drawn twice counts as two contexts."""
    rows = [(row, copy) for copy, i in enumerate(drawn) for row in groups[i]]
    chosen = {key: [episodes[key][row] for row, _ in rows] for key in ("success", "mode", "length", "return")}
    return chosen | {"context": [copy for _, copy in rows]}
