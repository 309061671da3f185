"""Consistency trajectory models and consistency distillation with many levels: boundaries, targets, samplers."""

import copy
import itertools

import pytest
import torch

from methods.base import Batch
from methods.cd import heun
from methods.policy import load, save
from tests.method_cases import SHAPE, build, windows


def batch_of(n: int = 6) -> Batch:
    w = windows(n)
    return Batch(w.obs, w.last, w.action)


def disturbed(name: str, **hyper):
    """A student whose weights, stop token included, are not those it starts from; the target keeps those."""
    method = build(name, **hyper)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in method.net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    return method


@pytest.mark.parametrize("t", [0.1, 0.3, 1.0])
def test_no_jump_is_the_identity(t):
    ctm, batch = disturbed("ctm"), batch_of()
    x, level = torch.randn(6, 3, SHAPE.act), torch.full((6, 1), t)
    context = ctm.net.net.encode(batch.obs)
    torch.testing.assert_close(ctm.jump(ctm.net, x, level, level, context, batch.last), x)


def test_starts_as_the_teacher_whatever_the_stop():
    """g(x, t, s) is the teacher's denoiser before training, so that G is its Euler step."""
    ctm, batch = build("ctm"), batch_of()
    teacher, x, t = ctm.get_teacher(), torch.randn(6, 3, SHAPE.act), torch.full((6, 1), 0.8)
    for stop in (0.1, 0.5):
        s = torch.full((6, 1), stop)
        denoised = teacher.denoise(x, t, teacher.encode(batch.obs), batch.last)
        euler = x + (s - t)[..., None] * (x - denoised) / t[..., None]
        ours = ctm.jump(ctm.net, x, t, s, ctm.net.net.encode(batch.obs), batch.last)
        torch.testing.assert_close(ours, euler, atol=1e-5, rtol=1e-5)


def test_the_stop_matters_after_training_started():
    ctm, batch = disturbed("ctm"), batch_of()
    x, t, context = torch.randn(6, 1, SHAPE.act), torch.full((6, 1), 1.0), ctm.net.net.encode(batch.obs)
    g = [
        ctm.clean(ctm.net, x, t, ctm.net.encode_levels(t, torch.full((6, 1), s)), context, batch.last)
        for s in (0.1, 0.5)
    ]
    assert not torch.allclose(*g, atol=1e-3)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_levels_are_ordered_and_cover_the_grid(n):
    ctm = build("ctm", N=n, sampling_steps=1)
    w = windows(2000)
    t, u, s = ctm.draw_levels(Batch(w.obs, w.last, w.action))
    assert (t > u).all() and (u >= s).all()
    grid = ctm.grid()
    assert grid[0] == pytest.approx(1.0) and grid[-1] == pytest.approx(0.1, rel=1e-5)
    assert set(t.flatten().tolist()) == set(grid[:-1].tolist())
    assert set(s.flatten().tolist()) == set(grid[1:].tolist())


def test_one_pass_equals_the_two_terms_computed_apart():
    ctm, batch = disturbed("ctm").eval(), batch_of()
    torch.manual_seed(0)
    loss, parts = ctm.loss(batch, "train")
    torch.manual_seed(0)
    t, u, s = ctm.draw_levels(batch)
    action = batch.action[:, None].expand(-1, ctm.config.draws, -1)
    x = action + t[..., None] * torch.randn_like(action)
    own, target = ctm.net.net.encode(batch.obs), ctm.target.net.encode(batch.obs)
    teacher = ctm.get_teacher()
    x_u = heun(teacher, x, t, u, teacher.encode(batch.obs), batch.last)
    aim = ctm.end(ctm.jump(ctm.target, x_u, u, s, target, batch.last), s, target, batch.last)
    reached = ctm.end(ctm.jump(ctm.net, x, t, s, own, batch.last), s, target, batch.last)
    torch.testing.assert_close(parts["ctm"], (reached - aim).square().mean())
    g = ctm.clean(ctm.net, x, t, ctm.net.encode_levels(t, t), own, batch.last)
    sd = teacher.config.sigma_data
    weight = ((t**2 + sd**2) / (t * sd) ** 2)[..., None]
    torch.testing.assert_close(parts["dsm"], (weight * (g - action) ** 2).mean())
    torch.testing.assert_close(loss, parts["ctm"] + parts["dsm"])


