"""N simulations of one MuJoCo model, advanced in native threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np

from harness.errors import UserError


class Simulations:
    """N independent `MjData` of one `MjModel`, whose memory compiled kernels reach by address.

    Each simulation is advanced alone, by the same instructions whatever its neighbours do, so results depend neither on
    N nor on the number of threads.
    """

    def __init__(self, model: mujoco.MjModel, count: int, num_threads: int = 1, robot_joint: str = "joint1"):
        if int(count) != count or count < 1:
            raise UserError(f"the number of environments must be a positive integer, got {count!r}")
        if int(num_threads) != num_threads or num_threads < 1:
            raise UserError(f"the number of threads must be a positive integer, got {num_threads!r}")
        self.model = model
        self.data = [mujoco.MjData(model) for _ in range(int(count))]
        self.num_threads = min(int(num_threads), int(count))
        self._pool: ThreadPoolExecutor | None = None
        self.table = np.array(
            [[d._address] + [a.ctypes.data for a in (d.qpos, d.qvel, d.qfrc_bias, d.ctrl)] for d in self.data], np.int64
        )  # (N, 5) addresses, in the order the kernels expect
        joint = model.joint(robot_joint)  # the first of the robot's
        self.robot_qpos, self.robot_qvel = int(joint.qposadr[0]), int(joint.dofadr[0])
        self._tcp = model.site("tcp").id

    def __len__(self) -> int:
        return len(self.data)

    def place(self, i: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Puts simulation i into the state that a physics step ending in (qpos, qvel) leaves behind.

        After a step, MuJoCo's derived quantities (body positions, contacts, bias forces) still belong to the positions
        before its integration; they are therefore computed at qpos - dt * qvel.
        """
        data = self.data[i]
        mujoco.mj_resetData(self.model, data)
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_integratePos(self.model, data.qpos, data.qvel, -self.model.opt.timestep)
        mujoco.mj_forward(self.model, data)
        data.qpos[:] = qpos
        data.qacc_warmstart[:] = 0.0

    def drop(self, i: int, qpos: np.ndarray, qvel: np.ndarray, objects: Sequence[tuple[int, np.ndarray]]) -> None:
        """Puts simulation i into the state after a reset; objects: (address in qpos, pose (7,)).

        They are set down at rest and take the one physics step that ends a reset of the original; the robot's nine joints
        end in (qpos, qvel).

        The robot touches nothing at a reset, so the objects do not depend on how it moves in that step.
        """
        data, a, v = self.data[i], self.robot_qpos, self.robot_qvel
        mujoco.mj_resetData(self.model, data)
        data.qpos[a : a + 9], data.qvel[v : v + 9] = qpos - self.model.opt.timestep * qvel, qvel
        for address, pose in objects:
            data.qpos[address : address + 7] = pose
        mujoco.mj_step(self.model, data)
        data.qpos[a : a + 9], data.qvel[v : v + 9] = qpos, qvel

    def run(self, kernel: Callable, ids: np.ndarray, *args) -> None:
        """Calls kernel(model address, address table, ids, *args) on all ids, split over the threads."""
        address = self.model._address
        if self.num_threads == 1 or len(ids) < 2:
            kernel(address, self.table, ids, *args)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="physics")
        parts = np.array_split(ids, min(len(ids), 4 * self.num_threads))  # small parts: threads finish together
        for done in [self._pool.submit(kernel, address, self.table, part, *args) for part in parts]:
            done.result()

    def tcp_positions(self, ids: np.ndarray) -> np.ndarray:
        """(len(ids), 3) m: tool centre points, as known before the last integration (like the original's reading)."""
        return np.array([self.data[i].site_xpos[self._tcp] for i in ids]).reshape(-1, 3)

    def touching(self, i: int, geom: int, others: np.ndarray) -> bool:
        """Whether geom is in contact with any of the geoms `others` (sorted ids) in simulation i."""
        data = self.data[i]
        if data.ncon == 0:
            return False
        pairs = data.contact.geom[: data.ncon]  # (ncon, 2)
        mine = (pairs == geom).any(1)
        return bool(mine.any() and np.isin(pairs[mine], others).any())

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
