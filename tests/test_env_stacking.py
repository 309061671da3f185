"""Stacking against recordings of the original, its own batch, forced outcomes and the original's file format."""

import json
import pickle
from itertools import permutations
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import envs  # noqa: F401  (registers the tasks)
from envs import _joint_control, datasets
from envs._control import D_GAIN, P_GAIN
from envs._labels import ZONE, stacked, update_stacking
from envs._panda import APART
from envs.stacking import BOXES, MODES, START_QPOS, START_QVEL, StackingBatch
from harness.errors import UserError
from methods.relations import Relations

TRACES = Path(__file__).parent / "data" / "traces"
NAMES = sorted(p.stem for p in TRACES.glob("stacking_*.npz"))
PLAIN = [[0.4, -0.2, 0], [0.4, -0.05, 0], [0.58, -0.1, 90]]  # x, y (m), yaw (degrees) of red, green, blue


def trace(name):
    return dict(np.load(TRACES / f"{name}.npz"))


def context(rec):
    return json.loads(str(rec["context"]))


@pytest.mark.parametrize("name", NAMES)
def test_recording_replays_whole(name):
    """Success, mode and end at every step of a whole run; TCP to 0.001 mm until a box is touched; boxes to 1.5 mm."""
    rec = trace(name)
    env = StackingBatch(1)
    env.reset([context(rec)])
    np.testing.assert_allclose(env.tcp_pos[0], rec["tcp_pos"][0], atol=1e-9)
    aside = np.abs(rec["obj_pose"][:, :3, :2] - rec["obj_pose"][10, :3, :2]).max((1, 2))
    touched = int(np.argmax(aside > 1e-5)) if (aside > 1e-5).any() else len(aside)  # the first box is moved
    for k, setpoint in enumerate(rec["actions"]):
        obs, _, terminated, truncated, info = env.step_absolute(setpoint[None])
        error = np.linalg.norm(info["tcp_pos"][0] - rec["tcp_pos"][k + 1])
        assert error < (1e-6 if k + 1 < touched else 2e-3)
        assert np.linalg.norm(info["obj_pos"][0] - rec["obj_pose"][k + 1, :, :3], axis=1).max() < 1.5e-3
        np.testing.assert_array_equal(obs[0, :8], setpoint.astype(np.float32))
        np.testing.assert_allclose(obs[0, [8, 9, 10, 12, 13, 14, 16, 17, 18]],
                                   rec["obs"][k + 1, [0, 1, 2, 4, 5, 6, 8, 9, 10]], atol=1.5e-3)  # fmt: skip
        assert info["success"][0] == rec["success"][k] and info["mode"][0] == rec["mode"][k]
        assert (terminated | truncated)[0] == rec["done"][k]
    assert info["success_1"][0] == (len(rec["mode"][-1]) > 0) and info["success_2"][0] == (len(rec["mode"][-1]) > 1)


@pytest.mark.parametrize("name", NAMES)
def test_restarted_every_third_step(name):
    """Three steps from each third row: boxes to 1e-4 mm in the median, 0.3 mm at worst, tool likewise; labels equal."""
    rec = trace(name)
    rows = np.arange(0, len(rec["actions"]) - 3, 3)
    env = StackingBatch(len(rows))
    env.reset([context(rec)] * len(rows))
    for i, k in enumerate(rows):
        obs = env.restore(i, rec, int(k))
        np.testing.assert_allclose(env.tcp_pos[i], rec["tcp_pos"][k], atol=1e-9)
        if k > 0:
            np.testing.assert_allclose(obs[:8], rec["actions"][k - 1], atol=1e-6)
        np.testing.assert_allclose(obs[[8, 9, 10, 12, 13, 14, 16, 17, 18]],
                                   rec["obs"][k, [0, 1, 2, 4, 5, 6, 8, 9, 10]], atol=1e-6)  # fmt: skip
    for step in range(3):
        info = env.step_absolute(rec["actions"][rows + step])[4]
        np.testing.assert_array_equal(info["mode"], rec["mode"][rows + step])
        np.testing.assert_array_equal(info["success"], rec["success"][rows + step])
    boxes = np.linalg.norm(info["obj_pos"] - rec["obj_pose"][rows + 3][:, :, :3], axis=2).max(1)
    tool = np.linalg.norm(info["tcp_pos"] - rec["tcp_pos"][rows + 3], axis=1)
    assert np.median(boxes) < 1e-7 and boxes.max() < 3e-4
    assert np.median(tool) < 1e-7 and tool.max() < 3e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source", ["qpos", "obj_pose"])
