"""The Franka Panda of the D3IL tasks as a MuJoCo model: arm, gripper, optional rod, table.

The numbers (poses, masses, inertias, joint ranges, torque limits) are those of the original's compiled scene and lie in
`assets/panda.json`; link inertias are explicit, so meshes only matter for contacts and pictures. The meshes are those
of the installed `gymnasium-robotics` package, which is located but never imported (its own tasks need an older MuJoCo).
"""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path

import mujoco

from harness.errors import UserError

ARM = tuple(f"joint{i}" for i in range(1, 8))
FINGERS = ("finger_joint1", "finger_joint2")
PHYSICS_DT = 0.001  # s

_LINK_GEOM: dict[str, list[float]] = {}  # MuJoCo's default contact parameters
_WRIST_GEOM = {"solimp": [1.998, 1.999, 0.0, 0.5, 2.0]}  # as recorded; MuJoCo clips values above its limits
_FINGER_GEOM = {"condim": 4, "solimp": [0.998, 0.999, 0.001, 0.5, 2.0], "margin": 0.001}
_PAD_GEOM = {**_FINGER_GEOM, "friction": [2.0, 0.05, 0.0001], "solref": [0.01, 0.5]}
_TABLE_GEOM = {"solref": [0.002, 1.0], "solimp": [0.999, 0.999, 0.001, 0.5, 2.0]}
_TOOL = ("hand", "leftfinger", "rightfinger", "leftfinger_tip", "rightfinger_tip")
# Pairs whose hulls are not compared. link0 and link1: as in the original. The others stay more than 10 mm apart in all
# of the joints' range (a test samples it), so leaving them out changes nothing but the time that comparing takes.
APART = (
    *(("link0", b) for b in ("link1", "link2", "link3")),
    *(("link1", b) for b in ("link3", "link4")),
    ("link2", "link4"),
    *(("link3", b) for b in ("link5", "link6", "link7", *_TOOL)),
    *(("link4", b) for b in ("link6", "link7", *_TOOL)),
    *(("link6", b) for b in _TOOL[1:]),
)
WRIST = (("link5", "link7"), ("link5", "hand"))  # compared only while joint 6 is at most `_control.WRIST_OPEN`
_TABLE_PHYSICAL = ("table_plane", "support_body")  # the frame and the feet lie under these two: drawn, never touched


@functools.cache
def panda_tables() -> dict:
    """The contents of `assets/panda.json`."""
    return json.loads((Path(__file__).parent / "assets" / "panda.json").read_text())


def kitchen_assets(what: str, part: str, needed: str = "") -> Path:
    """`part` of the kitchen in the installed gymnasium-robotics package; UserError where it, or `needed` in it, is missing."""
    found = importlib.util.find_spec("gymnasium_robotics")  # locates the package without running it
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{what} from the package gymnasium-robotics: pip install gymnasium-robotics")
    base = Path(next(iter(found.submodule_search_locations)))
    path = base / "envs" / "assets" / "kitchen_franka" / part
    if not (path / needed).is_file():
        raise UserError(
            f"gymnasium-robotics at {base} lacks what is needed (expected {path / needed}); use version 1.4"
        )
    return path


@functools.cache
def mesh_folder() -> Path:
    """Folder of the Panda's STL meshes inside the installed gymnasium-robotics package."""
    return kitchen_assets("the Panda's meshes come", "franka_assets/meshes", "visual/link0.stl")


