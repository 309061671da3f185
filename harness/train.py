"""The one training loop: phases, optimisers, learning-rate schedule, weight averaging, exact resumption.

A method says what an iteration consists of (`Method.phases`) and what its losses are; everything else is here.

Resumption is exact: `train.ckpt.safetensors` holds weights, averages, optimiser moments, both random states, the position and
the running curve, so that an interrupted training ends with the very weights of an uninterrupted one. Written to a
temporary name and renamed: a kill leaves the old or the new checkpoint, never a broken one. Its metadata holds a SHA-256 over
the whole file: a checkpoint that a disk has damaged is noticed, never resumed from.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor, nn

from harness import stop
from harness.exchange import Exchange
from harness.muon import Muon, has_bfloat16
from harness.record import InvalidRecord, read_bytes, write_atomic
from harness.sealed import UNSEALED, Damaged, check_tensors, put_away, seal_tensors
from harness.seeds import derive
from harness.windows import Windows, images, spread
from methods._encoder import leave_uncompiled
from methods.base import Batch, Method, Phase
from methods.policy import on_cpu

CHECKPOINT = "train.ckpt.safetensors"
IMAGES = 256  # held-out windows of images that a validation looks at: each costs as much as training on it
Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainConfig:
    """steps = iterations (each runs every phase of the method); batch = windows a minibatch.

    lr decays by a cosine from `lr` to `lr_final` over all iterations after `warmup` iterations of linear increase.
    history_cut = probability that a sample keeps only a random number of its newest states; obs_noise = standard deviation of
    normal noise added to scaled observations (features of a frozen image encoder count as such; images get none);
    history_noise = of further noise, on all states but the newest; setpoint_noise = of further noise on every state's first A
    values, which in the D3IL tasks are the desired position: how far it is ahead of the actual one says how fast the tool
    moves. All four keep a policy from copying its own past instead of looking where it is.
    exchange = every sample numbers the things that look alike in a way of its own (`harness/exchange.py`).
    ema = decay of the weight average that the policy acts with (0: none), warmed up as min(ema, (1 + n) / (10 + n)).
    optimizer = "adamw", or "muon": Muon (orthogonalised momentum) for the matrices inside transformer blocks, AdamW for the
    rest.
    grad_clip = bound of the gradient's norm (0: none); beta_1, beta_2 = AdamW's. precision "auto" = bfloat16 products on
    processors and GPUs that have them, else float32 (weights and sums are always float32). compile "auto" = torch.compile
    where a C++ compiler exists.
    """

    steps: int
    batch: int
    optimizer: str
    lr: float
    lr_final: float
    warmup: int
    weight_decay: float
    history_cut: float
    obs_noise: float
    ema: float
    grad_clip: float
    precision: str
    compile: str
    checkpoint_seconds: float
    validations: int
    beta_1: float = 0.9
    beta_2: float = 0.999
    history_noise: float = 0.0
    setpoint_noise: float = 0.0
    exchange: bool = False

    def __post_init__(self) -> None:
        for name, options in (
            ("optimizer", ("adamw", "muon")),
            ("precision", ("auto", "fp32", "bf16")),
            ("compile", ("auto", "on", "off")),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be one of {', '.join(options)}. Got {getattr(self, name)!r}")
        for name in ("steps", "batch", "validations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Got {getattr(self, name)}")
        if not 0 < self.lr_final <= self.lr:
            raise ValueError(f"need 0 < lr_final <= lr. Got lr {self.lr} and lr_final {self.lr_final}")


@dataclass
class TrainResult:
    """curve: {"step": [...], "loss": [...], ...} means over intervals; val: held-out loss of the averaged weights."""

    steps: int
    curve: dict[str, list[float]] = field(default_factory=dict)
    val: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    precision: str = "fp32"
    compiled: bool = False


def learning_rate(step: int, config: TrainConfig) -> float:
    """Factor of `lr` at a 0-based iteration: linear warm-up, then cosine to lr_final / lr. Never 0 before the end."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    low = config.lr_final / config.lr
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))


def resolve_precision(precision: str, device: torch.device) -> str:
    if precision != "auto":
        return precision
    return "bf16" if has_bfloat16(device) else "fp32"


def resolve_compile(compile_: str) -> bool:
    if compile_ == "auto":
        return any(shutil.which(c) for c in ("c++", "g++", "clang++"))
    return compile_ == "on"


