"""The kitchen scene of gymnasium-robotics as a MuJoCo model, without what costs time and changes nothing.

Source: `kitchen_env_model.xml` with its parts and meshes, read from the installed package (which is located but never
imported); in geometry, inertia, joints and actuators it is the scene of the relay policy learning project, except that
the cylinder under the robot can be touched (there it is only drawn).

What is left out, none of which changes the motion (docs/environments.md: measured against the unchanged file):
 1. What is only drawn: 116 of 240 geoms, lights, cameras, sites.
 2. Pairs of bodies that cannot meet: links of the robot that stay apart anywhere in the joints' range (`APART`), and
    kitchen furniture beyond a link's `REACH`. Furniture that no part of the robot reaches is one body that collides
    with the kettle alone.
 3. Bodies at rest sleep: a body that has been slower than `SLEEP_TOLERANCE` for ten physics steps stays where it is
    until something touches it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import mujoco
import numpy as np

from envs._panda import kitchen_assets

ARM = tuple(f"robot:panda0_joint{i}" for i in range(1, 8))
SHOULDER = np.array([0.0, 0.0, 2.133])  # m, where the axes of joints 1 and 2 meet
# m from the shoulder: no point of the link comes farther, whatever the joints (a test samples it).
REACH = {"link1": 0.21, "link2": 0.21, "link3": 0.40, "link4": 0.53, "link5": 0.82, "link6": 0.88, "link7": 0.99,
         "leftfinger": 1.04, "rightfinger": 1.04}  # fmt: skip
APART = (
    *(("link0", b) for b in ("link1", "link2", "link3", "link4")),
    *(("link1", b) for b in ("link3", "link4")),
    ("link2", "link4"),
    *(("link3", b) for b in ("link5", "link6", "link7", "leftfinger", "rightfinger")),
    *(("link4", b) for b in ("link6", "link7")),
    *(("link6", b) for b in ("leftfinger", "rightfinger")),
)
WRIST = (("panda0_link5", "panda0_link7"),)  # compared only while joint 6 is at most `kitchen.WRIST_OPEN`
SLEEP_TOLERANCE = 1e-8  # m/s and rad/s
MARGIN = 0.02  # m, kept when a reach is compared with a distance
ROBOT_BIT, KETTLE_BIT = 1, 2  # what furniture collides with


@functools.cache
def scene_file() -> Path:
    """The kitchen's XML inside the installed gymnasium-robotics package."""
    return kitchen_assets("the kitchen comes", "kitchen_assets/kitchen_env_model.xml")


def full_spec() -> mujoco.MjSpec:
    """The scene as the package ships it, with the names that the simulations look for (`joint1`, site `tcp`)."""
    spec = mujoco.MjSpec.from_file(str(scene_file()))
    spec.joint(ARM[0]).name = "joint1"
    for actuator in spec.actuators:
        if actuator.target == ARM[0]:
            actuator.target = "joint1"
    spec.site("end_effector").name = "tcp"
    spec.body("panda0_link0").parent.name = "mount"
    return spec


def physical_spec(sites: tuple[str, ...]) -> mujoco.MjSpec:
    """The scene for the physics alone; sites: those to keep besides `tcp`."""
    spec = full_spec()
    for geom in list(spec.geoms):
        geom.material = ""
        if not geom.contype and not geom.conaffinity:
            spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms}
    unused = [mesh for mesh in spec.meshes if mesh.name not in used]
    hidden = [site for site in spec.sites if site.name not in ("tcp", *sites)]
    for element in (*spec.lights, *spec.cameras, *hidden, *spec.materials, *spec.textures, *unused):
        spec.delete(element)
    _separate(spec)
    spec.compiler.fusestatic = True
    spec.option.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP.value
    spec.option.sleep_tolerance = SLEEP_TOLERANCE
    return spec


def distances(model: mujoco.MjModel) -> np.ndarray:
    """(ngeom,) m: least distance of each geom's box from the shoulder, over the range of the kitchen's joints."""
    data, nearest = mujoco.MjData(model), np.full(model.ngeom, np.inf)
    low, high = model.jnt_range[9:23].T
    for share in np.linspace(0.0, 1.0, 25):
        data.qpos[9:23] = low + share * (high - low)
        mujoco.mj_kinematics(model, data)
        inward = np.einsum("gji,gj->gi", data.geom_xmat.reshape(-1, 3, 3), SHOULDER - data.geom_xpos)
        outside = np.maximum(np.abs(inward - model.geom_aabb[:, :3]) - model.geom_aabb[:, 3:], 0.0)
        nearest = np.minimum(nearest, np.linalg.norm(outside, axis=1))
    plane = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE.value
    return np.where(plane, SHOULDER[2], nearest)


def _separate(spec: mujoco.MjSpec) -> None:
    """Takes out of the search for contacts what cannot meet."""
    model = spec.compile()
    data, nearest = mujoco.MjData(model), distances(model)
    mujoco.mj_kinematics(model, data)
    reach = {f"panda0_{link}": radius + MARGIN for link, radius in REACH.items()}
    fixed: dict[str, mujoco.MjsBody] = {}  # furniture that does not move, directly below the world
    bodies: dict[str, float] = {}  # what a part of the robot may reach: distance from the shoulder
    for g, geom in enumerate(list(spec.geoms)):
        name, static = model.body(model.geom_bodyid[g]).name, model.body_weldid[model.geom_bodyid[g]] == 0
        if name.startswith("panda0_"):
            continue
        if name == "kettleroot":
            geom.contype = ROBOT_BIT | KETTLE_BIT
            continue
        if static:
            far = nearest[g] > max(reach.values())
            if far:
                geom.contype, geom.conaffinity = 0, KETTLE_BIT
            if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_PLANE.value:
                continue
            name = "far" if far else f"fixed_{name}"
            if name not in fixed:
                fixed[name] = spec.worldbody.add_body(name=name)
            _move(spec, geom, fixed[name], data.geom_xpos[g], data.geom_xmat[g])
            if far:
                continue
        bodies[name] = min(bodies.get(name, np.inf), nearest[g])
    for a, b in APART:
        spec.add_exclude(bodyname1=f"panda0_{a}", bodyname2=f"panda0_{b}")
    for link, radius in reach.items():
        for name, distance in bodies.items():
            if radius < distance:
                spec.add_exclude(bodyname1=link, bodyname2=name)


def _move(spec: mujoco.MjSpec, geom: mujoco.MjsGeom, body: mujoco.MjsBody, pos: np.ndarray, mat: np.ndarray) -> None:
    """Puts a geom of a static body, whose pose in the world is (pos, mat), onto another body at the world's origin."""
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, mat)
    body.add_geom(
        type=geom.type, size=geom.size.copy(), pos=pos.copy(), quat=quat, contype=geom.contype,
        conaffinity=geom.conaffinity, condim=geom.condim, margin=geom.margin, solref=geom.solref.copy(),
        solimp=geom.solimp.copy(), friction=geom.friction.copy(),
    )  # fmt: skip
    spec.delete(geom)
