"""Loose objects and contexts: what the tasks with boxes add to `envs.base`.

Letters: n simulations, k objects (the recordings' order: loose ones first, then those that only a context moves).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from envs import contexts as context_files
from envs.base import BatchEnv
from harness.errors import UserError


def add_box(
    spec: mujoco.MjSpec, name: str, half: Sequence[float], rgba: Sequence[float], mass: float = 0.0,
    pos: Sequence[float] = (0.0, 0.0, 0.0), quat: Sequence[float] = (1.0, 0.0, 0.0, 0.0), **geom: Any,
) -> mujoco.MjsBody:  # fmt: skip
    """A solid box of half-sizes `half` (m). mass (kg) > 0: a loose body; 0: a static one at pos. geom: contact parameters."""
    body = spec.worldbody.add_body(name=name, pos=pos, quat=quat)
    if mass > 0:
        x, y, z = (float(h) ** 2 for h in half)
        body.explicitinertial = True
        body.mass, body.inertia = mass, [mass / 3 * (y + z), mass / 3 * (x + z), mass / 3 * (x + y)]
        body.add_freejoint(name=name)
    body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=half, rgba=rgba, **geom)
    return body


def contacts_as_recorded(spec: mujoco.MjSpec, loose: Sequence[str]) -> None:
    """Makes contacts of the loose boxes what they were in MuJoCo 2.3, with which the original runs.

    Two things changed since: 2.3 reported half the depth where a face of one box meets another box, so that such contacts
    were softer and rested twice as deep; and it knew only one way to collide a rod with a box, with one contact point. The
    first is undone by pairs whose stiffness is halved and whose impedance takes twice as deep to rise, which gives the same
    forces at the same depth; the second by switching the newer ways off. To be called when all but the robot is there.
    """
    off = mujoco.mjtDisableBit
    spec.option.disableflags |= off.mjDSBL_NATIVECCD.value | off.mjDSBL_MULTICCD.value
    boxes = [
        (body, geom) for body in spec.bodies for geom in body.geoms
        if geom.type == mujoco.mjtGeom.mjGEOM_BOX and geom.contype and geom.conaffinity
    ]  # fmt: skip
    for n, (body, geom) in enumerate(boxes):
        for other_body, other in boxes[:n]:
            if body.name != other_body.name and (body.name in loose or other_body.name in loose):
                _add_halved_pair(spec, other, geom)


def _add_halved_pair(spec: mujoco.MjSpec, a: mujoco.MjsGeom, b: mujoco.MjsGeom) -> None:
    """A contact pair with MuJoCo's mixture of the parameters of a and b, for depths that count half."""
    if a.priority != b.priority:
        chosen = a if a.priority > b.priority else b
        condim, friction, solref, solimp = chosen.condim, chosen.friction, chosen.solref, chosen.solimp
    else:
        condim, friction = max(a.condim, b.condim), np.maximum(a.friction, b.friction)
        solref, solimp = (a.solref + b.solref) / 2, (a.solimp + b.solimp) / 2
    if min(a.solref) <= 0 or min(b.solref) <= 0 or a.margin or b.margin:
        raise ValueError(f"{a.name}, {b.name}: only contacts with a time constant and without margin are known here")
    slide, spin, roll = friction
    spec.add_pair(
        geomname1=a.name, geomname2=b.name, condim=condim, friction=[slide, slide, spin, roll, roll],
        solref=[solref[0], solref[1] * np.sqrt(2.0)], solimp=[*solimp[:2], 2.0 * solimp[2], *solimp[3:]],
    )  # fmt: skip


