"""Kitchen: its own batch, forced tasks, its scene against the unchanged one, the expert, and the published files."""

import mujoco
import numpy as np
import pytest
import torch

from envs import _kitchen_scene, datasets
from envs._kitchen_tasks import ELEMENTS, LETTERS, TASKS, completed, mode_of
from envs.demonstrators import kitchen as expert
from envs.demonstrators._kitchen_arm import TIP
from envs.kitchen import HANDLES, HIGH, LOW, SITES, START, KitchenBatch, default_goal
from harness.errors import UserError
from methods.relations import Relations


def finished(*tasks):
    """Positions with the elements of these tasks at their goals."""
    qpos = START.copy()
    for task in tasks:
        places, values = ELEMENTS[task]
        qpos[list(places)] = values
    return qpos


def wander(steps, n, seed=0):
    """Smooth random actions (steps, n, 9)."""
    actions = np.random.default_rng(seed).normal(0.0, 0.3, (steps, n, 9))
    for k in range(1, steps):
        actions[k] += 0.9 * actions[k - 1]
    return np.clip(actions, -1.0, 1.0)


def test_batch_equals_singles_and_threads_do_not_matter():
    steps, n, seeds = 12, 3, [5, 9, 2]
    actions = wander(steps, n)

    def episode(env, columns):
        seen = [env.reset(seeds=[seeds[c] for c in columns])]
        for a in actions:
            obs, reward, *_, info = env.step(a[columns])
            seen.append(
                np.concatenate([obs, info["tcp_pos"], info["obj_pos"].reshape(len(obs), -1), reward[:, None]], 1)
            )
        return seen

    together = episode(KitchenBatch(n), [0, 1, 2])
    threaded_env = KitchenBatch(n, num_threads=2)
    threaded = episode(threaded_env, [0, 1, 2])
    again = episode(threaded_env, [0, 1, 2])
    threaded_env.close()
    for a, b, c in zip(together, threaded, again, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    for i in range(n):
        for row, alone in zip(together, episode(KitchenBatch(1), [i]), strict=True):
            np.testing.assert_array_equal(row[i], alone[0])


def test_noise_is_that_of_the_original():
    env = KitchenBatch(64)
    spread = np.abs(env.reset(seeds=range(64)) - START).max(0)
    amplitude = np.r_[
        [0.01] * 9, [0.0005] * 2, [0.00005] * 6, [0.0005] * 3, [0.01] * 3, [0.0005] * 3, [0.01] * 3, 0.0005
    ]
    assert (spread <= amplitude + 1e-6).all() and (spread > 0.85 * amplitude).all()
    assert (KitchenBatch(1, noise=0.0).reset()[0] == START.astype(np.float32)).all()


@pytest.mark.parametrize("task", TASKS)
def test_forced_completion(task):
    """A task is rewarded once, whether or not the goal asks for it."""
    env = KitchenBatch(2)
    row = finished(task).astype(np.float32)
    other = finished(*(t for t in TASKS if t != task)).astype(np.float32)
    env.reset(seeds=[1, 2], goals=np.stack([[row, row], [other, other]]))
    assert env.wanted.sum(1).tolist() == [1, 6]
    for i in range(2):
        env.set_state(i, finished(task))
    _, reward, terminated, _, info = env.step(np.zeros((2, 9)))
    assert reward.tolist() == [1.0, 1.0] and not terminated.any()
    assert info["mode"].tolist() == [LETTERS[TASKS.index(task)]] * 2
    assert info["success"].tolist() == [True, False] and info["goal_return"].tolist() == [1.0, 0.0]
    assert env.step(np.zeros((2, 9)))[1].tolist() == [0.0, 0.0]


def test_all_seven_end_the_episode():
    env = KitchenBatch(1)
    env.reset()
    assert env.wanted[0].sum() == 4 and np.array_equal(env.goal[0], default_goal())
    env.set_state(0, finished(*TASKS))
    _, reward, terminated, truncated, info = env.step(np.zeros((1, 9)))
    assert reward[0] == 7.0 and terminated[0] and not truncated[0] and info["goal_return"][0] == 4.0
    assert str(info["mode"][0]) == LETTERS
    assert env.step(np.zeros((1, 9)))[1][0] == 0.0  # an ended one is not stepped


def test_episode_has_279_actions():
    assert KitchenBatch.max_steps == 279
    env = KitchenBatch(1, max_steps=2)
    env.reset()
    assert not env.step(np.zeros((1, 9)))[3][0] and env.step(np.zeros((1, 9)))[3][0]


def test_geometry_is_where_the_fingertips_are_from_what_they_touch():
    """The arm's chain against the simulation's, anywhere in the joints' range; the handles where the scene has them."""
    env = KitchenBatch(1, noise=0.0)
    env.reset(seeds=[0])
    data, relations = env.sims.data[0], Relations(**env.geometry._asdict())
    np.testing.assert_allclose([data.site(name).xpos for name in SITES[:6]], HANDLES, atol=1e-3)
    low, high = env.sims.model.jnt_range[:7].T
    for share in np.random.default_rng(0).random((20, 7)):
        data.qpos[:7] = low + share * (high - low)
        mujoco.mj_kinematics(env.sims.model, data)
        seen = relations(torch.from_numpy(data.qpos[None].copy())).numpy()[0]
        assert seen.shape == (relations.width,) == (29,)
        axis = data.site("tcp").xmat.reshape(3, 3)[:, 2]
        tips = data.site("tcp").xpos + TIP * axis
        np.testing.assert_allclose(seen[3:6], tips, atol=1e-3)
        np.testing.assert_allclose(seen[8:11], axis, atol=2e-3)
        np.testing.assert_allclose(np.sinh(seen[:3]) * 0.05, tips - data.qpos[23:26], atol=1e-3)
        np.testing.assert_allclose(np.sinh(seen[11:]).reshape(6, 3) * 0.05, tips - np.array(HANDLES), atol=2e-3)


def test_bad_goals_and_contexts():
    env = KitchenBatch(2)
    with pytest.raises(UserError, match=r"goals must have shape \(n, 2, 30\), got \(2, 30\)"):
        env.reset(goals=np.zeros((2, 30)))
    with pytest.raises(UserError, match="goals must be finite"):
        env.reset(goals=np.full((2, 2, 30), np.nan))
    with pytest.raises(UserError, match="single context"):
        env.reset(contexts=[0, 1])


def test_restore_continues():
    actions = wander(8, 1)
    env = KitchenBatch(1, noise=0.0)
    rows = {"actions": actions[:, 0], "qpos": [START], "qvel": [np.zeros(29)], "obs": [env.reset()[0]],
            "success": np.zeros(8, bool), "mode": np.full(8, "")}  # fmt: skip
    for a in actions:
        rows["obs"].append(env.step(a)[0][0])
        rows["qpos"].append(env.sims.data[0].qpos.copy())
        rows["qvel"].append(env.sims.data[0].qvel.copy())
    rec = {key: np.asarray(value) for key, value in rows.items()}
    again = KitchenBatch(1, noise=0.0)
    again.restore(0, rec, 4)
    for k in range(4, 8):
        obs = again.step(actions[k])[0]
    np.testing.assert_allclose(obs[0], rec["obs"][-1], atol=1e-5)
    with pytest.raises(UserError, match="it has rows 0 to 8"):
        again.restore(0, rec, 9)


def test_scene_moves_as_the_unchanged_one():
    """Without what is left out (see `envs._kitchen_scene`) positions stay within 1e-6 as long as nothing is touched."""
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (25, 1, 9))
    env = KitchenBatch(1, noise=0.0)
    env.reset()
    model = _kitchen_scene.full_spec().compile()
    data = mujoco.MjData(model)
    data.qpos[:] = START
    mujoco.mj_forward(model, data)
    for a in actions:
        env.step(a)
        data.ctrl[:] = np.clip(data.qpos[:9] + a[0] * 0.16, LOW, HIGH)
        mujoco.mj_step(model, data, 40)
        assert np.abs(env.sims.data[0].qpos - data.qpos).max() < 1e-6