def test_labels_of_recorded_boxes(name, source):
    """The rules alone, fed with what was recorded, say what the original said, at every step."""
    rec = trace(name)
    boxes = (rec["qpos"][:, :21].reshape(-1, 3, 7) if source == "qpos" else rec["obj_pose"][:, :3])[1:]
    mode = np.array([""], "<U3")
    for k in range(len(boxes)):
        update_stacking(mode, boxes[k : k + 1])
        assert mode[0] == rec["mode"][k] and stacked(boxes[k : k + 1])[0] == rec["success"][k]


def test_compiled_controller_equals_its_plain_form():
    """Torques and forces of one physics step, open and closing, as the description reads."""
    for width in (0.08, 0.06):
        rec = trace("stacking_3")
        env, target = StackingBatch(1), np.r_[rec["qpos"][100, 21:28] + 0.01, width][None]
        env.sims.place(0, rec["qpos"][100], rec["qvel"][100])
        data = env.sims.data[0]
        q, v, bias = data.qpos[21:30].copy(), data.qvel[18:27].copy(), data.qfrc_bias[18:25].copy()
        _joint_control.joint_steps(
            env.sims.models, env.sims.table, np.array([0]), env.sims.robot_qpos, env.sims.robot_qvel, target, 1
        )
        np.testing.assert_allclose(data.ctrl[:7], P_GAIN * (target[0, :7] - q[:7]) - D_GAIN * v[:7] + bias, rtol=1e-12)
        wanted = 0.04 if width > 0.075 else 0.0
        force = np.clip(500 * (wanted - q[7:]) - 10 * v[7:], -5, 5) if wanted else -20.0  # a closing grasp pushes
        np.testing.assert_allclose(data.ctrl[7:], 500 * (q[7:].mean() - q[7:]) + force, rtol=1e-9)


def test_inverse_kinematics_reaches_poses():
    joints, rng = np.tile(START_QPOS[:7], (50, 1)), np.random.default_rng(0)
    goals = rng.uniform([0.35, -0.25, 0.0, -1.6], [0.6, 0.25, 0.25, 1.6], (50, 4))
    start = np.array([0.52498, 0.0, 0.30151, 0.0])
    for share in np.linspace(0, 1, 120):
        _joint_control.joint_targets(joints, start + share * (goals - start), START_QPOS[:7])
    model, data = StackingBatch.model(), mujoco.MjData(StackingBatch.model())
    for q, goal in zip(joints, goals, strict=True):
        data.qpos[:], data.qpos[[3, 10, 17]], data.qpos[21:28] = 0, 1, q
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(data.site("tcp").xpos, goal[:3], atol=1e-5)
        axes = data.site("tcp").xmat.reshape(3, 3)
        np.testing.assert_allclose(axes[:, 0], [np.cos(goal[3]), np.sin(goal[3]), 0], atol=1e-3)
        np.testing.assert_allclose(axes[:, 2], [0, 0, -1], atol=1e-3)


def test_hulls_that_are_not_compared_never_meet():
    """Anywhere in the joints' range the excluded pairs stay apart; link0 and link1 are excluded in the original too."""
    spec = StackingBatch.build_spec()
    for exclusion in list(spec.excludes):
        spec.delete(exclusion)
    model = spec.compile()
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    low, high = np.r_[model.jnt_range[3:10, 0], 0, 0], np.r_[model.jnt_range[3:10, 1], 0.04, 0.04]
    apart = {frozenset(model.geom(n).id for n in pair) for pair in APART if pair != ("link0", "link1")}
    model.geom_margin[:] = 0.005  # both count: 10 mm
    met = set()
    for _ in range(3000):
        data.qpos[:], data.qpos[[2, 9, 16]], data.qpos[[3, 10, 17]] = 0, 5, 1
        data.qpos[[0, 7, 14]], data.qpos[21:30] = (5, 6, 7), rng.uniform(low, high)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        met |= {frozenset(pair) for pair in data.contact.geom[: data.ncon].tolist()}
    assert len(met) > 20 and not met & apart


