"""Aligning, Pushing and Sorting: recordings, contexts, forced success and modes, batches, demonstrators, files."""

import importlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from envs import _labels, contexts, datasets
from envs.aligning import AligningBatch
from envs.demonstrators import aligning as aligning_demos
from envs.demonstrators import pushing as pushing_demos
from envs.demonstrators import sorting as sorting_demos
from envs.pushing import PushingBatch
from envs.sorting import SortingBatch
from harness.errors import UserError
from harness.rollout import context_of
from methods.relations import Relations

TRACES = Path(__file__).parent / "data" / "traces"
BATCHES = {"aligning": AligningBatch, "pushing": PushingBatch, "sorting": SortingBatch}
RECORDINGS = ("aligning_5", "pushing_6")
DEMOS = {"aligning": aligning_demos, "pushing": pushing_demos, "sorting": sorting_demos}
every_task = pytest.mark.parametrize("task", BATCHES)
every_recording = pytest.mark.parametrize("name", RECORDINGS)


def trace(name):
    return name.split("_")[0], dict(np.load(TRACES / f"{name}.npz"))


# ---- recordings of the original


@every_recording
def test_restarted_recording_is_met(name):
    """From every third row, three steps on: cubes and tray within a micrometre in the median, labels as recorded."""
    task, rec = trace(name)
    rows = np.arange(0, len(rec["actions"]) - 3, 3)
    env = BATCHES[task](len(rows))
    env.reset()
    for i, k in enumerate(rows):
        obs = env.restore(i, rec, int(k))
        np.testing.assert_allclose(obs[env.act_dim :], rec["obs"][k], atol=1e-5)
    for offset in range(3):
        obs, _, _, _, info = env.step_absolute(rec["actions"][rows + offset])
        np.testing.assert_array_equal(info["success"], rec["success"][rows + offset])
        np.testing.assert_array_equal(info["mode"], rec["mode"][rows + offset].astype(int))
        if offset == 0:
            np.testing.assert_allclose(obs[:, env.act_dim :], rec["obs"][rows + 1], atol=1e-5)
    error = np.linalg.norm(info["obj_pos"] - rec["obj_pose"][rows + 3, :, :3], axis=-1).max(1)
    assert np.median(error) < 1e-6 and error.max() < 1e-3
    assert np.median(np.linalg.norm(info["tcp_pos"] - rec["tcp_pos"][rows + 3], axis=1)) < 1e-6


@every_recording
def test_labels_of_recorded_states(name):
    task, rec = trace(name)
    env = BATCHES[task](1)
    env.reset()
    env.restore(0, rec, 0)
    for k in range(len(rec["actions"])):
        env._recall(0, rec, k + 1)
        env._update_mode(np.array([0]))
        assert (env.success[0], env.mode[0]) == (rec["success"][k], int(rec["mode"][k])), k


@every_recording
def test_replay_before_contact(name):
    """From the context alone: the tool and the boxes at rest as recorded until they touch."""
    task, rec = trace(name)
    env = BATCHES[task](1)
    env.reset(contexts=[json.loads(str(rec["context"]))])
    for k in range(20):
        info = env.step_absolute(rec["actions"][k][None])[4]
        assert np.linalg.norm(info["tcp_pos"][0] - rec["tcp_pos"][k + 1]) < 1e-7
        np.testing.assert_allclose(info["obj_pos"][0], rec["obj_pose"][k + 1, :, :3], atol=1e-6)


def test_whole_replay_ends_as_recorded():
    task, rec = trace("aligning_5")
    env = BATCHES[task](1)
    env.reset(contexts=[json.loads(str(rec["context"]))])
    ends = [bool(env.step_absolute(setpoint[None])[2][0]) for setpoint in rec["actions"]]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert env.success[0] and env.mode[0] == 0


# ---- forced outcomes


def posed(task, *xyz, turn=0.0):
    poses = np.zeros((1, len(xyz), 7))
    poses[0, :, :3], poses[0, :, 3] = xyz, 1.0
    poses[0, 0, 3], poses[0, 0, 6] = np.cos(turn / 2), np.sin(turn / 2)
    return poses


@pytest.mark.parametrize(
    ("shift", "turn", "success"),
    [(0.0154, 0.0, True), (0.0156, 0.0, False), (0.0, np.deg2rad(8.6), True), (0.0, -np.deg2rad(8.7), False)],
)
def test_aligning_counts_the_depth(shift, turn, success):
    """Of 18 mm in space the resting tray's 9.2 mm below the target leave 15.5 mm in the plane; turns up to 8.64 degrees."""
    assert _labels.aligned(posed("aligning", (0.5 + shift, 0.3, -0.0092), (0.5, 0.3, 0.0), turn=turn))[0] == success