def test_what_is_left_out_cannot_be_reached():
    """No link comes farther than its `REACH`, and links `APART` keep more than their contact margin of distance."""
    model = _kitchen_scene.full_spec().compile()
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    low, high = model.jnt_range[:9].T
    hulls = {}
    for link in _kitchen_scene.REACH:
        body = model.body(f"panda0_{link}").id
        hulls[link] = [g for g in range(model.ngeom) if model.geom_bodyid[g] == body and model.geom_contype[g]]
    apart = [pair for pair in _kitchen_scene.APART if "link0" not in pair and "finger" not in pair[1]]
    for n in range(400):
        share = rng.uniform(size=9)
        data.qpos[:9] = low + (share if n % 2 else np.round(share)) * (high - low)
        mujoco.mj_kinematics(model, data)
        for link, geoms in hulls.items():
            for g in geoms:
                box = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T * model.geom_aabb[g, 3:]
                if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_MESH.value:
                    mesh = model.geom_dataid[g]
                    first = model.mesh_vertadr[mesh]
                    box = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
                points = data.geom_xpos[g] + box @ data.geom_xmat[g].reshape(3, 3).T
                distance = np.linalg.norm(points - _kitchen_scene.SHOULDER, axis=1).max()
                assert distance < _kitchen_scene.REACH[link], link
        for a, b in apart if n < 100 else ():
            gap = mujoco.mj_geomDistance(model, data, hulls[a][0], hulls[b][0], 1.0, None)
            assert gap > 0.0, (a, b)


