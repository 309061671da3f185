"""How far a student's actions are from its teacher's, without a simulator: energy distance on held-out states.

Szekely and Rizzo (2013): D(P, Q) = 2 E|x - y| - E|x - x'| - E|y - y'|, zero only for equal distributions; here in units of
scaled actions. Two finite samples of one distribution have a distance above zero: the noise floor, between two of the teacher.

Shapes: N states, M samples a state, T states a window, D observation values, A action values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.seeds import derive
from harness.windows import Windows, encoded, spread
from methods.base import Method

STATES, SAMPLES = 256, 64
CHUNK = 32  # states whose samples are drawn together


def quality(
    student: Method, teacher: Method, data: Windows, seed: int, states: int = STATES, samples: int = SAMPLES
) -> dict[str, Any]:
    """Mean energy distance between the actions of student and teacher over (at most) `states` states of `data`.

    `noise_floor`: the same between two independent sets of samples of the teacher. Both use the V-statistic, so neither is
    negative and their difference is what the distributions themselves contribute. `seed` decides everything random.
    """
    chosen = spread(data, states)
    shown = encoded(teacher, chosen)  # once for both
    taught = sample_actions(teacher, shown, samples, derive(str(seed), "teacher"))
    again = sample_actions(teacher, shown, samples, derive(str(seed), "teacher again"))
    learned = sample_actions(student, chosen, samples, derive(str(seed), "student"))
    return {
        "energy_distance": energy_distance(learned, taught).mean().item(),
        "noise_floor": energy_distance(again, taught).mean().item(),
        "states": len(chosen),
        "samples": samples,
    }


@torch.no_grad()
def sample_actions(method: Method, data: Windows, samples: int, seed: int) -> Tensor:
    """`samples` actions, as the policy acts, in every state of `data`: (N, M, A), scaled."""
    method = method.eval()
    device, data = method.device, encoded(method, data)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: equal numbers on every device
    found = []
    for index in torch.arange(len(data)).split(CHUNK):
        rows = data.batch(index.repeat_interleave(samples))
        noise = torch.randn(len(rows), method.noise_dim, generator=generator)
        uniform = torch.rand(len(rows), generator=generator)
        goal = None if rows.goal is None else rows.goal.to(device)
        obs, last = rows.obs.to(device), rows.last.to(device)
        actions = method.act(obs, last, noise.to(device), uniform.to(device), goal)
        found.append(actions.view(len(index), samples, -1).cpu())  # (n, M, A)
    return torch.cat(found)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """V-statistic of the energy distance between samples x and y, both (N, M, A), in every state: (N,)."""
    cross, within_x, within_y = (mean_distance(a, b) for a, b in ((x, y), (x, x), (y, y)))
    return 2 * cross - within_x - within_y


def mean_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean Euclidean distance over all pairs: (N, M, A), (N, M', A) -> (N,)."""
    # without the matrix product, whose rounding shows where samples coincide
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").mean((1, 2))