def test_pushing_modes_and_their_memory():
    away, red, green = (0.5, 0.0, 0.011), (0.42, 0.3, 0.011), (0.63, 0.3, 0.011)
    first = np.array([-1])
    assert _labels.update_pushing(first, posed("pushing", red, away))[0] == -1 and first[0] == 0
    assert _labels.update_pushing(first, posed("pushing", red, green))[0] == 0
    assert _labels.update_pushing(first, posed("pushing", away, green))[0] == 0  # the first pair is remembered
    assert _labels.update_pushing(first, posed("pushing", red, away))[0] == -1  # the second is looked at anew
    assert _labels.pushed(posed("pushing", green, red))[0] and not _labels.pushed(posed("pushing", red, red))[0]
    shifted = [(0.42 + d, 0.3, 0.011) for d in (0.0487, 0.0489)]
    assert [_labels.pushed(posed("pushing", s, green))[0] for s in shifted] == [True, False]  # 11 mm of height count


def test_sorting_order_counts_one_a_step():
    order, counted = np.full((1, 4), -1), np.zeros((1, 4), bool)
    out, red, blue = (0.5, 0.0, 0.13), (0.4, 0.3, 0.011), (0.625, 0.31, 0.9)
    assert _labels.order_byte(order)[0] == 240
    seen = []
    for cubes in [(red, out, out, out), (red, out, blue, out), (red, red, blue, blue), (red, red, blue, blue)]:
        _labels.update_order(order, counted, posed("sorting", *cubes))
        seen.append(int(_labels.order_byte(order)[0]))
    assert seen[:2] == [112, 112] and SortingBatch.mode_name(seen[-1]) in ("rbrb", "rbbr") and counted.all()
    assert _labels.inside(posed("sorting", red, red, blue, blue)).all()  # at any height
    assert SortingBatch.mode_name(112) == ""


GOALS = {
    "aligning": [(0.5, 0.3, 0.0), (0.5, 0.3, 0.0)],
    "pushing": [(0.42, 0.3, 0.0), (0.63, 0.3, 0.0)],
    "sorting": [(0.36, 0.28, 0.0), (0.44, 0.35, 0.0), (0.59, 0.28, 0.0), (0.67, 0.35, 0.0)],
}


@every_task
def test_boxes_placed_in_their_goals_succeed_at_once(task):
    """Success is judged before the physics, too: an episode that starts in it executes one action."""
    env = BATCHES[task](2)
    env.reset(contexts=[[(x, y, 0.0) for x, y, _ in GOALS[task]], 0])
    _, reward, terminated, _, info = env.step(np.zeros((2, env.act_dim)))
    assert info["success"].tolist() == terminated.tolist() == [True, False] and reward.tolist() == [1.0, 0.0]
    assert env.active.tolist() == [False, True]


# ---- contexts


@every_task
def test_own_contexts_are_what_is_drawn(task):
    kept = json.loads((contexts.ASSETS / f"{task}.json").read_text())
    assert kept["contexts"] == contexts.draw(task, kept["seed"])
    found = contexts.evaluation_contexts(task, data_root="/nowhere")
    block = importlib.import_module("harness.registry").load_suites().tasks[task]
    assert len(found.poses) == block["contexts"] == contexts.LAYOUTS[task].count
    assert block["rollouts"] % block["contexts"] == 0
    slots = contexts.LAYOUTS[task].ranges
    for pose in found.poses:
        for row in pose:
            assert any(x[0] <= row[0] <= x[1] and y[0] <= row[1] <= y[1] for x, y in slots)


def test_each_context_is_used_as_often_as_in_the_original():
    task = {"contexts": 60, "rollouts": 480}
    used = [context_of(task, e) for e in range(480)]
    assert used == sorted(used) and all(used.count(c) == 8 for c in range(60))
    assert [context_of(task, e) for e in (0, 7, 8)] == [0, 0, 1] and context_of({"rollouts": 480}, 479) == 0


def original_form(rows):
    """Position, quaternion, position, quaternion: as the original keeps Pushing's contexts."""
    return [part for row in rows for part in (np.float32(row), contexts.with_yaw(np.array([row]))[0, 3:])]


