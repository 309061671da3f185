"""Muon with all matrices of one shape stepped together: the fast twin of `torch.optim.Muon`.

Jordan et al., *Muon: An optimizer for hidden layers in neural networks* (2024); the step's size is matched to AdamW's as by
Liu et al. (2025), `adjust_lr_fn="match_rms_adamw"`. PyTorch's own steps one matrix at a time: for the small networks here its
many tiny products cost as much as the loss and its gradient. Tested to agree with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()


def orthogonalised(m: Tensor) -> Tensor:
    """Newton-Schulz iteration on a stack of matrices (n, r, c), r <= c: singular values go towards 1.

    In bfloat16, as published, where the processor has its products; elsewhere they are several times slower than float32's.
    In float32 wide matrices take `polynomial_of_gram`, which is the same iteration with fewer products.
    """
    a, b, c = COEFFICIENTS
    x = m.bfloat16() if has_bfloat16(m.device) else m.float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.dtype == torch.float32 and x.shape[2] >= 2 * x.shape[1]:
        return torch.bmm(polynomial_of_gram(torch.bmm(x, x.mT)), x)
    for _ in range(STEPS):
        gram = torch.bmm(x, x.mT)  # (n, r, r)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def polynomial_of_gram(gram: Tensor) -> Tensor:
    """The factor that the iteration multiplies x by, from x x^T alone: (n, r, r) -> (n, r, r).

    Every step multiplies x by a polynomial of x x^T, so all of them commute, and only the last product is as wide as x:
    for c = 4r 25 products of r x r matrices, not 45. Needs float32: bfloat16 loses small singular values in their squares.
    """
    a, b, c = COEFFICIENTS
    factor = None
    for step in range(STEPS):
        one = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        one.diagonal(dim1=1, dim2=2).add_(a)
        factor = one if factor is None else torch.bmm(one, factor)
        if step < STEPS - 1:
            gram = torch.bmm(torch.bmm(one, gram), one)
    assert factor is not None
    return factor


class Muon(torch.optim.Optimizer):
    """For matrices only. lr = size of a step as AdamW's; weight decay is decoupled; Nesterov momentum."""

    def __init__(self, params: list[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95):
        if any(p.ndim != 2 for p in params):
            raise ValueError("Muon takes matrices; give vectors and scalars to AdamW")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            stacks: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    stacks.setdefault((min(p.shape), max(p.shape)), []).append(p)
            for shape, params in stacks.items():
                self._step_stack(params, shape, group)

    def _step_stack(self, params: list[Tensor], shape: tuple[int, int], group: dict) -> None:
        """One step of all matrices that are `shape` (r, c) or its transpose."""
        momentum = group["momentum"]
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        grads = [p.grad for p in params if p.grad is not None]  # all of them
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        updates = torch._foreach_lerp(grads, buffers, momentum)
        wide = torch.stack([u if u.shape[0] <= u.shape[1] else u.mT for u in updates])  # (n, r, c)
        steps = orthogonalised(wide).float()
        size = group["lr"] * 0.2 * math.sqrt(shape[1])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for p, u in zip(params, steps, strict=True):
            p.add_(u if p.shape[0] <= p.shape[1] else u.mT, alpha=-size)
