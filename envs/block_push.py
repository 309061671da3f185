"""Block Push: push two blocks into two targets, in any order and either way round; conditioned on a goal.

Original: the multimodal block pushing environment of implicit behavioural cloning (Florence et al., CoRL 2021,
`google-research/ibc`), as Behavior Transformers (Shafiullah et al., NeurIPS 2022, `notmahi/bet`) and BESO
(`intuitive-robots/beso`) use it: PyBullet, an XArm 6 whose end effector follows a target in the plane at constant height.

Observation (10,): block 1's xy and yaw, block 2's xy and yaw, effector's xy, effector target's xy (m, rad). `whole_obs` has
all 16 numbers of the original: both targets' xy and yaw follow.
Action (2,) m: change of the effector's target, which is kept within `WORKSPACE`. 10 actions a second.
Reward: 0.49 when a block enters a target for the first time (each of the four pairs counts once); 0.51 instead when both
blocks are in different targets. Within a target: less than 50 mm from its centre. So 1.0 for one after the other.
Episode: ends with a reward of 0.5 or more, or after 299 actions.
Success: both blocks in different targets. Mode (): 2 b + t, the block b that came into its final target t first; -1 before.
Goal (1, 10): the last row of a demonstration, of which only the blocks' positions are shown. Where the targets of this
episode lie the other way round, the two blocks' positions are exchanged. info's `goal_return`: how many of the goal's two
pairs (block, target) were seen so far, divided by 2.

Timing. Unlike in D3IL's tasks, an observation is the state after an action's physics; row k of a demonstration is the
observation before action k.

Differences from the original
 1. MuJoCo instead of PyBullet. The blocks slide and turn on the table but do not tip: each has three shifts and one turn.
    In the original they tip by less than 0.1 degrees 90 % of the time, and by 4 degrees at the most (in 40 runs).
 2. The arm is drawn, not simulated. The original's inverse kinematics and joint motors are so strong that the effector
    follows its target whatever it pushes: its measured motion is an exponential approach (`APPROACH`) with a small error of
    position (`_offset`), and that is what moves a round pusher here.
 3. The pusher is a sphere at half the blocks' height: in the plane it touches what the original's vertical cylinder does.
    Its radius is the distance that the original keeps: 5 mm of hull and 1 mm of the collision margin.
 4. Where a block that does not tip carries its weight differs from the original, where pushing high up loads the front
    edge. Two numbers make up for it: `TURNING` (0 in the original's model files) was fitted to how much blocks turn within
    three steps, `TOOL_FRICTION` (there 1) to how often the controller of the demonstrations has to turn a block straight.
 5. Everything random comes from the episode's seed; the original draws the targets from a global stream and is not seeded.
 6. Two blocks that enter one and the same target in one step end an episode with 0.98, as in the original, without success.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np

from envs._gym import SingleEnv, VectorEnv
from envs._labels import number_text
from envs.base import BatchEnv, Geometry, StepResult
from harness.errors import UserError

HALF = 0.02  # m, half a block's edge
MASS = 0.01  # kg
YAW_INERTIA = 3 * MASS * (2 * HALF) ** 2 / 6  # kg m^2: the original triples a solid cube's
GRAVITY = 9.8  # m/s^2
TOOL_FRICTION = 0.15  # of effector and block; fitted, see difference 4
TURNING = 0.006  # m: additional resistance to turning, as a lever arm of the friction; fitted likewise
FRICTION = 1.0  # of blocks, table and each other
HEAVY = 100.0  # the table's friction is made of a hundredth of the coefficient and a hundred times the weight: see `build_spec`
TOUCH = 0.006  # m from the effector's centre to a face that it touches
WORKSPACE = np.array([[0.15, -0.5], [0.7, 0.5]])  # m, of the effector's target
START, START_TARGET = np.array([0.30025, -0.39859]), np.array([0.3, -0.4])  # m: effector and its target after a reset
APPROACH = 0.042  # s: time constant with which the effector approaches its target
CENTRE_X, BLOCK_Y, TARGET_Y = 0.4, -0.2, 0.2  # m, where blocks and targets are placed
BLOCK_SPREAD = np.array([0.1, 0.15])  # m, half a range
APART = 0.1  # m, least distance of the blocks in x
TARGET_SPREAD = np.array([0.005, 0.0075])
TARGET_X = 0.12  # m, targets left and right of the centre
TOLERANCE = 0.05  # m from a target's centre
PART, WHOLE = 0.49, 0.51  # reward
BLOCKS, TARGETS = [[0, 1], [3, 4]], [[10, 11], [13, 14]]  # where positions stand in an observation
RED, GREEN = (1.0, 0.34, 0.35, 1.0), (0.34, 1.0, 0.35, 1.0)
LINK, SHOULDER, WRIST = (
    0.34,
    0.27,
    0.19,
)  # m: the drawn arm's two links, its shoulder's height, its wrist's over the effector


class BlockPushBatch(BatchEnv):
    """N simulations of Block Push. `context` (n, 4, 3): xy and yaw of both blocks at the reset, then of both targets."""

    obs_dim, act_dim, setpoint_dim = 10, 2, 2
    goal_tokens = 1
    goal_mask = np.isin(np.arange(10), BLOCKS)
    geometry = Geometry(pairs=((0, 8), (1, 9), (3, 8), (4, 9)), near=0.02, angles=(2, 5), symmetry=4)
    action_bound = 0.1  # m; the original's action space says so and enforces nothing
    max_steps = 299
    robot_joint = "effector_x"
    wrist = ()
    substeps = 48  # physics steps of 1/480 s
    view: ClassVar[dict] = {"lookat": (0.35, 0.0, 0.05), "distance": 1.1, "azimuth": 180.0, "elevation": -45.0}

    def __init__(self, num_envs: int = 1, num_threads: int = 1, max_steps: int | None = None):
        super().__init__(num_envs, num_threads, max_steps)
        self.context = np.zeros((self.num_envs, 4, 3))
        self.whole_obs = np.zeros((self.num_envs, 16), np.float32)
        self.blocks = np.zeros((self.num_envs, 2, 3))  # xy (m) and yaw (rad)
        self.entered = np.zeros((self.num_envs, 2, 2), bool)  # block, target: was in it
        self._first = np.full(
            (self.num_envs, 2), -1, np.int64
        )  # count of steps when a block came into its present target
        self._wanted = np.zeros((self.num_envs, 2, 2), bool)  # the goal's pairs of block and target
        self._views = [d.qpos for d in self.sims.data]

    # ---- the scene -------------------------------------------------------------------------------------------------
    @classmethod
    def build_spec(cls, visual: bool = False) -> mujoco.MjSpec:
        """Table, two blocks, pusher; with visual also the targets and an arm.

        Soft contacts lift what is pushed fast by about friction x speed x time step, and what is in the air slides freely. So
        the blocks' friction on the table comes from a `HEAVY` weight and as much less friction, their motion up and down having
        as much more inertia; forces in the plane are those of the real weight and friction.
        """
        spec = mujoco.MjSpec()
        spec.option.timestep = 0.1 / cls.substeps
        spec.option.gravity = [0.0, 0.0, -GRAVITY]
        spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
        contact = {"friction": [FRICTION, 0.005, 0.0001], "solref": [2.5 * spec.option.timestep, 1.0], "condim": 3}
        geom, joint = mujoco.mjtGeom, mujoco.mjtJoint
        spec.worldbody.add_geom(
            name="table", type=geom.mjGEOM_PLANE, size=[2, 2, 0.1], rgba=[0.6, 0.61, 0.63, 1], **contact
        )
        for name, rgba in (("block", RED), ("block2", GREEN)):
            body = spec.worldbody.add_body(name=name, pos=[0, 0, HALF])
            body.explicitinertial = True
            body.mass, body.inertia = MASS, [YAW_INERTIA] * 3
            more = MASS * (HEAVY - 1.0)
            body.add_joint(name=f"{name}_x", type=joint.mjJNT_SLIDE, axis=[1, 0, 0])
            body.add_joint(name=f"{name}_y", type=joint.mjJNT_SLIDE, axis=[0, 1, 0])
            body.add_joint(  # the additional weight is the force of a soft, far spring
                name=f"{name}_z", type=joint.mjJNT_SLIDE, axis=[0, 0, 1], armature=more, stiffness=0.01,
                springref=-more * GRAVITY / 0.01,
            )  # fmt: skip
            body.add_joint(
                name=f"{name}_yaw", type=joint.mjJNT_HINGE, axis=[0, 0, 1], frictionloss=MASS * GRAVITY * TURNING
            )
            body.add_geom(name=name, type=geom.mjGEOM_BOX, size=[HALF] * 3, rgba=rgba, **contact)
            slide = FRICTION / HEAVY
            spec.add_pair(
                geomname1="table", geomname2=name, condim=3, friction=[slide, slide, 0.005, 0.0001, 0.0001],
                solref=contact["solref"],
            )  # fmt: skip
        cls._add_effector(spec, contact)
        if visual:
            _add_visuals(spec)
        return spec

    @staticmethod
    def _add_effector(spec: mujoco.MjSpec, contact: dict[str, Any]) -> None:
        """The pusher: its motors make it approach the target as 1 - exp(-t / APPROACH), whatever it pushes.

        They reach the wanted velocity, distance / APPROACH, within one physics step, as the original's do. A stiffer motor with
        implicit damping would not do: contacts are solved without that damping and would feel a much faster pusher.
        """
        lag = spec.option.timestep
        body = spec.worldbody.add_body(name="effector", pos=[0, 0, HALF])
        body.explicitinertial = True
        body.mass, body.inertia = 1.0, [1.0] * 3
        for axis, which in zip(np.eye(3)[:2], "xy", strict=True):
            joint = body.add_joint(name=f"effector_{which}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
            motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
            motor.set_to_position(kp=1.0 / (lag * APPROACH), kv=1.0 / lag)
        body.add_geom(
            name="effector", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[TOUCH, 0, 0], rgba=[0.18, 0.51, 0.77, 1],
            conaffinity=2, contype=1, priority=1, **{**contact, "friction": [TOOL_FRICTION, 0.005, 0.0001]},
        )  # fmt: skip
        body.add_site(name="tcp")

    def scene_poses(self, i: int) -> dict[str, np.ndarray]:
        """Poses (7,) of what is only drawn: targets and the arm's links."""
        poses = {}
        for name, (x, y, yaw) in zip(("target", "target2"), self.context[i, 2:], strict=True):
            poses[name] = np.array([x, y, 0.0, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
        return {**poses, **_arm(self.tcp_pos[i, :2])}

    # ---- an episode ------------------------------------------------------------------------------------------------
    def _contexts(self, ids: np.ndarray, contexts: Sequence | None, seeds: Sequence[int] | None) -> None:
        """Explicit contexts (4, 3); else (None or 0, the only index) random ones by seed, simulation i's own without one."""
        for n, i in enumerate(ids):
            given = None if contexts is None else contexts[n]
            if given is None or (isinstance(given, int | np.integer) and not isinstance(given, bool) and given == 0):
                seed = int(i) if seeds is None else int(seeds[n])
                self.context[i] = draw_context(np.random.default_rng([seed, 0xB10C]))
                continue
            rows = np.asarray(given, float) if not isinstance(given, str) else np.zeros(0)
            if rows.shape != (4, 3) or not np.isfinite(rows).all():
                raise UserError(
                    "a context of Block Push is 0 (drawn by the seed) or four rows (x, y, yaw) of block, block2, target, "
                    f"target2; got {str(given)[:60]}"
                )
            self.context[i] = rows

    def _place(self, i: int) -> None:
        data = self.sims.data[i]
        mujoco.mj_resetData(self.sims.model, data)
        for b, (x, y, yaw) in enumerate(self.context[i, :2]):
            data.qpos[4 * b : 4 * b + 4] = x, y, 0.0, yaw
        data.qpos[8:10] = START
        mujoco.mj_forward(self.sims.model, data)

    def _begin(self, ids: np.ndarray) -> None:
        self.entered[ids], self._first[ids], self._wanted[ids] = False, -1, False
        super()._begin(ids)

    def _first_setpoint(self, ids: np.ndarray) -> None:
        self.setpoint[ids] = START_TARGET

    def _set_goals(self, ids: np.ndarray, goals: np.ndarray | None) -> None:
        """Last rows of demonstrations, whole; default: both blocks in the targets of the same number."""
        if goals is None:
            goals = np.concatenate([self.whole_obs[ids, :10], self.context[ids, 2:].reshape(-1, 6)], 1)[:, None]
            goals[..., BLOCKS] = goals[..., TARGETS]
        if goals.shape[-1] != 16:
            raise UserError(
                f"a goal of Block Push needs all 16 numbers of an observation, the targets too; got {goals.shape[-1]}"
            )
        goals = goals.astype(np.float32)
        blocks, targets = goals[:, -1][:, BLOCKS], goals[:, -1][:, TARGETS]  # (n, 2, 2)
        nearest = np.linalg.norm(blocks[:, :, None] - targets[:, None], axis=-1).argmin(-1)  # (n, 2): of each block
        self._wanted[ids] = nearest[..., None] == np.arange(2)
        flipped = np.linalg.norm(targets[:, 0] - self.context[ids, 2, :2], axis=1) > 0.2
        shown = goals[..., :10].copy()
        shown[..., [0, 1, 3, 4]] = np.where(flipped[:, None, None], shown[..., [3, 4, 0, 1]], shown[..., [0, 1, 3, 4]])
        self.goal[ids] = shown

    def _target(self, actions: np.ndarray) -> np.ndarray:
        return np.clip(self.setpoint + actions, *WORKSPACE)

    def _read(self, ids: np.ndarray) -> None:
        for i in ids:
            qpos = self._views[i]
            self.blocks[i] = qpos[[0, 1, 3]], qpos[[4, 5, 7]]
            self.tcp_pos[i] = *qpos[8:10], 2 * HALF + HALF
        self.blocks[ids, :, 2] = wrapped(self.blocks[ids, :, 2])

    def _observe(self, ids: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        parts = [self.blocks[ids].reshape(-1, 6), tcp[:, :2], self.setpoint[ids], self.context[ids, 2:].reshape(-1, 6)]
        self.whole_obs[ids] = np.concatenate(parts, 1)
        self.whole_obs[ids, 12::3] = wrapped(self.whole_obs[ids, 12::3])
        return self.whole_obs[ids, :10]

    def _simulate(self, ids: np.ndarray) -> None:
        wanted = self.setpoint + _offset(self.setpoint)
        for i in ids:
            self.sims.data[i].ctrl[:] = wanted[i]
        self.sims.run(self._advance, ids)

    def _advance(self, models: np.ndarray, table: np.ndarray, ids: np.ndarray) -> None:
        for i in ids:
            mujoco.mj_step(self.sims.model, self.sims.data[i], self.substeps)  # without the GIL

    def _step(self, target: np.ndarray) -> StepResult:
        """Physics, then observation, reward and end."""
        ids = np.flatnonzero(self.active)
        self.setpoint[ids] = target[ids]
        self._simulate(ids)
        self.count[ids] += 1
        self._read(ids)
        self.obs[ids] = self._observe(ids, self.tcp_pos[ids])
        reward = np.zeros(self.num_envs, np.float32)
        reward[ids] = self._judge(ids)
        self.terminated[ids] = self._ended(ids, reward[ids])
        self.truncated[ids] = ~self.terminated[ids] & (self.count[ids] >= self.max_steps)
        self.active &= ~(self.terminated | self.truncated)
        return self.obs.copy(), reward, self.terminated.copy(), self.truncated.copy(), self.info()

    def _ended(self, ids: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """(len(ids),) bool: whose episodes are over, given the step's rewards."""
        return reward >= 0.5

    def _judge(self, ids: np.ndarray) -> np.ndarray:
        """(len(ids),) rewards; keeps which block was in which target, success and mode."""
        away = np.linalg.norm(
            self.blocks[ids, :, None, :2] - self.context[ids, None, 2:, :2], axis=-1
        )  # (n, block, target)
        new = (away < TOLERANCE) & ~self.entered[ids]
        self.entered[ids] |= new
        inside, closest = away.min(-1) < TOLERANCE, away.argmin(-1)  # (n, 2): of each block
        self._first[ids] = np.where(inside, np.where(self._first[ids] < 0, self.count[ids, None], self._first[ids]), -1)
        done = inside.all(1) & (closest[:, 0] != closest[:, 1])
        first = self._first[ids].argmin(1)  # the block that came first; block 1 if both came at once
        self.success[ids] = done
        self.mode[ids] = np.where(done, 2 * first + closest[np.arange(len(ids)), first], -1)
        return np.where(done, WHOLE, PART * new.sum((1, 2)))

    def info(self) -> dict[str, np.ndarray]:
        """That of `BatchEnv`, obj_pos (n, 2, 3) m, and goal_return (n,): share of the goal's pairs that were seen."""
        place = np.concatenate([self.blocks[..., :2], np.full((self.num_envs, 2, 1), HALF)], -1)
        return {**super().info(), "obj_pos": place, "goal_return": (self.entered & self._wanted).sum((1, 2)) / 2}

    @staticmethod
    def mode_name(mode_row: np.ndarray) -> str:
        """ "0" to "3"; "" for -1."""
        return number_text(mode_row)

    def restore(self, i: int, recording: Any, k: int) -> np.ndarray:
        """Puts simulation i into row k of a mapping with `obs` (T, 16), at rest; returns its observation (10,)."""
        rows = np.asarray(recording["obs"], float)
        if rows.ndim != 2 or rows.shape[1] != 16 or not 0 <= k < len(rows):
            raise UserError(
                f"a recording of Block Push has obs (T, 16) and rows 0 to T - 1; got {rows.shape}, row {k!r}"
            )
        self.reset([rows[0, [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]].reshape(4, 3)], ids=[i])
        data, ids = self.sims.data[i], np.array([i])
        for row in range(1, k + 1):
            self.blocks[i], self.count[i] = rows[row, :6].reshape(2, 3), row
            self._judge(ids)
        data.qpos[[0, 1, 3, 4, 5, 7]], data.qpos[8:10] = rows[k, :6], rows[k, 6:8]
        mujoco.mj_forward(self.sims.model, data)
        self.setpoint[i] = rows[k, 8:10]
        self._read(ids)
        self.obs[i] = self._observe(ids, self.tcp_pos[ids])[0]
        return self.obs[i].copy()


def draw_context(rng: np.random.Generator) -> np.ndarray:
    """(4, 3) xy (m) and yaw of both blocks and both targets, from the original's distribution.

    Block 2's x is drawn again in the original until it is `APART` from block 1's: uniform in what is left. A block's yaw is
    between 1 and pi, because the original asks for numpy's uniform(pi), whose upper bound is 1.
    """
    x = CENTRE_X + rng.uniform(-BLOCK_SPREAD[0], BLOCK_SPREAD[0])
    low, high = CENTRE_X - BLOCK_SPREAD[0], CENTRE_X + BLOCK_SPREAD[0]
    other = rng.uniform(low, x - APART) if x > CENTRE_X else rng.uniform(x + APART, high)
    y = BLOCK_Y + rng.uniform(-BLOCK_SPREAD[1], BLOCK_SPREAD[1], 2)
    side = TARGET_X * rng.choice([-1.0, 1.0])
    targets = np.array([[CENTRE_X + side, TARGET_Y], [CENTRE_X - side, TARGET_Y]])
    targets += rng.uniform(-TARGET_SPREAD, TARGET_SPREAD, (2, 2))
    yaw = np.concatenate([rng.uniform(1.0, np.pi, 2), np.pi + rng.uniform(-np.pi / 30, np.pi / 30, 2)])
    return np.column_stack([np.concatenate([[[x, y[0]], [other, y[1]]], targets]), yaw])


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Angles in (-pi, pi]."""
    return np.pi - np.mod(np.pi - angle, 2 * np.pi)


def _offset(target: np.ndarray) -> np.ndarray:
    """(n, 2) m by which the original's effector misses its target (n, 2) at rest, by its inverse kinematics; fitted."""
    x, y = target.T
    return np.stack([0.00097 - 0.00293 * x - 0.00037 * y, 0.00032 + 0.0007 * x - 0.0025 * y], 1)


def _arm(effector: np.ndarray) -> dict[str, np.ndarray]:
    """Poses (7,) of the drawn arm's links: two of equal length in the vertical plane through base and effector."""
    yaw, reach = np.arctan2(effector[1], effector[0]), float(np.hypot(*effector))
    shoulder, wrist = np.array([0.0, SHOULDER]), np.array([reach, WRIST])
    half = 0.5 * float(np.linalg.norm(wrist - shoulder))
    along = (wrist - shoulder) / (2 * half)
    elbow = (shoulder + wrist) / 2 + max(LINK**2 - half**2, 0.0) ** 0.5 * np.array([-along[1], along[0]])
    poses = {}
    for name, a, b in (("upper_arm", shoulder, elbow), ("forearm", elbow, wrist)):
        tilt = np.arctan2(b[0] - a[0], b[1] - a[1])  # from the vertical
        middle = (a + b) / 2
        turn = [np.cos(yaw / 2) * np.cos(tilt / 2), -np.sin(yaw / 2) * np.sin(tilt / 2),
                np.cos(yaw / 2) * np.sin(tilt / 2), np.sin(yaw / 2) * np.cos(tilt / 2)]  # fmt: skip
        poses[name] = np.array([middle[0] * np.cos(yaw), middle[0] * np.sin(yaw), middle[1], *turn])
    poses["wrist"] = np.array([*effector, WRIST, 1, 0, 0, 0])
    return poses


def _add_visuals(spec: mujoco.MjSpec) -> None:
    """Targets, workspace, arm and light: drawn, never touched."""
    geom, seen = mujoco.mjtGeom, {"contype": 0, "conaffinity": 0}
    spec.worldbody.add_light(
        pos=[1.2, -0.4, 1.6], dir=[-0.6, 0.3, -1], diffuse=[0.9, 0.9, 0.9], ambient=[0.3, 0.3, 0.3]
    )
    size = (WORKSPACE[1] - WORKSPACE[0]) / 2
    spec.worldbody.add_geom(
        type=geom.mjGEOM_BOX, size=[*size, 0.0005], pos=[*WORKSPACE.mean(0), 0], rgba=[0.3, 0.31, 0.34, 1], **seen
    )
    for name, rgba in (("target", GREEN), ("target2", RED)):
        body = spec.worldbody.add_body(name=name)
        body.add_geom(type=geom.mjGEOM_BOX, size=[0.06, 0.06, 0.001], pos=[0, 0, 0.002], rgba=[*rgba[:3], 0.6], **seen)
    white, dark = [0.93, 0.94, 0.95, 1], [0.3, 0.31, 0.33, 1]
    base = spec.worldbody.add_body(name="base")
    base.add_geom(type=geom.mjGEOM_CYLINDER, size=[0.06, SHOULDER / 2, 0], pos=[0, 0, SHOULDER / 2], rgba=white, **seen)
    base.add_geom(type=geom.mjGEOM_SPHERE, size=[0.065, 0, 0], pos=[0, 0, SHOULDER], rgba=dark, **seen)
    for name in ("upper_arm", "forearm"):
        body = spec.worldbody.add_body(name=name)
        body.add_geom(type=geom.mjGEOM_CAPSULE, size=[0.035, LINK / 2, 0], rgba=white, **seen)
        body.add_geom(type=geom.mjGEOM_SPHERE, size=[0.045, 0, 0], pos=[0, 0, LINK / 2], rgba=dark, **seen)
    wrist = spec.worldbody.add_body(name="wrist")
    wrist.add_geom(type=geom.mjGEOM_CYLINDER, size=[0.03, 0.05, 0], pos=[0, 0, -0.05], rgba=white, **seen)
    wrist.add_geom(type=geom.mjGEOM_CYLINDER, size=[0.005, 0.035, 0], pos=[0, 0, -0.135], rgba=dark, **seen)


class BlockPushEnv(SingleEnv):
    """One Block Push environment with the Gymnasium interface."""

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]
    batch_class = BlockPushBatch


class BlockPushVectorEnv(VectorEnv):
    """N Block Push environments with Gymnasium's vector interface."""

    batch_class = BlockPushBatch
