"""EM-GPT: a mixture of experts on the transformer of Figure 5, by maximum likelihood with responsibilities.

Expectation-maximisation (Dempster et al. 1977) for a mixture of experts (Jordan & Jacobs 1994), the baseline "EM" of the VDD
paper (Table 2, Appendix D). What was published of it: the number of components (Table 4), that the E- and the M-step alternate
in each iteration, and that the network is the one of Figure 5. The EM-GPT of that table was never released; the EM of
ALRhub/imc is one MLP with experts of unit variance and a gating fitted afterwards.

    E-step   r_z = q(z | a, s) of the current model, a constant
    M-step   one gradient step on  -sum_z r_z [log N(a; mu_z(s), std_z(s)) + log pi_z(s)]

Shapes: B windows, Z experts, A action values.

Choices, and differences from the EM of ALRhub/imc:
1. The E-step is that of the model as it stands, gating included, for each minibatch. There the responsibilities accumulate:
   each iteration adds the log-likelihood to the previous log-responsibilities of the same sample, which hardens them
   without end and is not EM. At the E-step's point the gradient of the bound is that of the log-likelihood itself (Fisher's
   identity), so that steps short enough never lower it (`tests/test_em_imc.py`).
2. Gating and experts are trained jointly, and both train the backbone: it is one likelihood. (VDD keeps its gating's gradient
   from the backbone because its experts follow another objective.)
3. Diagonal covariances that depend on the state, as Table 7's parameter counts of the same network say; there: unit variance.
4. `min_std` bounds the likelihood, which is infinite where an expert sits on a repeated action with std 0 (demonstrations
   contain rows in which nothing moves). 0.05 is a twentieth of the data's spread.
5. Symmetry is broken by the means alone: they start independent of the state, uniform in +-`init_mean`, with std `init_std`
   wide enough that every expert is responsible for something.
6. Acts with the mean of a drawn expert, as VDD does and as the MLP version acts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods._mixture import Mixture, MixtureTransformer
from methods._mixture_policy import MixturePolicy
from methods._transformer import GPTConfig
from methods.base import Batch, Shape, Teacher
from methods.scaler import Scaler


@dataclass(frozen=True)
class EmConfig:
    """components = experts; std and mean values in units of scaled actions."""

    components: int
    hidden: int
    gating_hidden: int
    init_std: float
    min_std: float
    init_mean: float


class Em(MixturePolicy):
    """Mixture of experts fitted to the demonstrations by maximum likelihood."""

    Config = EmConfig
    config: EmConfig

    def __init__(self, config: EmConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: Teacher | None = None):
        super().__init__(config, shape, gpt, scaler)
        c = config
        self.net = MixtureTransformer(
            gpt, self.obs_width, shape.act, shape.goal, c.components, c.hidden, c.gating_hidden,
            c.init_std, c.min_std, c.init_mean,
        )  # fmt: skip

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        mixture = self.mixture(batch.obs, batch.last, batch.goal)
        responsibilities = self.e_step(mixture, batch.action)
        usage = responsibilities.mean(0)  # (Z,)
        extras = {"nll": -mixture.detach().log_prob(batch.action).mean(), "std": mixture.std.detach().mean()}
        extras["usage_entropy"] = -(usage * usage.clamp_min(1e-12).log()).sum()
        return self.m_step(mixture, batch.action, responsibilities), extras

    @staticmethod
    @torch.no_grad()
    def e_step(mixture: Mixture, action: Tensor) -> Tensor:
        """r_z = q(z | a, s): (B, Z), rows sum to one."""
        return mixture.log_responsibilities(action).exp()

    @staticmethod
    def m_step(mixture: Mixture, action: Tensor, responsibilities: Tensor) -> Tensor:
        """Expected complete-data negative log-likelihood: weighted experts plus the gating's cross-entropy."""
        return -(responsibilities * mixture.joint_log_prob(action)).sum(-1).mean()
