"""A student that starts as its teacher's single evaluation (`one_step_start`, methods/vdd.py, difference 11)."""

import dataclasses

import numpy as np
import pytest
import torch

from envs.base import Geometry
from harness import config
from harness.errors import UserError
from harness.windows import fit_scaler, make_windows
from methods import policy
from methods.base import Batch
from methods.policy import Policy
from tests.method_cases import (
    GOAL_SHAPE,
    GPT,
    SHAPE,
    SUITES,
    assemble,
    build,
    demonstrations,
    trained_teacher,
    windows,
)


def denoised(teacher, batch) -> torch.Tensor:
    """What the teacher makes of the action 0 at its largest level: (B, A)."""
    zero = torch.zeros(len(batch.obs), 1, batch.action.shape[-1])
    sigma = torch.full((1, 1), teacher.config.sigma_max)
    with torch.no_grad():
        return teacher.denoise(zero, sigma, teacher.encode(batch.obs, batch.goal), batch.last)[:, 0]


@pytest.mark.parametrize("shape", [SHAPE, GOAL_SHAPE], ids=["states", "goals"])
def test_every_expert_starts_at_what_the_teacher_denoises_zero_to(shape):
    w = windows(40, shape=shape)
    vdd = build("vdd_ve", shape=shape, one_step_start=True, init_mean=0.0)
    expected = denoised(trained_teacher("beso", shape), w)
    assert expected.std(0).min() > 0.1  # states differ
    with torch.no_grad():
        mixture = vdd.mixture(w.obs, w.last, w.goal)
    torch.testing.assert_close(mixture.mean, expected[:, None].expand_as(mixture.mean), atol=1e-5, rtol=1e-5)
    assert torch.allclose(mixture.std, torch.tensor(vdd.config.init_std), atol=0.05)


def test_it_learns_the_centre_and_leaves_the_teacher_as_it_was():
    w = windows(64)
    teacher = trained_teacher("beso")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    vdd = build("vdd_ve", one_step_start=True)
    batch = Batch(w.obs, w.last, w.action)
    optimizer = torch.optim.SGD(vdd.net.expert_parameters(), lr=0.1)
    vdd.loss(batch, "experts")[0].backward()
    centre = vdd.net.centre.weight.detach().clone()
    for parameter in (vdd.net.backbone.query, vdd.net.backbone.level, vdd.net.centre.weight):
        assert parameter.grad.abs().max() > 0
    optimizer.step()
    assert not torch.equal(vdd.net.centre.weight, centre)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_gating_trains_nothing_else():
    w = windows(16)
    vdd = build("vdd_ve", one_step_start=True)
    vdd.loss(Batch(w.obs, w.last, w.action), "gating")[0].backward()
    assert {n for n, p in vdd.net.named_parameters() if p.grad is not None} == {
        n for n, _ in vdd.net.named_parameters() if n.startswith("gating.")
    }


def test_its_file_acts_alike_traced_too(tmp_path):
    rng = np.random.default_rng(0)
    vdd = build("vdd_ve", one_step_start=True)
    policy.save(vdd, tmp_path / "p", "vdd_ve")
    kept, loaded, traced = Policy(vdd), Policy(policy.load(tmp_path / "p")), Policy(vdd, compiled="trace")
    for one in (kept, loaded, traced):
        one.reset([1, 2])
    for o in rng.normal(size=(5, 2, SHAPE.obs)).astype(np.float32):
        action = kept.act(o)
        np.testing.assert_array_equal(action, loaded.act(o))
        np.testing.assert_allclose(action, traced.act(o), atol=1e-5)


def test_of_a_teacher_that_sees_what_the_scaler_adds():
    demos = demonstrations([20, 20, 20])
    wide = fit_scaler(demos, geometry=Geometry(pairs=((0, 2), (1, 3)), near=0.1, angles=(1,), symmetry=4))
    w, gpt = make_windows(demos, GPT.window, wide), dataclasses.replace(GPT, relative=True)
    teacher = assemble("beso", gpt, SHAPE, wide, None)
    vdd = assemble("vdd_ve", gpt, SHAPE, wide, teacher, one_step_start=True, init_mean=0.0)
    with torch.no_grad():
        torch.testing.assert_close(vdd.mixture(w.obs, w.last).mean[:, 0], denoised(teacher, w), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("source", ["ddpm", "mode"])
def test_teachers_without_it_say_what_to_set(source):
    method = "vdd_vp" if source == "ddpm" else "vdd_ve"
    with pytest.raises(UserError, match="has no single evaluation .* one_step_start = false"):
        assemble(method, GPT, SHAPE, trained_teacher("beso").scaler, build(source), one_step_start=True)


def test_it_needs_the_encoder():
    with pytest.raises(ValueError, match="needs warm_start = true"):
        build("vdd_ve", one_step_start=True, warm_start=False)


def test_a_run_without_it_keeps_its_configuration():
    """So that records made before it keep their hash."""
    assert "one_step_start" not in config.resolve(SUITES, "avoiding", "vdd_ve", "standard")["hyper"]
    sets = config.parse_sets(SUITES, ["vdd_ve.one_step_start=true"])
    assert config.resolve(SUITES, "avoiding", "vdd_ve", "standard", sets)["hyper"]["one_step_start"] is True
