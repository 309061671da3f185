"""The back end `official`: its processes and messages with a stand-in for the original, and the original where it is."""

import ast
import io
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from standins import call, make_demonstrations, verb

from envs import _official_process as process
from envs import _official_worker as protocol
from envs.official import CLASSES, OfficialPushing
from harness import backends, compare_backends, record
from harness.errors import UserError
from harness.shipped import TEACHERS

TRACES = Path(__file__).parent / "data" / "traces"

# ---- messages --------------------------------------------------------------------------------------------------------


def test_messages_keep_every_bit():
    numbers = np.array([[0.1, -0.0, np.nan], [np.inf, 1e-308, -1e300]])
    data = protocol.pack({"do": "step", "text": "ü"}, {"a": numbers, "none": np.zeros((0, 7)), "one": 3.5})
    content, arrays = protocol.receive(io.BytesIO(data))
    assert content == {"do": "step", "text": "ü"}
    assert arrays["a"].tobytes() == numbers.tobytes() and arrays["none"].shape == (0, 7) and arrays["one"] == 3.5


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is no message",
        protocol.HEAD.pack(protocol.MAGIC, 1 << 30, 0),
        protocol.HEAD.pack(protocol.MAGIC, 2, 0) + b"[]",
        protocol.HEAD.pack(protocol.MAGIC, 2, 0) + b"{}",
        protocol.HEAD.pack(protocol.MAGIC, 23, 0) + b'{"arrays": [["a", [2]]]',
        protocol.HEAD.pack(protocol.MAGIC, 24, 1) + b'{"arrays": [["a", [2]]]}' + bytes(8),  # cut off
        protocol.HEAD.pack(protocol.MAGIC, 14, 1) + b'{"arrays": []}' + bytes(8),  # more than said
        protocol.HEAD.pack(protocol.MAGIC, 25, 1) + b'{"arrays": [["a", [-1]]]}' + bytes(8),
    ],
)
def test_malformed_messages_are_value_errors(data):
    with pytest.raises(ValueError):
        protocol.receive(io.BytesIO(data))


def test_end_of_messages():
    assert protocol.receive(io.BytesIO(b"")) is None


def test_the_worker_reads_as_python_38():
    tree = ast.parse(Path(protocol.__file__).read_text(), feature_version=(3, 8))
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy"}  # nothing of this project