def test_gradient_reaches_the_student_alone():
    ctm, batch = disturbed("ctm"), batch_of()
    ctm.loss(batch, "train")[1]["ctm"].backward()
    assert all(p.grad is None for p in ctm.target.parameters())
    assert ctm.net.stop.linear.weight.grad.abs().sum() > 0
    assert ctm.net.net.head.weight.grad.abs().sum() > 0


def test_several_jumps_visit_the_grid_from_end_to_end():
    ctm = build("ctm", sampling_steps=4)
    schedule = ctm.schedule()
    assert len(schedule) == 5 and schedule[0] == pytest.approx(1.0) and schedule[-1] == pytest.approx(0.1, rel=1e-5)
    assert set(schedule) <= set(ctm.grid().tolist())
    with pytest.raises(ValueError, match="from 1 to N - 1 = 19, got 20"):
        build("ctm", sampling_steps=20)


def test_before_training_many_jumps_follow_the_teachers_flow():
    """With g = the teacher's denoiser, N - 1 jumps are Euler's method, which approaches Heun's on a fine grid."""
    ctm, batch = build("ctm", N=80, sampling_steps=79), batch_of(32)
    noise = torch.randn(32, SHAPE.act)
    ctm.scaler.act_low.fill_(-9)
    ctm.scaler.act_high.fill_(9)
    teacher, x = ctm.get_teacher(), noise[:, None]
    context, grid = teacher.encode(batch.obs), ctm.grid()
    with torch.no_grad():
        for t, u in itertools.pairwise(grid):
            x = heun(teacher, x, t.expand(32, 1), u.expand(32, 1), context, batch.last)
        many = ctm.act(batch.obs, batch.last, noise, torch.rand(32))
        object.__setattr__(ctm.config, "sampling_steps", 1)
        one = ctm.act(batch.obs, batch.last, noise, torch.rand(32))
    assert (many - x[:, 0]).abs().mean() < 0.03
    assert (many - x[:, 0]).abs().mean() < 0.3 * (one - x[:, 0]).abs().mean()


@pytest.mark.parametrize("name, changes", [("ctm", {}), ("cd", {"N": 10})])
def test_the_target_is_a_warmed_up_average(name, changes):
    method = disturbed(name, target_ema=0.9999, **changes)
    before = copy.deepcopy(method.target)
    method.after_step()
    decay = 2 / 11
    for old, new, net in zip(before.parameters(), method.target.parameters(), method.net.parameters(), strict=True):
        torch.testing.assert_close(new, decay * old + (1 - decay) * net.detach())
    assert method.updates == 1
    method.updates.fill_(10**6)
    before = copy.deepcopy(method.target)
    method.after_step()
    for old, new in zip(before.parameters(), method.target.parameters(), strict=True):
        assert (new - old).abs().max() < 1e-4


@pytest.mark.parametrize("n", [5, 20])
def test_consistency_target_with_many_levels(n):
    """The loss compares f(x_t, t) with the target's f at one Heun step of the teacher."""
    cd, batch = disturbed("cd", N=n).eval(), batch_of()
    torch.manual_seed(0)
    loss, _ = cd.loss(batch, "train")
    torch.manual_seed(0)
    i = torch.randint(n - 1, (6, 1))
    t, u = cd.grid()[i], cd.grid()[i + 1]
    action = batch.action[:, None].expand(-1, cd.config.draws, -1)
    x = action + t[..., None] * torch.randn_like(action)
    teacher = cd.get_teacher()
    x_u = heun(teacher, x, t, u, teacher.encode(batch.obs), batch.last)
    aim = cd.consistency(cd.target, x_u, u, cd.target.encode(batch.obs), batch.last)
    reached = cd.consistency(cd.net, x, t, cd.net.encode(batch.obs), batch.last)
    torch.testing.assert_close(loss, (reached - aim).square().mean())


@pytest.mark.parametrize("n, own", [(2, False), (10, True)])
def test_cd_with_many_levels_keeps_its_target_in_the_file(n, own, tmp_path):
    cd = disturbed("cd", N=n)
    assert (cd.target is not None) == own
    cd.after_step()
    save(cd, tmp_path / "p", "cd")
    again = load(tmp_path / "p").state_dict()
    assert again.keys() == cd.state_dict().keys() and ("updates" in again) == own
    assert all(torch.equal(v, again[k]) for k, v in cd.state_dict().items())
