"""Shortest ways in the plane past a few discs, for many episodes at once: a graph of points on the discs' rims.

Letters: m episodes, k discs, N points of the graph, L legs.
"""

from __future__ import annotations

import numpy as np

CORNERS = 8  # points round a disc
DEPTH_COST = 15.0  # m of detour that a way takes to pass a metre less deep through a disc


def rims(centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """(m, k * CORNERS, 2) points round discs at centres (m, k, 2), so far out that lines between them keep radius (m,)."""
    angles = 2 * np.pi * np.arange(CORNERS) / CORNERS
    out = np.stack([np.cos(angles), np.sin(angles)], -1) / np.cos(np.pi / CORNERS)
    return (centres[:, :, None] + (radius[:, None, None, None] + 0.002) * out).reshape(len(centres), -1, 2)


def within(radius: np.ndarray, centres: np.ndarray, *points: np.ndarray) -> np.ndarray:
    """(m, k) radii of discs at centres (m, k, 2): radius (m,), or less so that points (m, 2) lie outside of them."""
    far = [np.linalg.norm(centres - point[:, None], axis=-1) - 0.001 for point in points]
    return np.minimum.reduce([np.broadcast_to(radius[:, None], centres.shape[:2]), *far])


def depth(start: np.ndarray, end: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(m, ...) m: how deep lines from start to end (m, ..., 2) get into discs at centres (m, k, 2), radii (m, k), summed."""
    line = end - start
    length2 = np.maximum((line**2).sum(-1), 1e-12)
    total = np.zeros(length2.shape)
    more = [1] * (total.ndim - 1)
    for j in range(centres.shape[1]):
        to_disc = centres[:, j].reshape(-1, *more, 2) - start
        share = np.clip((to_disc * line).sum(-1) / length2, 0.0, 1.0)
        nearest = np.linalg.norm(to_disc - share[..., None] * line, axis=-1)
        total += np.maximum(radii[:, j].reshape(-1, *more) - nearest, 0.0)
    return total


def costs(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(m, N, N) m: of the lines between points (m, N, 2) past discs (m, k, 2), radii (m, k); no line to itself."""
    start, end = np.broadcast_arrays(points[:, :, None], points[:, None])
    cost = np.linalg.norm(end - start, axis=-1) + DEPTH_COST * depth(start, end, centres, radii)
    cost[:, np.arange(points.shape[1]), np.arange(points.shape[1])] = np.inf
    return cost


def shortest(cost: np.ndarray, last: np.ndarray, legs: int) -> tuple[np.ndarray, np.ndarray]:
    """Total (m,) of the cheapest way from point 0, and its next points (m, legs); the last one is repeated.

    cost (m, N, N) of the lines; last (m, N) of ending at a point, infinite where a way may not end.
    """
    rows = np.arange(len(cost))
    total = last.copy()
    for _ in range(legs):
        total = np.minimum(last, (cost + total[:, None]).min(2))
    at, way = np.zeros(len(cost), int), np.zeros((len(cost), legs), int)
    for leg in range(legs):
        onward = cost[rows, at] + total[rows]
        at = np.where(last[rows, at] <= onward.min(1), at, onward.argmin(1))
        way[:, leg] = at
    return total[:, 0], way


def past(start: np.ndarray, goal: np.ndarray, centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """(m, 2): the first point to head for on the way from start to goal (m, 2) past discs; the goal where nothing is near."""
    heading = goal.copy()
    radii = within(radius, centres, start, goal)
    m = np.flatnonzero(depth(start, goal, centres, radii) > 0.001)
    if len(m):
        points = np.concatenate([start[m, None], goal[m, None], rims(centres[m], radius[m])], 1)
        last = np.full(points.shape[:2], np.inf)
        last[:, 1] = 0.0
        way = shortest(costs(points, centres[m], radii[m]), last, 5)[1]
        heading[m] = points[np.arange(len(m)), way[:, 0]]
    return heading
