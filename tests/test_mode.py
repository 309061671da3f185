"""MoDE: routing by the noise level alone, sparse experts, load balance, expert caching, distillation."""

import pytest
import torch

from harness.config import resolve
from harness.registry import load_suites
from methods._transformer import GPTConfig, Transformer
from methods.base import Batch, Shape
from methods.mode import Mode, ModeConfig, ModeTransformer, load_balance, swiglu
from methods.policy import Policy
from tests.method_cases import GPT, SHAPE, SUITES, build, scaler, windows
from tests.test_method_math import MEAN, SD, GaussianBeso


def diverse(**hyper) -> Mode:
    """A network whose routers differ by level, and whose experts matter."""
    mode = build("mode", **hyper)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for block in mode.net.mode_blocks():
            for layer in (mode.net.level.first, block.router[0], block.router[-1]):
                for p in layer.parameters():
                    p.copy_(torch.randn(p.shape, generator=g))
            for expert in block.experts:
                for p in expert.parameters():
                    p.copy_(0.3 * torch.randn(p.shape, generator=g))
    return mode.eval()


def router_calls(mode: Mode) -> list[int]:
    """A list that gets one entry, the number of noise levels, for every run of a router."""
    calls: list[int] = []
    for block in mode.net.mode_blocks():
        block.router.register_forward_hook(lambda _m, inputs, _o: calls.append(inputs[0].shape[:-1].numel()))
    return calls


def inputs(n: int = 5):
    w = windows(n)
    return w.obs, w.last, torch.randn(n, SHAPE.act, generator=torch.Generator().manual_seed(1)), torch.rand(n)


@torch.no_grad()
def test_cached_equals_uncached():
    mode = diverse()
    mode.scaler.act_low.fill_(-99)
    mode.scaler.act_high.fill_(99)
    plain = mode.act(*inputs())
    assert mode.fused == {}
    mode.fuse(mode.schedule())
    assert len(mode.fused) == mode.config.sampling_steps
    torch.testing.assert_close(mode.act(*inputs()), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_router_work_is_done_once_per_schedule():
    mode = diverse()
    calls = router_calls(mode)
    policy = Policy(mode)
    assert calls == [mode.config.sampling_steps] * GPT.layers  # each layer's router once, on all levels
    policy.reset([1, 2])
    for _ in range(4):
        policy.act(torch.zeros(2, SHAPE.obs).numpy())
    assert len(calls) == GPT.layers
    mode.train()
    mode.eval()
    mode.act(*inputs())
    assert len(calls) == GPT.layers * (1 + mode.config.sampling_steps)


@torch.no_grad()
def test_fused_layers_hold_the_chosen_experts_alone():
    mode = diverse()
    block, c = mode.net.mode_blocks()[0], mode.net.level(torch.tensor([0.02, 0.2, 5.0]))
    width = mode.config.top_k * mode.config.expert_ratio * GPT.embed
    x = torch.randn(3, 4, GPT.embed)
    for i, fused in enumerate(block.fuse(c)):
        assert fused.gate.shape == (width, GPT.embed) and fused.out.shape == (GPT.embed, width)
        p = torch.softmax(block.router(c[i]), -1)
        top = p.topk(2)
        expected = torch.zeros_like(x[i])
        for share, j in zip(
            top.values / top.values.sum(), top.indices, strict=True
        ):  # the definition, expert by expert
            e = block.experts[j]
            expected += share * e.out(torch.nn.functional.silu(e.gate(x[i])) * e.up(x[i]))
        torch.testing.assert_close(swiglu(fused, x[i]), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_routing_depends_on_the_level_and_on_nothing_else():
    mode = diverse()
    sigma = torch.tensor([0.02, 0.05, 0.1, 0.3, 1.0, 5.0])
    chosen = [block.route(mode.net.level(sigma))[1] for block in mode.net.mode_blocks()]
    assert all((c.sum(-1) == 2).all() for c in chosen)
    assert any(len(c.unique(dim=0)) > 1 for c in chosen)
    w, other = windows(4, 0), windows(4, 5)
    with_one = mode.net.encode_level(torch.full((4, 1), 0.3))
    torch.testing.assert_close(mode.encode(w.obs)[0][0], mode.net.encode(w.obs)[0][0])  # no level in the states
    assert not torch.equal(mode.encode(w.obs)[0][0], mode.encode(other.obs)[0][0])
    assert all((level.mlp.weight == level.mlp.weight[:1]).all() for level in with_one)


def test_training_draws_experts_in_proportion_without_replacement():
    mode = build("mode").train()
    block = mode.net.mode_blocks()[0]
    with torch.no_grad():
        block.router[-1].weight.zero_()
        block.router[-1].bias.copy_(torch.tensor([0.5, 0.3, 0.15, 0.05]).log())
    torch.manual_seed(0)
    p, chosen, weight = block.route(torch.randn(40000, GPT.embed))
    assert (chosen.sum(-1) == 2).all()
    torch.testing.assert_close(weight.sum(-1), torch.ones(40000))
    q = p[0]  # P(i among two) = q_i + sum_{j != i} q_j q_i / (1 - q_j)
    expected = torch.stack([q[i] + sum(q[j] * q[i] / (1 - q[j]) for j in range(4) if j != i) for i in range(4)])
    torch.testing.assert_close(chosen.mean(0), expected, atol=0.01, rtol=0)
    weight[:, 0].sum().backward()
    assert block.router[-1].bias.grad.abs().sum() > 0


def test_load_balance_is_k_when_even_and_larger_otherwise():
    even = torch.eye(4).repeat(8, 1) + torch.eye(4).roll(1, 1).repeat(8, 1)
    assert load_balance(even, even / 2).item() == pytest.approx(2)
    collapsed = torch.tensor([1.0, 1.0, 0, 0]).expand(32, 4)
    assert load_balance(collapsed, collapsed / 2).item() == pytest.approx(4)


def test_balance_counts_in_training_only():
    mode, w = build("mode"), windows(32)
    batch = Batch(w.obs, w.last, w.action)
    loss, parts = mode.train().loss(batch, "train")
    torch.testing.assert_close(loss, parts["denoising"] + 0.01 * parts["balance"])
    assert 1.5 < parts["balance"] < 4
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mode.net.blocks[0].router.parameters())
    assert mode.eval().loss(batch, "train")[1] == {}


def test_ddim_of_an_exact_teacher_gives_its_gaussian():
    mode = build("mode", sampling_steps=80, sigma_max=20.0)
    mode.net = GaussianBeso(build("beso"))
    mode.scaler.act_low.fill_(-10)
    mode.scaler.act_high.fill_(10)
    n, g = 4000, torch.Generator().manual_seed(0)
    obs = torch.zeros(n, GPT.window, SHAPE.obs)
    with torch.no_grad():
        a = mode.act(obs, torch.zeros(n).long(), torch.randn(n, mode.noise_dim, generator=g), torch.rand(n))
    torch.testing.assert_close(a.mean(0), MEAN, atol=0.08, rtol=0)
    torch.testing.assert_close(a.std(0), torch.full((2,), SD), atol=0.06, rtol=0)


def test_schedule_is_exponential_and_ends_at_zero():
    schedule = torch.tensor(build("mode").schedule())
    ratios = schedule[1:-1] / schedule[:-2]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-4, atol=0)
    assert len(schedule) == 11 and schedule[-1] == 0 and schedule[-2].item() == pytest.approx(0.02, rel=1e-4)


