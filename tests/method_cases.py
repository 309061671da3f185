"""Small instances of every registered method on made-up demonstrations, for the tests of methods and training."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from envs.datasets import Demonstrations, Episode
from harness.config import resolve
from harness.registry import load_suites, resolve_class
from harness.train import TrainConfig, train
from harness.windows import Windows, make_windows
from methods._transformer import GPTConfig
from methods.base import Batch, Method, Shape
from methods.scaler import Scaler

SUITES = load_suites()
METHODS = [
    name
    for name, block in SUITES.methods.items()
    if block["role"] != "one_step" and "avoiding" in block.get("tasks", ["avoiding"])
]
GPT = GPTConfig(layers=2, heads=2, embed=16, window=3)
SHAPE = Shape(obs=4, act=2)
GOAL_SHAPE = Shape(obs=4, act=2, goal=2)
GOAL_MASK = (True, True, False, True)


def scaler(shape: Shape = SHAPE) -> Scaler:
    rng = np.random.default_rng(0)
    if shape.obs > 100:  # images
        return Scaler.fit_actions(rng.normal(-1.0, 0.5, (200, shape.act)))
    mask = np.array(GOAL_MASK) if shape.goal else None
    return Scaler.fit(rng.normal(1.0, 2.0, (200, shape.obs)), rng.normal(-1.0, 0.5, (200, shape.act)), mask)


def demonstrations(lengths: Sequence[int], modes: Sequence[str] | None = None, seed: int = 0) -> Demonstrations:
    """Random episodes of these numbers of rows, in these modes."""
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(
            rng.normal(3.0, 2.0, size=(n, 4)).astype(np.float32),
            rng.normal(-1.0, 0.5, size=(n, 2)).astype(np.float32),
            None,
            modes[i] if modes else "m",
        )
        for i, n in enumerate(lengths)
    ]
    return Demonstrations("avoiding", "scripted", "test", "id", "digest", episodes)


def windows(n: int = 256, seed: int = 0, shape: Shape = SHAPE) -> Windows:
    """Scaled windows whose action is one of two modes that the state shifts; with a goal, its first value decides the mode."""
    g = torch.Generator().manual_seed(seed)
    if shape.obs > 100:
        return image_windows(n, seed, shape)
    obs = torch.randn(n, GPT.window, SHAPE.obs, generator=g)
    sign = torch.randint(2, (n, 1), generator=g) * 2 - 1
    last = torch.randint(GPT.window, (n,), generator=g)
    goal = None
    if shape.goal:
        goal = torch.randn(n, shape.goal, shape.obs, generator=g) * torch.tensor(GOAL_MASK)
        sign = goal[:, 0, :1].sign()
    action = sign + 0.3 * obs[torch.arange(n), last, :2] + 0.05 * torch.randn(n, 2, generator=g)
    return Windows(obs, last, action, goal)


def image_windows(n: int, seed: int, shape: Shape) -> Windows:
    """At most `n` windows of `tests/image_cases.py`."""
    from tests.image_cases import demonstrations

    return make_windows(demonstrations(seed=seed), GPT.window, scaler(shape)).select(torch.arange(min(n, 46)))


def build(name: str, gpt: GPTConfig = GPT, seed: int = 0, shape: Shape = SHAPE, **hyper: object) -> Method:
    """A method of the registry at tiny sizes, hyper-parameters of Avoiding; students get a briefly trained teacher."""
    block = SUITES.methods[name]
    torch.manual_seed(seed)
    teacher = trained_teacher(block["teacher"], shape, gpt) if "teacher" in block else None
    torch.manual_seed(seed)
    return assemble(name, gpt, shape, scaler(shape), teacher, **hyper)


def assemble(
    name: str, gpt: GPTConfig, shape: Shape, scaler: Scaler, teacher: Method | None, **hyper: object
) -> Method:
    """A method of the registry from its parts, hyper-parameters of Avoiding."""
    config = resolve(SUITES, "avoiding", name, "smoke")
    cls = resolve_class(SUITES.methods[name]["class"])
    return cls(cls.Config(**{**config["hyper"], **hyper}), shape, gpt, scaler, teacher)


@functools.cache
def trained_teacher(name: str, shape: Shape = SHAPE, gpt: GPTConfig = GPT) -> Method:
    """A teacher that has seen enough for its score to pull samples towards the data; of images, hardly anything."""
    method = build(name, gpt, shape=shape)
    config = train_config(name, steps=150, batch=64, lr=3e-3)
    if shape.obs > 100:
        config = train_config(name, steps=10, batch=8, lr=1e-3, obs_noise=0.0, optimizer="adamw")
    with tempfile.TemporaryDirectory() as folder:
        train(method, windows(shape=shape), windows(8, shape=shape), config, 0, Path(folder))
    return method


def train_config(name: str, **changes: object) -> TrainConfig:
    """The smoke budget's training of a method, with changes."""
    config = resolve(SUITES, "avoiding", name, "smoke")["train"]
    return TrainConfig(**{**config, "precision": "fp32", "compile": "off", **changes})


def learn_and_act_on_meta(method, data):
    """Every phase's loss and an action on the meta device, where a tensor that was left on the CPU fails."""
    method = copy.deepcopy(method).to("meta")
    if method._teacher:
        method.get_teacher().to("meta")
    goal = None if data.goal is None else data.goal.to("meta")
    batch = Batch(data.obs.to("meta"), data.last.to("meta"), data.action.to("meta"), goal)
    for phase in method.phases:
        loss, _ = method.loss(batch, phase.name)
        loss.backward()
        assert loss.device.type == "meta"
    method.eval().prepare()
    count = len(data.last)
    noise, uniform = torch.zeros(count, method.noise_dim, device="meta"), torch.zeros(count, device="meta")
    assert method.act(batch.obs, batch.last, noise, uniform).shape == (count, method.shape.act)
