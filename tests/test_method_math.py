"""The mathematics of the methods against closed forms, finite differences and torch.distributions."""

import math

import pytest
import torch
from torch import Tensor, distributions, nn

from methods._mixture import Mixture, MixtureTransformer, choose
from methods._transformer import DenoisingTransformer, GPTConfig
from methods.base import Batch
from methods.ddpm import cosine_alphas_bar
from tests.method_cases import GPT, SHAPE, build, windows

MEAN, SD = torch.tensor([0.7, -1.2]), 0.6


class GaussianBeso(nn.Module):
    """The network that makes BESO's denoiser exact for N(MEAN, SD^2): F = (D - c_skip x) / c_out."""

    def __init__(self, beso):
        super().__init__()
        self.beso = [beso]

    def encode(self, obs, goal=None):
        return None

    def encode_level(self, level):
        return level

    def forward(self, scaled: Tensor, level: Tensor, context, last) -> Tensor:
        c_skip, c_out, c_in = self.beso[0].scalings(level[..., None])
        x, var = scaled / c_in, level[..., None] ** 2
        denoised = (SD**2 * x + var * MEAN) / (SD**2 + var)
        return (denoised - c_skip * x) / c_out


class GaussianDdpm(GaussianBeso):
    """The exact noise estimate for N(MEAN, SD^2)."""

    def forward(self, x: Tensor, level: Tensor, context, last) -> Tensor:
        bar = self.beso[0].alphas_bar[level][..., None]
        return (1 - bar).sqrt() * (x - bar.sqrt() * MEAN) / (bar * SD**2 + 1 - bar)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0])
