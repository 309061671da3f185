"""What every method that ends in a `MixtureTransformer` shares: how it acts, its density, its validation.

Shapes: B windows, T states a window, D observation values, Z experts, A action values, n environments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods._mixture import Mixture, MixtureTransformer, choose
from methods.base import Batch, Method


class MixturePolicy(Method):
    """A method whose policy is a `MixtureTransformer`, `self.net`: density, validation and acting."""

    net: MixtureTransformer

    def mixture(self, obs: Tensor, last: Tensor, goal: Tensor | None = None) -> Mixture:
        """The density of scaled actions in the states at `last` of obs (B, T, D)."""
        return self.net(obs, last, goal)

    @torch.no_grad()
    def validation_loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of held-out actions, in nats per scaled action."""
        return -self.mixture(batch.obs, batch.last, batch.goal).log_prob(batch.action).mean()

    @property
    def noise_dim(self) -> int:
        return 0

    def act(self, obs: Tensor, last: Tensor, noise: Tensor, uniform: Tensor, goal: Tensor | None = None) -> Tensor:
        """Mean of the expert drawn from the gating, never a sample of it (the reference's choice too)."""
        h = self.net.hidden(obs, last, goal)
        index = choose(self.net.log_gating(h), uniform)[:, None, None].expand(-1, 1, self.shape.act)
        return self.net.means_of(h).gather(1, index)[:, 0]
