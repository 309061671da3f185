"""Pairs of bodies that need not be compared, told to MuJoCo in the way that costs least.

MuJoCo looks through its list of excluded pairs for every two bodies that come near each other, after having sorted them in;
bodies whose bits (contype, conaffinity) do not match never get so far. Contacts, their order and all numbers are the same.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable

import mujoco
import numpy as np

Pair = frozenset[int]  # of two bodies
NEVER = np.iinfo(np.int32).max  # no pair's signature


def compiled(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """The model of a scene; its exclusions are in the geoms' bits and no longer in the list."""
    model = spec.compile()
    _leave_out(model, {frozenset((int(s) >> 16, int(s) & 0xFFFF)) for s in model.exclude_signature})
    model.exclude_signature[:] = NEVER
    return model


def without(model: mujoco.MjModel, names: Iterable[tuple[str, str]]) -> mujoco.MjModel:
    """A copy of a `compiled` model that does not compare these bodies either; its MjData fit both."""
    model = copy.copy(model)
    _leave_out(model, {frozenset((model.body(a).id, model.body(b).id)) for a, b in names})
    return model


def _leave_out(model: mujoco.MjModel, pairs: set[Pair]) -> None:
    """Gives one body of each pair a bit of its own, which only those have in their conaffinity that it may touch.

    ValueError for a scene with too many such bodies, or with different bits within one of them.
    """
    chosen = _cover(pairs)
    contype, affinity = model.geom_contype.copy(), model.geom_conaffinity.copy()
    first = int(np.bitwise_or.reduce(np.r_[contype, affinity])).bit_length()
    if first + len(chosen) > 31:
        raise ValueError(f"{len(chosen)} bodies need a bit of their own; there are {31 - first}")
    geoms = [np.flatnonzero(model.geom_bodyid == b) for b in range(model.nbody)]
    for b in chosen:
        if len({(int(contype[g]), int(affinity[g])) for g in geoms[b]}) > 1:
            raise ValueError(f"the geoms of {model.body(b).name} have different bits")
    for k, b in enumerate(chosen):
        model.geom_contype[geoms[b]] = 1 << (first + k)
        model.geom_conaffinity[geoms[b]] = 0
    for k, b in enumerate(chosen):
        for other in range(model.nbody) if len(geoms[b]) else ():
            if other != b and frozenset((b, other)) not in pairs:
                own = geoms[b][0]
                meets = (contype[own] & affinity[geoms[other]]) | (contype[geoms[other]] & affinity[own])
                model.geom_conaffinity[geoms[other][meets != 0]] |= 1 << (first + k)
    sum_up(model)


def sum_up(model: mujoco.MjModel) -> None:
    """Gives bodies the bits of their geoms, which have changed."""
    for b in range(model.nbody):
        own = model.geom_bodyid == b
        model.body_contype[b] = np.bitwise_or.reduce(model.geom_contype[own])
        model.body_conaffinity[b] = np.bitwise_or.reduce(model.geom_conaffinity[own])


def _cover(pairs: set[Pair]) -> list[int]:
    """Few bodies that together are in all pairs: again and again the one that is in most of the rest."""
    chosen, left = [], set(pairs)
    while left:
        count = Counter(b for pair in left for b in pair)
        chosen.append(max(count, key=lambda b: (count[b], -b)))
        left = {pair for pair in left if chosen[-1] not in pair}
    return chosen
