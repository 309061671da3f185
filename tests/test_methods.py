"""The same checks for every registered method: shapes, learning, determinism, files, history, batches."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from envs.base import Geometry
from harness.errors import UserError
from harness.registry import resolve_class
from harness.train import train
from harness.windows import fit_scaler, make_windows
from methods import policy
from methods.base import Batch
from methods.policy import Policy
from tests.method_cases import (
    GPT,
    METHODS,
    SHAPE,
    SUITES,
    assemble,
    build,
    demonstrations,
    learn_and_act_on_meta,
    train_config,
    windows,
)

every_method = pytest.mark.parametrize("name", METHODS)


def batch_of(w) -> Batch:
    return Batch(w.obs, w.last, w.action, w.goal)


@every_method
def test_suite_keys_are_the_config_fields(name):
    fields = {f.name for f in dataclasses.fields(resolve_class(SUITES.methods[name]["class"]).Config)}
    assert set(SUITES.methods[name]["hyper"]) == fields


@every_method
def test_loss_is_finite_and_falls(name, tmp_path):
    method, data = build(name), windows()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = method.validation_loss(batch_of(data)).item()
    result = train(method, data, windows(64, 1), train_config(name, steps=60, batch=64, lr=2e-3), 0, tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        after = method.validation_loss(batch_of(data)).item()
    assert np.isfinite([before, after]).all()
    assert after < before
    assert result.curve["step"][-1] == 60 and result.val["step"][-1] == 60


@every_method
def test_act_shapes_and_bounds_of_streams(name):
    p = Policy(build(name))
    p.reset([1, 2, 3])
    for _ in range(GPT.window + 2):
        action = p.act(np.zeros((3, SHAPE.obs), np.float32))
        assert action.shape == (3, SHAPE.act) and action.dtype == np.float32 and np.isfinite(action).all()


@every_method
def test_same_seed_same_actions_other_seed_others(name):
    method, rng = build(name), np.random.default_rng(0)
    obs = rng.normal(size=(6, 1, SHAPE.obs)).astype(np.float32)

    def run(seed):
        p = Policy(method)
        p.reset([seed])
        return np.stack([p.act(o) for o in obs])

    assert np.array_equal(run(5), run(5))
    if name not in ("em", "imc") and method.noise_dim:
        assert not np.array_equal(run(5), run(6))


@every_method
def test_reset_forgets_the_history(name):
    method, rng = build(name), np.random.default_rng(0)
    obs = rng.normal(size=(4, 2, SHAPE.obs)).astype(np.float32)
    p = Policy(method)
    p.reset([7, 8])
    first = [p.act(o) for o in obs]
    p.reset([7, 8])
    assert all(np.array_equal(a, p.act(o)) for a, o in zip(first, obs, strict=True))


@every_method
def test_an_environment_acts_alike_alone_and_among_64(name):
    method, rng = build(name), np.random.default_rng(0)
    obs = rng.normal(size=(5, 64, SHAPE.obs)).astype(np.float32)
    many, one = Policy(method), Policy(method)
    many.reset(range(64))
    one.reset([17])
    for o in obs:
        np.testing.assert_allclose(many.act(o)[17], one.act(o[17:18])[0], atol=2e-5)


@every_method
def test_inactive_environments_do_not_disturb_the_others(name):
    method, rng = build(name), np.random.default_rng(0)
    obs = rng.normal(size=(4, 3, SHAPE.obs)).astype(np.float32)
    full, part = Policy(method), Policy(method)
    full.reset([1, 2, 3])
    part.reset([1, 2, 3])
    for o in obs:
        np.testing.assert_array_equal(full.act(o)[[0, 2]], part.act(o, np.array([True, False, True]))[[0, 2]])


@every_method
def test_traced_equals_eager(name):
    method, rng = build(name), np.random.default_rng(0)
    eager, traced = Policy(method), Policy(method, compiled="trace")
    eager.reset([3])
    traced.reset([3])
    for o in rng.normal(size=(5, 1, SHAPE.obs)).astype(np.float32):
        np.testing.assert_allclose(eager.act(o), traced.act(o), atol=1e-5)


@every_method
def test_save_load_same_actions(name, tmp_path):
    method, rng = build(name), np.random.default_rng(0)
    policy.save(method, tmp_path / "p", name)
    loaded = policy.load(tmp_path / "p")
    a, b = Policy(method), Policy(loaded)
    a.reset([1, 2])
    b.reset([1, 2])
    for o in rng.normal(size=(5, 2, SHAPE.obs)).astype(np.float32):
        np.testing.assert_array_equal(a.act(o), b.act(o))


@every_method
def test_networks_see_what_the_scaler_adds(name, tmp_path):
    """Trained on the wider windows, a method takes the task's own observations, from its file too; its student likewise."""
    rng = np.random.default_rng(0)
    demos = demonstrations([20, 20, 20])
    wide = fit_scaler(demos, geometry=Geometry(pairs=((0, 2), (1, 3)), near=0.1, angles=(1,), symmetry=4))
    data = make_windows(demos, GPT.window, wide)
    assert data.obs.shape[-1] == SHAPE.obs + 4

    def made(name):
        block = SUITES.methods[name]
        teacher = made(block["teacher"]) if "teacher" in block else None
        return assemble(name, dataclasses.replace(GPT, relative=True), SHAPE, wide, teacher)

    method = made(name)
    for phase in method.phases:
        loss, _ = method.loss(batch_of(data), phase.name)
        assert torch.isfinite(loss)
    policy.save(method, tmp_path / "p", name)
    loaded = policy.load(tmp_path / "p")
    assert loaded.gpt_config.relative and loaded.scaler.added == 4
    a, b = Policy(method), Policy(loaded)
    a.reset([1, 2])
    b.reset([1, 2])
    for o in rng.normal(size=(5, 2, SHAPE.obs)).astype(np.float32):
        action = a.act(o)
        assert action.shape == (2, SHAPE.act)
        np.testing.assert_array_equal(action, b.act(o))
    with pytest.raises(UserError, match=r"shape \(2, 4\), got \(2, 8\)"):
        a.act(np.zeros((2, 8), np.float32))


@every_method
def test_wrong_width_is_refused(name):
    p = Policy(build(name))
    p.reset([0])
    with pytest.raises(UserError, match=r"expects observations of shape \(1, 4\), got \(1, 5\)"):
        p.act(np.zeros((1, 5), np.float32))


def test_act_before_reset_is_refused():
    with pytest.raises(UserError, match="before Policy.reset"):
        Policy(build("vdd_ve")).act(np.zeros((1, 4), np.float32))


def test_damaged_files_are_refused(tmp_path):
    policy.save(build("vdd_ve"), tmp_path / "p", "vdd_ve")
    weights = tmp_path / "p.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="altered or cut"):
        policy.load(tmp_path / "p")
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        policy.load(tmp_path / "p")
    weights.write_bytes(whole)
    info = tmp_path / "p.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        policy.load(tmp_path / "p")
    info.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        policy.load(tmp_path / "p")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("mode", "exact")])
def test_nothing_stays_on_the_cpu(name):
    """On the meta device mixing with CPU tensors fails, as on a GPU. MoDE's routing depends on values, which meta lacks."""
    learn_and_act_on_meta(build(name), windows(16).to(torch.device("meta")).batch(torch.arange(8)))