def test_original_context_files_are_used_and_bad_ones_refused(tmp_path):
    rows = [[(0.45, -0.1, 30.0 + i), (0.6, -0.05, -20.0)] for i in range(30)]
    folder = tmp_path / "d3il" / "pushing"
    folder.mkdir(parents=True)
    path = folder / "test_contexts.pkl"
    path.write_bytes(pickle.dumps([original_form(r) for r in rows]))
    env = PushingBatch(2, data_root=tmp_path)
    assert "D3IL" in env.evaluation_contexts.origin
    env.reset(contexts=[3, rows[3]])
    np.testing.assert_allclose(env.context[0], env.context[1], atol=1e-6)
    for content, message in (
        (pickle.dumps(rows[:5]), "at least 30 contexts of pushing, found 5 contexts"),
        (pickle.dumps({"a": 1}), "found dict"),
        (pickle.dumps([r[:1] for r in rows]), "context 0 of pushing: expected 2 rows"),
        (pickle.dumps([[(0.4, np.nan, 0.0), (0.6, 0.0, 0.0)]] * 30), "finite"),
        (b"cos\nsystem\n(S'true'\ntR.", r"names os\.system"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            contexts.evaluation_contexts("pushing", tmp_path)
        assert "test_contexts.pkl" in str(caught.value)


@pytest.mark.parametrize(
    ("context", "message"),
    [(60, "contexts 0 to 59; got 60"), (-1, "0 to 59"), ("left", "got 'left'"), ([[1, 2]], "vectors of lengths"),
     (True, "got True"), ([[0.4, 0.1, 0.0], [9.0, 0.1, 0.0]], "within 2 m")],
)  # fmt: skip
def test_bad_contexts_are_named(context, message):
    env = AligningBatch(1, data_root="/nowhere")
    with pytest.raises(UserError, match=message):
        env.reset(contexts=[context])


# ---- batches


@every_task
def test_batch_equals_singles(task):
    """Same seeds, same actions: bitwise the same whatever the batch and the threads; the rod pushes cubes meanwhile."""
    batch, steps = BATCHES[task], 30

    def episode(env, seeds, columns):
        rng = np.random.default_rng(0)
        seen = [env.reset(seeds=seeds)]
        for _ in range(steps):
            actions = rng.normal([0.0, 0.009] + [0.0] * (env.act_dim - 2), 0.004, (3, env.act_dim))[columns]
            obs, *_, info = env.step(actions)
            seen.append(np.concatenate([obs, info["obj_pos"].reshape(len(obs), -1), info["mode"][:, None]], 1))
        return seen

    env = batch(3, num_threads=2)
    together = episode(env, [5, 6, 7], slice(None))
    env.close()
    alone = episode(batch(1), [6], slice(1, 2))
    for k, rows in enumerate(together):
        np.testing.assert_array_equal(rows[1], alone[k][0])
    assert not np.array_equal(together[0][0], together[0][1])  # seeds give different contexts


def test_geometry_of_sorting_is_where_the_cubes_are_from_the_rod():
    env = SortingBatch(2)
    obs = env.reset(seeds=[0, 1])
    for _ in range(5):
        obs, *_ = env.step(np.full((2, 2), 0.004))
    poses = env.object_pose
    seen = Relations(**SortingBatch.geometry._asdict())(torch.from_numpy(obs)).numpy()
    away = obs[:, None, 2:4] - poses[..., :2]  # (2, cubes, xy); the observed TCP is a step older than env.tcp_pos
    np.testing.assert_allclose(np.sinh(seen[:, :8]) * 0.02, away.reshape(2, 8), atol=1e-5)
    yaw = _labels.yaw(poses[..., 3:])
    np.testing.assert_allclose(seen[:, 8:], np.concatenate([np.cos(2 * yaw), np.sin(2 * yaw)], 1), atol=1e-3)


def test_recording_of_another_task_is_refused():
    env = PushingBatch(1)
    env.reset()
    with pytest.raises(UserError, match="another task"):
        env.restore(0, trace("aligning_5")[1], 0)
    with pytest.raises(UserError, match="lacks obj_pose"):
        env.restore(0, {k: v for k, v in trace("pushing_6")[1].items() if k != "obj_pose"}, 0)


# ---- demonstrators


def pairs(poses):
    """A demonstration's context as the original's own form, (x, y, yaw) and quaternion an object."""
    return [[(*pose[:2], 0.0), tuple(pose[3:])] for pose in poses.tolist()]


@every_task
def test_demonstrator_shows_every_mode(task):
    episodes = DEMOS[task].generate(seed=3, per_mode=1)
    expected = {"aligning": ["0", "1"], "pushing": list("0123"), "sorting": sorted(_labels.ORDERS.values())}[task]
    assert [e.mode for e in episodes] == expected
    batch = BATCHES[task]
    env = batch(len(episodes))
    first = env.reset(contexts=[pairs(e.context) for e in episodes])
    for i, e in enumerate(episodes):
        assert e.obs.shape == (len(e.actions), batch.obs_dim) and e.actions.shape[1] == batch.act_dim
        assert e.obs.dtype == e.actions.dtype == np.float32 and len(e.obs) < batch.max_steps
        np.testing.assert_allclose(np.diff(e.obs[:, : batch.act_dim], axis=0), e.actions[:-1], atol=1e-6)
        np.testing.assert_allclose(e.obs[0, : 2 * batch.act_dim], first[i, : 2 * batch.act_dim], atol=1e-6)
        assert np.abs(e.actions).max() <= 0.0125 + 1e-7


# ---- the original's files


def recorded(task, episode, rows):
    """A demonstration file in the original's layout, its rows made from an environment's run."""
    batch = BATCHES[task]
    env = batch(1)
    env.reset(contexts=[0])
    names = {
        "aligning": ("push-box", "target-box"), "pushing": ("red-box", "green-box"),
        "sorting": ("red-box1", "red-box2", "blue-box1", "blue-box2"),
    }[task]  # fmt: skip
    columns = {"des_c_pos": [], "c_pos": []}
    objects = {name: {"pos": [], "quat": []} for name in names}
    seen, rng = [], np.random.default_rng(episode)
    for _ in range(rows):
        before = env.tcp_pos[0].copy(), env.object_pose[0].copy()
        seen.append(env.step(rng.normal(0.0, 0.004, (1, batch.act_dim)))[0][0])
        columns["des_c_pos"].append(env.setpoint[0, :3].copy())
        columns["c_pos"].append(before[0])
        for name, pose in zip(names, before[1], strict=True):
            objects[name]["pos"].append(pose[:3])
            objects[name]["quat"].append(pose[3:])
    stacked = {key: np.array(value) for key, value in columns.items()}
    file = {"context": None, "robot": {**stacked, "j_pos": np.zeros((rows, 7))}}
    file |= {name: {key: np.array(value) for key, value in parts.items()} for name, parts in objects.items()}
    return file, np.array(seen)


@pytest.fixture
def no_data_root(monkeypatch):
    monkeypatch.delenv("VDD_DATA_ROOT", raising=False)


@every_task
def test_files_of_the_original_give_the_environments_observations(task, tmp_path, no_data_root):
    folder = tmp_path / "d3il" / datasets.OFFICIAL[task].folder
    folder.mkdir(parents=True)
    file, seen = recorded(task, 0, 12)
    for i in range(3):
        (folder / f"env_{i:03d}_00.pkl").write_bytes(pickle.dumps(file))
    demos = datasets.load_demonstrations(task, tmp_path)
    assert len(demos.episodes) == 3 and demos.source == "official"
    episode = demos.episodes[0]
    np.testing.assert_allclose(episode.obs, seen[:-1], atol=1e-6)
    width = BATCHES[task].act_dim
    np.testing.assert_allclose(episode.actions, np.diff(seen[:, :width], axis=0), atol=1e-6)
    assert episode.mode == {"aligning": "1", "pushing": "", "sorting": ""}[task]

    listed = tmp_path / "d3il" / datasets.OFFICIAL[task].lists[0]
    listed.write_bytes(pickle.dumps(["env_000_00.pkl", "env_002_00.pkl"]))
    assert len(datasets.load_demonstrations(task, tmp_path).episodes) == 2
    listed.write_bytes(pickle.dumps(["env_000_00.pkl", "env_777_00.pkl"]))
    with pytest.raises(UserError, match=r"1 of the 2 files .* missing, e.g. 'env_777_00.pkl'"):
        datasets.load_demonstrations(task, tmp_path)


def broken(change):
    file, _ = recorded("pushing", 0, 5)
    change(file)
    return file


BAD_FILES = {
    "no object": (lambda f: f.pop("green-box"), "a dict with a dict 'green-box'"),
    "short object": (lambda f: f["red-box"].update(pos=np.zeros((4, 3))), "5 rows and red-box.pos 4"),
    "no quaternion": (
        lambda f: f["red-box"].update(quat=np.zeros((5, 4))),
        "red-box.quat is no unit quaternion in row 0",
    ),
    "nan": (lambda f: f["red-box"]["pos"].__setitem__((2, 1), np.nan), "red-box.pos is NaN or infinite in row 2"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_object_columns_are_named(kind, tmp_path, no_data_root):
    change, message = BAD_FILES[kind]
    folder = tmp_path / datasets.OFFICIAL["pushing"].folder
    folder.mkdir(parents=True)
    (folder / "env_000_00.pkl").write_bytes(pickle.dumps(broken(change)))
    with pytest.raises(UserError, match=message) as caught:
        datasets.load_demonstrations("pushing", tmp_path)
    assert "env_000_00.pkl" in str(caught.value)
