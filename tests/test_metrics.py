"""Metrics against hand-computed cases."""

import json
import math

import pytest

from harness import metrics
from harness.errors import UserError

AVOIDING = {"modes": 24, "entropy": "pooled"}


def episodes(success, mode, context=None, length=None, returns=None):
    n = len(success)
    return {
        "context": context or [None] * n,
        "success": success,
        "mode": mode,
        "length": length or [1] * n,
        "return": returns or [0.0] * n,
    }


def entropy(variant, modes, success, mode, context):
    return metrics.compute({"modes": modes, "entropy": variant}, episodes(success, mode, context))["entropy"]


def test_success_length_and_return_count_every_rollout():
    got = metrics.compute(
        AVOIDING, episodes([True, False, True, True], list("aabb"), None, [10, 20, 30, 40], [1, 0, 1, 0])
    )
    assert got["success"] == 0.75
    assert got["length"] == 25.0
    assert got["return"] == 0.5


def test_no_success_gives_zero_not_nan():
    got = metrics.compute(AVOIDING, episodes([False] * 3, list("abc")))
    assert got["success"] == 0.0
    assert got["entropy"] == 0.0


def test_one_mode_gives_zero():
    assert metrics.compute(AVOIDING, episodes([True] * 5, ["a"] * 5))["entropy"] == 0.0


def test_uniform_over_all_modes_gives_one():
    mode = [f"{i:09b}" for i in range(24)] * 20
    assert metrics.compute(AVOIDING, episodes([True] * 480, mode))["entropy"] == pytest.approx(1.0, abs=1e-12)


def test_pooled_over_rollouts_by_hand():
    # p = 1/2, 1/4, 1/4: entropy 1.5 log 2
    got = metrics.compute(AVOIDING, episodes([True] * 4, list("aabc"), [0, 1, 2, 3]))
    assert got["entropy"] == pytest.approx(1.5 * math.log(2) / math.log(24), abs=1e-12)


def test_the_human_demonstrations_mode_counts():
    # 22 modes four times, one three times, one five times: 0.9992 by the original's formula
    mode = [str(i) for i in range(22)] * 4 + ["x"] * 3 + ["y"] * 5
    assert metrics.compute(AVOIDING, episodes([True] * 96, mode))["entropy"] == pytest.approx(0.9992, abs=5e-5)


def test_modes_of_failures_are_ignored():
    got = metrics.compute(AVOIDING, episodes([True, True, False, False], list("aabc")))
    assert got["entropy"] == 0.0


def test_pooled_an_incomplete_mode_is_a_key_of_its_own():
    got = metrics.compute(AVOIDING, episodes([True, True], ["", "a"]))
    assert got["entropy"] == pytest.approx(math.log(2) / math.log(24), abs=1e-12)


# Context 0: both modes equally (H = 1 with 2 modes); context 1: one mode (0); context 2: no success.
SUCCESS = [True, True, True, True, False, False]
MODE = [0, 1, 0, 0, 0, 1]
CONTEXT = [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("per_context_zero", 1 / 3),
        ("per_context_drop", 1 / 2),
        ("pooled", -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)),
    ],
)
def test_variants_treat_unsolved_contexts_differently(variant, expected):
    assert entropy(variant, 2, SUCCESS, MODE, CONTEXT) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("incomplete", ["", None, -1])
@pytest.mark.parametrize(("variant", "expected"), [("per_context_zero", 1 / 3), ("per_context_drop", 1 / 2)])
def test_per_context_variants_leave_incomplete_modes_out(variant, expected, incomplete):
    # context 2 now succeeds, but in no known behaviour; context 1 has such a rollout besides
    success, mode = [*SUCCESS[:4], True, True, True], [*MODE[:4], incomplete, incomplete, incomplete]
    assert entropy(variant, 2, success, mode, [*CONTEXT, 1]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("variant", sorted(metrics.VARIANTS))
def test_variants_without_any_success_give_zero(variant):
    assert entropy(variant, 2, [False] * 6, MODE, CONTEXT) == 0.0


def test_contexts_are_weighted_equally_whatever_their_number_of_successes():
    # context 0: 1 success; context 1: modes 0 and 1 twice each
    got = entropy("per_context_drop", 2, [True] * 5, [0, 0, 0, 1, 1], [0, 1, 1, 1, 1])
    assert got == pytest.approx(0.5, abs=1e-12)


def test_the_same_after_a_round_trip_through_json():
    data = episodes(SUCCESS, MODE, [[0.1, [0, 1]]] * 2 + [[0.2, [0, 1]]] * 2 + [[0.3, [0, 1]]] * 2)
    block = {"modes": 2, "entropy": "per_context_zero"}
    assert metrics.compute(block, json.loads(json.dumps(data))) == metrics.compute(block, data)


def test_bad_input_says_what_is_expected():
    with pytest.raises(UserError, match="per_context_zero"):
        metrics.compute({"modes": 2, "entropy": "pool"}, episodes([True], ["a"]))
    with pytest.raises(UserError, match="at least one"):
        metrics.compute(AVOIDING, episodes([], []))
    with pytest.raises(UserError, match="one entry per rollout"):
        metrics.compute(AVOIDING, episodes([True, True], ["a"]))
    with pytest.raises(UserError, match="lack mode"):
        metrics.compute(AVOIDING, {k: v for k, v in episodes([True], ["a"]).items() if k != "mode"})


STACKING = {"modes": 6, "entropy": "per_context_drop", "levels": [3, 6]}


def test_levels_by_hand():
    """Two contexts: orders rgb, rbg | rg, b, none. Sub-goals count with or without the whole task's success."""
    got = metrics.compute(
        STACKING, episodes([True, True, False, False, False], ["rgb", "rbg", "rg", "b", ""], [0, 0, 1, 1, 1])
    )
    assert (got["success"], got["success_1"], got["success_2"]) == (0.4, 0.8, 0.6)
    one = [0.0, math.log(2) / math.log(3)]  # first letters: r, r | r, b
    two = [math.log(2) / math.log(6), 0.0]  # rg, rb | rg
    assert got["entropy_1"] == pytest.approx(sum(one) / 2, abs=1e-12)
    assert got["entropy_2"] == pytest.approx(sum(two) / 2, abs=1e-12)
    assert got["entropy"] == pytest.approx(math.log(2) / math.log(6), abs=1e-12)  # the second context has no success


def test_levels_of_uniform_orders_are_one():
    orders = ["rgb", "rbg", "grb", "gbr", "brg", "bgr"]
    got = metrics.compute(STACKING, episodes([True] * 18, orders * 3, [0] * 18))
    assert [got[k] for k in ("entropy", "entropy_1", "entropy_2")] == pytest.approx([1.0] * 3, abs=1e-12)


def test_an_incomplete_success_has_no_order_and_tasks_without_levels_no_levels():
    got = metrics.compute(STACKING, episodes([True, True], ["rgb", "rg"], [0, 0]))
    assert got["success"] == 1.0 and got["entropy"] == 0.0
    assert not any(key.endswith(("_1", "_2")) for key in metrics.compute(AVOIDING, episodes([True], ["a"])))


def test_further_bases():
    """Sorting gives its entropy to the base of its six complete orders and to the base that the paper quotes."""
    orders = ["rrbb", "rbrb", "rbbr", "brrb", "brbr", "bbrr"]
    block = {"modes": 6, "modes_also": [18], "entropy": "per_context_drop"}
    got = metrics.compute(block, episodes([True] * 6, orders, [0] * 6))
    assert got["entropy"] == pytest.approx(1.0)
    assert got["entropy_base_18"] == pytest.approx(math.log(6) / math.log(18))
