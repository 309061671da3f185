"""IMC-GPT: information-maximising curriculum for a mixture of experts, on the transformer of Figure 5.

Blessing et al., *Information Maximizing Curriculum: A Curriculum-Based Approach for Imitating Diverse Skills* (NeurIPS
2023); the baseline "IMC" of the VDD paper (Table 2, Appendix D). Published of IMC-GPT: eta and the number of components
(Table 4) and that the network is the one of Figure 5; it was never released. Reference for the rest: ALRhub/imc, an MLP.

Every expert z has a curriculum p(n | z), a distribution over the training samples (s_n, a_n). With R_z(n) = log N(a_n;
mu_z(s_n)), the objective  E_p(z) E_p(n|z) [R_z(n)] + eta H(p(n))  keeps the entropy of the samples used by all experts
together high, and lets each expert ignore what it cannot represent: an expert settles on a mode instead of averaging
several. Its lower bound, tight for q(z | n) = p(z | n), is maximised by alternating

    log p(n | z) = R_z(n) / eta + log q(z | n) - log sum_m exp(R_z(m) / eta + log q(z | m)),        q(z | n) = p(z | n)
    experts   maximise  sum_n p(n | z) R_z(n)            (weighted maximum likelihood)
    gating    maximise  sum_z p(z) sum_n p(n | z) log pi_z(s_n)       (cross-entropy)

Shapes: B windows, Z experts, A action values.

Choices, and differences from ALRhub/imc:
1. **Curricula are normalised over the samples, per expert, as the paper has them.** The code of ALRhub/imc instead
   subtracts the maximum over the *experts* at every sample: the best expert of each sample has weight 1, so no sample can
   be ignored, and what it runs is a tempered EM.
2. **Within the minibatch.** The sum over m runs over the B samples at hand, with the current model: the self-normalised
   estimate of the sum over the data set, biased by O(1/B), and exact at full batch. A table over all samples (the
   reference's) would be out of date for shared features after every step, and would need every sample's index and a pass
   over the data.
3. **The bound is tightened anew for every minibatch**, `curriculum_steps` times from q = 1/Z, so that experts compete by
   what they represent alone. The reference carries the log-weights from one iteration to the next, one tightening each.
   Measured on the human Avoiding demonstrations (4,000 iterations, one seed): one tightening from the model's posterior,
   gating included, leaves one or two experts with everything (entropy 0.14 at success 0.92); ten from 1/Z give 0.90 at 0.87.
4. p(z) = 1 / Z: every expert has a full curriculum in each step, so that none starves. (The optimal p(z) starves experts
   that are behind: rich get richer.)
5. **The experts' std is fixed** (`std`; 1, the reference's), not learned. With a learned one the curriculum feeds back: for
   Gaussian data of variance v, one round gives 1 / std'^2 = 1 / v + 1 / (eta std^2), which shrinks to 0 for every eta <= 1
   (Table 4 has eta = 1). eta std^2 is how far an action may be from an expert's before the expert ignores it.
6. The gating is trained along with the experts, on the joint p(z) p(n | z), and its gradient ends at the backbone, which
   belongs to the experts (as in VDD); the reference fits a separate network afterwards, to q(z | n) of all samples alike.
7. Acts with the mean of a drawn expert, as the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from methods._mixture import Mixture, MixtureTransformer
from methods._mixture_policy import MixturePolicy
from methods._transformer import GPTConfig
from methods.base import Batch, Shape, Teacher
from methods.scaler import Scaler


@dataclass(frozen=True)
class ImcConfig:
    """components = experts; eta = pacing of the curricula (small: few samples, those that an expert models best);
    curriculum_steps = tightenings of the bound a minibatch; std = standard deviation of every expert, init_mean = bound of
    the first means, in units of scaled actions."""

    components: int
    eta: float
    curriculum_steps: int
    std: float
    hidden: int
    gating_hidden: int
    init_mean: float

    def __post_init__(self) -> None:
        if not (self.eta > 0 and self.std > 0):
            raise ValueError(f"eta and std must be positive, got {self.eta} and {self.std}")
        if self.curriculum_steps < 1:
            raise ValueError(f"curriculum_steps must be at least 1, got {self.curriculum_steps}")


class Imc(MixturePolicy):
    """Mixture of experts, each trained on its own curriculum."""

    Config = ImcConfig
    config: ImcConfig

    def __init__(self, config: ImcConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: Teacher | None = None):
        super().__init__(config, shape, gpt, scaler)
        c = config
        self.net = MixtureTransformer(
            gpt, self.obs_width, shape.act, shape.goal, c.components, c.hidden, c.gating_hidden,
            init_std=c.std, min_std=0.0, init_mean=c.init_mean, learn_std=False,
        )  # fmt: skip

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.net.hidden(batch.obs, batch.last, batch.goal)
        mean, std = self.net.experts_of(h)
        mixture = Mixture(self.net.log_gating(h.detach()), mean, std)
        curriculum = self.curricula(mixture, batch.action)  # (B, Z)
        experts = -(curriculum * mixture.expert_log_prob(batch.action)).sum(0).mean()
        gating = -(curriculum * mixture.log_gating).sum(0).mean()
        used = curriculum.mean(1)  # p(n), (B,)
        extras = {"nll": -mixture.detach().log_prob(batch.action).mean(), "gating": gating.detach()}
        # exp of the entropy of p(n), as a share of the batch: 1 when every sample is used alike
        extras["samples_used"] = torch.exp(-(used * used.clamp_min(1e-12).log()).sum()) / len(used)
        return experts + gating, extras

    @torch.no_grad()
    def curricula(self, mixture: Mixture, action: Tensor) -> Tensor:
        """p(n | z): (B, Z), every column sums to one."""
        reward = mixture.expert_log_prob(action) / self.config.eta
        log_posterior = torch.full_like(reward, -math.log(reward.shape[1]))  # log q(z | n)
        for _ in range(self.config.curriculum_steps):
            log_curriculum = torch.log_softmax(reward + log_posterior, 0)
            log_posterior = torch.log_softmax(log_curriculum, 1)  # p(z | n), p(z) being uniform
        return log_curriculum.exp()