def test_expert_does_every_task_and_its_actions_replay():
    """Most attempts succeed; a kept one replays from its noise's seed, observation by observation."""
    wanted = ["mkbl", "tbsl", "btlh", "kbls"]
    assert set("".join(wanted)) == set(LETTERS)
    attempts: list = []
    found = []
    for attempt in range(3):
        for mode, (episode, shown) in zip(
            wanted, expert._attempt([(mode, 0, attempt) for mode in wanted], 0), strict=True
        ):
            attempts.append(mode == shown)
            if episode is not None:
                found.append(episode)
        if {e.mode for e in found} == set(wanted):
            break
    assert {e.mode for e in found} == set(wanted) and np.mean(attempts) > 0.5
    for episode in found:
        assert episode.obs.shape == (len(episode.actions), 30) and len(episode.obs) <= 279
        assert np.abs(episode.actions).max() <= 1.0 and mode_of(episode.obs) == episode.mode
        assert completed(episode.obs[-1]).sum() == 4
    episode = found[0]
    env = KitchenBatch(1)
    goal = episode.obs[-2:]
    obs = env.reset(seeds=[int(episode.context[0])], goals=goal[None])
    for row, action in zip(episode.obs, episode.actions, strict=True):
        np.testing.assert_array_equal(obs[0], row)
        obs, *_, info = env.step(action[None])
    assert info["success"][0] and info["goal_return"][0] == 4.0 and str(info["mode"][0]) == episode.mode


def test_sequences():
    assert len(set(expert.SEQUENCES)) >= 24 and set("".join(expert.SEQUENCES)) == set(LETTERS)
    assert all(len(set(s)) == 4 for s in expert.SEQUENCES)


# ---- published files -------------------------------------------------------------------------------------------------
def published(folder, lengths=(4, 6, 3), **changed):
    """Small files in the published layout: (T, N, D), the observations' last 30 numbers the goal."""
    longest, n = max(lengths), len(lengths)
    mask = np.zeros((longest, n))
    obs, actions = np.zeros((longest, n, 60)), np.zeros((longest, n, 9))
    for e, length in enumerate(lengths):
        mask[:length, e] = 1
        obs[:length, e, :30] = START
        for row, task in enumerate(TASKS[e : e + length - 1]):
            places, values = ELEMENTS[task]
            obs[row + 1 : length, e, list(places)] = values
        actions[:length, e] = e + 1
    arrays = {"observations_seq": obs, "actions_seq": actions, "existence_mask": mask, **changed}
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize("folder", ["kitchen", "relay_kitchen", "cbet_datasets/relay_kitchen"])
def test_published_files(tmp_path, folder):
    published(tmp_path / folder)
    demos = datasets.load_demonstrations("kitchen", tmp_path)
    assert [len(e.obs) for e in demos.episodes] == [4, 6, 3] and demos.source == "official"
    assert [e.mode for e in demos.episodes] == ["btl", "tlshm", "ls"]
    assert demos.episodes[1].obs.shape == (6, 30) and (demos.episodes[1].actions == 2).all()
    assert datasets.identify("kitchen", tmp_path) == ("official", demos.identity)


def test_files_at_fault_are_named(tmp_path):
    def says(root, text):
        with pytest.raises(UserError, match=text):
            datasets.load_demonstrations("kitchen", tmp_path / root)

    (tmp_path / "empty").mkdir()
    says("empty", "nothing for task 'kitchen'; expected observations_seq.npy")
    published(tmp_path / "a" / "kitchen")
    (tmp_path / "a" / "kitchen" / "existence_mask.npy").unlink()
    says("a", "existence_mask.npy: No such file")
    published(tmp_path / "b" / "kitchen", actions_seq=np.zeros((6, 3, 8)))
    says("b", r"actions_seq.npy: expected shape \(T, N, 9\), found \(6, 3, 8\)")
    published(tmp_path / "c" / "kitchen", existence_mask=np.ones((6, 2)))
    says("c", "existence_mask.npy: .*observations_seq.npy has")
    published(tmp_path / "d" / "kitchen", existence_mask=np.array([[0], [1], [1], [0], [0], [0]]) * np.ones((6, 3)))
    says("d", "existence_mask.npy: episode 0 must have at least two rows")
    published(tmp_path / "e" / "kitchen", observations_seq=np.full((6, 3, 60), np.nan))
    says("e", "observations_seq.npy: episode 0 holds NaN")
    published(tmp_path / "f" / "kitchen", actions_seq=np.array([{"a": 1}], object))
    says("f", "actions_seq.npy: not a readable array file")
    published(tmp_path / "g" / "kitchen")
    path = tmp_path / "g" / "kitchen" / "actions_seq.npy"
    path.write_bytes(path.read_bytes()[:200])
    says("g", "actions_seq.npy: not a readable array file")