def augment(batch: Windows, config: TrainConfig, generator: torch.Generator) -> Windows:
    """Cut histories and noisy observations as `TrainConfig` says; drawn on the CPU, so equal on every device."""
    obs, last, device = batch.obs, batch.last, batch.obs.device
    b, t, _ = obs.shape
    if config.history_cut:
        cut = torch.rand(b, generator=generator) < config.history_cut
        length = 1 + (torch.rand(b, generator=generator) * (last.cpu() + 1)).long()  # 1 ... last + 1 states
        kept = torch.where(cut, length - 1, last.cpu()).to(device)
        index = torch.arange(t, device=device) + (last - kept)[:, None]  # (B, T): the newest states move to the front
        obs = obs.gather(1, index.clamp(max=t - 1)[..., None].expand_as(obs))
        last = kept
    if obs.dtype == torch.uint8 and (config.obs_noise or config.history_noise):
        raise ValueError("images get no noise: set obs_noise = 0 and history_noise = 0")
    if config.obs_noise:
        obs = obs + config.obs_noise * torch.randn(obs.shape, generator=generator).to(device)
    if config.history_noise:
        older = torch.arange(t, device=device) < last[:, None]  # (B, T)
        noise = torch.randn(obs.shape, generator=generator).to(device)
        obs = obs + config.history_noise * older[..., None] * noise
    if config.setpoint_noise:
        width = batch.action.shape[-1]
        noise = torch.randn(*obs.shape[:-1], width, generator=generator).to(device)
        obs = obs + config.setpoint_noise * F.pad(noise, (0, obs.shape[-1] - width))
    return Windows(obs, last, batch.action, batch.goal)


class Trainer:
    """State of one training run; `train` is the way in."""

    def __init__(
        self, method: Method, data: Windows, val: Windows, config: TrainConfig, seed: int, exchange: Exchange | None = None
    ):  # fmt: skip
        assert val.future is None, "validation windows have fixed goals"
        assert config.exchange == (exchange is not None)
        self.exchange = exchange
        self.method, self.config, self.seed = method, config, seed
        self.device = method.device
        if images(val):
            val = spread(val, IMAGES)
        self.data, self.val = data.to(self.device), val.to(self.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.compiled = resolve_compile(config.compile)
        self.phases = method.phases
        self.optimizers = [self._optimizers(p) for p in self.phases]
        self.weights: dict[str, Tensor] = {n: p for n, p in method.named_parameters() if p.requires_grad}
        state = method.state_dict()
        self.others = {n: t for n, t in state.items() if n not in self.weights and not n.startswith("scaler.")}
        self.average = {n: p.detach().clone() for n, p in self.weights.items()} if config.ema else {}
        self.indices = torch.Generator().manual_seed(derive(str(seed), "minibatch", 0))
        torch.manual_seed(derive(str(seed), "train", 0))
        self.step = 0
        self.sums: dict[str, Tensor] = {}
        self.result = TrainResult(config.steps, precision=self.precision, compiled=self.compiled)
        self.interval = max(1, config.steps // 100)
        self.losses = {p.name: self._loss_function(p) for p in self.phases}

    def _optimizers(self, phase: Phase) -> list[torch.optim.Optimizer]:
        """One or two optimisers for a phase; lr is set anew at every iteration."""
        c = self.config
        wanted = {id(p) for p in phase.parameters}
        named = [(n, p) for n, p in self.method.named_parameters() if id(p) in wanted and p.requires_grad]
        inner = [p for n, p in named if c.optimizer == "muon" and p.ndim == 2 and ".blocks." in n]
        rest = [p for _, p in named if not any(p is q for q in inner)]
        found: list[torch.optim.Optimizer] = []
        if inner:  # the step's size as AdamW's, so that one learning rate serves both
            found.append(Muon(inner, lr=c.lr, weight_decay=c.weight_decay))
        betas = (c.beta_1, c.beta_2)
        found.append(torch.optim.AdamW(rest, lr=c.lr, betas=betas, weight_decay=c.weight_decay, fused=True))
        return found

    def _loss_function(self, phase: Phase) -> Callable:
        def loss(obs: Tensor, last: Tensor, action: Tensor, goal: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return self.method.loss(Batch(obs, last, action, goal), phase.name)

        if not self.compiled:
            return loss
        leave_uncompiled()
        return torch.compile(loss)

    def iterate(self) -> None:
        """One iteration: every phase, `repeats` times, each on a new minibatch; then the weight average."""
        factor = learning_rate(self.step, self.config)
        for phase, optimizers in zip(self.phases, self.optimizers, strict=True):
            started = self.step >= phase.start * self.config.steps
            for group in (g for optimizer in optimizers for g in optimizer.param_groups):
                group["lr"] = self.config.lr * factor if started else 0.0
            for _ in range(phase.repeats):
                index = torch.randint(len(self.data), (self.config.batch,), generator=self.indices)
                batch = self.data.batch(index, self.indices)
                if self.exchange is not None:
                    batch = replace(batch, obs=self.exchange.draw(batch.obs, batch.last, self.indices))
                batch = augment(batch, self.config, self.indices)
                loss, extras = self.losses[phase.name](batch.obs, batch.last, batch.action, batch.goal)
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if self.config.grad_clip:
                    nn.utils.clip_grad_norm_(phase.parameters, self.config.grad_clip)
                for optimizer in optimizers:
                    optimizer.step()
                name = "loss" if phase is self.phases[0] else f"loss_{phase.name}"
                for key, value in {name: loss, **extras}.items():
                    self.sums[key] = self.sums.get(key, 0) + value.detach().float() / phase.repeats
        self.step += 1
        self.method.after_step()
        if self.average:
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.weights.values()], 1 - decay)

    def close_interval(self) -> dict[str, float]:
        """Append the interval's means to the curve; a loss that is not finite ends the run."""
        count = self.step - (self.result.curve["step"][-1] if self.result.curve.get("step") else 0)
        means = {k: v.item() / count for k, v in self.sums.items()}
        bad = [k for k, v in means.items() if not math.isfinite(v)]
        if bad:
            raise FloatingPointError(f"{bad[0]} is not finite after iteration {self.step}; lower the learning rate")
        self.result.curve.setdefault("step", []).append(self.step)
        for k, v in means.items():
            self.result.curve.setdefault(k, []).append(v)
        self.sums = {}
        return means

    def validate(self) -> None:
        """Held-out loss of the averaged weights, on the same random numbers every time; of images, over `IMAGES` at most."""
        if not len(self.val):
            return
        training = self.method.training
        self.swap()
        self.method.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            loss = 0.0
            for part in self.val.batches(self.config.batch):
                batch = Batch(part.obs, part.last, part.action, part.goal)
                loss += self.method.validation_loss(batch).item() * (len(part) / len(self.val))
        self.method.train(training)
        self.swap()
        self.result.val.setdefault("step", []).append(self.step)
        self.result.val.setdefault("loss", []).append(loss)

    def swap(self) -> None:
        """Exchange the weights and their average."""
        with torch.no_grad():
            for name, average in self.average.items():
                weight = self.weights[name]
                kept = weight.detach().clone()
                weight.copy_(average)
                average.copy_(kept)

    def save(self, path: Path) -> None:
        tensors = {f"weight/{n}": p.detach() for n, p in self.weights.items()}
        tensors |= {f"average/{n}": p for n, p in self.average.items()}
        tensors |= {f"other/{n}": t for n, t in self.others.items()}
        for i, optimizer in enumerate(itertools.chain(*self.optimizers)):
            for j, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{i}/{j}/{k}": torch.as_tensor(v) for k, v in state.items()}
        tensors |= {f"sum/{k}": torch.as_tensor(v) for k, v in self.sums.items()}
        tensors["random/torch"] = torch.get_rng_state()
        tensors["random/indices"] = self.indices.get_state()
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        meta = {"step": self.step, "seed": self.seed, "curve": self.result.curve, "val": self.result.val}
        meta["seconds"] = self.result.seconds
        kept = on_cpu(tensors)
        write_atomic(path, seal_tensors(serialise(kept, {"sha256": UNSEALED, "meta": json.dumps(meta)})))

    def load(self, path: Path) -> None:
        """Raises sealed.Damaged for a file that is not what `save` wrote."""
        data = read_bytes(path)
        header = check_tensors(data)
        meta: dict[str, Any] = json.loads(header["__metadata__"]["meta"])
        tensors = deserialise(data)
        with torch.no_grad():
            for n, p in self.weights.items():
                p.copy_(tensors[f"weight/{n}"])
            for n, p in self.average.items():
                p.copy_(tensors[f"average/{n}"])
            for n, t in self.others.items():
                t.copy_(tensors[f"other/{n}"])
        for i, optimizer in enumerate(itertools.chain(*self.optimizers)):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer/{i}/"):
                    _, _, j, name = key.split("/")
                    state.setdefault(int(j), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.sums = {k[4:]: v.to(self.device) for k, v in tensors.items() if k.startswith("sum/")}
        torch.set_rng_state(tensors["random/torch"])
        self.indices.set_state(tensors["random/indices"])
        if "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"], self.device)
        self.step = meta["step"]
        self.result.curve, self.result.val, self.result.seconds = meta["curve"], meta["val"], meta["seconds"]


