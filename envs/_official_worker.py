"""One environment of the original D3IL simulator in a process of its own, spoken to over pipes (see `envs.official`).

Runs under the interpreter that the original needs (Python 3.8 or newer, numpy 1, mujoco below 3.0), started as a script:

    python _official_worker.py CHECKOUT SCRATCH

CHECKOUT: root of the original's repository, "" where its package is installed; SCRATCH: a folder for temporary files. It uses
the original's own classes and nothing of this project. Messages go through stdin and stdout; whatever the original prints is
sent to stderr instead.

A message is MAGIC, two little-endian uint32 (bytes of JSON, count of float64), a JSON object, and the float64 of its arrays,
in the order of its key "arrays": [[name, shape], ...]. Requests have "do": start, reset, step or end; each gets one answer,
which has "error" where something went wrong.

What the original does that several environments in one process would suffer from, and what is done about it:

 1. Avoiding looks for collisions of a geom whose name contains the process-wide count of robots: one environment a process.
 2. A reset without a context draws one from a generator that nothing seeds: contexts are always given.
 3. Each robot writes an XML file into the repository's model folder and leaves it there: it goes to SCRATCH.
 4. Its evaluation seeds by the number of a worker: that code is not used; nothing here is random.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import struct
import subprocess
import sys
import traceback
from typing import Any

MAGIC = b"VDD1"
HEAD = struct.Struct("<4sII")
LARGEST = 1 << 20  # bytes of JSON, and numbers in arrays
PACKAGE = "environments.d3il"
# imported by the original's packages, never used when a state is simulated without pictures
UNUSED = ("cv2", "imageio", "matplotlib", "open3d", "pybullet", "pybullet_utils", "sklearn", "torch")
# task: module below envs, class, its further arguments, attributes with the objects in our order
TASKS = {
    "avoiding": ("gym_avoiding_env.gym_avoiding.envs.avoiding", "ObstacleAvoidanceEnv", {}, ()),
    "aligning": (
        "gym_aligning_env.gym_aligning.envs.aligning", "Robot_Push_Env", {}, ("push_box", "target_box"),
    ),
    "pushing": ("gym_pushing_env.gym_pushing.envs.pushing", "Block_Push_Env", {}, ("push_box1", "push_box2")),
    "sorting": (
        "gym_sorting_env.gym_sorting.envs.sorting", "Sorting_Env", {"num_boxes": 4},
        ("red_box_1", "red_box_2", "blue_box_1", "blue_box_2"),
    ),
    "stacking": (
        "gym_stacking_env.gym_stacking.envs.stacking", "CubeStacking_Env", {}, ("red_box", "green_box", "blue_box"),
    ),
}  # fmt: skip


class Refused(Exception):
    """A request that cannot be done; its text goes to the asking side."""


# ---- messages --------------------------------------------------------------------------------------------------------
def pack(content, arrays):
    """The bytes of a message; arrays: {name: nested sequence or array of numbers}, sent as float64."""
    import numpy as np

    found = {name: np.ascontiguousarray(value, dtype="<f8") for name, value in arrays.items()}
    content = dict(content, arrays=[[name, list(value.shape)] for name, value in found.items()])
    text = json.dumps(content).encode()
    data = b"".join(value.tobytes() for value in found.values())
    return HEAD.pack(MAGIC, len(text), len(data) // 8) + text + data


def head(data):
    """(bytes of JSON, bytes of arrays) of a message's first bytes. Raises ValueError where it is none."""
    magic, text, numbers = HEAD.unpack(data)
    if magic != MAGIC or text > LARGEST or numbers > LARGEST:
        raise ValueError("not a message of this protocol")
    return text, 8 * numbers


def unpack(text, data):
    """(content, arrays) of a message's two parts. Raises ValueError where they are malformed."""
    import numpy as np

    content = json.loads(text.decode())
    if not isinstance(content, dict) or not isinstance(content.get("arrays"), list):
        raise ValueError("not a message of this protocol")
    arrays, at = {}, 0
    for item in content.pop("arrays"):
        name, shape = item
        if not isinstance(name, str) or not all(isinstance(k, int) and 0 <= k <= LARGEST for k in shape):
            raise ValueError("malformed array")
        size = 1
        for k in shape:
            size *= k
        if at + 8 * size > len(data):
            raise ValueError("arrays are cut off")
        arrays[name] = np.frombuffer(data, "<f8", size, at).reshape(shape).astype(float)
        at += 8 * size
    if at != len(data):
        raise ValueError("more numbers than arrays")
    return content, arrays


def receive(file):
    """The next message of a binary file; None at its end."""
    first = file.read(HEAD.size)
    if len(first) < HEAD.size:
        return None
    text, data = head(first)
    return unpack(file.read(text), file.read(data))


# ---- the original ----------------------------------------------------------------------------------------------------
class _Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules in place of `UNUSED` ones that are not installed; asked last."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in UNUSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        def missing(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = missing


