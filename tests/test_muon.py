"""The stacked Muon against PyTorch's own."""

import pytest
import torch

from harness.muon import COEFFICIENTS, STEPS, Muon, orthogonalised


def run(optimizer_class, steps=5, **options):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s)) for s in ((8, 24), (24, 8), (8, 8), (8, 24))]
    optimizer = optimizer_class(params, lr=1e-2, weight_decay=0.1, **options)
    for _ in range(steps):
        loss = sum((p**2).sum() + p.sum() for p in params)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return params


def test_equals_pytorchs_muon(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # PyTorch's is in bfloat16 everywhere
    ours, theirs = run(Muon), run(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0)  # bfloat16 products in another order


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_orthogonalises_in_both_precisions(monkeypatch, has_bfloat16):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
    steps = orthogonalised(torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0)))
    assert steps.dtype == (torch.bfloat16 if has_bfloat16 else torch.float32)
    values = torch.linalg.svdvals(steps.float())
    assert values.min() > 0.6 and values.max() < 1.3  # the iteration's own bounds


@pytest.mark.parametrize("shape", [(5, 24, 48), (2, 16, 64), (1, 1, 7)])
def test_the_gram_matrix_alone_gives_the_same_iteration(monkeypatch, shape):
    """In float32, with singular values over six decades as gradients have them; bfloat16 differs by a tenth of the norm."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    m = u * torch.logspace(0, -6, shape[1]) @ v
    a, b, c = COEFFICIENTS
    x = m.double() / m.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    error = (orthogonalised(m) - x).norm() / x.norm()
    assert error < 1e-3


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=1e-3)