def test_levels_of_a_batch_are_denoised_as_each_alone():
    """One level a window, as VDD asks for scores: the same as window by window."""
    mode, w = diverse(), windows(4)
    noised, sigma = torch.randn(4, 3, SHAPE.act), torch.tensor([[0.05], [0.3], [1.0], [4.0]])
    with torch.no_grad():
        together = mode.score(noised, sigma, mode.encode(w.obs), w.last)
        for i in range(4):
            one = slice(i, i + 1)
            alone = mode.score(noised[one], sigma[one], mode.encode(w.obs[one]), w.last[one])
            torch.testing.assert_close(together[one], alone, atol=1e-3, rtol=1e-3)


def test_vdd_distils_it_and_starts_from_its_encoder():
    from harness.registry import resolve_class

    teacher, block = diverse(), SUITES.methods["vdd_ve"]
    cls = resolve_class(block["class"])
    vdd = cls(cls.Config(**resolve(SUITES, "avoiding", "vdd_ve", "smoke")["hyper"]), SHAPE, GPT, scaler(), teacher)
    assert torch.equal(vdd.net.backbone.blocks[1].fc.weight, teacher.net.blocks[1].fc.weight)
    w = windows(8)
    loss, _ = vdd.loss(Batch(w.obs, w.last, w.action), "experts")
    loss.backward()
    assert loss.isfinite()
    plain = Transformer(GPT, SHAPE.obs)
    assert teacher.encoder_state().keys() == plain.state_dict().keys()


def test_published_sizes_can_be_built():
    config = resolve(load_suites(), "avoiding", "mode", "paper", {"mode": {"layers": 12, "heads": 8, "embed": 1024}})
    with torch.device("meta"):
        net = ModeTransformer(ModeConfig(**config["hyper"]), GPTConfig(**config["gpt"]), Shape(4, 2))
    experts = sum(p.numel() for n, p in net.named_parameters() if ".experts." in n)
    assert experts == 12 * 4 * 3 * 1024 * 4096
    assert sum(p.numel() for p in net.parameters()) > experts + 12 * 12 * 1024**2  # and twelve dense blocks


def test_impossible_top_k():
    with pytest.raises(ValueError, match="top_k must be from 1 to experts = 4, got 5"):
        build("mode", top_k=5)


def test_a_trained_teacher_is_not_asked_without_noise():
    with pytest.raises(ValueError, match="set level_min above 0"):
        build("mode").draw_level(0.0, 0.5, (4, 1))
