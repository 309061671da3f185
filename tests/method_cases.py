"""Small instances of every registered method on made-up demonstrations, for the tests of methods and training."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from harness.config import resolve
from harness.registry import load_suites, resolve_class
from harness.train import TrainConfig, train
from harness.windows import Windows
from methods._transformer import GPTConfig
from methods.base import Method, Shape
from methods.scaler import Scaler

SUITES = load_suites()
METHODS = [
    name
    for name, block in SUITES.methods.items()
    if block["role"] != "one_step" and "avoiding" in block.get("tasks", ["avoiding"])
]
GPT = GPTConfig(layers=2, heads=2, embed=16, window=3)
SHAPE = Shape(obs=4, act=2)


def scaler() -> Scaler:
    rng = np.random.default_rng(0)
    return Scaler.fit(rng.normal(1.0, 2.0, (200, SHAPE.obs)), rng.normal(-1.0, 0.5, (200, SHAPE.act)))


def windows(n: int = 256, seed: int = 0) -> Windows:
    """Scaled windows whose action is one of two modes that the state shifts."""
    g = torch.Generator().manual_seed(seed)
    obs = torch.randn(n, GPT.window, SHAPE.obs, generator=g)
    sign = torch.randint(2, (n, 1), generator=g) * 2 - 1
    last = torch.randint(GPT.window, (n,), generator=g)
    action = sign + 0.3 * obs[torch.arange(n), last, :2] + 0.05 * torch.randn(n, 2, generator=g)
    return Windows(obs, last, action)


def build(name: str, gpt: GPTConfig = GPT, seed: int = 0, **hyper: object) -> Method:
    """A method of the registry at tiny sizes, hyper-parameters of Avoiding; students get a briefly trained teacher."""
    torch.manual_seed(seed)
    block = SUITES.methods[name]
    config = resolve(SUITES, "avoiding", name, "smoke")
    cls = resolve_class(block["class"])
    teacher = trained_teacher(block["teacher"]) if "teacher" in block else None
    torch.manual_seed(seed)
    return cls(cls.Config(**{**config["hyper"], **hyper}), SHAPE, gpt, scaler(), teacher)


@functools.cache
def trained_teacher(name: str) -> Method:
    """A teacher that has seen enough for its score to pull samples towards the data."""
    method = build(name)
    config = train_config(name, steps=300, batch=64, lr=3e-3)
    with tempfile.TemporaryDirectory() as folder:
        train(method, windows(), windows(8), config, 0, Path(folder))
    return method


def train_config(name: str, **changes: object) -> TrainConfig:
    """The smoke budget's training of a method, with changes."""
    config = resolve(SUITES, "avoiding", name, "smoke")["train"]
    return TrainConfig(**{**config, "precision": "fp32", "compile": "off", **changes})