# ---- a stand-in for the original -------------------------------------------------------------------------------------
# It has the original's interface, not its physics: the tool jumps to the set-point, a cube is carried along by it.
STAND_IN = """
import os, sys, time
import numpy as np
import pybullet  # absent, and never used
from environments.d3il.d3il_sim.utils import sim_path

print("the original prints", flush=True)

class Named:
    def __init__(self, name): self.name = name

class Robot:
    _mj_robot_id = 0
    def __init__(self, env): self.env = env
    def receiveState(self): self.current_c_pos = self.env.tool.copy()

class Scene:
    def __init__(self, env):
        self.env, self.data = env, self
        self.qpos, self.qvel = np.zeros(env.nq), np.zeros(env.nv)
    def get_obj_pos(self, thing): return self.env.pose[thing.name][:3].copy()
    def get_obj_quat(self, thing): return self.env.pose[thing.name][3:].copy()
    def body(self, name):
        found = Named(name); found.xpos = self.env.pose[name][:3].copy(); return found

class Task:
    def __init__(self, render, max_steps_per_episode):
        assert render is False
        self.limit, self.env_step_counter, self.terminated = max_steps_per_episode, 0, False
        path = sim_path.d3il_path("./models/mj/robot/panda_tmp_rb0_1.xml")
        open(path, "w").write("x")
        assert "models" not in path and open(sim_path.d3il_path("./models/kept.xml")).read() == "kept"
        open(os.environ["STARTED"], "a").write("%d\\n" % os.getpid())
        self.tool = np.zeros(3); self.pose = {}
        self.push_box1, self.push_box2 = Named("one"), Named("two")
        self.robot, self.scene = Robot(self), Scene(self)
    def start(self): pass
    def reset(self, random, context):
        assert random is False
        self.env_step_counter, self.terminated = 0, False
        self.tool = np.array([0.5, -0.3, 0.12])
        one, q1, two, q2 = context
        self.pose = {"one": np.array([*one, *q1]), "two": np.array([*two, *q2])}
        return self.observe()
    def observe(self):
        return np.array([*self.tool[:2], *self.pose["one"][:2], 0.0, *self.pose["two"][:2], 0.0], np.float32)
    def _check_early_termination(self):
        if self.pose["one"][1] > 0.3 and os.environ.get("MISBEHAVE") != "never":
            self.terminated = True
        return self.terminated
    def step(self, setpoint):
        how = os.environ.get("MISBEHAVE", "")
        if how == "die": sys.stderr.write("segmentation of the stand-in"); sys.stderr.flush(); os._exit(9)
        if how == "hang": sys.stderr.write("thinking"); sys.stderr.flush(); time.sleep(600)
        if how == "raise": raise FloatingPointError("no such pose")
        obs = self.observe()
        done = bool(self.terminated or self._check_early_termination() or self.env_step_counter >= self.limit - 1)
        done = done and how != "endless"
        moved = setpoint[:3] - self.tool
        self.pose["one"][:2] += moved[:2]
        self.tool = setpoint[:3].copy()
        self.env_step_counter += 1
        success = self._check_early_termination()
        return obs, 0.0, done, self.outcome(success)

class Block_Push_Env(Task):
    nq, nv = 23, 21
    def outcome(self, success): return {"mode": 2 if success else -1, "success": success}

class ObstacleAvoidanceEnv(Task):
    nq, nv = 9, 9
    def reset(self):
        return Task.reset(self, False, [[0.5, -0.3, 0.12], [1, 0, 0, 0]] * 2)
    def observe(self): return self.tool[:2].astype(np.float32)
    def outcome(self, success): return np.eye(9)[0] + np.eye(9)[3] + np.eye(9)[7], success
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A checkout with Pushing and Avoiding, and this interpreter for it. Returns the installation."""
    root = tmp_path / "checkout"
    base = root / "environments" / "d3il"
    for folder in ("d3il_sim/utils", "models"):
        (base / folder).mkdir(parents=True)
    for folder in (".", "d3il_sim", "d3il_sim/utils"):
        (base / folder / "__init__.py").touch()
    (base / "models" / "kept.xml").write_text("kept")
    (base / "d3il_sim" / "utils" / "sim_path.py").write_text(
        f"import os\ndef d3il_path(*a): return os.path.abspath(os.path.join({str(base)!r}, *a))\n"
    )
    for task in ("pushing", "avoiding"):
        module = base / f"envs/gym_{task}_env/gym_{task}/envs/{task}.py"
        module.parent.mkdir(parents=True)
        module.write_text(STAND_IN)
    monkeypatch.setenv("STARTED", str(tmp_path / "started.txt"))
    monkeypatch.setenv(process.PYTHON, sys.executable)
    monkeypatch.setenv(process.CHECKOUT, str(root))
    process.end_all()
    yield process.find_installation()
    process.end_all()


def started(tmp_path):
    return (tmp_path / "started.txt").read_text().split()


