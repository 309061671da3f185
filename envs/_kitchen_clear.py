"""How far the robot is from what it can touch in the kitchen, so that steps in open space need no search for contacts.

A third of the kitchen's time goes into comparing bodies that are near nothing. `clearance` is a lower bound of the distance
between robot and furniture and between far ends of the arm, from spheres around links and boxes around the furniture's geoms; a
bound of how far anything moves in a step (`LEVERS`) says how long it holds. Meanwhile a model that does not compare them
(`clear`) gives the same contacts, hence the same motion to the last bit (tested). The kettle, which also touches the furniture,
must sleep.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import mujoco
import numpy as np
from numba import njit

from envs import _pairs

PARTS = 0.05  # m, length of the part of a link that a sphere is put around
SAFETY = 0.003  # m, more than the contact margins of two geoms
KEPT = "fixed_mount"  # one cylinder that is often the nearest: cheaper to compare always
# Ends of the arm that are compared in space too; links that are nearer to each other stay with MuJoCo.
ENDS = tuple(
    (f"panda0_{a}", f"panda0_{b}")
    for a in ("link0", "link1", "link2")
    for b in ("link5", "link6", "link7", "leftfinger", "rightfinger")
)
# m a unit of each joint: no point of what it moves goes farther. Robot (nine joints), four knobs with their burners, light
# switch and light, sliding door, two hinged ones, microwave; the kettle must not move. Tested against the scene.
LEVERS = np.array([1.1, 1.1, 0.9, 0.9, 0.7, 0.6, 0.4, 1.0, 1.0] + [0.1, 1.0] * 4 + [0.2, 0.2, 1.0, 0.6, 0.6, 0.6])


class Bounds(NamedTuple):
    """What `clearance` reads; R spheres in A links of the robot, G geoms in F bodies of furniture."""

    spheres: np.ndarray  # (R, 4) m: centre in its body's frame, radius
    sphere_ends: np.ndarray  # (A + 1,) where a body's spheres begin and end
    around: np.ndarray  # (A, 4) m: a sphere around all of a body
    bodies: np.ndarray  # (A,) ids
    geoms: np.ndarray  # (G,) ids
    sizes: np.ndarray  # (G, 4) m: half the box, its half diagonal
    geom_ends: np.ndarray  # (F + 1,)
    meet: np.ndarray  # (A, F) bool: whether they can touch at all
    apart: np.ndarray  # (A, A) bool: ends of the arm (`ENDS`)


def clear(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy of the model in which the robot meets only its nearer links and `KEPT`, the kettle nothing; MjData fit both."""
    model = _pairs.without(model, ENDS)
    for g in range(model.ngeom):
        name = model.body(model.geom_bodyid[g]).name
        if not name.startswith("panda0_") and name != KEPT:
            model.geom_contype[g] = model.geom_conaffinity[g] = 0
    _pairs.sum_up(model)
    return model


def bounds(model: mujoco.MjModel) -> Bounds:
    """The spheres and boxes of the scene."""
    contype, affinity = model.geom_contype, model.geom_conaffinity
    names = [model.body(b).name for b in model.geom_bodyid]
    robot = [b for b in range(model.nbody) if model.body(b).name.startswith("panda0_")]
    own = [np.flatnonzero(model.geom_bodyid == b) for b in robot]

    def meets(links: np.ndarray, g: int) -> bool:
        moves = model.body_weldid[model.geom_bodyid[[links[0], g]]].any()
        return bool(moves and ((contype[links] & affinity[g]) | (contype[g] & affinity[links])).any())

    others = [g for g in range(model.ngeom) if not names[g].startswith("panda0_") and names[g] != KEPT]
    near = [g for g in others if any(meets(links, g) for links in own)]
    if any(model.geom_type[g] == mujoco.mjtGeom.mjGEOM_MESH.value or model.geom_aabb[g, :3].any() for g in near):
        raise ValueError("furniture that the robot reaches must be boxes, cylinders and capsules")
    furniture = sorted({int(model.geom_bodyid[g]) for g in near})
    geoms = [[g for g in near if model.geom_bodyid[g] == b] for b in furniture]
    points = [_points(model, links) for links in own]
    parts = [_parts(p) for p in points]
    flat = np.array([g for group in geoms for g in group])
    half = model.geom_aabb[flat, 3:]
    ends = {frozenset(pair) for pair in ENDS}
    return Bounds(
        np.concatenate(parts),
        np.cumsum([0, *map(len, parts)]),
        np.stack([_around(p) for p in points]),
        np.array(robot),
        flat,
        np.c_[half, np.linalg.norm(half, axis=1)],
        np.cumsum([0, *map(len, geoms)]),
        np.array([[any(meets(links, g) for g in group) for group in geoms] for links in own]),
        np.array(
            [[a < b and frozenset((model.body(a).name, model.body(b).name)) in ends for b in robot] for a in robot]
        ),
    )