def test_batch_equals_singles_and_threads_do_not_matter():
    steps, n = 25, 4
    rng = np.random.default_rng(1)
    actions = np.concatenate([rng.normal(0, 0.01, (steps, n, 7)), rng.uniform(0.07, 0.08, (steps, n, 1))], 2)

    def episode(env, columns):
        seen = [env.reset(seeds=list(range(n))[columns])]
        for a in actions:
            obs, reward, terminated, truncated, info = env.step(a[columns])
            seen.append(
                np.c_[obs, info["tcp_pos"], info["obj_pos"].reshape(len(obs), -1), reward, terminated, truncated]
            )
        return seen

    together = episode(StackingBatch(n), slice(None))
    threaded_env = StackingBatch(n, num_threads=2)
    threaded, again = episode(threaded_env, slice(None)), episode(threaded_env, slice(None))
    threaded_env.close()
    singles = [episode(StackingBatch(1), slice(i, i + 1)) for i in range(n)]
    for k, rows in enumerate(together):
        np.testing.assert_array_equal(rows, threaded[k])
        np.testing.assert_array_equal(rows, again[k])
        for i in range(n):
            np.testing.assert_array_equal(rows[i], singles[i][k][0])
    assert len({rows.tobytes() for rows in together[0]}) == n  # seeds give different contexts


def placed(positions):
    """A recording of one row with the boxes at positions (3, 3), at rest, gripper high above."""
    qpos = np.concatenate([np.r_[p, 1, 0, 0, 0] for p in positions] + [START_QPOS])
    setpoint = np.r_[START_QPOS[:7], 0.08]
    pose = np.array([[*p, 1, 0, 0, 0] for p in positions] + [[*ZONE, 0, 0, 1, 0, 0]])
    return {
        "actions": setpoint[None], "qpos": np.array([qpos] * 2), "qvel": np.array([np.r_[np.zeros(18), START_QVEL]] * 2),
        "tcp_pos": np.array([[0.52498, 0, 0.30151]] * 2), "obj_pose": np.array([pose] * 2),
        "ctrl_des_q": np.full((2, 7), np.nan), "ctrl_des_qd": np.zeros((2, 7)),
        "success": np.array([False]), "mode": np.array([""]),
    }  # fmt: skip


@pytest.mark.parametrize("order", ["".join(p) for p in permutations("rgb")])
def test_forced_order_and_success(order):
    """Boxes come into the zone one after the other: mode grows, the third brings success, the episode ends a step later."""
    env, hold = StackingBatch(1), np.r_[START_QPOS[:7], 0.08][None]
    spots = np.array([[0.35, -0.3, 0.011], [0.45, -0.3, 0.011], [0.55, -0.3, 0.011]])
    mode = ""
    for level, letter in enumerate(order):
        box = "rgb".index(letter)
        spots[box] = [ZONE[0] + 0.0603, ZONE[1], 0.1 + 0.07 * level]  # in the air, a little outside
        recording = placed(spots)
        recording["qvel"][1, 6 * box] = -0.3  # m/s, inwards
        recording["mode"] = np.array([mode])
        env.restore(0, recording, 1)
        _, reward, terminated, _, info = env.step_absolute(hold)
        mode = str(info["mode"][0])
        spots[box] = [*ZONE, 0.011 + 0.06 * level]
        assert mode == order[: level + 1] and not terminated[0]
        assert info["success"][0] == (level == 2) == (reward[0] == 1)
        assert info["success_1"][0] and info["success_2"][0] == (level > 0)
    _, reward, terminated, truncated, info = env.step_absolute(hold)
    assert terminated[0] and not truncated[0] and reward[0] == 0 and info["success"][0] and not env.active[0]
    assert order in MODES and env.mode_name(info["mode"][0]) == order


def test_surprises_of_the_rules():
    mode = np.array(["", "g", "rgb"])
    boxes = np.tile([[0.5, 0.2, 0.5], [0.5, 0.21, 0.5], [0.6, 0.5, 0]], (3, 1, 1))
    boxes[2] = [[0.5, 0.2, 0]] * 3
    update_stacking(mode, boxes)
    assert mode.tolist() == [
        "r",
        "gr",
        "rgb",
    ]  # one a step, the nearest first, held high in the air or not; never again
    update_stacking(mode, boxes)
    assert mode.tolist() == ["rg", "gr", "rgb"]
    tower = np.array([[[0.5, 0.2, z] for z in (0.0, 0.06, 0.5)]])
    assert stacked(tower)[0]  # the third may hang anywhere above
    for shift, z in ((0.061, 0.5), (0.0, 0.089)):  # too far aside; too near in height
        tower[0, 2] = [0.5 + shift, 0.2, z]
        assert not stacked(tower)[0]


def test_success_does_not_latch():
    """A box that falls in the last step takes success with it, as in the original."""
    env, hold = StackingBatch(1), np.r_[START_QPOS[:7], 0.08][None]
    recording = placed([[*ZONE, 0.011], [*ZONE, 0.071], [ZONE[0] + 0.0599, ZONE[1], 0.131]])
    recording["qvel"][1, 12] = 0.4  # blue slides off
    recording["success"], recording["mode"] = np.array([True]), np.array(["rgb"])
    env.restore(0, recording, 1)
    _, _, terminated, _, info = env.step_absolute(hold)
    assert terminated[0] and not info["success"][0] and info["mode"][0] == "rgb"


