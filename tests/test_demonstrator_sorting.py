"""Which orders suit a context of Sorting (envs/demonstrators/sorting.py)."""

import numpy as np

from envs._labels import ORDERS
from envs.contexts import layout, sample
from envs.demonstrators.sorting import EASY, LEGS, draw_context, effort, plan


def cubes(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.array([sample("sorting", rng) for _ in range(n)])[..., :2]


def test_a_cube_below_another_costs_less_when_that_is_gone():
    """Red 1 stands below red 2 on the way to their bin; red 2 does not need the other to go first."""
    context = np.array([[[0.4, -0.12], [0.4, -0.02], [0.6, -0.12], [0.6, 0.08]]])
    alone, all_there = np.array([[True, False, False, False]]), np.ones((1, 4), bool)
    first, later = plan(0, context, all_there)[0], plan(0, context, alone)[0]
    assert later < first - 0.02
    cost, way = plan(1, context, all_there)
    assert way.shape == (1, LEGS, 2) and 0.3 < way[0, -1, 0] < 0.5 and way[0, -1, 1] > 0.2
    assert cost < first


def test_orders_have_efforts_that_do_not_depend_on_how_alike_cubes_are_numbered():
    context = cubes(np.random.default_rng(0), 5)
    found, renumbered = effort(context), effort(context[:, [1, 0, 3, 2]])
    assert set(found) == set(ORDERS.values())
    for mode, length in found.items():
        assert np.isfinite(length).all() and (length > 0.5).all()
        np.testing.assert_allclose(length, renumbered[mode], atol=1e-9)


def test_a_drawn_context_suits_its_order_and_lies_where_contexts_lie():
    for mode in sorted(ORDERS.values()):
        rows = draw_context(mode, np.random.default_rng([1, *mode.encode()]))
        efforts = effort(rows[None, :, :2])
        assert efforts[mode][0] <= min(e[0] for e in efforts.values()) + EASY
        slots = layout("sorting").ranges
        inside = [any(x[0] <= row[0] <= x[1] and y[0] <= row[1] <= y[1] for x, y in slots) for row in rows]
        assert all(inside) and (np.abs(rows[:, 2]) <= 90).all()


def test_several_orders_suit_most_contexts():
    efforts = np.stack(list(effort(cubes(np.random.default_rng(2), 60)).values()), 1)
    suit = (efforts <= efforts.min(1, keepdims=True) + EASY).sum(1)
    assert suit.min() >= 1 and 2.0 < suit.mean() < 5.0