def find_root(checkout):
    """The repository's root: the checkout that was named, or that of an installed `d3il_sim`."""
    if not checkout:
        spec = importlib.util.find_spec("d3il_sim")
        if spec is None or not spec.origin:
            raise Refused("no package d3il_sim is installed, and no checkout of D3IL was named")
        checkout = os.path.join(os.path.dirname(spec.origin), *[os.pardir] * 3)
    root = os.path.realpath(checkout)
    if not os.path.isdir(os.path.join(root, *PACKAGE.split("."), "d3il_sim")):
        raise Refused(f"{root} is no checkout of D3IL: it has no environments/d3il/d3il_sim")
    return root


def describe(root) -> dict:
    """Versions of what simulates, and the checkout's commit (None where git does not tell)."""
    found: dict[str, Any] = {"python": sys.version.split()[0]}
    for name in ("numpy", "mujoco", "pinocchio", "gym"):
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "?"))
    try:
        run = subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20
        )
        found["d3il"] = run.stdout.decode().strip() or None
    except (OSError, subprocess.TimeoutExpired):
        found["d3il"] = None
    return found


class Simulation:
    """The one environment of this process."""

    def __init__(self, checkout, scratch, task, max_steps):
        root = find_root(checkout)
        sys.path.insert(0, root)
        sys.meta_path.append(_Unused())
        module, name, arguments, objects = TASKS[task]
        self.task, self.max_steps = task, max_steps
        sim_path: Any = importlib.import_module(PACKAGE + ".d3il_sim.utils.sim_path")
        original_path = sim_path.d3il_path

        def d3il_path(*parts):
            if parts and os.path.basename(parts[-1]).startswith("panda_tmp_"):
                return os.path.join(scratch, os.path.basename(parts[-1]))
            return original_path(*parts)

        sim_path.d3il_path = d3il_path
        env_class = getattr(importlib.import_module(PACKAGE + ".envs." + module), name)
        if "mujoco" in sys.modules and int(sys.modules["mujoco"].__version__.split(".")[0]) >= 3:
            raise Refused(f"mujoco {sys.modules['mujoco'].__version__} is too new for the original: it needs 2.3")
        self.env = env_class(render=False, max_steps_per_episode=max_steps, **arguments)
        if getattr(self.env.robot, "_mj_robot_id", 0) != 0:
            raise Refused("a second robot in one process: its collisions would not be seen")
        self.env.start()
        self.objects = [getattr(self.env, attribute) for attribute in objects]
        self.versions = describe(root)

    def reset(self, context):
        """context (k, 7): xyz (m; z is not heeded) and quaternion wxyz of each object."""
        poses = [[row[:3].copy(), row[3:].copy()] for row in context]
        if self.task == "avoiding":
            obs = self.env.reset()
        elif self.task in ("aligning", "pushing"):
            obs = self.env.reset(random=False, context=[part for pose in poses for part in pose])
        else:  # the original's contexts have more objects than it places
            obs = self.env.reset(random=False, context=poses + [poses[-1]] * (6 - len(poses)))
        return {}, self.state(obs)

    def step(self, setpoint):
        env = self.env
        last = env.env_step_counter >= self.max_steps - 1
        # at the limit `done` does not tell why; asked here of the same state as in the original's step
        early = last and bool(env.terminated or self.before_physics())
        obs, _, done, info = env.step(setpoint)
        if self.task == "avoiding":
            mode: Any = [float(bit) for bit in info[0]]
            success = info[1]
        else:
            mode, success = info["mode"], info["success"]
            mode = mode if isinstance(mode, str) else int(mode)
        terminated = early if last else bool(done)
        content = {"done": bool(done), "terminated": terminated, "success": bool(success), "mode": mode}
        return content, self.state(obs)

    def before_physics(self):
        self.env.robot.receiveState()
        return self.env._check_early_termination()

    def state(self, obs):
        """The original's observation, and the state as its methods read it now."""
        robot, scene = self.env.robot, self.env.scene
        robot.receiveState()
        pose = [[*scene.get_obj_pos(thing), *scene.get_obj_quat(thing)] for thing in self.objects]
        return {
            "obs": obs, "tcp_pos": robot.current_c_pos, "object_pose": pose,
            "body_pos": [scene.data.body(thing.name).xpos for thing in self.objects],
            "qpos": scene.data.qpos, "qvel": scene.data.qvel,
        }  # fmt: skip


def serve(requests, answers, checkout, scratch):
    """Answers requests until the other side has gone or says "end"."""
    simulation: Any = None
    while True:
        message = receive(requests)
        if message is None or message[0].get("do") == "end":
            return
        content, arrays = message
        result = {}
        try:
            if content["do"] == "start":
                simulation = Simulation(checkout, scratch, content["task"], content["max_steps"])
                said = {"versions": simulation.versions}
            elif content["do"] == "reset":
                said, result = simulation.reset(arrays["context"])
            else:
                said, result = simulation.step(arrays["setpoint"])
        except ImportError as error:
            traceback.print_exc()
            said = {"error": str(error), "missing": getattr(error, "name", None) or ""}
        except Refused as error:
            said = {"error": str(error)}
        except Exception as error:
            traceback.print_exc()
            said = {"error": f"{type(error).__name__}: {error}"}
        answers.write(pack(said, result))
        answers.flush()


def main(checkout, scratch):
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.realpath(path or ".") != here]  # our modules are not for here
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the original prints must not come between the messages
    serve(sys.stdin.buffer, answers, checkout, scratch)


if __name__ == "__main__":
    main(*sys.argv[1:])
