"""How probable the held-out demonstrations are under a policy: nats per action, in the units of the actions themselves.

What is computed and how, and which approximations that takes: docs/likelihood.md.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from harness.windows import Windows, encoded, spread
from methods import flow
from methods.base import Batch, Method, Teacher

ROWS = 1024  # held-out windows at most, the same for every method of a task
CHUNK = 256


def likelihood(
    method: Method, data: Windows, seed: int, rows: int = ROWS
) -> tuple[dict[str, Any] | None, float | None]:
    """The record's `likelihood` over at most `rows` windows, and seconds per 1000 actions.

    (None, None) for a method whose density is out of reach.
    """
    kind = kind_of(method, data)
    if kind is None:
        return None, None
    chosen = encoded(method, spread(data, rows))
    log_probs(method, chosen.batch(torch.arange(min(8, len(chosen)))), kind, seed, steps=1)  # a first call is not timed
    began = time.perf_counter()
    values = log_probs(method, chosen, kind, seed)
    seconds = time.perf_counter() - began
    unscaled = values.double().mean() - method.scaler.act_std.double().log().sum().cpu()
    found = {"nats_per_action": unscaled.item(), "rows": len(chosen), "kind": kind}
    return found, round(1000 * seconds / len(chosen), 4)


def kind_of(method: Method, data: Windows) -> str | None:
    """ "exact" for a density in closed form, "flow" for a teacher whose probability flow gives it, else None."""
    with torch.no_grad():
        if method.log_prob(batch_of(method, data.batch(torch.arange(1)))) is not None:
            return "exact"
    return "flow" if isinstance(method, Teacher) and method.flow_range() is not None else None


def log_probs(method: Method, data: Windows, kind: str, seed: int, steps: int = flow.STEPS) -> Tensor:
    """Log-density of every held-out action, nats per scaled action: (N,), on the CPU. steps: of the flow."""
    method = method.eval()
    found = []
    for i, index in enumerate(torch.arange(len(data)).split(CHUNK)):
        batch = batch_of(method, data.batch(index))
        if kind == "flow":
            assert isinstance(method, Teacher)
            found.append(flow.log_prob(method, batch, steps, seed=(seed + i) % 2**63).cpu())
        else:
            with torch.no_grad():
                value = method.log_prob(batch)
            assert value is not None
            found.append(value.cpu())
    return torch.cat(found)


def batch_of(method: Method, data: Windows) -> Batch:
    """The windows as a batch on the method's device."""
    device = method.device
    goal = None if data.goal is None else data.goal.to(device)
    return Batch(data.obs.to(device), data.last.to(device), data.action.to(device), goal)
