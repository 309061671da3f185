"""N simulations of one MuJoCo model, advanced in native threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
from numba import carray, njit

from envs._control import _pointer, stop_clock
from harness.errors import UserError

# What the address table holds of each simulation: its MjData and these arrays of it, in the order the kernels expect.
COLUMNS = (
    "data",
    "qpos",
    "qvel",
    "qfrc_bias",
    "ctrl",
    "xpos",
    "site_xpos",
    "xmat",
    "geom_xpos",
    "geom_xmat",
    "tree_asleep",
)


@njit(cache=True, error_model="numpy")
def _gather(addresses, index, found):
    """found (n, k): the doubles index (k,) of the arrays at addresses (n,)."""
    length = index.max() + 1
    for n in range(len(addresses)):
        values = carray(_pointer(addresses[n]), length)  # type: ignore[call-arg]  # an intrinsic takes no context
        for k in range(len(index)):
            found[n, k] = values[index[k]]


class Simulations:
    """N independent `MjData` of one `MjModel`, whose memory compiled kernels reach by address.

    open_wrist: the same model with fewer comparisons, which a kernel may use where the task says so (`BatchEnv.wrist`).

    Each simulation is advanced alone, by the same instructions whatever its neighbours do, so results depend neither on
    N nor on the number of threads.
    """

    def __init__(
        self, model: mujoco.MjModel, count: int, num_threads: int = 1, robot_joint: str = "joint1",
        open_wrist: mujoco.MjModel | None = None,
    ):  # fmt: skip
        if int(count) != count or count < 1:
            raise UserError(f"the number of environments must be a positive integer, got {count!r}")
        if int(num_threads) != num_threads or num_threads < 1:
            raise UserError(f"the number of threads must be a positive integer, got {num_threads!r}")
        self.model = model
        self._open_wrist = open_wrist or model
        self.models = np.array([model._address, self._open_wrist._address])  # as the kernels take them
        self.data = [mujoco.MjData(model) for _ in range(int(count))]
        self.num_threads = min(int(num_threads), int(count))
        self._pool: ThreadPoolExecutor | None = None
        self.table = np.array(
            [[d._address] + [getattr(d, name).ctypes.data for name in COLUMNS[1:]] for d in self.data], np.int64
        )  # (N, 11) addresses
        joint = model.joint(robot_joint)  # the first of the robot's
        self.robot_qpos, self.robot_qvel = int(joint.qposadr[0]), int(joint.dofadr[0])
        self._tcp = 3 * model.site("tcp").id + np.arange(3)

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
        """Calls kernel(addresses of both models, address table, ids, *args) on all ids, split over the threads."""
        stop_clock()
        if self.num_threads == 1 or len(ids) < 2:
            kernel(self.models, self.table, ids, *args)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="physics")
        parts = np.array_split(ids, min(len(ids), 4 * self.num_threads))  # small parts: threads finish together
        for done in [self._pool.submit(kernel, self.models, self.table, part, *args) for part in parts]:
            done.result()

    def tcp_positions(self, ids: np.ndarray) -> np.ndarray:
        """(len(ids), 3) m: tool centre points, as known before the last integration (like the original's reading)."""
        return self.read("site_xpos", ids, self._tcp)

    def read(self, name: str, ids: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(len(ids), *index.shape): numbers of these indices in the flat arrays `name` (of `COLUMNS`) of simulations ids."""
        found = np.empty((len(ids), index.size))
        _gather(self.table[ids, COLUMNS.index(name)], index.reshape(-1), found)
        return found.reshape(len(ids), *index.shape)

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