def test_a_batch_of_processes(stand_in, tmp_path):
    env = OfficialPushing(3, num_threads=2)
    obs = env.reset(contexts=[0, 1, 2])
    own = CLASSES_REVERSED[OfficialPushing](3)
    own.reset(contexts=[0, 1, 2])
    assert obs.shape == (3, 10) and obs.dtype == np.float32
    np.testing.assert_array_equal(env.context, own.context)
    np.testing.assert_allclose(obs[:, :2], [[0.5, -0.3]] * 3, atol=1e-7)
    np.testing.assert_allclose(obs[:, 4:6], own.context[:, 0, :2], atol=1e-7)
    before = obs.copy()
    obs, reward, terminated, truncated, info = env.step(np.tile([0.0, 0.01], (3, 1)))
    np.testing.assert_allclose(obs[:, 1], -0.29, atol=1e-6)  # the new set-point, with
    np.testing.assert_array_equal(obs[:, 2:], before[:, 2:])  # the state before the motion
    np.testing.assert_allclose(info["tcp_pos"][:, 1], -0.29)  # the state after it
    np.testing.assert_allclose(info["obj_pos"][:, 0, 1], own.context[:, 0, 1] + 0.01)
    np.testing.assert_allclose(env.object_pose[:, 0, 1], own.context[:, 0, 1] + 0.01)
    assert not (terminated | truncated | info["success"]).any() and (info["mode"] == -1).all() and not reward.any()
    setpoint = env.setpoint.copy()
    setpoint[:2, 1] += 0.6
    _, reward, terminated, _, info = env.step_absolute(setpoint)  # reached by this step, noticed by the next one
    assert reward.tolist() == [1, 1, 0] and not terminated.any() and info["mode"].tolist() == [2, 2, -1]
    _, reward, terminated, truncated, _ = env.step_absolute(setpoint)
    assert terminated.tolist() == [True, True, False] and not truncated.any() and not reward.any()
    assert env.active.tolist() == [False, False, True] and env.mode_name(env.mode[0]) == "2"
    kept = env.obs[:2].copy()
    env.step(np.zeros((3, 2)))
    np.testing.assert_array_equal(env.obs[:2], kept)  # what has ended is not stepped
    assert len(set(started(tmp_path))) == 3  # one process each
    env.close()


CLASSES_REVERSED = {official: own for own, official in CLASSES.items()}


def test_the_limit_of_steps(stand_in):
    env = OfficialPushing(1, max_steps=3)
    env.reset(seeds=[0])
    ends = [env.step(np.zeros((1, 2)))[2:4] for _ in range(3)]
    assert [bool(t[0]) for t, _ in ends] == [False] * 3 and [bool(u[0]) for _, u in ends] == [False, False, True]
    env.reset(seeds=[0])
    env.step([[0, 0]])
    env.step([[0, 0.8]])
    terminated, truncated = env.step([[0, 0]])[2:4]
    assert terminated[0] and not truncated[0]  # both at once: it was the goal
    env.close()


def test_disagreement_on_the_end_of_an_episode(stand_in, monkeypatch):
    monkeypatch.setenv("MISBEHAVE", "endless")
    env = OfficialPushing(1, max_steps=2)
    env.reset(contexts=[0])
    env.step([[0, 0]])
    with pytest.raises(RuntimeError, match="ends an episode where its adapter does not"):
        env.step([[0, 0]])
    env.close()


def test_a_batch_that_has_ended_may_be_stepped(stand_in):
    env = OfficialPushing(1, max_steps=1)
    env.reset(contexts=[0])
    last = env.step([[0, 0.01]])[0]
    np.testing.assert_array_equal(env.step([[0, 0.01]])[0], last)
    env.close()


def test_processes_are_used_again(stand_in, tmp_path):
    for _ in range(3):
        env = OfficialPushing(2)
        env.reset(contexts=[3, 4])
        env.close()
    assert len(started(tmp_path)) == 2
    env = OfficialPushing(2, max_steps=7)
    env.reset(contexts=[3, 4])
    env.close()
    assert len(started(tmp_path)) == 4


def test_nothing_is_written_into_the_checkout(stand_in, tmp_path):
    env = OfficialPushing(1)
    env.reset(contexts=[0])
    scratch = Path(env.workers[0]._scratch)
    assert scratch.is_dir() and list((tmp_path / "checkout").rglob("panda_tmp*")) == []
    pid = env.workers[0]._process.pid
    env.close()
    process.end_all()
    assert not scratch.exists() and not Path(f"/proc/{pid}").exists()