class ObjectBatch(BatchEnv):
    """A task whose objects start where a context says. Adds `object_pose` (n, k, 7) m and wxyz, and info's obj_pos (n, k, 3).

    As the original reads them, a loose object's pose is the newest (its joint), the tool's is 1 ms older (see `envs._sim`).

    data_root: where the original's evaluation contexts may lie (see `envs.contexts`); default `$VDD_DATA_ROOT`.
    """

    task: str  # name of its contexts
    loose: tuple[str, ...]  # bodies with a free joint of the same name
    moved: tuple[str, ...] = ()  # bodies without physics that a context moves
    drop_height: float  # m, z of the loose objects at a reset; the contact solver pushes them out of what they are in
    recording_keys = (*BatchEnv.recording_keys, "obj_pose")

    def __init__(
        self, num_envs: int = 1, num_threads: int = 1, max_steps: int | None = None,
        data_root: Path | str | None = None,
    ):  # fmt: skip
        super().__init__(num_envs, num_threads, max_steps)
        model = self.sims.model
        self._bodies = np.array([model.body(name).id for name in self.loose])
        self._joints = np.array([model.joint(name).qposadr[0] for name in self.loose])
        self._pose_index = self._joints[:, None] + np.arange(7)  # (loose, 7) into qpos
        self._contexts_found: context_files.Contexts | None = None
        self._data_root = data_root
        self.object_pose = np.zeros((self.num_envs, len(self.loose) + len(self.moved), 7))
        self.context = np.zeros_like(self.object_pose)  # poses at the reset

    @property
    def evaluation_contexts(self) -> context_files.Contexts:
        """The contexts that an index names; read when first needed."""
        if self._contexts_found is None:
            self._contexts_found = context_files.evaluation_contexts(self.task, self._data_root)
        return self._contexts_found

    def info(self) -> dict[str, np.ndarray]:
        """That of `BatchEnv` and obj_pos (n, k, 3) m, of the same instant as tcp_pos: 1 ms before `object_pose`."""
        found = self.object_pose[..., :3].copy()
        found[:, : len(self.loose)] = self._body_positions()
        return {**super().info(), "obj_pos": found}

    def _body_positions(self) -> np.ndarray:
        """(n, loose, 3) m, of the tool's instant."""
        return self.sims.read("xpos", np.arange(self.num_envs), 3 * self._bodies[:, None] + np.arange(3))

    def scene_poses(self, i: int) -> dict[str, np.ndarray]:
        """Poses (7,) of the bodies that only a context moves, by name; for pictures."""
        return {name: self.object_pose[i, len(self.loose) + j] for j, name in enumerate(self.moved)}

    def _contexts(self, ids: np.ndarray, contexts: Sequence | None, seeds: Sequence[int] | None) -> None:
        """Given contexts; else random ones by seed; with neither, simulation i gets evaluation context i, in turn."""
        chosen = np.zeros((len(ids), *self.context.shape[1:]))
        for n, i in enumerate(ids):
            context = None if contexts is None else contexts[n]
            if context is not None:
                chosen[n] = self._poses(context)
            elif seeds is not None:
                chosen[n] = context_files.with_yaw(
                    context_files.sample(self.task, np.random.default_rng([int(seeds[n]), 0xC0]))
                )
            else:
                chosen[n] = self._poses(int(i) % len(self.evaluation_contexts.poses))
        chosen[:, : len(self.loose), 2] = self.drop_height
        self.context[ids] = chosen

    def _poses(self, context: Any) -> np.ndarray:
        """(k, 7) of an index or an explicit context."""
        if isinstance(context, int | np.integer) and not isinstance(context, bool):
            known = self.evaluation_contexts.poses
            if not 0 <= context < len(known):
                raise UserError(f"{self.task} has evaluation contexts 0 to {len(known) - 1}; got {context}")
            return known[context]
        return context_files.poses(context, self.task)

    def _place(self, i: int) -> None:
        joints = [(a, pose) for a, pose in zip(self._joints, self.context[i], strict=False)]
        self.sims.drop(i, self.start_qpos, self.start_qvel, joints)

    def _begin(self, ids: np.ndarray) -> None:
        self.object_pose[ids] = self.context[ids]
        super()._begin(ids)

    def _read(self, ids: np.ndarray) -> None:
        super()._read(ids)
        self.object_pose[ids, : len(self.loose)] = self.sims.read("qpos", ids, self._pose_index)

    def _recall(self, i: int, rec: Mapping[str, np.ndarray], row: int) -> None:
        super()._recall(i, rec, row)
        self.object_pose[i, : len(self.loose)] = rec["qpos"][row][self._pose_index]

    def _recall_scene(self, i: int, rec: Mapping[str, np.ndarray]) -> None:
        self.context[i] = rec["obj_pose"][0, : self.context.shape[1]]

    def _recall_mode(self, i: int, rec: Mapping[str, np.ndarray], k: int) -> None:
        """Goes through the rows up to k, because a mode may remember earlier ones."""
        ids = np.array([i])
        for row in range(1, k + 1):
            self._recall(i, rec, row)
            self._update_mode(ids)
        super()._recall_mode(i, rec, k)
