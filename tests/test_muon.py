"""The stacked Muon against PyTorch's own."""

import pytest
import torch

from harness.muon import Muon


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


def test_equals_pytorchs_muon():
    ours, theirs = run(Muon), run(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0)  # bfloat16 products in another order


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=1e-3)