def test_ve_score_of_a_gaussian(sigma):
    beso = build("beso")
    beso.net = GaussianBeso(beso)
    a = torch.randn(5, 7, 2)
    score = beso.score(a, torch.full((5, 1), sigma), None, torch.zeros(5).long())
    torch.testing.assert_close(score, (MEAN - a) / (SD**2 + sigma**2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("t", range(8))
def test_vp_score_of_a_gaussian(t):
    ddpm = build("ddpm")
    ddpm.net = GaussianDdpm(ddpm)
    a, bar = torch.randn(5, 7, 2), ddpm.alphas_bar[t]
    score = ddpm.score(a, torch.full((5, 1), t), None, torch.zeros(5).long())
    torch.testing.assert_close(score, (bar.sqrt() * MEAN - a) / (bar * SD**2 + 1 - bar), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name, network", [("beso", GaussianBeso), ("ddpm", GaussianDdpm)])
def test_samplers_of_an_exact_teacher_give_its_gaussian(name, network):
    fine = {"ddpm": {"timesteps": 200}, "beso": {"sampling_steps": 150, "sigma_max": 3.0, "sigma_min": 0.01}}
    teacher = build(name, **fine[name])
    teacher.net = network(teacher)
    teacher.scaler.act_low.fill_(-10)
    teacher.scaler.act_high.fill_(10)
    g = torch.Generator().manual_seed(0)
    obs, n = torch.zeros(4000, GPT.window, SHAPE.obs), 4000
    with torch.no_grad():
        a = teacher.act(obs, torch.zeros(n).long(), torch.randn(n, teacher.noise_dim, generator=g), torch.rand(n))
    torch.testing.assert_close(a.mean(0), MEAN, atol=0.08, rtol=0)
    torch.testing.assert_close(a.std(0), torch.full((2,), SD), atol=0.06, rtol=0)


def test_cosine_schedule_equals_the_measured_one():
    expected = [0.205, 0.391, 0.562, 0.711, 0.834, 0.925, 0.981, 1.0]  # of the D3IL agent at T = 8
    torch.testing.assert_close((1 - cosine_alphas_bar(8)).sqrt().float(), torch.tensor(expected), atol=6e-4, rtol=0)


@pytest.mark.parametrize("steps", [8, 16])
def test_vp_noise_of_the_chain_has_the_marginals_that_training_draws(steps):
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) n, step after step, against what the loss adds to an action at once."""
    bar = cosine_alphas_bar(steps)
    betas = 1 - bar / torch.cat([bar.new_ones(1), bar[:-1]])
    mean, variance = bar.new_ones(()), bar.new_zeros(())  # of x_t for x_0 = 1
    for t in range(steps):
        mean, variance = (1 - betas[t]).sqrt() * mean, (1 - betas[t]) * variance + betas[t]
        torch.testing.assert_close(mean, bar[t].sqrt(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(variance, 1 - bar[t], atol=1e-6, rtol=1e-5)
    seen = {}

    def estimate(noised, t, context, last):
        seen["noised"], seen["t"] = noised, t
        return torch.zeros_like(noised)

    method = build("ddpm", timesteps=steps)
    method.noise_estimate = estimate
    torch.manual_seed(0)
    method.loss(Batch(torch.zeros(8000, 3, 4), torch.zeros(8000).long(), torch.ones(8000, 2)), "train")
    for t in range(steps):
        x = seen["noised"][seen["t"] == t]
        torch.testing.assert_close(x.mean(), bar[t].sqrt().float(), atol=0.06, rtol=0)
        torch.testing.assert_close(x.var(), (1 - bar[t]).float(), atol=0.06, rtol=0)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 80.0])
def test_edm_preconditioning_at_both_ends(sigma):
    beso = build("beso")
    c_skip, c_out, c_in = (c.item() for c in beso.scalings(torch.tensor([sigma])))
    sd = beso.config.sigma_data
    assert c_in**2 * (sigma**2 + sd**2) == pytest.approx(1, rel=1e-4)  # unit input variance
    assert c_skip == pytest.approx(sd**2 / (sigma**2 + sd**2), rel=1e-4)
    # unit target variance: var(a - c_skip (a + sigma n)) = c_out^2
    assert (1 - c_skip) ** 2 * sd**2 + (c_skip * sigma) ** 2 == pytest.approx(c_out**2, rel=1e-3)


@pytest.mark.parametrize("n", [2, 5, 40])
def test_consistency_boundary_and_grid(n):
    cd = build("cd", N=n)
    grid = cd.grid()
    assert len(grid) == n and grid[0] == pytest.approx(1.0) and grid[-1] == pytest.approx(0.1, rel=1e-5)
    assert (grid.diff() < 0).all()
    x = torch.randn(6, 3, 2)
    w = windows(6)
    low = torch.full((6, 1), cd.levels.sigma_min)
    torch.testing.assert_close(cd.consistency(cd.net, x, low, cd.net.encode(w.obs), w.last), x)


def mixture(batch: int = 4, experts: int = 5, dim: int = 9, spread: float = 1.0) -> Mixture:
    g = torch.Generator().manual_seed(0)
    return Mixture(
        torch.log_softmax(torch.randn(batch, experts, generator=g), -1),
        spread * torch.randn(batch, experts, dim, generator=g),
        torch.rand(batch, experts, dim, generator=g) + 0.1,
    )


def test_mixture_against_torch_distributions():
    m = mixture()
    experts = distributions.Independent(distributions.Normal(m.mean, m.std), 1)
    reference = distributions.MixtureSameFamily(distributions.Categorical(logits=m.log_gating), experts)
    a = torch.randn(4, 9)
    torch.testing.assert_close(m.log_prob(a), reference.log_prob(a))
    torch.testing.assert_close(m.entropies(), experts.entropy())
    many = torch.randn(4, 6, 9)
    torch.testing.assert_close(m.log_prob(many), reference.log_prob(many.transpose(0, 1)).T)


def test_responsibilities_sum_to_one_far_from_all_experts():
    r = mixture().log_responsibilities(torch.full((4, 9), 1e3))
    assert torch.isfinite(r.exp()).all()
    torch.testing.assert_close(r.exp().sum(-1), torch.ones(4))


def test_choose_follows_the_gating():
    m = mixture(batch=1)
    u = torch.linspace(0, 1 - 1e-6, 20000)
    frequency = torch.bincount(choose(m.log_gating.expand(len(u), -1), u), minlength=5) / len(u)
    torch.testing.assert_close(frequency, m.log_gating[0].exp(), atol=1e-3, rtol=0)


TABLE_7 = [(1, 1_442_311), (2, 1_444_492), (4, 1_448_854), (8, 1_457_578), (16, 1_475_026)]


@pytest.mark.parametrize("experts, parameters", TABLE_7)
def test_table_7_parameters(experts, parameters):
    net = MixtureTransformer(GPTConfig(4, 4, 72, 5), 4, 2, 0, experts, 512, 128, 1.0, 1e-4, 1.0)
    assert sum(p.numel() for p in net.parameters()) == parameters


class KnownTeacher:
    """A teacher whose policy is a fixed two-mode density in 2-D, float64, with its score in closed form."""

    def __init__(self):
        self.density = distributions.MixtureSameFamily(
            distributions.Categorical(torch.tensor([0.3, 0.7]).double()),
            distributions.Independent(
                distributions.Normal(
                    torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).double(), torch.full((2, 2), 0.4).double()
                ),
                1,
            ),
        )

    def draw_level(self, low, high, shape):
        return torch.ones(shape)

    def encode(self, obs, goal):
        return None

    def signal_scale(self, level):
        return torch.ones_like(level)

    def score(self, a, level, context, last):
        with torch.enable_grad():
            a = a.detach().requires_grad_(True)
            return torch.autograd.grad(self.density.log_prob(a).sum(), a)[0]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_expert_gradient_is_that_of_the_bound(share):
    """d/dphi of Eq. 9 with q~ held fixed, by central differences on the same random numbers."""
    vdd = build("vdd_ve", uniform_share=share, samples=4).double()
    teacher = KnownTeacher()
    vdd.get_teacher = lambda: teacher
    w = windows(6)
    batch = Batch(w.obs.double(), w.last, w.action.double())
    eps_seed = 3
    with torch.no_grad():
        for p in vdd.net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype))
        old = vdd.net(batch.obs, batch.last)
    old = Mixture(old.log_gating.double(), old.mean.double(), old.std.double())

    def bound() -> float:
        torch.manual_seed(eps_seed)
        m = vdd.net(batch.obs, batch.last)
        b, z, a = m.mean.shape
        eps = torch.randn(b, z, 4, a)
        actions = m.mean[:, :, None] + m.std[:, :, None] * eps  # (B, Z, V, A)
        own = old.log_responsibilities(actions)  # (B, Z, V, Z)
        repulsion = torch.stack([own[:, i, :, i] for i in range(z)], 1)  # (B, Z, V)
        energy = -(teacher.density.log_prob(actions) + repulsion).mean(2) - m.entropies()
        weight = (1 - share) * old.log_gating.exp() + share / z
        return (weight * energy).sum(-1).mean().item()

    torch.manual_seed(eps_seed)
    loss, _ = vdd.loss(batch, "experts")
    loss.backward()
    step = 1e-3  # means pass through float32 in the network's output; a larger step keeps the rounding small
    for parameter in (vdd.net.mean.out.bias, vdd.net.cov.out.bias):
        for i in (0, 3, 7):
            with torch.no_grad():
                parameter[i] += step
                up = bound()
                parameter[i] -= 2 * step
                down = bound()
                parameter[i] += step
            assert parameter.grad[i].item() == pytest.approx((up - down) / (2 * step), rel=2e-2, abs=2e-4)


def test_gating_targets_are_the_responsibilities_of_the_data():
    vdd, w = build("vdd_ve"), windows(16)
    loss, _ = vdd.loss(Batch(w.obs, w.last, w.action), "gating")
    m = vdd.net(w.obs, w.last)
    target = m.log_responsibilities(w.action).exp()
    torch.testing.assert_close(loss, -(target * m.log_gating).sum(-1).mean())
    loss.backward()
    assert all(p.grad is None for p in vdd.net.backbone.parameters())
    assert all(p.grad is not None for p in vdd.net.gating.parameters())


def test_rescaled_vp_score_is_unbiased_for_the_mean():
    """With `rescale`, the drive on an expert at the teacher's own mean is zero; without, it points towards 0."""
    vdd = build("vdd_vp", rescale=True)
    teacher = build("ddpm")
    teacher.net = GaussianDdpm(teacher)
    vdd.get_teacher = lambda: teacher
    w = windows(64)
    at_mean = MEAN.expand(64, 1, 2)
    batch = Batch(w.obs, w.last, w.action)
    torch.testing.assert_close(vdd.teacher_score(at_mean, batch), torch.zeros(64, 1, 2), atol=1e-5, rtol=0)
    object.__setattr__(vdd.config, "rescale", False)
    drive = vdd.teacher_score(at_mean, batch)
    assert ((drive * MEAN) < 0).all()


def test_constants():
    assert Mixture(torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)).log_prob(
        torch.zeros(1, 1)
    ).item() == pytest.approx(-0.5 * math.log(2 * math.pi))


@pytest.mark.parametrize("goal_tokens", [0, 2])
def test_what_the_last_layer_leaves_out_changes_nothing(goal_tokens):
    """`newest` and `encode` compute a part of the last layer; against every layer in full, with gradients."""
    torch.manual_seed(0)
    net = DenoisingTransformer(GPTConfig(3, 2, 16, 4), 5, 2, nn.Linear(1, 16), goal_tokens).double()
    obs, last = torch.randn(6, 4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 1])
    goal = torch.randn(6, goal_tokens, 5, dtype=torch.float64) if goal_tokens else None
    x, cache = net.tokens(obs, goal), []
    for block in net.blocks:
        x, kv = block(x, net.causal[: x.shape[1], : x.shape[1]])
        cache.append(kv)
    full = net.ln_f(x)[torch.arange(6), last + goal_tokens]
    found = net.newest(obs, last, goal)
    torch.testing.assert_close(found, full, atol=1e-12, rtol=0)
    for a, b in zip(net.encode(obs, goal), cache, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    trained = [p for n, p in net.named_parameters() if not n.startswith(("act_embed", "head", "level"))]
    wanted, got = (torch.autograd.grad(y.square().sum(), trained, retain_graph=True) for y in (full, found))
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)
