"""A trained method as a policy for n environments at once, and its file: safetensors weights + JSON, nothing pickled.

Time line of one control step k (window T = 3):

    observations   o_0  o_1  o_2  ...  o_k          pushed, newest last
    window                   [o_{k-2} o_{k-1} o_k]   grows from 1 to T at the start of an episode
    action                                   a_k     read at the newest observation

Of a task with images the window holds features: each frame is encoded once, when it is new, and its features are kept as
long as it is in the window. That is the same as encoding the window anew at every step: weights do not change while acting.

Every environment has its own random stream (a counter-based generator keyed by its seed), so that its actions depend neither
on the other environments of the batch nor on the worker that runs it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from harness.errors import UserError
from harness.record import write_atomic
from methods._mixture import Mixture
from methods._transformer import GPTConfig
from methods.base import Method, Shape
from methods.scaler import LIMIT, Scaler

FORMAT = 1


class Policy:
    """`reset(seeds)`, then `act(obs)` at every control step.

    compiled = "trace": the forward pass is traced and frozen for the number of environments in use, which pays for small
    batches; "off": the plain eager path (equal to the last bit or within 1e-5).
    """

    def __init__(self, method: Method, compiled: str = "off"):
        self.method = method.eval()
        self.method.prepare()
        self.compiled = compiled
        self.device = method.device
        self._encoder = method.encoder
        if method.gpt_config.cameras and self._encoder is None:
            raise ValueError(f"{type(method).__name__}: the network that acts, `net`, has no image encoder")
        self._noise_dim = method.noise_dim
        self._traced: dict[int, Callable] = {}
        self._streams: list[np.random.Generator] = []
        scaler = method.scaler
        self._adds = scaler.added > 0
        self._mean, self._std = (x.cpu().numpy() for x in (scaler.obs_mean, scaler.obs_std))
        self._act_mean, self._act_std = (x.cpu().numpy() for x in (scaler.act_mean, scaler.act_std))

    def reset(self, seeds: Sequence[int], goal: np.ndarray | None = None) -> None:
        """Forget the past; one environment for each seed. `goal` (n, G, D) unscaled, for goal-conditioned tasks.

        Raises UserError where a goal is missing, not wanted, or of another shape.
        """
        n, t = len(seeds), self.method.gpt_config.window
        self._streams = [np.random.Generator(np.random.Philox(key=int(s))) for s in seeds]
        self._window = np.zeros((n, t, self._width), np.float32)
        self._count = 0
        self._goal = self._scaled(goal, n)

    def act(self, obs: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """Observations (n, D) -> actions (n, A), float32, both unscaled. Raises UserError on another width.

        active (n,) bool: the environments whose random stream advances and whose action is wanted (default all); the
        other rows of the result are zero.
        """
        if not self._streams:
            raise UserError("Policy.act called before Policy.reset(seeds)")
        (n, t), d = self._window.shape[:2], self.method.shape.obs
        if obs.shape != (n, d):
            raise UserError(f"policy expects observations of shape ({n}, {d}), got {tuple(obs.shape)}")
        if self._count == t:
            self._window[:, :-1] = self._window[:, 1:]
        self._count = min(self._count + 1, t)
        rows = np.arange(n) if active is None else np.flatnonzero(active)
        self._window[rows, self._count - 1] = self._see(obs[rows])
        noise, uniform = np.zeros((n, self._noise_dim), np.float32), np.zeros(n, np.float32)
        for i in rows:
            if self._noise_dim:
                noise[i] = self._streams[i].standard_normal(self._noise_dim, np.float32)
            uniform[i] = self._streams[i].random(dtype=np.float32)
        action = self._forward(self._window, np.full(n, self._count - 1), noise, uniform)
        unscaled = action * self._act_std + self._act_mean
        return unscaled if active is None else np.where(active[:, None], unscaled, np.float32(0))

    def _scaled(self, goal: np.ndarray | None, n: int) -> Tensor | None:
        """Goals (n, G, D) scaled and masked, on the method's device; None where the task has none."""
        wanted = (n, self.method.shape.goal, self.method.shape.obs) if self.method.shape.goal else None
        if (None if goal is None else goal.shape) != wanted:
            expected = "no goals" if wanted is None else f"goals of shape {wanted}"
            raise UserError(f"policy expects {expected}, got {'none' if goal is None else goal.shape}")
        if goal is None:
            return None
        return self.method.scaler.scale_goal(torch.from_numpy(goal.astype(np.float32)).to(self.device))

    @property
    def _width(self) -> int:
        """Values of one state in the window."""
        return self.method.obs_width if self._encoder is None else self._encoder.features

    def _see(self, obs: np.ndarray) -> np.ndarray:
        """Observations (..., D) as the window holds them: images as features, others as `Scaler.scale_obs`, in NumPy."""
        if self._encoder is not None:
            if obs.dtype != np.uint8:
                raise UserError(f"policy expects images as uint8, got {obs.dtype}")
            with torch.inference_mode():
                return self._encoder(torch.from_numpy(obs).to(self.device)).cpu().numpy()
        if self._adds:
            return self.method.scaler.scale_obs(torch.from_numpy(obs).to(self.device)).cpu().numpy()
        return np.clip((obs - self._mean) / self._std, -LIMIT, LIMIT)

    def log_prob(self, action: np.ndarray, obs_window: np.ndarray, goal: np.ndarray | None = None) -> np.ndarray:
        """Log-density (n,) of actions (n, A) after histories (n, t <= T, D), unscaled: nats per action in its own units."""
        scaled = torch.from_numpy(((action - self._act_mean) / self._act_std).astype(np.float32)).to(self.device)
        volume = np.log(self._act_std).sum(dtype=np.float32)  # of a unit cube of scaled actions, once unscaled
        with torch.inference_mode():
            return self._mixture(obs_window, goal).log_prob(scaled).cpu().numpy() - volume

    def gating(self, obs_window: np.ndarray, goal: np.ndarray | None = None) -> np.ndarray:
        """Probability (n, Z) of every expert after histories (n, t <= T, D), unscaled."""
        with torch.inference_mode():
            return self._mixture(obs_window, goal).log_gating.exp().cpu().numpy()

    def expert_means(self, obs_window: np.ndarray, goal: np.ndarray | None = None) -> np.ndarray:
        """Mean action (n, Z, A) of every expert after histories (n, t <= T, D), unscaled."""
        with torch.inference_mode():
            return self._mixture(obs_window, goal).mean.cpu().numpy() * self._act_std + self._act_mean

    def _mixture(self, obs_window: np.ndarray, goal: np.ndarray | None) -> Mixture:
        n, t, d = obs_window.shape
        window = self.method.gpt_config.window
        if not 1 <= t <= window or d != self.method.shape.obs:
            raise UserError(
                f"histories must have shape (n, 1 ... {window}, {self.method.shape.obs}), got {obs_window.shape}"
            )
        padded = np.zeros((n, window, self._width), np.float32)
        padded[:, :t] = self._see(obs_window)
        obs, last = (torch.from_numpy(x).to(self.device) for x in (padded, np.full(n, t - 1)))
        mixture = self.method.mixture(obs, last, self._scaled(goal, n))
        if mixture is None:
            raise UserError(f"{type(self.method).__name__} is no mixture: its density has no closed form")
        return mixture

    def _forward(self, window: np.ndarray, last: np.ndarray, noise: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        inputs = [torch.from_numpy(x) for x in (window, last, noise, uniform)]
        if self.device.type != "cpu":
            inputs = [x.to(self.device) for x in inputs]
        if self._goal is not None:
            inputs.append(self._goal)
        with torch.inference_mode():
            if self.compiled == "trace":
                if len(window) not in self._traced:
                    self._traced[len(window)] = trace(self.method, inputs)
                return self._traced[len(window)](*inputs).cpu().numpy()
            return self.method.act(*inputs).cpu().numpy()  # type: ignore[call-arg]  # of four or five inputs


class _Act(torch.nn.Module):
    """`act` as a forward pass, for tracing."""

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        return self.method.act(obs, last, noise, uniform, goal)


def trace(method: Method, inputs: list[Tensor]) -> Callable:
    """`method.act` traced for the batch size of `inputs` and frozen."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are fixed for this batch size, as intended
        traced = torch.jit.trace(_Act(method).eval(), tuple(inputs), check_trace=False)
        traced = torch.jit.freeze(traced)
        for _ in range(3):  # the profiling executor optimises during the first calls
            traced(*inputs)
    return traced


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them."""
    return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}


