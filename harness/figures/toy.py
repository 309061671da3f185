"""Figure 2: VDD on the toy, drawn from a training that runs while you wait.

Density and score in all panels, the experts as ellipses of one and two standard deviations, their opacity by their weight,
from the first means to the last iteration.

K modes, Z experts, A = 2 action values.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs import toy
from envs.datasets import load_demonstrations
from harness import windows
from harness.config import resolve
from harness.figures import style
from harness.registry import load_suites, resolve_class, teacher_of
from harness.seeds import derive
from harness.train import TrainConfig, Trainer
from methods._mixture import Mixture
from methods._transformer import GPTConfig
from methods.base import Method, Shape

EXPERT = style.ORANGE  # apart from viridis for every kind of colour vision
SHARES = (0.0, 0.05, 0.15, 0.4, 1.0)  # of the iterations: one panel each
EXTENT = 3.6


def build(
    suites: Any, name: str, scaler: Any, teacher: Method | None = None, **hyper: object
) -> tuple[Method, TrainConfig]:
    """A method of the toy with fresh weights, and how it is trained; `hyper` replaces values of the suite."""
    config = resolve(suites, "toy", name, "quick")
    block, cls = suites.tasks["toy"], resolve_class(suites.methods[name]["class"])
    shape = Shape(block["obs_dim"], block["act_dim"], block["goal_tokens"])
    method = cls(cls.Config(**{**config["hyper"], **hyper}), shape, GPTConfig(**config["gpt"]), scaler, teacher)
    return method, TrainConfig(**config["train"])


def snapshots(seed: int = 0) -> tuple[list[tuple[int, Mixture]], Any]:
    """VDD's mixture at `SHARES` of its training on the toy, as (iteration, mixture), and the scaler."""
    suites, demos = load_suites(), load_demonstrations("toy")
    kept, held = windows.split(demos, seed=derive("toy", "split"))
    scaler = windows.fit_scaler(kept)
    torch.manual_seed(derive(f"figure/{seed}", "init"))
    teacher = build(suites, teacher_of(suites, "toy", "vdd_ve") or "", scaler)[0]
    method, config = build(suites, "vdd_ve", scaler, teacher)
    data, val = (windows.make_windows(part, 1, scaler) for part in (kept, held))
    run = Trainer(method.train(), data, val, config, seed)
    wanted = [round(share * config.steps) for share in SHARES]
    taken: list[tuple[int, Mixture]] = []
    for step in range(config.steps + 1):
        if step in wanted:
            with torch.no_grad():
                mixture = method.mixture(data.obs[:1], data.last[:1])
            assert mixture is not None
            taken.append((step, mixture.detach()))
        if step < config.steps:
            run.iterate()
    return taken, scaler


def figure(out: Path) -> tuple[list[Path], list[str]]:
    """Density and score, and five moments of the training: the paths, and nothing that is missing."""
    plt = style.pyplot()
    taken, scaler = snapshots()
    drawn, axes = plt.subplots(1, len(taken) + 1, figsize=(2.1 * (len(taken) + 1), 2.45), sharex=True, sharey=True)
    for axis in axes:
        draw_density(axis)
    axes[0].set_title("density and score", fontsize=9)
    for axis, (step, mixture) in zip(axes[1:], taken, strict=True):
        draw_experts(axis, mixture, scaler)
        axis.set_title("start" if step == 0 else f"iteration {step}", fontsize=9)
    drawn.tight_layout(pad=0.4, w_pad=0.3)
    return style.save(drawn, out, "figure_2"), []


def draw_density(axis: Any) -> None:
    """Colour map of the density, arrows for the score where there is density worth mentioning."""
    line = np.linspace(-EXTENT, EXTENT, 160)
    x, y = np.meshgrid(line, line)
    density = np.exp(toy.log_density(np.stack([x.ravel(), y.ravel()], 1))).reshape(x.shape)
    axis.imshow(density, extent=(-EXTENT, EXTENT) * 2, origin="lower", cmap="viridis", interpolation="bilinear")
    coarse = np.linspace(-EXTENT, EXTENT, 15)[1:-1]
    points = np.stack([p.ravel() for p in np.meshgrid(coarse, coarse)], 1)
    axis.quiver(*points.T, *toy.score(points).T, color="white", alpha=0.7, width=0.005, scale=130)
    axis.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal", xticks=(), yticks=())


def draw_experts(axis: Any, mixture: Mixture, scaler: Any) -> None:
    """Ellipses of one and two standard deviations and a dot in the middle."""
    from matplotlib.patches import Ellipse

    means = scaler.unscale_act(mixture.mean[0]).numpy()  # (Z, A)
    stds = (mixture.std[0] * scaler.act_std).numpy()
    weights = mixture.log_gating[0].exp().numpy()
    for mean, std, weight in zip(means, stds, weights, strict=True):
        opacity = min(1.0, 0.25 + 0.75 * math.sqrt(weight * len(weights)))
        for reach, width in ((1, 1.6), (2, 0.8)):
            size = 2 * reach * std
            axis.add_patch(Ellipse(mean, *size, fill=False, edgecolor=EXPERT, linewidth=width, alpha=opacity))
        axis.plot(*mean, "o", color=EXPERT, markersize=3, markeredgecolor="black", markeredgewidth=0.5)
