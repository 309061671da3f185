"""What every method is: an `nn.Module` that owns its networks, its loss and how it acts. The harness owns everything else.

Shapes: B windows, T states a window, D observation values (as scaled: `obs_width`), A action values, G goal tokens, M samples a
window, n environments. Everything here is scaled (z-scores); `methods.policy.Policy` scales and unscales.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.errors import UserError
from methods._encoder import ImageEncoder
from methods._mixture import Mixture, OneStep
from methods._transformer import KV, DenoisingTransformer, GPTConfig
from methods.scaler import Scaler


@dataclass(frozen=True)
class Shape:
    """Widths of a task: observation, action, and number of goal tokens (0: not goal-conditioned)."""

    obs: int
    act: int
    goal: int = 0


@dataclass(frozen=True)
class Batch:
    """A minibatch, scaled float32: one demonstrated action with the history that the policy will have when it acts.

    Images are uint8 and unscaled, or already features (B, T, F) of an encoder (`methods/_encoder.py`); no method can tell.

    obs (B, T, D), oldest first, rows beyond `last` are padding; last (B,): index of the newest state; action (B, A): what
    the demonstrator did in it; goal (B, G, D) or None.
    """

    obs: Tensor
    last: Tensor
    action: Tensor
    goal: Tensor | None = None


@dataclass(frozen=True)
class Phase:
    """A part of one iteration: `repeats` steps, each on a new minibatch, of one optimiser over `parameters`.

    start: share of the training before which its learning rate is 0 (its loss is computed and plotted all the same).
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    repeats: int = 1
    start: float = 0.0


class Method(nn.Module):
    """Base of all methods. Subclasses define `Config`, `loss`, `noise_dim`, `act`."""

    Config: ClassVar[type]

    def __init__(self, config: Any, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: Teacher | None = None):
        super().__init__()
        self.config, self.shape, self.gpt_config = config, shape, gpt
        self.scaler = scaler
        # a list hides the teacher from parameters(), state_dict() and train()
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]

    def get_teacher(self) -> Teacher:
        """The frozen teacher that a student distils. Raises RuntimeError where the method was built without one."""
        if not self._teacher:
            raise RuntimeError(f"{type(self).__name__} needs a teacher and was built without one")
        return self._teacher[0]

    @property
    def obs_width(self) -> int:
        """Values of a state as networks see it: the observation's, and what the scaler adds to them."""
        return self.shape.obs + self.scaler.added

    @property
    def device(self) -> torch.device:
        return self.scaler.act_low.device

    @property
    def encoder(self) -> ImageEncoder | None:
        """The image encoder of the network that acts, `net`, not that of a target network; None for a task without images."""
        net = getattr(self, "net", None)
        return None if net is None else next((m for m in net.modules() if isinstance(m, ImageEncoder)), None)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("train", tuple(self.trainable())),)

    def trainable(self) -> Iterable[nn.Parameter]:
        return (p for p in self.parameters() if p.requires_grad)

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of one phase and the values worth plotting."""
        raise NotImplementedError

    def validation_loss(self, batch: Batch) -> Tensor:
        """Loss on held-out windows; the training loss unless a method knows better."""
        return self.loss(batch, self.phases[0].name)[0]

    def after_step(self) -> None:
        """Called after every iteration; for target networks."""

    def describe(self) -> dict[str, Any]:
        """What `rebuild` needs beyond the configuration; plain JSON values."""
        return {}

    @classmethod
    def rebuild(cls, config: Any, shape: Shape, gpt: GPTConfig, scaler: Scaler, description: dict[str, Any]) -> Method:
        """The method without its teacher, ready for its saved weights; `description` from `describe`."""
        return cls(config, shape, gpt, scaler)

    @property
    def noise_dim(self) -> int:
        """Standard normal numbers that one action needs."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Called once before a policy acts, in evaluation mode; for what does not depend on observations."""

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """One action for each of n environments: a pure function, so that it can be compiled.

        obs (n, T, D): histories, oldest first, rows beyond `last` ignored; last (n,): index of the newest state;
        noise (n, noise_dim) standard normal; uniform (n,) in [0, 1). Returns (n, A).
        """
        raise NotImplementedError

    def mixture(self, obs: Tensor, last: Tensor, goal: Tensor | None = None) -> Mixture | None:
        """The policy's whole distribution over actions, in closed form; None where a method has none. Inputs as `act`."""
        return None

    def log_prob(self, batch: Batch) -> Tensor | None:
        """Log-density of every action given its states, in nats per scaled action: (B,); None without a closed form."""
        mixture = self.mixture(batch.obs, batch.last, batch.goal)
        return None if mixture is None else mixture.log_prob(batch.action)


