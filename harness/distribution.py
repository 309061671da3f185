"""A policy's first action as a distribution in NumPy, for tasks that know what it should be.

A task class that has `extra_metrics(first_action) -> dict[str, float]` adds figures to its records.

Letters: M samples, A action values, D observation values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from harness.backends import Backend
from methods._mixture import Mixture
from methods.base import Method
from methods.policy import Policy


class FirstAction:
    """What `method` does in the state after a reset, `obs` (D,) unscaled; fixed seeds, unscaled actions (M, A)."""

    def __init__(self, method: Method, obs: np.ndarray):
        self.method, self.obs = method.eval(), obs
        self.mixture = self._mixture()  # None: no density in closed form

    @property
    def has_density(self) -> bool:
        return self.mixture is not None

    def _density(self) -> Mixture:
        assert self.mixture is not None, "no density in closed form: ask has_density first"
        return self.mixture

    def act(self, count: int) -> np.ndarray:
        """Actions as the policy takes them."""
        policy = Policy(self.method)
        policy.reset(range(count))
        return policy.act(np.repeat(self.obs[None], count, 0)).astype(float)

    @torch.inference_mode()
    def _mixture(self) -> Mixture | None:
        scaler = self.method.scaler
        window = torch.zeros(1, self.method.gpt_config.window, self.method.obs_width, device=self.method.device)
        window[0, 0] = scaler.scale_obs(torch.as_tensor(self.obs, dtype=torch.float32, device=self.method.device))
        return self.method.mixture(window, torch.zeros(1, dtype=torch.long, device=self.method.device))

    @torch.inference_mode()
    def sample(self, count: int) -> np.ndarray:
        """Samples of the policy's density, which need not be the actions that it takes (means of experts)."""
        mixture, generator = self._density(), torch.Generator().manual_seed(0)
        z = torch.multinomial(mixture.log_gating[0].exp().cpu(), count, True, generator=generator)  # (M,)
        noise = torch.randn(count, self.method.shape.act, generator=generator)
        scaled = mixture.mean[0].cpu()[z] + mixture.std[0].cpu()[z] * noise
        return self.method.scaler.unscale_act(scaled.to(self.method.device)).cpu().double().numpy()

    @torch.inference_mode()
    def log_prob(self, actions: np.ndarray) -> np.ndarray:
        """log q of unscaled actions (M, A), in nats per unscaled action: (M,)."""
        scaler = self.method.scaler
        scaled = scaler.scale_act(torch.as_tensor(actions, dtype=torch.float32, device=self.method.device))
        value = self._density().log_prob(scaled[None])[0] - scaler.act_std.log().sum()
        return value.cpu().double().numpy()


def extra_metrics(task: dict[str, Any], method: Method) -> dict[str, float]:
    """The task's own figures of a method, {} where it has none."""
    env_class = Backend().batch_class(task)
    hook = getattr(env_class, "extra_metrics", None)
    if hook is None:
        return {}
    env = env_class(1)
    try:
        return hook(FirstAction(method, env.reset(seeds=[0])[0]))
    finally:
        env.close()