def train(
    method: Method,
    data: Windows,
    val: Windows,
    config: TrainConfig,
    seed: int,
    workdir: Path,
    on_progress: Progress = lambda step, steps, losses: None,
    exchange: Exchange | None = None,
) -> TrainResult:
    """Train `method` in place and leave its averaged weights in it. exchange: of the things that are alike, if asked for.

    Raises FloatingPointError on a loss that is not finite, and stop.Stopped after an iteration, once the state is saved, when
    asked to stop. Resumes from `workdir` where a checkpoint lies there; a damaged one is set aside, and training begins anew.
    """
    run = Trainer(method, data, val, config, seed, exchange)
    path = Path(workdir) / CHECKPOINT
    if path.exists():
        try:
            run.load(path)
        except (Damaged, InvalidRecord) as error:
            put_away(path, str(error))
    if 0 < run.step < config.steps:
        on_progress(run.step, config.steps, {})  # where it goes on, before the first interval is over
    method.train()
    marks = {round(config.steps * (i + 1) / config.validations) for i in range(config.validations)}
    started = saved = time.monotonic()
    means: dict[str, float] = {}
    while run.step < config.steps:
        run.iterate()
        if run.step % run.interval == 0 or run.step == config.steps:
            means = run.close_interval()
            on_progress(run.step, config.steps, means)
        if run.step in marks:
            run.validate()
        now = time.monotonic()
        if now - saved > config.checkpoint_seconds or run.step == config.steps or stop.requested():
            run.result.seconds += now - started
            started = saved = now
            run.save(path)
            stop.check()
    run.swap()
    method.eval()
    return run.result
