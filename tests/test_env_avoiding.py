"""Avoiding against recordings of the original, its own batch, and forced outcomes."""

import os
from pathlib import Path

import numpy as np
import pytest

from envs import _control, safe_pickle
from envs import avoiding as avoiding_module
from envs.avoiding import MODES, OBSTACLES, START_QPOS, AvoidingBatch, update_mode
from harness.errors import UserError

TRACES = Path(__file__).parent / "data" / "traces"
NAMES = sorted(p.stem for p in TRACES.glob("avoiding_*.npz"))
DOWN = (0.0, 1.0, 0.0, 0.0)  # tool orientation, quaternion wxyz


def trace(name):
    return dict(np.load(TRACES / f"{name}.npz"))


def random_actions(steps, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal([0.0, 0.006], [0.006, 0.003], (steps, n, 2))


@pytest.mark.parametrize("name", NAMES)
def test_recording_replays(name):
    """Success, mode, end and observation at every step; TCP within 0.02 mm."""
    rec = trace(name)
    env = AvoidingBatch(1)
    env.reset()
    np.testing.assert_allclose(env.tcp_pos[0], rec["tcp_pos"][0], atol=1e-12)
    for k, setpoint in enumerate(rec["actions"]):
        obs, _, terminated, truncated, info = env.step_absolute(setpoint[None])
        assert np.linalg.norm(info["tcp_pos"][0] - rec["tcp_pos"][k + 1]) < 2e-5
        np.testing.assert_allclose(obs[0], np.r_[setpoint[:2], rec["obs"][k + 1]], atol=1e-5)
        assert info["success"][0] == rec["success"][k]
        np.testing.assert_array_equal(info["mode"][0], rec["mode"][k])
        assert (terminated | truncated)[0] == rec["done"][k]


@pytest.mark.parametrize("name", NAMES)
def test_restore_then_continue(name):
    """From any row the recording goes on: same outcome, TCP within 0.05 mm."""
    rec = trace(name)
    steps = len(rec["actions"])
    rows = [0, 1, steps // 4, steps // 2, steps - 2]
    env = AvoidingBatch(len(rows))
    env.reset()
    for i, k in enumerate(rows):
        obs = env.restore(i, rec if i % 2 else TRACES / f"{name}.npz", k)
        np.testing.assert_allclose(env.tcp_pos[i], rec["tcp_pos"][k], atol=1e-9)
        np.testing.assert_allclose(obs[2:], rec["obs"][k], atol=1e-6)
    for offset in range(steps):
        at = [min(k + offset, steps - 1) for k in rows]
        running = env.active.copy()
        info = env.step_absolute(rec["actions"][at])[4]
        for i in np.flatnonzero(running & (np.array(rows) + offset < steps)):
            assert np.linalg.norm(info["tcp_pos"][i] - rec["tcp_pos"][at[i] + 1]) < 5e-5
            assert info["success"][i] == rec["success"][at[i]]
            np.testing.assert_array_equal(info["mode"][i], rec["mode"][at[i]])


@pytest.fixture(scope="module")
def humans():
    """Desired and actual positions (L, 3) m of the 96 human demonstrations."""
    root = os.environ.get("VDD_DATA_ROOT")
    if not root:
        pytest.skip("the human demonstrations are not here: set VDD_DATA_ROOT")
    folders = [Path(root) / "d3il/avoiding/data", Path(root) / "avoiding/data"]
    files = sorted(p for folder in folders for p in folder.glob("*.pkl"))
    if not files:
        pytest.skip(f"no avoiding/data/*.pkl under VDD_DATA_ROOT={root}")
    robots = [safe_pickle.loads(safe_pickle.read_bytes(p), str(p))["robot"] for p in files]
    return [(np.asarray(r["des_c_pos"]), np.asarray(r["c_pos"])) for r in robots]


def replay(env, demos):
    """Feeds the set-points; largest distances (m) per demonstration: TCP from the recorded one, and observation."""
    n = len(demos)
    tcp_error, obs_error = np.zeros(n), np.zeros(n)
    lengths = np.array([len(desired) for desired, _ in demos])
    position, rotation, jacobian = np.zeros(3), np.zeros((3, 3)), np.zeros((6, 7))
    for k in range(lengths.max()):
        for i in np.flatnonzero(env.active & (k < lengths)):
            _control.forward(env.sims.data[i].qpos[:7].copy(), rotation, jacobian, position)
            tcp_error[i] = max(tcp_error[i], np.linalg.norm(position - demos[i][1][k]))
        running = env.active.copy()
        setpoints = np.array([[*d[min(k, len(d) - 1)], *DOWN] for d, _ in demos])
        obs = env.step_absolute(setpoints)[0]
        for i in np.flatnonzero(running & (k < lengths)):
            np.testing.assert_allclose(obs[i, :2], demos[i][0][k, :2], atol=1e-6)
            obs_error[i] = max(obs_error[i], np.abs(obs[i, 2:] - demos[i][1][k, :2]).max())
    return tcp_error, obs_error


def test_human_setpoints_succeed_on_all_routes(humans):
    env = AvoidingBatch(len(humans))
    env.reset()
    tcp_error, obs_error = replay(env, humans)
    assert env.success.all()
    modes = [env.mode_name(m) for m in env.mode]
    assert set(modes) == set(MODES)
    for (_, actual), mode in zip(humans, modes, strict=True):
        expected = np.zeros((1, 9))
        for position in actual:
            update_mode(expected, position[None])
        assert mode == env.mode_name(expected[0])
    # Three humans grazed cylinders that were 5 mm thicker when they were recorded (see the next test).
    assert np.sum(tcp_error < 2e-4) == 93
    assert np.sum(obs_error < 1e-3) == 93  # the recorded position is 1 ms newer than the one that the original observes


def test_human_recordings_had_thicker_cylinders(humans, monkeypatch):
    """With radius 0.03 m in all rows every recording is met to 0.2 mm, the three grazing ones included."""
    thick = tuple((name, x, y, 0.03, half) for name, x, y, _, half in OBSTACLES)
    monkeypatch.setattr(avoiding_module, "OBSTACLES", thick)

    class Recorded(AvoidingBatch):
        """As recorded: grazing a cylinder did not end the run."""

        def _finish(self, ids):
            super()._finish(ids)
            return self.success[ids]

    env = Recorded(len(humans))
    assert env.sims.model.geom("l3_mid_obs").size[0] == 0.03
    env.reset()
    tcp_error, _ = replay(env, humans)
    assert env.success.all()
    assert tcp_error.max() < 2e-4


def test_batch_equals_singles_and_threads_do_not_matter():
    steps, n = 40, 5
    actions = random_actions(steps, n)

    def episode(env, columns):
        seen = [env.reset()]
        for a in actions:
            obs, reward, terminated, truncated, info = env.step(a[columns])
            seen.append(np.concatenate([obs, info["tcp_pos"], info["mode"], np.c_[reward, terminated, truncated]], 1))
        return seen

    together = episode(AvoidingBatch(n), slice(None))
    threaded_env = AvoidingBatch(n, num_threads=2)
    threaded, again = episode(threaded_env, slice(None)), episode(threaded_env, slice(None))
    threaded_env.close()
    for k, rows in enumerate(together):
        np.testing.assert_array_equal(rows, threaded[k])
        np.testing.assert_array_equal(rows, again[k])
    for i in range(n):
        for k, rows in enumerate(episode(AvoidingBatch(1), slice(i, i + 1))):
            np.testing.assert_array_equal(rows[0], together[k][i])


def test_ended_simulations_keep_their_last_values():
    env = AvoidingBatch(2)
    env.reset()
    for _ in range(60):
        result = env.step(np.array([[-0.0043, 0.0125], [0.0, 0.002]]))
        if not env.active[0]:
            break
    assert result[2].tolist() == [True, False]  # the first hit the second row
    after = env.step(np.array([[np.nan, np.nan], [0.0, 0.002]]))  # what an ended one is told is not looked at
    np.testing.assert_array_equal(after[0][0], result[0][0])
    assert after[2][0] and env.count.tolist() == [env.count[1] - 1, env.count[1]]


def test_step_limit():
    env = AvoidingBatch(1, max_steps=3)
    env.reset()
    ends = [env.step(np.zeros((1, 2)))[3][0] for _ in range(3)]
    assert ends == [False, False, True] and not env.active[0]


PASSAGES = (((0.43, 0.57), -0.1), ((0.35, 0.5, 0.65), 0.08), ((0.28, 0.425, 0.575, 0.72), 0.26))


def route(mode):
    """The four (x, y) m that lead along a route and over the line."""
    bits = (mode[:2], mode[2:5], mode[5:])
    points = [(xs[b.index("1")], y) for b, (xs, y) in zip(bits, PASSAGES, strict=True)]
    return [*points, (points[-1][0], 0.36)]


def test_mode_function_on_all_routes():
    for mode in MODES:
        bits = np.zeros((1, 9))
        for n, (x, y) in enumerate(route(mode)):
            assert AvoidingBatch.mode_name(bits[0]) == ("" if n < 3 else mode)
            update_mode(bits, np.array([[x, y, 0.12]]))
            update_mode(bits, np.array([[1.0 - x, y, 0.12]]))  # a row that has been judged does not change
        assert AvoidingBatch.mode_name(bits[0]) == mode
    assert len(set(MODES)) == 24


def test_exactly_on_the_edge_is_unset():
    bits = np.zeros((3, 9))
    update_mode(bits, np.array([[0.5, -0.1, 0], [0.425, 0.08, 0], [0.35, 0.26, 0]]))
    assert not bits.any()
    update_mode(bits, np.array([[0.4, -0.131, 0], [0.4, 0.111, 0], [0.3, 0.259, 0]]))  # outside the rows
    assert not bits.any()


def test_robot_placed_along_every_route_succeeds_in_its_mode():
    env = AvoidingBatch(len(MODES))
    env.reset()
    work, mode = np.zeros((26, 7)), np.zeros((len(MODES), 9))
    for stage in range(4):
        setpoints = np.array([[*route(m)[stage], 0.12236, *DOWN] for m in MODES])
        for i, setpoint in enumerate(setpoints):
            q = START_QPOS.copy()
            for _ in range(1500):
                _control.inverse_kinematics(q[:7], setpoint, work)
            recording = {
                "actions": setpoint[None], "qpos": np.array([q, q]), "qvel": np.zeros((2, 9)),
                "tcp_pos": np.array([setpoint[:3]] * 2), "ctrl_des_q": np.array([q[:7]] * 2),
                "ctrl_des_qd": np.zeros((2, 7)), "success": np.array([False]), "mode": mode[i][None],
            }  # fmt: skip
            env.restore(i, recording, 1)
            assert np.linalg.norm(env.tcp_pos[i, :2] - setpoint[:2]) < 5e-3  # the posture pulls a little
        _, reward, terminated, _, info = env.step_absolute(setpoints)
        mode = info["mode"]
        assert terminated.tolist() == info["success"].tolist() == [stage == 3] * len(MODES)
        assert reward.tolist() == [float(stage == 3)] * len(MODES)
    assert [env.mode_name(m) for m in mode] == list(MODES)


BAD = {
    "width": (lambda e: e.step(np.zeros((2, 3))), r"shape \(2, 2\), got \(2, 3\)"),
    "count": (lambda e: e.step(np.zeros((1, 2))), r"shape \(2, 2\), got \(1, 2\)"),
    "nan": (lambda e: e.step(np.array([[0, 0], [0, np.nan]])), "environment 1"),
    "setpoint": (lambda e: e.step_absolute(np.zeros((2, 3))), r"shape \(2, 7\)"),
    "context": (lambda e: e.reset(contexts=[0, 7]), "single context, 0 .* got 7"),
    "contexts": (lambda e: e.reset(contexts=[0]), "as many contexts, got 1"),
    "seeds": (lambda e: e.reset(seeds=[1, 2, 3]), "as many seeds, got 3"),
    "row": (lambda e: e.restore(0, trace("avoiding_5"), 20), "no row 20 .* 0 to 19"),
    "environment": (lambda e: e.restore(2, trace("avoiding_5"), 0), "no environment 2"),
    "file": (lambda e: e.restore(0, "nowhere.npz", 0), "no recording at nowhere.npz"),
    "keys": (lambda e: e.restore(0, {"qpos": np.zeros((1, 9))}, 0), "lacks actions"),
    "before reset": (lambda e: AvoidingBatch(1).step(np.zeros((1, 2))), "before reset"),
    "envs": (lambda e: AvoidingBatch(0), "positive integer, got 0"),
    "threads": (lambda e: AvoidingBatch(1, num_threads=0), "positive integer, got 0"),
    "limit": (lambda e: AvoidingBatch(1, max_steps=-1), "positive integer, got -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    env = AvoidingBatch(2)
    env.reset()
    call, message = BAD[case]
    with pytest.raises(UserError, match=message):
        call(env)