@pytest.mark.parametrize("name", NAMES)
def test_geometry_is_the_tool_and_where_the_boxes_lie_from_it(name):
    rec = trace(name)
    joints, boxes = rec["qpos"][:, -9:-2], rec["obj_pose"][:, :3, :3]
    tangents = np.tan(np.linspace(-1.5, 1.5, 3 * len(joints))).reshape(-1, 3, 1)
    obs = np.concatenate([joints, joints[:, :1], np.concatenate([boxes, tangents], 2).reshape(-1, 12)], 1)
    relations = Relations(**StackingBatch.geometry._asdict())
    seen = relations(torch.from_numpy(obs)).numpy()
    assert seen.shape == (len(obs), relations.width) == (len(obs), 32)
    away = (rec["tcp_pos"][:, None] - boxes).reshape(-1, 9)
    assert np.abs(seen[0, 15:18] - rec["tcp_pos"][0]).max() < 1e-9  # at rest; moving, the recorded TCP is a step older
    np.testing.assert_allclose(np.sinh(seen[:, :9]) * 0.02, away, atol=5e-4)
    np.testing.assert_allclose(seen[:, 15:18], rec["tcp_pos"], atol=5e-4)
    heading = np.array(_twice_heading(rec))
    np.testing.assert_allclose(seen[:, 18:20].T, heading, atol=2e-3)
    apart = 2 * np.arctan(tangents[:, :, 0]) - np.arctan2(*heading[::-1])[:, None]  # twice the boxes' from the tool
    expected = np.concatenate([np.cos(apart), np.sin(apart), np.cos(2 * apart), np.sin(2 * apart)], 1)
    np.testing.assert_allclose(seen[:, 20:], expected, atol=0.02)  # shorter where the tool tilts


def _twice_heading(rec):
    w, x, y, z = rec["tcp_quat"].T
    east, north = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z)  # the hand's x axis
    return east**2 - north**2, 2 * east * north


def test_first_observation_and_action():
    """Desired joints and width start from what is measured; joints add up, the width is absolute."""
    env = StackingBatch(1)
    obs = env.reset([PLAIN])
    np.testing.assert_allclose(obs[0, :8], np.r_[START_QPOS[:7], START_QPOS[7:].sum()], atol=1e-7)
    np.testing.assert_allclose(obs[0, 8:].reshape(3, 4)[:, :2], np.array(PLAIN)[:, :2], atol=1e-6)
    assert abs(obs[0, 11]) < 1e-6 and abs(obs[0, 19]) > 1e6  # tan(yaw) of 0 and of 90 degrees
    action = np.r_[np.full(7, 0.001), 0.078]
    first, second = env.step(action[None])[0], env.step(action[None])[0]
    np.testing.assert_allclose(second[0, :7] - first[0, :7], 0.001, atol=1e-6)
    assert first[0, 7] == second[0, 7] == np.float32(0.078)
    np.testing.assert_array_equal(first[0, 8:], obs[0, 8:])  # the state before the motion


def test_contexts():
    env = StackingBatch(3)
    obs = env.reset([0, 59, PLAIN])
    assert len(env.evaluation_contexts.poses) == 60 and (obs[0] != obs[1]).any()
    x, y = obs[:, [8, 12, 16]], obs[:, [9, 13, 17]]
    assert ((x[:, :2] >= 0.35) & (x[:, :2] <= 0.45)).all() and ((x[:, 2] >= 0.55) & (x[:, 2] <= 0.6)).all()
    assert ((y >= -0.25) & (y <= 0)).all()
    for bad, message in ((60, "0 to 59; got 60"), ([[0.4, 0.1, 0]], "expected 3 or 4 rows"), ("left", "got 'left'")):
        with pytest.raises(UserError, match=message):
            env.reset([bad, 0, 0])


def test_step_limit():
    env = StackingBatch(1, max_steps=3)
    env.reset([0])
    hold = np.r_[np.zeros(7), 0.08][None]
    assert [env.step(hold)[3][0] for _ in range(3)] == [False, False, True] and not env.active[0]
    assert StackingBatch.max_steps == 1000


def test_vector_environment():
    vector = gymnasium.make_vec("vdd/Stacking-v0", num_envs=2)
    obs, info = vector.reset(seed=1, options={"context": 3})
    np.testing.assert_array_equal(obs[0], obs[1])
    assert obs in vector.observation_space and info["obj_pos"].shape == (2, 4, 3) and info["mode"].tolist() == ["", ""]
    assert vector.single_action_space.high[7] > 0.075  # a sampled action can open the gripper
    vector.close()