def test_a_process_ends_with_ours(stand_in):
    code = "import os; from envs.official import *; e = OfficialPushing(1); e.reset(contexts=[0])"
    code += "; print(e.workers[0]._process.pid, flush=True); os.kill(os.getpid(), 9)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    pid = int(run.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("it lives on")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("die", r"process \d+ of the original simulator \(pushing, .*\) ended, exit code 9, asked to step. "
                "Its last words: .*segmentation of the stand-in"),
        ("hang", r"does not answer in time.*asked to step. Its last words: .*thinking"),
        ("raise", "asked to step: FloatingPointError: no such pose"),
    ],
)  # fmt: skip
def test_a_process_that_misbehaves(how, says, stand_in, monkeypatch):
    monkeypatch.setenv("MISBEHAVE", how)
    monkeypatch.setattr(process, "ANSWER_S", 1.0)
    env = OfficialPushing(2)
    env.reset(contexts=[0, 1])
    pids = [worker._process.pid for worker in env.workers]
    with pytest.raises(UserError, match=says):
        env.step(np.zeros((2, 2)))
    env.close()
    process.end_all()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_killed_between_two_steps(stand_in):
    env = OfficialPushing(1)
    env.reset(contexts=[0])
    env.workers[0]._process.kill()
    with pytest.raises(UserError, match="ended, signal 9, asked to step"):
        env.step(np.zeros((1, 2)))
    env.close()


def script(path, text):
    path.write_text(textwrap.dedent(text))
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("#!/bin/sh\nexit 3\n", "ended, exit code 3, asked to start. It wrote nothing to stderr"),
        ("#!/bin/sh\necho no python here >&2; exit 1\n", "Its last words: no python here"),
        ("#!/bin/sh\necho a long line of text that is no message at all\nsleep 60\n", "is it a Python interpreter"),
        ("#!/bin/sh\nsleep 60\n", "does not answer in time"),
        ("not a program", "cannot be run"),
    ],
)
def test_wrong_interpreters(program, says, stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "START_S", 2.0)
    installation = process.Installation(script(tmp_path / "python", program), stand_in.d3il)
    with pytest.raises(UserError, match=says):
        process.check(installation, "pushing")


def test_an_interpreter_without_the_packages(stand_in):
    module = Path(stand_in.d3il) / "environments/d3il/envs/gym_pushing_env/gym_pushing/envs/pushing.py"
    module.write_text("import pinocchio_of_nobody")
    with pytest.raises(UserError, match=r"lacks pinocchio_of_nobody .*requirements-d3il.txt"):
        process.check(stand_in, "pushing")


def test_a_mujoco_that_is_too_new(stand_in):
    module = Path(stand_in.d3il) / "environments/d3il/envs/gym_pushing_env/gym_pushing/envs/pushing.py"
    module.write_text("import mujoco\n" + STAND_IN)
    with pytest.raises(UserError, match=r"mujoco [4-9][.\d]* is too new for the original: it needs 2.3"):
        process.check(stand_in, "pushing")


def test_another_original(stand_in):
    module = Path(stand_in.d3il) / "environments/d3il/envs/gym_pushing_env/gym_pushing/envs/pushing.py"
    module.write_text(STAND_IN.replace("nq, nv = 23, 21", "nq, nv = 30, 27"))
    env = OfficialPushing(1)
    with pytest.raises(UserError, match=r"the original's qpos of pushing has shape \(30,\), expected \(23,\)"):
        env.reset(contexts=[0])
    env.close()


def test_an_installed_package_is_found(stand_in, monkeypatch, tmp_path):
    """As `pip install -e environments/d3il` leaves it: d3il_sim is on the interpreter's path, and no checkout is named."""
    base = Path(stand_in.d3il) / "environments" / "d3il"
    python = script(tmp_path / "python", f'#!/bin/sh\nPYTHONPATH={base} exec {sys.executable} "$@"\n')
    assert process.check(process.Installation(python), "pushing")["python"]
    with pytest.raises(UserError, match="no package d3il_sim is installed, and no checkout of D3IL was named"):
        process.check(process.Installation(sys.executable), "pushing")


