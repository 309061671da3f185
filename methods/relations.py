"""What a network can see of an observation besides its values, where a task asks for it (`envs.base.Geometry`).

Differences of positions, finely where they are small; directions of things that look the same after a part of a turn; and of an
arm whose joint angles are observed, where its tool is. Nothing of it is new information, but a network needs far less training
with it (docs/training.md, Block Push and Stacking).

D = observation width, K pairs, L angles, M tangents, P landmarks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError

FIELDS = {  # dtype and shape
    "pairs": (torch.int64, (-1, 2)), "near": (torch.float32, ()), "angles": (torch.int64, (-1,)),
    "symmetry": (torch.int64, ()), "tangents": (torch.int64, (-1,)), "links": (torch.float64, (-1, 4)),
    "tool": (torch.float64, (-1,)), "offsets": (torch.float64, (-1,)), "pointing": (torch.bool, ()),
    "landmarks": (torch.float32, (-1, 3)),
}  # fmt: skip
LATER = {"offsets": (), "pointing": False, "landmarks": ()}  # what files written before these fields mean


class Relations(nn.Module):
    """Observations (..., D) -> (..., W), unscaled: K + 2 L + 2 M values, and 5 + 4 M of the tool's where there is an arm,
    3 more where its axis is seen (`pointing`) and 3 P.

    In this order: asinh of the differences of `pairs` in units of `near` (linear for what is near and logarithmic for what is
    far); cosines, then sines, of `symmetry` x `angles`; cosines, then sines, of twice the angles whose `tangents` are
    observed, which do not jump at 90 degrees; the tool's position (m), cosine and sine of twice its heading; of the angles
    between these and the tool cosines, then sines, of twice and of four times (a gripper may take a cube either way); the
    direction of the tool's axis; asinh of where the tool is from each of the landmarks (P, 3) m, in units of `near`. In
    `pairs`, D, D + 1 and D + 2 are the tool's position.

    links (J, 4): shift (m) and quarter turns about x that lead to each joint, which turns about z; the joint angles (rad) are
    the observation's first J values, plus `offsets` (J,), empty for none. tool (2,): its distance along the last joint's axis
    (m) and its turn about it (rad). links and tool are empty where there is no arm.
    """

    pairs: Tensor
    near: Tensor
    angles: Tensor
    symmetry: Tensor
    tangents: Tensor
    links: Tensor
    tool: Tensor
    offsets: Tensor
    pointing: Tensor
    landmarks: Tensor

    def __init__(self, **fields: Any):
        """One value for each of `FIELDS`; those of `LATER` may be missing."""
        super().__init__()
        for name, (kind, shape) in FIELDS.items():
            value = fields[name] if name in fields else LATER[name]
            self.register_buffer(name, torch.as_tensor(value, dtype=kind).reshape(shape).clone())

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        for name in LATER:
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def width(self) -> int:
        """W."""
        alone = len(self.pairs) + 2 * len(self.angles) + 2 * len(self.tangents)
        if not len(self.links):
            return alone
        return alone + 5 + 4 * len(self.tangents) + 3 * int(self.pointing) + 3 * len(self.landmarks)

    def forward(self, obs: Tensor) -> Tensor:
        twice = 2 * torch.atan(obs[..., self.tangents])
        cos, sin = twice.cos(), twice.sin()
        parts = []
        if len(self.links):
            joints = obs[..., : len(self.links)]
            joints = joints + self.offsets.to(joints.dtype) if len(self.offsets) else joints
            position, heading, axis = tool_pose(joints, self.links, self.tool)
            obs = torch.cat([obs, position], -1)
            x, y = heading[..., :1], heading[..., 1:]
            along, across = cos * x + sin * y, sin * x - cos * y
            parts = [position, heading, along, across, along.square() - across.square(), 2 * along * across]
            if self.pointing:
                parts.append(axis)
            if len(self.landmarks):
                parts.append(torch.asinh((position[..., None, :] - self.landmarks) / self.near).flatten(-2))
        apart = obs[..., self.pairs[:, 0]] - obs[..., self.pairs[:, 1]]
        turned = self.symmetry * obs[..., self.angles]
        return torch.cat([torch.asinh(apart / self.near), turned.cos(), turned.sin(), cos, sin, *parts], -1)

    def lengths(self, pairs: Tensor) -> Tensor:
        """Differences as `forward` gives those of `pairs` -> m."""
        return torch.sinh(pairs) * self.near

    def names(self) -> list[tuple[str, tuple[int, ...], int]]:
        """What each of the W values is: its kind, the observation's values that it tells of, and which of several it is."""

        def each(kind: str, about: Tensor) -> list[tuple[str, tuple[int, ...], int]]:
            return [(kind, tuple(row), 0) for row in (about if about.ndim == 2 else about[:, None]).tolist()]

        found = each("pair", self.pairs)
        for kind, about in (("turned", self.angles), ("tangent", self.tangents)):
            found += each(f"cosine, {kind}", about) + each(f"sine, {kind}", about)
        if len(self.links):
            found += [("tool", (), k) for k in range(5)]
            for kind in ("along", "across", "along twice", "across twice"):
                found += each(kind, self.tangents)
        return found + [("fixed", (), k) for k in range(self.width - len(found))]

    def moved(self, order: list[int]) -> list[int]:
        """Where each of the W values comes from when observation value i is that of order[i].

        Raises UserError where a value would come from none of them.
        """
        order = [*order, *range(len(order), len(order) + 3)]  # the tool's position stays
        names = self.names()
        places = {name: k for k, name in enumerate(names)}
        found = [places.get((kind, tuple(order[i] for i in about), k)) for kind, about, k in names]
        missing = [about for (_, about, _), place in zip(names, found, strict=True) if place is None]
        if missing:
            raise UserError(
                f"things that are alike must have the same relations: those of values {missing[0]} have no equal"
            )
        return [place for place in found if place is not None]


def tool_pose(joints: Tensor, links: Tensor, tool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Position (..., 3) m in the arm's base, (cos, sin) of twice the heading (..., 2), and axis (..., 3), for joint angles
    (..., J) rad.

    The heading is the direction of the tool's x axis seen from above; twice it, since a gripper looks the same after half a
    turn. Both components shrink as the axis rises. Computed in double precision, returned in that of `joints`.
    """
    kind, joints = joints.dtype, joints.double()
    position = joints.new_zeros(*joints.shape[:-1], 3)
    axes = torch.eye(3, dtype=joints.dtype, device=joints.device).expand(*joints.shape[:-1], 3, 3)  # columns x, y, z
    for (*shift, quarter), angle in zip(links.tolist(), joints.unbind(-1), strict=True):
        position = position + axes @ joints.new_tensor(shift)
        x, y, z = axes.unbind(-1)
        if quarter:
            y, z = quarter * z, -quarter * y
        axes = torch.stack([*_turned(x, y, angle), z], -1)
    x, y, z = axes.unbind(-1)
    reach, turn = tool
    heading, _ = _turned(x, y, turn.expand(joints.shape[:-1]))
    east, north = heading[..., 0], heading[..., 1]
    twice = torch.stack([east.square() - north.square(), 2 * east * north], -1)
    return (position + reach * z).to(kind), twice.to(kind), z.to(kind)


def _turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The axes x and y (..., 3) after a turn about their z by angle (...)."""
    c, s = angle.cos()[..., None], angle.sin()[..., None]
    return c * x + s * y, c * y - s * x