def save(method: Method, path: Path, name: str) -> str:
    """Write `<path>.safetensors` and `<path>.json`, atomically; returns the SHA-256 of the weights' file.

    `name` is the registered method whose class loads it again. A student's file holds what it needs of its teacher.
    """
    path = Path(path)
    content = serialise(on_cpu(method.state_dict()))
    digest = hashlib.sha256(content).hexdigest()
    description = {
        "format": FORMAT,
        "method": name,
        "config": dataclasses.asdict(method.config),
        "shape": dataclasses.asdict(method.shape),
        "gpt": method.gpt_config.saved(),
        "extra": method.describe(),
        "sha256": digest,
    }
    write_atomic(path.with_suffix(".safetensors"), content)
    write_atomic(path.with_suffix(".json"), json.dumps(description, indent=1) + "\n")
    return digest


def load(path: Path, method_class: Callable[[str], type[Method]] | None = None, **overrides: object) -> Method:
    """The trained method of `<path>.safetensors` and `.json`. `overrides` replace fields of its Config (sampling steps, say).

    method_class maps a registered name to its class (default: the harness's registry). Raises UserError where a file is
    missing, cut, altered, or of another format.
    """
    path = Path(path)
    weights, info = path.with_suffix(".safetensors"), path.with_suffix(".json")
    try:
        description = json.loads(info.read_text())
        content = weights.read_bytes()  # once: what is checked is what is loaded
    except FileNotFoundError as error:
        raise UserError(f"no trained policy at {path}: {error.filename} is missing") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{info} is not valid JSON ({error}); train the policy again") from error
    if not isinstance(description, dict):
        raise UserError(f"{info} is not a policy's description; train the policy again")
    digest = hashlib.sha256(content).hexdigest()
    if description.get("format") != FORMAT:
        raise UserError(f"{info} has format {description.get('format')!r}, this version reads {FORMAT}")
    if missing := {"method", "config", "shape", "gpt", "extra", "sha256"} - description.keys():
        raise UserError(f"{info} lacks {', '.join(sorted(missing))}; train the policy again")
    if digest != description["sha256"]:
        raise UserError(f"{weights} does not match the SHA-256 in {info.name}; it was altered or cut: train it again")
    if method_class is None:
        from harness.registry import method_class as find

        method_class = find
    cls = method_class(description["method"])
    config = cls.Config(**{**description["config"], **overrides})
    try:
        state = deserialise(content)
    except SafetensorError as error:
        raise UserError(f"{weights} is not a safetensors file ({error})") from error
    scaler = Scaler.from_state({k.removeprefix("scaler."): v for k, v in state.items() if k.startswith("scaler.")})
    method = cls.rebuild(
        config, Shape(**description["shape"]), GPTConfig(**description["gpt"]), scaler, description["extra"]
    )
    method.load_state_dict(state)
    return method.eval()