def _points(model: mujoco.MjModel, geoms: np.ndarray) -> np.ndarray:
    """(n, 3) m in the body's frame: the geoms lie in their convex hull (meshes are their hulls to MuJoCo)."""
    found = []
    for g in geoms:
        if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_MESH.value:
            mesh = model.geom_dataid[g]
            local = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]].astype(float)
        else:
            corners = np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3), -1).reshape(-1, 3)
            local = model.geom_aabb[g, :3] + corners * model.geom_aabb[g, 3:]
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[g])
        found.append(local @ rotation.reshape(3, 3).T + model.geom_pos[g])
    return np.concatenate(found)


def _parts(points: np.ndarray) -> np.ndarray:
    """(n, 4): spheres that together hold the convex hull of points, one around each slice across its longest direction."""
    direction = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][0]
    along = points @ direction
    cuts = np.linspace(along.min(), along.max(), max(2, 1 + math.ceil(np.ptp(along) / PARTS)))
    spheres = []
    for low, high in itertools.pairwise(cuts):
        inside = [points[(along >= low - 1e-9) & (along <= high + 1e-9)]]
        for cut in (
            low,
            high,
        ):  # every segment that crosses the cut lies in the hull, and the hull's edges are among them
            below, above = along < cut, along > cut
            share = ((cut - along[below])[:, None] / (along[above][None] - along[below][:, None]))[..., None]
            inside.append((points[below][:, None] * (1 - share) + points[above][None] * share).reshape(-1, 3))
        spheres.append(_around(np.concatenate(inside)))
    return np.stack(spheres)


def _around(points: np.ndarray) -> np.ndarray:
    """(4,): centre and radius of a small sphere that holds all points (Badoiu and Clarkson: towards the farthest)."""
    centre = points.mean(0)
    for k in range(1, 40):
        centre = centre + (points[np.linalg.norm(points - centre, axis=1).argmax()] - centre) / (k + 1)
    return np.r_[centre, np.linalg.norm(points - centre, axis=1).max() + 1e-6]


@njit(cache=True, nogil=True, error_model="numpy")
def clearance(bounds, xpos, xmat, geom_xpos, geom_xmat, most):
    """Lower bound in m, at most `most`, of the distance between what `clear` no longer compares (but the kettle and furniture);
    negative where spheres and boxes overlap.

    xpos, xmat, geom_xpos, geom_xmat: those of an MjData, (n, 3) and (n, 9).
    """
    first = bounds.sphere_ends
    centre, middle = np.empty((len(bounds.spheres), 3)), np.empty((len(bounds.bodies), 3))
    for a in range(len(bounds.bodies)):
        _place(bounds.around, a, xpos, xmat, bounds.bodies[a], middle)
        for s in range(first[a], first[a + 1]):
            _place(bounds.spheres, s, xpos, xmat, bounds.bodies[a], centre)
    for a in range(len(bounds.bodies)):
        for b in range(a + 1, len(bounds.bodies)):
            if bounds.apart[a, b] and _near(middle, a, middle, b, bounds.around[a, 3] + bounds.around[b, 3] + most):
                for s in range(first[a], first[a + 1]):
                    for t in range(first[b], first[b + 1]):
                        both = bounds.spheres[s, 3] + bounds.spheres[t, 3]
                        if _near(centre, s, centre, t, both + most):
                            most = math.sqrt(_square(centre, s, centre, t)) - both
        for f in range(len(bounds.geom_ends) - 1):
            if bounds.meet[a, f]:
                for k in range(bounds.geom_ends[f], bounds.geom_ends[f + 1]):
                    g = bounds.geoms[k]
                    if _near(middle, a, geom_xpos, g, bounds.around[a, 3] + bounds.sizes[k, 3] + most):
                        for s in range(first[a], first[a + 1]):
                            square = _to_box(centre, s, geom_xpos, geom_xmat, g, bounds.sizes, k)
                            most = min(most, math.sqrt(square) - bounds.spheres[s, 3])
    return most


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _place(spheres, s, xpos, xmat, body, out):
    """The centre of sphere s in the world."""
    for k in range(3):
        out[s, k] = xpos[body, k]
        for j in range(3):
            out[s, k] += xmat[body, 3 * k + j] * spheres[s, j]


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _square(a, i, b, j):
    x, y, z = a[i, 0] - b[j, 0], a[i, 1] - b[j, 1], a[i, 2] - b[j, 2]
    return x * x + y * y + z * z


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _near(a, i, b, j, reach):
    return reach > 0.0 and _square(a, i, b, j) < reach * reach


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _to_box(a, i, geom_xpos, geom_xmat, g, half, k):
    """m^2: squared distance of a point from a box, 0 inside."""
    x, y, z = a[i, 0] - geom_xpos[g, 0], a[i, 1] - geom_xpos[g, 1], a[i, 2] - geom_xpos[g, 2]
    square = 0.0
    for j in range(3):
        outside = abs(x * geom_xmat[g, j] + y * geom_xmat[g, 3 + j] + z * geom_xmat[g, 6 + j]) - half[k, j]
        if outside > 0.0:
            square += outside * outside
    return square