BAD = {
    "width": (lambda e: e.step(np.zeros((1, 7))), r"actions must have shape \(1, 8\), got \(1, 7\)"),
    "setpoint": (lambda e: e.step_absolute(np.zeros((1, 7))), r"set-points must have shape \(1, 8\)"),
    "nan": (lambda e: e.step(np.r_[np.zeros(7), np.nan][None]), "finite"),
    "other task": (lambda e: e.restore(0, trace("avoiding_5"), 1), "another task: 9 positions"),
    "row": (lambda e: e.restore(0, trace("stacking_4"), 121), "no row 121 .* 0 to 120"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    env = StackingBatch(1)
    env.reset([0])
    call, message = BAD[case]
    with pytest.raises(UserError, match=message):
        call(env)


# ---- the original's files ------------------------------------------------------------------------------------------


def human_file(rec):
    """A recording in the layout of the original's demonstrations: what its loggers would have held, one row a step."""
    rows = len(rec["actions"])
    boxes = rec["qpos"][:rows, :21].reshape(rows, 3, 7)
    robot = {"des_j_pos": rec["actions"][:, :7].copy(), "gripper_width": rec["qpos"][:rows, 28:30].sum(1)}
    content = {"context": None, "robot": robot}
    for i, (name, *_) in enumerate(BOXES):
        content[name.replace("_", "-")] = {"pos": boxes[:, i, :3].copy(), "quat": boxes[:, i, 3:].copy()}
    content["target-box"] = {"pos": np.tile([*ZONE, 0.0], (rows, 1)), "quat": np.tile([0.0, 1, 0, 0], (rows, 1))}
    return content


def write(tmp_path, content, name="env_000_00.pkl"):
    folder = tmp_path / "d3il" / "stacking" / "all_data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(content, protocol=4))


def test_original_file(tmp_path):
    """Rows are what the environment observes when the file's set-points are replayed (but for the gripper's width)."""
    rec = trace("stacking_1")
    write(tmp_path, human_file(rec))
    demos = datasets.load_demonstrations("stacking", data_root=tmp_path)
    (found,) = demos.episodes
    assert (
        demos.source == "official"
        and found.mode == "r"
        and found.obs.shape == (326, 20)
        and found.actions.shape == (326, 8)
    )
    assert found.obs.dtype == found.actions.dtype == np.float32 and found.context.shape == (3, 7)
    env = StackingBatch(1)
    env.reset([context(rec)])
    for k in range(60):
        obs = env.step_absolute(rec["actions"][k][None])[0][0]
        upright = np.abs(obs) < 1e3  # blue stands at 90 degrees, where tan(yaw) is meaningless
        np.testing.assert_allclose(found.obs[k][upright][:7], obs[upright][:7], atol=1e-6)
        np.testing.assert_allclose(found.obs[k][upright][8:], obs[upright][8:], atol=1e-5)
    np.testing.assert_allclose(found.actions[:, :7], np.diff(rec["actions"][:, :7], axis=0), atol=1e-7)
    np.testing.assert_allclose(found.actions[:, 7], rec["qpos"][1:327, 28:30].sum(1), atol=1e-7)


FILES = {
    "not a dict": (lambda c: [1], "expected a dict with a dict 'robot', found list"),
    "no box": (lambda c: c.pop("blue-box") and c, "'blue-box'"),
    "no width": (lambda c: c["robot"].pop("gripper_width") is None or c, r"robot.gripper_width is missing"),
    "shape": (lambda c: c["robot"].update(des_j_pos=np.zeros((9, 3))) or c, r"shape \(9, 3\), expected \(rows, 7\)"),
    "lengths": (lambda c: c["red-box"].update(pos=np.zeros((5, 3))) or c, "red-box.pos 5; they must be equal"),
    "nan": (
        lambda c: c["green-box"]["quat"].__setitem__((4, 1), np.nan) or c,
        "green-box.quat is NaN or infinite in row 4",
    ),
    "short": (lambda c: c["robot"].update(gripper_width=np.zeros(1)) or c, r"1 row\(s\), expected at least 2"),
}


@pytest.mark.parametrize("case", FILES)
def test_malformed_files_are_named(tmp_path, case):
    spoil, message = FILES[case]
    write(tmp_path, spoil(human_file(trace("stacking_4"))))
    with pytest.raises(UserError, match=rf"env_000_00.pkl: .*{message}"):
        datasets.load_demonstrations("stacking", data_root=tmp_path)
