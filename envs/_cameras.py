"""The two cameras of the image tasks: `bp_cam`, fixed before the table, and `inhand_cam`, on the robot's hand.

Original: the D3IL benchmark's image tasks. Poses, fields of view, light, colours and size are those of its compiled scene; all
numbers below are read there.

Drawing costs vertices and the number of things drawn, hardly pixels, so what does not show is left out. Against frames of the
original at the same states (docs/environments.md holds the figures):

 1. The original asks for 16 samples a pixel; the software renderer, which made the frames, gives 4. Here 4 are asked for.
 2. The original draws each link of the robot twice, in the same place, with opacity 0.1 (once as what is seen, once as what
    collides). Here once, with the opacity 1 - 0.9 * 0.9 = 0.19 that two layers have.
 3. Meshes are reduced to `FACES` triangles when the scene is made; nothing of them is stored.
 4. The feet below the table, and all shadows and reflections, which the light does not throw, are left out; the lower beams of
    the table's frame are drawn for the hand's camera alone, which sees them when it is beside the table.
 5. The original's endless floor has 40,000 facets far away; here it is one square of `FLOOR` m, which is lit alike.

Letters: N states, Q numbers a state (MuJoCo's qpos of the task's simulation).
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import mujoco
import numpy as np

from envs._gl import Offscreen
from envs._panda import mesh_folder
from envs.frames import CAMERAS, SHAPE, SIZE

SAMPLES = 4  # a pixel
FACES = {"hand": 3000, "finger": 1000}  # triangles kept of a mesh; others: LINK_FACES
LINK_FACES = 800
FLOOR = 200.0  # m, half a side
TURQUOISE = (0.26, 0.58, 0.51)  # the sky; the floor has it too
HIDDEN = ("support_body", "foot_")
BELOW = ("front_mid", "front_lower", "back_mid", "back_lower", "side_lower_left", "side_lower_right", "vert_")
BELOW_GROUP = 2  # of geoms; `bp_cam` looks without it


def camera_spec(task: str) -> mujoco.MjSpec:
    """The scene of the state task `task` ("sorting", "stacking") as its cameras see it; qpos is that of its simulation."""
    module = importlib.import_module(f"envs.{task}")
    spec = getattr(module, f"{task.title()}Batch").build_spec(visual=True)
    for group in (spec.pairs, spec.excludes, spec.actuators, spec.lights):
        for element in list(group):
            spec.delete(element)
    for geom in list(spec.geoms):
        if geom.name.startswith(HIDDEN):
            spec.delete(geom)
            continue
        geom.contype = geom.conaffinity = 0
        if geom.name.startswith(BELOW):
            geom.group = BELOW_GROUP
        if geom.name.startswith("link"):
            geom.rgba = [*geom.rgba[:3], 1.0 - (1.0 - geom.rgba[3]) ** 2]
    spec.geom("ground").size = [FLOOR, FLOOR, 10 * FLOOR]  # the last: how finely it is divided
    for mesh in spec.meshes:
        vertices, faces = reduced_mesh(mesh.name)
        mesh.file, mesh.uservert, mesh.userface = "", vertices.ravel().tolist(), faces.ravel().tolist()
    _add_light(spec)
    _add_cameras(spec)
    return spec


def _add_light(spec: mujoco.MjSpec) -> None:
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[0, 0, 1.3], dir=[0, 0, -1.3], castshadow=False,
        diffuse=[1, 1, 1], specular=[0.1, 0.1, 0.1], exponent=1, cutoff=100,
    )  # fmt: skip
    spec.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=TURQUOISE, rgb2=TURQUOISE, width=32, height=32,
    )  # fmt: skip


def _add_cameras(spec: mujoco.MjSpec) -> None:
    spec.worldbody.add_camera(
        name="bp_cam", pos=[1.05, 0, 1.2], fovy=45,
        quat=[0.6830130288, 0.1830127881, 0.1830127881, 0.6830123288],
    )  # fmt: skip
    spec.body("hand").add_camera(
        name="inhand_cam", pos=[0.1, 0, 0], fovy=60,
        quat=[0.0005633121736, 0.706824957, 0.7073880449, 0.0005628637715],
    )  # fmt: skip
    spec.visual.map.znear, spec.visual.map.zfar = 0.001, 1000.0
    spec.visual.quality.offsamples = SAMPLES
    size = getattr(spec.visual, "global")
    size.offwidth = size.offheight = SIZE


@functools.cache
def camera_model(task: str) -> mujoco.MjModel:
    """The compiled scene; one for all of a process."""
    return camera_spec(task).compile()


@functools.cache
def reduced_mesh(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float32 m and triangles (F, 3) int of a mesh of the Panda, with at most `FACES` triangles."""
    from fast_simplification import simplify

    vertices, faces = read_stl(mesh_folder() / "visual" / f"{name}.stl")
    most = FACES.get(name, LINK_FACES)
    if len(faces) > most:
        vertices, faces = simplify(vertices, faces, target_count=most, agg=5)
    return np.asarray(vertices, np.float32), np.asarray(faces, np.int32)


def read_stl(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float32, each once, and triangles (F, 3) int32 of a binary STL file."""
    raw = path.read_bytes()
    count = int.from_bytes(raw[80:84], "little")
    row = np.dtype([("normal", "<3f4"), ("corners", "<9f4"), ("attribute", "<u2")])
    corners = np.frombuffer(raw, row, count, 84)["corners"].reshape(-1, 3)
    vertices, index = np.unique(corners, axis=0, return_inverse=True)
    return vertices.astype(np.float32), index.reshape(-1, 3).astype(np.int32)


class CameraRenderer:
    """Draws both cameras' views of states. Needs an OpenGL library; belongs to the thread that made it."""

    def __init__(self, model: mujoco.MjModel):
        self.model, self.data = model, mujoco.MjData(model)
        self._screen = Offscreen(model, SIZE, SIZE, maxgeom=200)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._screen.scene.flags[flag.value] = False
        self._views = []
        for name in CAMERAS:
            view = mujoco.MjvCamera()
            view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, model.camera(name).id
            option = mujoco.MjvOption()
            option.geomgroup[BELOW_GROUP] = name != "bp_cam"
            self._views.append((view, option))

    @property
    def samples(self) -> int:
        """Samples a pixel that the OpenGL library gave."""
        return int(self._screen.context.offSamples)

    def draw(self, qpos: np.ndarray, out: np.ndarray) -> None:
        """Writes the views of the state qpos (Q,) into out (55296,) uint8."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        images = out.reshape(SHAPE)
        for (view, option), image in zip(self._views, images, strict=True):
            image[:] = self._screen.draw(self.data, view, option)

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._screen.close()