class Teacher(Method):
    """A diffusion policy: also gives the score that students distil, in its own parametrisation, handled inside."""

    def encode(self, obs: Tensor, goal: Tensor | None = None) -> KV:
        """Context of a window's states, computed once and shared by every score evaluated on it."""
        raise NotImplementedError

    def score(self, noised: Tensor, level: Tensor, context: KV, last: Tensor) -> Tensor:
        """Score of the smoothed policy, grad log pi_level(noised | states up to last): (B, M, A).

        noised (B, M, A); level (B, 1) or (B, M): sigma (VE) or the 0-based step (VP); last (B,).
        """
        raise NotImplementedError

    def denoise(self, noised: Tensor, sigma: Tensor, context: KV, last: Tensor) -> Tensor:
        """Expected clean action given a + sigma n, whatever the teacher's own parametrisation: (B, M, A).

        noised (B, M, A); sigma (B or 1, M or 1), any value within `flow_range`.
        """
        raise NotImplementedError

    def flow_range(self) -> tuple[float, float] | None:
        """Smallest and largest sigma of `denoise`, between which the probability flow runs; None where it has no meaning."""
        return None

    def draw_level(self, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
        """Noise levels uniform in [low, high] (VP: integers, both ends included)."""
        raise NotImplementedError

    def signal_scale(self, level: Tensor) -> Tensor:
        """Factor of the clean action in the forward process at `level`: 1 (VE), sqrt(alpha_bar) (VP). Shape of `level`."""
        raise NotImplementedError

    def encoder_state(self) -> dict[str, Tensor]:
        """Weights of the network that encodes the states, by the names of `_transformer.Transformer`."""
        raise NotImplementedError

    def one_step(self) -> OneStep:
        """The parts of a single evaluation. Raises UserError for a teacher whose network does not give the clean action."""
        raise UserError(
            f"{type(self).__name__} has no single evaluation that a student could start from, as BESO has: "
            "set one_step_start = false (--set METHOD.one_step_start=false)"
        )

    @property
    def action_low(self) -> Tensor:
        return self.scaler.act_low

    @property
    def action_high(self) -> Tensor:
        return self.scaler.act_high


class VeTeacher(Teacher):
    """A teacher of the variance-exploding process a + sigma n; `net` is its network, `config` has the sigmas."""

    net: DenoisingTransformer

    def encode(self, obs: Tensor, goal: Tensor | None = None) -> KV:
        return self.net.encode(obs, goal)

    def score(self, noised: Tensor, level: Tensor, context: KV, last: Tensor) -> Tensor:
        """(D(a; sigma) - a) / sigma^2."""
        return (self.denoise(noised, level, context, last) - noised) / level[..., None] ** 2

    def flow_range(self) -> tuple[float, float] | None:
        """The trained levels; None for a single step, whose action does not follow the flow."""
        return (self.config.sigma_min, self.config.sigma_max) if self.config.sampling_steps > 1 else None

    def draw_level(self, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
        """Uniform in [low, high]. Raises ValueError for level 0, which a trained network does not know."""
        if low <= 0:
            raise ValueError(f"a trained teacher has no score without noise: set level_min above 0, it is {low}")
        return low + (high - low) * torch.rand(shape, device=self.device)

    def signal_scale(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)

    def encoder_state(self) -> dict[str, Tensor]:
        return self.net.encoder_state()


def move_average(target: nn.Module, net: nn.Module, decay: float, updates: Tensor) -> None:
    """Move a target network's average towards `net`; `updates` counts, decay min(decay, (1 + n) / (10 + n)) at the n-th."""
    n = int(updates.add_(1))
    old, new = ([p.detach() for p in module.parameters()] for module in (target, net))
    torch._foreach_lerp_(old, new, 1 - min(decay, (1 + n) / (10 + n)))


def split_noise(noise: Tensor, act_dim: int) -> tuple[Tensor, ...]:
    """(n, k * A) -> k tensors (n, A)."""
    return torch.split(noise, act_dim, dim=1)
