"""Whole cells of a tiny image task: frozen and trained encoders, teachers' and students', budgets, files, resumption."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from standins import verb

from harness import backends, encoder, job, plan, record, registry
from harness.config import demonstrations as limit_of
from harness.config import resolve
from harness.errors import UserError
from methods import policy
from tests.image_cases import IMAGE_SHAPE, PIXELS, demonstrations, frames
from tests.test_encoder import imagenet

TASK = {
    "title": "Tiny", "env": "envs.toy:ToyBatch", "gym_id": "x", "obs_dim": IMAGE_SHAPE.obs, "act_dim": 2, "goal_tokens": 0,
    "modes": 2, "entropy": "pooled", "rollouts": 3, "metrics": ["success"],
    "gpt": {"layers": 2, "heads": 2, "embed": 16, "window": 3, "cameras": 2, "pixels": PIXELS, "keypoints": 4,
            "encoder_width": 8},
    "encoder": {"encoder_start": "own", "encoder_frozen": False, "encoder_pretrain": 0,
                "encoder_pretrain_batch": 16, "encoder_pretrain_lr": 1e-3, "encoder_target": "loss", "encoder_weights": ""},
    "train": {"optimizer": "adamw", "lr": 1e-3, "beta_1": 0.95, "obs_noise": 0.0, "batch": 4},
    "budget": {
        "smoke": {"steps": 3, "rollouts": 2, "validations": 1, "encoder_start": "teacher", "encoder_frozen": True,
                  "encoder_pretrain": 2, "obs_noise": 0.03, "demonstrations": 3},
        "quick": {"steps": 3, "rollouts": 2, "validations": 1, "batch": 8, "compile": "off"},
    },
    "method": {},
}  # fmt: skip
SUITES = registry.load_suites()
SUITES = replace(SUITES, tasks={**SUITES.tasks, "tiny_image": TASK})


class TinyEnv:
    """Two steps of a picture each; success where the action is large."""

    obs_dim, act_dim, goal_tokens, goal_mask, geometry = IMAGE_SHAPE.obs, 2, 0, None, None
    max_steps = 2

    def __init__(self, num_envs, num_threads=1):
        self.n = num_envs

    def picture(self):
        return frames(np.random.default_rng(self.k).random((self.n, 2)), self.k)

    def reset(self, contexts=None, seeds=None):
        self.k, self.active = 0, np.ones(self.n, bool)
        return self.picture()

    def step(self, actions):
        assert actions.shape == (self.n, 2) and np.isfinite(actions).all()
        self.k += 1
        self.active[:] = self.k < 2
        zeros = np.zeros(self.n)
        info = {"success": actions[:, 0] > 0, "mode": np.zeros(self.n, int)}
        return self.picture(), zeros, zeros.astype(bool), ~self.active, info

    @staticmethod
    def mode_name(row):
        return str(int(row))

    def close(self):
        pass


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(backends.Backend, "batch_class", lambda _self, _task: TinyEnv)
    monkeypatch.setattr(job, "load_demonstrations", lambda _task, data_root=None, episodes=None: demonstrations()
                        if episodes is None else demonstrations([9, 8, 7][:episodes]))  # fmt: skip


def specs(out, methods, budget="smoke", sets=None, **options):
    identity = f"tiny/{0}"
    request = plan.Request(["tiny_image"], methods, [0], budget, sets or {}, out, **options)
    data = {"tiny_image": plan.Data("scripted", identity, None, limit_of(SUITES, "tiny_image", budget))}
    made = plan.build(SUITES, request, data, 1)
    settings = {"data_root": None, "threads": 1, "device": "cpu"}
    return [json.loads(json.dumps(plan.spec(cell, SUITES, made, settings, 1))) for cell in made.cells]


def run(out, methods, budget="smoke", sets=None):
    """The records, by method."""
    found = {}
    for spec in specs(out, methods, budget, sets):
        job.check(spec)
        found[spec["method"]] = job.run_cell(spec)
    return found


def weights_of(out, key):
    found = policy.load(record.work_path(out, key) / "policy", lambda name: registry.method_class(name))
    return found.encoder.state_dict()


def test_a_frozen_encoder_is_pretrained_by_the_teacher_and_shared_by_the_student(tmp_path):
    found = run(tmp_path, ["beso", "vdd_ve", "em"])
    teacher, student, scratch = (found[name] for name in ("beso", "vdd_ve", "em"))
    assert teacher["data"]["episodes"] == 3 and teacher["recipe"]["episodes"] == 3
    assert teacher["config"]["encoder"]["encoder_start"] == "own" == scratch["config"]["encoder"]["encoder_start"]
    assert student["config"]["encoder"]["encoder_start"] == "teacher"
    for pretrained in (teacher, scratch):
        assert pretrained["training"]["encoder"]["pretraining"]["step"][-1] == 2
    assert "pretraining" not in student["training"]["encoder"]
    ours, theirs = (weights_of(tmp_path, f"tiny_image/{m}/0") for m in ("vdd_ve", "beso"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert not torch.equal(theirs["feature_std"], torch.ones(16))  # features were scaled
    assert student["likelihood"]["kind"] == "exact" and student["quality"]["states"] == 2
    kept = {m: files_of(record.work_path(tmp_path, f"tiny_image/{m}/0") / "encoder") for m in ("beso", "vdd_ve", "em")}
    assert kept == {"beso": [encoder.FEATURES], "vdd_ve": [], "em": []}


def test_an_encoder_may_learn_positions_first_which_no_policy_sees(tmp_path):
    target = {"encoder_target": "positions"}
    found = run(tmp_path, ["beso", "vdd_ve"], sets={"beso": target, "vdd_ve": target})
    notes = found["beso"]["training"]["encoder"]
    assert "square_error" in notes["pretraining"] and len(notes["pretraining_val"]["loss"]) == 2
    ours, theirs = (weights_of(tmp_path, f"tiny_image/{m}/0") for m in ("vdd_ve", "beso"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    other = run(tmp_path / "other", ["beso"])["beso"]
    assert other["config_hash"] != found["beso"]["config_hash"]
    assert not torch.equal(weights_of(tmp_path / "other", "tiny_image/beso/0")["feature_mean"], theirs["feature_mean"])


def files_of(folder):
    return sorted(path.name for path in folder.glob("*"))


def test_students_read_their_teachers_features(tmp_path, monkeypatch):
    found = run(tmp_path, ["beso", "vdd_ve"])
    teachers = record.work_path(tmp_path, "tiny_image/beso/0") / encoder.FOLDER / encoder.FEATURES
    student = record.work_path(tmp_path, "tiny_image/vdd_ve/0")
    counted, features = [], encoder.frozen_features
    monkeypatch.setattr(encoder, "frozen_features", lambda *a, **k: counted.append(1) or features(*a, **k))

    def again():
        shutil.rmtree(student)
        counted.clear()
        (spec,) = [s for s in specs(tmp_path, ["beso", "vdd_ve"]) if s["method"] == "vdd_ve"]
        return record.comparable(job.run_cell(spec)) == record.comparable(found["vdd_ve"]), len(counted)

    assert again() == (True, 0)
    cached = encoder.read_cache(teachers)
    assert set(cached.tensors) == {"rows", "held"}
    replace(cached, frames="tiny/1").write(teachers)  # of other demonstrations
    assert again() == (True, 1)
    replace(cached, encoder="0" * 64).write(teachers)  # of another encoder
    assert again() == (True, 1)
    cached.write(teachers)
    assert again() == (True, 0)
    teachers.write_bytes(teachers.read_bytes()[:-1] + b"x")
    assert again() == (True, 1)
    assert not teachers.exists()  # set aside
    assert again() == (True, 1)


@pytest.mark.parametrize("method", [n for n, b in SUITES.methods.items() if "avoiding" in b.get("tasks", ["avoiding"])])
def test_every_method_leaves_a_record_with_a_trained_encoder(method, tmp_path):
    for spec in specs(tmp_path, [method], "quick"):
        written = job.run_cell(spec)
    assert written["data"]["episodes"] == 4 and len(written["episodes"]["success"]) == 2
    assert written["config"]["train"]["beta_1"] == 0.95
    if written["recipe"]["role"] != "one_step":
        assert written["training"]["encoder"] == {"parameters": written["training"]["encoder"]["parameters"]}
        assert written["training"]["curve"]["step"][-1] == 3
    again = job.run_cell(spec)
    assert record.comparable(again) == record.comparable(written)


def test_where_a_students_encoder_starts(tmp_path):
    run(tmp_path, ["beso"], "quick")
    frozen = {"vdd_ve": {"encoder_start": "teacher", "encoder_frozen": True}}
    run(tmp_path, ["vdd_ve"], "quick", frozen)
    ours, theirs = (weights_of(tmp_path, f"tiny_image/{m}/0") for m in ("vdd_ve", "beso"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    for sets, near in (({"encoder_start": "teacher"}, True), ({"warm_start": False}, False)):
        run(tmp_path, ["vdd_ve"], "quick", {"vdd_ve": {**sets, "lr": 1e-5, "lr_final": 1e-5}})
        ours = weights_of(tmp_path, "tiny_image/vdd_ve/0")
        distance = max((ours[k] - theirs[k]).abs().max() for k in theirs)
        assert distance > 0 and (distance < 1e-3) == near


class Killed(Exception):
    pass


def test_an_interrupted_frozen_training_resumes_exactly_and_encodes_once(tmp_path, monkeypatch):
    (spec,) = specs(tmp_path / "whole", ["beso"])
    whole = job.run_cell(spec)
    (spec,) = specs(tmp_path / "cut", ["beso"])
    train = job.train.train
    monkeypatch.setattr(job.train, "train", lambda *_a, **_k: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        job.run_cell(spec)
    monkeypatch.setattr(job.train, "train", train)
    features = record.work_path(tmp_path / "cut", "tiny_image/beso/0") / encoder.FOLDER / encoder.FEATURES
    assert features.is_file()
    monkeypatch.setattr(encoder, "frozen_features", lambda *_a, **_k: pytest.fail("encoded again"))
    monkeypatch.setattr(encoder, "pretrain", lambda *_a, **_k: pytest.fail("pre-trained again"))
    resumed = job.run_cell(spec)
    assert record.comparable(resumed) == record.comparable(whole)


def test_damaged_features_are_made_again(tmp_path, capsys):
    path = tmp_path / encoder.FOLDER / encoder.FEATURES
    encoder.Cached({"rows": torch.ones(3)}, {"a": 1}, "tiny/0", "").write(path)
    assert encoder.read_cache(path).notes == {"a": 1}
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert encoder.read_cache(path) is None and "altered or cut" in capsys.readouterr().err


def test_weights_from_a_file_are_in_hash_and_record(tmp_path):
    file = tmp_path / "resnet.safetensors"
    save_file(imagenet(), file)
    sha256 = encoder.read_weights(file)[1]
    (plain,) = specs(tmp_path, ["beso"], "quick")
    (spec,) = specs(tmp_path, ["beso"], "quick", encoder_weights=sha256)
    assert plain["config_hash"] != spec["config_hash"]
    with pytest.raises(UserError, match="name its file by --encoder-weights"):
        job.run_cell(spec)
    spec["encoder_weights"] = str(file)
    written = job.run_cell(spec)
    assert written["config"]["encoder"]["encoder_weights"] == sha256 and str(tmp_path) not in json.dumps(written)
    save_file({**imagenet(), "more": torch.zeros(1)}, file)
    (record.work_path(tmp_path, spec["key"]) / "training.json").unlink()
    with pytest.raises(UserError, match="changed: its SHA-256"):
        job.run_cell(spec)


def test_what_contradicts_itself_is_refused_before_anything_is_spent(tmp_path):
    for method, sets, says in (
        ("vdd_ve", {"encoder_start": "own", "encoder_pretrain": 0}, "must be its teacher's"),
        ("beso", {"encoder_frozen": False}, "images get no noise"),
        ("beso", {"encoder_frozen": False, "obs_noise": 0.0, "encoder_pretrain": -1}, "at least 0"),
        ("beso", {"encoder_frozen": False, "obs_noise": 0.0, "encoder_pretrain_batch": 0}, "at least 1"),
        ("vdd_ve", {"encoder_start": "else"}, "own or teacher"),
        ("beso", {"encoder_target": "else"}, "loss or positions"),
        ("beso", {"pixels": 50}, None),
    ):
        spec = specs(tmp_path, [method], "smoke", {method: sets})[-1]
        if says is None:
            with pytest.raises(ValueError, match="multiple of 32"):
                job.run_cell(spec)
        else:
            with pytest.raises(UserError, match=says):
                job.check(spec)


def test_images_have_no_desired_position_to_blur():
    config = resolve(SUITES, "sorting_image", "beso", "smoke")
    with pytest.raises(ValueError, match="set setpoint_noise = 0"):
        encoder.check(config["encoder"], "teacher", job.train.TrainConfig(**config["train"], setpoint_noise=0.1))
    with pytest.raises(ValueError, match="set exchange = false"):
        encoder.check(config["encoder"], "teacher", job.train.TrainConfig(**config["train"], exchange=True))


@pytest.mark.parametrize("budget", SUITES.budgets)
@pytest.mark.parametrize("task", ["sorting_image", "stacking_image"])
def test_the_suites_settings_of_every_method_agree_with_one_another(task, budget):
    for name, block in SUITES.methods.items():
        if block["role"] == "one_step" or "tasks" in block:
            continue
        config = resolve(SUITES, task, name, budget)
        encoder.check(config["encoder"], block["role"], job.train.TrainConfig(**config["train"]))
        assert job.GPTConfig(**config["gpt"]).cameras == 2 and config["train"]["batch"] <= 512


def test_budgets_of_a_task_come_between_the_methods_and_the_tasks_for_a_method():
    tasks = {**SUITES.tasks, "tiny_image": {**TASK, "method": {"beso": {"budget": {"smoke": {"steps": 5}}, "lr": 0.5}}}}
    suites = replace(SUITES, tasks=tasks)
    config = resolve(suites, "tiny_image", "beso", "smoke")
    assert config["train"]["steps"] == 5 and config["train"]["batch"] == 32 and config["train"]["lr"] == 0.5
    assert resolve(suites, "tiny_image", "ddpm", "smoke")["train"]["steps"] == 3
    assert "encoder" not in resolve(suites, "avoiding", "beso", "smoke")
    assert "beta_1" not in resolve(suites, "avoiding", "beso", "smoke")["train"]


def test_options_for_images_alone(capsys, tmp_path):
    from standins import call

    options = ["--tasks", "toy", "--methods", "beso", "--budget", "smoke", "--out", str(tmp_path / "o"), "--dry-run"]
    assert call(*options, "--encoder-weights", str(tmp_path / "none")) == 2
    assert "is for tasks with images" in capsys.readouterr().err
    assert verb("ls") == 0