# ---- options ---------------------------------------------------------------------------------------------------------
SMOKE = ["--tasks", "avoiding", "--methods", "beso", "--budget", "smoke", "--workers", "0", "--train-teachers"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--backend", "offical"], "unknown back end 'offical'. Did you mean 'official'?"),
        (["--backend", "official"], "is not installed, as far as is known: make a Python environment of its own"),
        (["--backend", "official", "--official-python", "/no/python"], "no Python interpreter /no/python"),
        (["--backend", "official", "--official-python", sys.executable, "--official-checkout", "/tmp"],
         "/tmp is no checkout of D3IL"),
        (["--official-python", sys.executable], "are for --backend official"),
    ],
)  # fmt: skip
def test_options(options, says, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(process.PYTHON, raising=False)
    monkeypatch.delenv(process.CHECKOUT, raising=False)
    data = make_demonstrations(tmp_path / "data")
    assert call(*SMOKE, "--data-root", str(data), "--out", str(tmp_path / "out"), *options) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and says in shown.err, shown.err
    assert not (tmp_path / "out").exists()


def test_a_task_that_the_original_lacks(stand_in, tmp_path, capsys):
    assert call("--tasks", "toy", "--methods", "beso", "--budget", "smoke", "--backend", "official") == 2
    assert "--backend official has no toy: the original has avoiding, " in capsys.readouterr().err


def test_ls_says_whether_it_is_there(stand_in, capsys, monkeypatch):
    assert verb("ls") == 0
    assert f"{sys.executable}, checkout {stand_in.d3il}" in capsys.readouterr().out
    monkeypatch.delenv(process.PYTHON)
    assert verb("ls") == 0
    assert "official        the original simulator: not available" in capsys.readouterr().out


def test_back_ends_never_mix(stand_in, tmp_path, capsys):
    """Hash, default folder and spec differ; the installation is in the spec and not in the hash."""
    from envs.contexts import evaluation_contexts
    from harness import plan, reproduce
    from harness.registry import load_suites

    suites, contexts = load_suites(), evaluation_contexts("pushing").sha256

    def made(backend):
        request = plan.Request(["pushing"], ["beso"], [0], "smoke", {}, tmp_path, True, backend=backend)
        return plan.build(suites, request, {"pushing": plan.Data("scripted", "i", contexts)}, 1)

    own, original = made("builtin"), made("official")
    assert own.cells[0].config_hash != original.cells[0].config_hash
    found = backends.from_options("official")
    specs = [plan.spec(m.cells[0], suites, m, more, 1) for m, more in ((own, {}), (original, found.settings()))]
    assert specs[0]["backend"] == "builtin" and "official" not in specs[0]
    assert backends.from_spec(json.loads(json.dumps(specs[1]))) == found
    for spec in specs:  # as `reproduce` sees them, evaluation contexts included
        reproduce.check_hash(spec | {"data_root": None}, [])
        with pytest.raises(UserError, match="configuration hash"):
            reproduce.check_hash(spec | {"data_root": None, "backend": "third"}, [])
    data = make_demonstrations(tmp_path / "data")
    options = [*SMOKE, "--data-root", str(data), "--dry-run"]
    assert call(*options) == 0 and "runs/smoke-official" in capsys.readouterr().out
    assert call(*options, "--backend", "official") == 0 and "runs/smoke-official-official" in capsys.readouterr().out


def test_a_cell_in_the_original(stand_in, tmp_path, capsys):
    """Plan, rollouts, record and reproduction of a cell whose episodes run in the (stand-in of the) original."""
    data, out = make_demonstrations(tmp_path / "data"), tmp_path / "out"
    options = [*SMOKE, "--data-root", str(data), "--out", str(out)]
    assert call(*options, "--backend", "official") == 0
    found = record.read(out / "records/avoiding/beso/0.json")
    assert found["backend"] == "official"
    assert found["provenance"]["original"]["python"] == sys.version.split()[0]
    assert set(found["episodes"]["mode"]) <= {"100100010", ""}  # the stand-in's only one
    assert len(started(tmp_path)) <= 1 + backends.MOST["official"]  # one to see that it starts, then used again
    assert call(*options) == 2  # another back end's record is not replaced
    assert "choose another --out" in capsys.readouterr().err
    again = tmp_path / "again"
    arguments = [str(out / "records/avoiding/beso/0.json"), "--out", str(again), "--data-root", str(data)]
    assert verb("reproduce", *arguments) == 0
    assert "the same result, to the last bit" in capsys.readouterr().out


# ---- comparing -------------------------------------------------------------------------------------------------------


def episodes(success, modes, seed):
    """n episodes with that share of successes and these shares of behaviours."""
    rng = np.random.default_rng(seed)
    won = rng.random(400) < success
    return {
        "context": [0] * 400, "success": won.tolist(), "mode": rng.choice(list("abc"), 400, p=modes).tolist(),
        "length": [10] * 400, "return": won.astype(float).tolist(),
    }  # fmt: skip


def test_wilson():
    """Against the formula (Wilson 1927)."""
    n, p, z = 100, 0.92, 1.959963984540054
    middle, half = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(
        compare_backends.wilson(92, n), [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    )


def test_what_differs_is_found():
    same = compare_backends.compare(episodes(0.8, [0.5, 0.3, 0.2], 0), episodes(0.8, [0.5, 0.3, 0.2], 1))
    assert not same["differ"] and same["intervals_overlap"] and same["modes_chi2_p"] > 0.01 and same["mcnemar_p"] > 0.01
    rarer = compare_backends.compare(episodes(0.8, [0.5, 0.3, 0.2], 0), episodes(0.6, [0.5, 0.3, 0.2], 1))
    assert rarer["differ"] and not rarer["intervals_overlap"] and rarer["mcnemar_p"] < 0.01
    other = compare_backends.compare(episodes(0.8, [0.5, 0.3, 0.2], 0), episodes(0.8, [0.2, 0.3, 0.5], 1))
    assert other["differ"] and other["intervals_overlap"] and other["modes_chi2_p"] < 0.01
    one = compare_backends.compare(episodes(0.8, [1, 0, 0], 0), episodes(0.8, [1, 0, 0], 1))
    assert not one["differ"] and one["modes_chi2_p"] is None  # nothing to compare


def test_compare_backends(stand_in, tmp_path, capsys, monkeypatch):
    """The stand-in is no original, and that is noticed; finished episodes are not run again."""
    monkeypatch.setenv("MISBEHAVE", "never")
    options = ["--tasks", "pushing", "--episodes", "4", "--out", str(tmp_path / "c")]
    assert verb("compare-backends", *options) == 1
    assert "the simulations DIFFER" in capsys.readouterr().out
    made = json.loads((tmp_path / "c" / "pushing-expert.json").read_text())
    assert made["comparison"]["success"] == [1.0, 0.0] and made["comparison"]["episodes"] == 4
    assert made["episodes"]["builtin"]["context"] == made["episodes"]["official"]["context"] == list(range(4))
    ran = len(started(tmp_path))
    process.end_all()
    assert verb("compare-backends", *options) == 1
    assert len(started(tmp_path)) == ran + 1  # to ask for its versions
    assert json.loads((tmp_path / "c" / "pushing-expert.json").read_text()) == made


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tasks", "toy"], "--backend official has no toy"),
        (["--episodes", "0"], "--episodes must be at least 1"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--policy", "expret"], "--policy is expert, a .safetensors file or a record's .json file"),
        (["--policy", "/no/record.json"], "no record /no/record.json"),
        (["--policy", "/no/weights.safetensors"], "no trained policy at /no/weights.safetensors"),
        (
            ["--policy", str(TEACHERS / "scripted/avoiding/beso.record.json")],
            "is a policy of another task than pushing",
        ),
    ],
)
def test_compare_options(options, says, stand_in, tmp_path, capsys):
    assert verb("compare-backends", "--tasks", "pushing", "--out", str(tmp_path / "c"), *options) == 2
    assert says in capsys.readouterr().err


def test_compare_with_a_trained_policy(stand_in, tmp_path):
    path = str(TEACHERS / "scripted/avoiding/beso.record.json")
    verb("compare-backends", "--tasks", "avoiding", "--policy", path, "--episodes", "2", "--out", str(tmp_path / "c"))
    made = json.loads((tmp_path / "c" / "avoiding-beso.json").read_text())
    assert made["policy"]["method"] == "beso" and len(made["episodes"]["official"]["mode"]) == 2


# ---- the original itself ---------------------------------------------------------------------------------------------
try:
    ORIGINAL = process.find_installation()
except UserError:
    ORIGINAL = None
original = pytest.mark.skipif(
    ORIGINAL is None, reason=f"the original simulator is not installed: ${process.PYTHON} (docs/environments.md)"
)
REPLAYED = [
    ("avoiding", "avoiding_0", 30), ("avoiding", "avoiding_5", None), ("aligning", "aligning_5", 40),
    ("pushing", "pushing_6", 40), ("stacking", "stacking_3", 90),
]  # fmt: skip


def official_class(task):
    return next(cls for cls in CLASSES.values() if cls.original == task)


@original
@pytest.mark.parametrize(("task", "name", "rows"), REPLAYED)
def test_recordings_replay_to_the_last_bit(task, name, rows):
    """The recordings were made by the original: contexts, observations, states and outcomes are those, at every step."""
    with np.load(TRACES / f"{name}.npz") as file:
        rec = dict(file)
    env = official_class(task)(1, installation=ORIGINAL)
    obs = env.reset(contexts=None if task == "avoiding" else [json.loads(str(rec["context"]))])
    width = rec["obs"].shape[1]
    np.testing.assert_array_equal(obs[0, -width:], rec["obs"][0])
    for k, setpoint in enumerate(rec["actions"][:rows]):
        obs, _, terminated, truncated, info = env.step_absolute(setpoint[None])
        np.testing.assert_array_equal(obs[0, -width:], rec["obs"][k + 1])
        np.testing.assert_array_equal(info["tcp_pos"][0], rec["tcp_pos"][k + 1])
        np.testing.assert_array_equal(env.sims.data[0].qpos, rec["qpos"][k + 1])
        assert str(info["mode"][0]) == str(rec["mode"][k]) and info["success"][0] == rec["success"][k]
        assert bool(terminated[0] | truncated[0]) == bool(rec["done"][k])
        if "obj_pos" in info:
            count = info["obj_pos"].shape[1]
            np.testing.assert_array_equal(info["obj_pos"][0], rec["obj_pose"][k + 1, :count, :3])
    env.close()


@original
@pytest.mark.parametrize("task", [cls.original for cls in CLASSES.values()])
def test_observations_as_ours(task):
    """Same context, same set-points: the two simulations observe the same, number for number."""
    cls = official_class(task)
    batches = [cls(1, installation=ORIGINAL), CLASSES_REVERSED[cls](1)]
    contexts = None if task == "avoiding" else [7]
    first = [env.reset(contexts=contexts) for env in batches]
    np.testing.assert_allclose(*first, atol=2e-6)
    setpoints = batches[0].setpoint.copy()
    for _ in range(5):
        if task != "stacking":
            setpoints[:, 1] += 0.004
        seen = [env.step_absolute(setpoints)[0] for env in batches]
        np.testing.assert_allclose(*seen, atol=2e-3)  # boxes are being pushed out of the table, in different versions
    tool = 8 if task == "stacking" else 2 * batches[0].act_dim
    np.testing.assert_allclose(seen[0][:, :tool], seen[1][:, :tool], atol=1e-6)
    for env in batches:
        env.close()


@original
def test_a_used_process_is_as_a_fresh_one():
    def episode(context):
        env = official_class("pushing")(1, installation=ORIGINAL)
        obs = [env.reset(contexts=[context])]
        obs += [env.step([[0.0, 0.012]])[0] for _ in range(30)]  # touches the red cube
        env.close()
        return np.array(obs)

    first = episode(0)
    episode(5)
    np.testing.assert_array_equal(episode(0), first)