def new_scene(visual: bool = False) -> mujoco.MjSpec:
    """A scene with the table. A task adds its bodies, then the robot (`add_robot`): the original's order of positions.

    visual: also what is only drawn (light, floor, table frame).
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.compiler.autolimits = True
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE
    option = spec.option
    option.timestep = PHYSICS_DT
    option.gravity = [0.0, 0.0, -9.81]
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 3.0
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.tolerance, option.iterations = 1e-10, 100
    option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    option.jacobian = mujoco.mjtJacobian.mjJAC_AUTO
    _add_table(spec, visual)
    return spec


def _add_table(spec: mujoco.MjSpec, visual: bool) -> None:
    for row in panda_tables()["table"]:
        physical = row["name"] in _TABLE_PHYSICAL
        if not physical and not visual:
            continue
        kind = mujoco.mjtGeom.mjGEOM_BOX if row["type"] == "box" else mujoco.mjtGeom.mjGEOM_CYLINDER
        contact = _TABLE_GEOM if physical else {"contype": 0, "conaffinity": 0}
        spec.worldbody.add_geom(
            name=row["name"], type=kind, pos=row["pos"], size=row["size"], rgba=row["rgba"], **contact
        )
    if visual:
        spec.worldbody.add_geom(
            name="ground", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=[0, 0, -0.94], size=[0, 0, 1],
            rgba=[0.26, 0.58, 0.51, 1], contype=0, conaffinity=0,
        )  # fmt: skip
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[0, 0, 1.5], dir=[0, 0, -1], castshadow=False
        )


def add_robot(spec: mujoco.MjSpec, rod: bool, visual: bool = False) -> None:
    """Adds the Panda. rod: with the pushing rod (all tasks but Stacking); visual: also what is only drawn (rod tip)."""
    spec.meshdir = str(mesh_folder())
    bodies = {"world": spec.worldbody}
    for row in panda_tables()["bodies"]:
        name = row["name"]
        if name.startswith("rod") and not rod:
            continue
        body = bodies[row["parent"]].add_body(name=name, pos=row["pos"], quat=row["quat"])
        bodies[name] = body
        if row["mass"] > 0:
            body.explicitinertial = True
            body.mass, body.inertia = row["mass"], row["inertia"]
            body.ipos, body.iquat = row["ipos"], row["iquat"]
        if "joint" in row:
            _add_joint(spec, body, row["joint"])
        _add_geoms(spec, body, name, visual)
    bodies["tcp"].add_site(name="tcp")
    for a, b in APART:
        spec.add_exclude(bodyname1=a, bodyname2=b)


def _add_joint(spec: mujoco.MjSpec, body: mujoco.MjsBody, row: dict) -> None:
    kind = mujoco.mjtJoint.mjJNT_HINGE if row["type"] == "hinge" else mujoco.mjtJoint.mjJNT_SLIDE
    body.add_joint(name=row["name"], type=kind, axis=row["axis"], range=row["range"], damping=row["damping"])
    motor = spec.add_actuator(name=row["name"], target=row["name"], trntype=mujoco.mjtTrn.mjTRN_JOINT)
    motor.forcelimited, motor.forcerange = True, [-row["force"], row["force"]]


def _add_geoms(spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str, visual: bool) -> None:
    if name.startswith("link") and name != "link8":
        contact = _WRIST_GEOM if name == "link7" else _LINK_GEOM
        _add_mesh(spec, body, name, name, [1, 1, 1, 0.1], contact)
    elif name == "hand":
        _add_mesh(spec, body, name, name, [0.5, 0.5, 0.5, 1], _WRIST_GEOM)
    elif name in ("leftfinger", "rightfinger"):
        turn = [1, 0, 0, 0] if name == "leftfinger" else [0, 0, 0, 1]
        _add_mesh(spec, body, name, "finger", [0.5, 0.5, 0.5, 1], {**_FINGER_GEOM, "quat": turn})
    elif name in ("leftfinger_tip", "rightfinger_tip"):
        inward = -0.005 if name == "leftfinger_tip" else 0.005
        body.add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0, inward, -0.012], size=[0.008, 0.004, 0.008],
            rgba=[1, 0, 0, 1], **_PAD_GEOM,
        )  # fmt: skip
    elif name == "rod":
        body.add_geom(
            name="rod", type=mujoco.mjtGeom.mjGEOM_CYLINDER, pos=[0, 0, 0.075], size=[0.01, 0.15, 0],
            rgba=[0.5, 0.5, 0.5, 1],
        )  # fmt: skip
    elif name == "rod_tip" and visual:
        body.add_geom(
            name="rod_tip", type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=[0, 0, 0.225], size=[0.01, 0, 0],
            rgba=[1, 0, 0, 1], contype=0, conaffinity=0,
        )  # fmt: skip


def _add_mesh(spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str, mesh: str, rgba: list, contact: dict) -> None:
    if mesh not in [m.name for m in spec.meshes]:
        spec.add_mesh(name=mesh, file=f"visual/{mesh}.stl", inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX)
    body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh, rgba=rgba, **contact)
