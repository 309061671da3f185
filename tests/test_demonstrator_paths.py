"""Ways past discs, as the expert of Sorting plans them."""

import numpy as np

from envs.demonstrators import _paths

FAR = [9.0, 9.0]


def walk(start, goal, discs, radius, step=0.005):
    """Positions (L, 2) of a point that always heads for the first corner of its way."""
    at, seen = np.array([start]), []
    centres = np.array([discs], float)
    while np.linalg.norm(at[0] - goal) > step and len(seen) < 1000:
        seen.append(at[0])
        ahead = _paths.past(at, np.array([goal]), centres, np.array([radius]))
        at = at + step * (ahead - at) / max(np.linalg.norm(ahead - at), step)
    return np.array(seen)


def test_way_past_discs_keeps_off_and_is_short():
    discs, radius = [[0.0, 0.01], [0.0, 0.12]], 0.06
    seen = walk([-0.3, 0.0], [0.3, 0.0], discs, radius)
    far = np.linalg.norm(seen[:, None] - np.array(discs), axis=-1).min(0)
    assert len(seen) < 1000 and (far > radius - 0.006).all()  # the two overlap: nothing gets between them
    assert seen[:, 1].min() < -0.04 and len(seen) * 0.005 < 0.66  # below, where it is shorter; 0.6 m as the crow flies


def test_straight_where_nothing_is_near():
    goal = np.array([[0.3, 0.0]])
    np.testing.assert_array_equal(_paths.past(np.zeros((1, 2)), goal, np.array([[FAR]]), np.array([0.06])), goal)


def test_starts_and_ends_inside_a_disc():
    seen = walk([-0.04, 0.0], [0.045, 0.0], [[0.0, 0.0]], 0.06)
    assert 5 < len(seen) < 60 and np.linalg.norm(seen, axis=1).min() > 0.033  # out of it and in again, not across


def test_dearer_lines_and_ends_are_avoided():
    cost = np.full((1, 4, 4), np.inf)
    cost[0, 0, 1:3] = [1.0, 0.2]
    cost[0, 1:3, 3] = [1.0, 2.0]
    last = np.full((1, 4), np.inf)
    last[0, 3] = 0.5
    total, way = _paths.shortest(cost, last, 3)
    assert total == 2.5 and way.tolist() == [[1, 3, 3]]
    last[0, 2] = 2.0  # now it may end sooner
    total, way = _paths.shortest(cost, last, 3)
    assert total == 2.2 and way.tolist() == [[2, 2, 2]]
