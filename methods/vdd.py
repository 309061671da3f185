"""VDD: Variational Diffusion Distillation of a teacher's score into a mixture of experts. `vdd_ve`, `vdd_vp`.

Zhou et al. (NeurIPS 2024), Algorithm 1: experts by Eq. 11/16 (reverse KL of each expert with the repulsion
log q~(z | a, s)), gating by Eq. 13 (cross-entropy to the responsibilities of the data), responsibilities by Eq. 15.
Reference implementation: intuitive-robots/vdd. Eqs. 11, 12 and 16 print q where log q is meant.

Shapes: B windows, T states, Z experts, V samples an expert, A action values.

Differences from the reference:
1. One training sample is one demonstrated state with the history that the policy has when it acts (`methods/beso.py`,
   difference 3), and all samples of all its experts share one noise level and one encoding of the states; the reference
   trains all positions of full windows with a level for every sample. A teacher evaluation here is one new token.
2. Responsibilities by log-sum-exp; the reference adds 1e-8 to a sum of densities, which is wrong by nats far from all experts.
3. The learning rate falls by a cosine and reaches its end at the last iteration; the reference's reaches 0 halfway, because it
   is advanced at both expert steps.
4. `rescale` (VP): the score is taken at sqrt(alpha_bar) a and multiplied by sqrt(alpha_bar), the gradient of the smoothed
   density seen from the clean action, so that means are not drawn towards 0. The reference scores at a (`rescale = false`).
5. Weight average (`ema`) and dropout are settings of the suite; the reference has no average.
6. The sum over experts is weighted by the gating as in Eq. 9 and not divided by Z (Adam cancels it).
7. `uniform_share` u: the weight is (1 - u) pi_z + u / Z. By Eq. 9 alone an expert with pi_z near 0 never moves again, although
   its own optimum (Eq. 11) does not depend on pi_z: the gating then settles on two or three broad experts that average
   behaviours.
8. `warm_start`: the state encoder starts from the teacher's, which has the same sizes (Table 4); CD starts so as well.
9. Hidden layers of the heads start orthogonal with gain sqrt(2), the usual one for rectifiers (the reference: 0.01).
10. `gating_start`: share of the training in which the gating stays as it began, near uniform. While all experts are broad
   and lie on one another, the responsibilities only say which of them is a little closer to many samples; a gating that
   learns then turns an accident of the first means into weights, and what an expert of large weight covers repels all
   others. On the toy that, and experts that start broader than the modes are apart, is why the result depends on the seed
   (docs/toy.md). 0 as the reference, whose toy instead has a gating five times slower than the experts.
11. `one_step_start`: the student starts from the whole of the teacher, as CD and CTM do, not from its encoder alone. Features
   are read by a query (`_transformer.QueriedTransformer`) and the experts' means are offsets from a linear output of them
   (`_mixture.MixtureTransformer`, `centre`), which together start as what the teacher denoises 0 to at sigma_max. At states
   that no demonstration has, a student does then what its teacher does, for which distillation gives no reason otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods._mixture import Mixture, MixtureTransformer
from methods._mixture_policy import MixturePolicy
from methods._transformer import GPTConfig
from methods.base import Batch, Phase, Shape, Teacher
from methods.scaler import Scaler


@dataclass(frozen=True)
class VddConfig:
    """level_min, level_max: range of the noise level (VE: sigma; VP: 0-based step, both ends included).

    uniform_share: share of every expert's weight in the update that does not depend on the gating (difference 7).
    gating_start: share of the training before which the gating does not learn (difference 10).
    warm_start: the state encoder starts from the teacher's (difference 8).
    one_step_start: so do query, level and output (difference 11).
    """

    components: int
    level_min: float
    level_max: float
    samples: int
    expert_steps: int
    gating_steps: int
    gating_start: float
    learn_gating: bool
    rescale: bool
    uniform_share: float
    warm_start: bool
    hidden: int
    gating_hidden: int
    init_std: float
    min_std: float
    init_mean: float
    one_step_start: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.gating_start < 1:
            raise ValueError(f"gating_start must be at least 0 and below 1, got {self.gating_start}")
        if self.one_step_start and not self.warm_start:
            raise ValueError("one_step_start starts from the encoder too: it needs warm_start = true")


class Vdd(MixturePolicy):
    """Mixture of experts distilled from any teacher that gives a score."""

    Config = VddConfig
    config: VddConfig

    def __init__(self, config: VddConfig, shape: Shape, gpt: GPTConfig, scaler: Scaler, teacher: Teacher | None = None):
        super().__init__(config, shape, gpt, scaler, teacher)
        c = config
        self.net = MixtureTransformer(
            gpt, self.obs_width, shape.act, shape.goal, c.components, c.hidden, c.gating_hidden,
            c.init_std, c.min_std, c.init_mean, c.learn_gating, centre=c.one_step_start,
        )  # fmt: skip
        if c.one_step_start and teacher is not None:
            self.net.start_from(teacher.one_step())
        elif c.warm_start and teacher is not None:
            self.net.backbone.load_state_dict(teacher.encoder_state())

    @property
    def phases(self) -> tuple[Phase, ...]:
        """M-step of the experts (with the backbone), then the gating on detached features."""
        phases: tuple[Phase, ...] = (Phase("experts", self.net.expert_parameters(), self.config.expert_steps),)
        if self.config.learn_gating:
            gating = tuple(self.net.gating.parameters())
            phases += (Phase("gating", gating, self.config.gating_steps, self.config.gating_start),)
        return phases

    def loss(self, batch: Batch, phase: str) -> tuple[Tensor, dict[str, Tensor]]:
        return self.expert_loss(batch) if phase == "experts" else self.gating_loss(batch)

    def expert_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 9 with Eq. 16: sum_z pi_z E[-score . a - log q~(z | a)] - H(q_z); the score and q~ are constants."""
        b, z, v, a = batch.obs.shape[0], self.config.components, self.config.samples, self.shape.act
        mixture = self.net(batch.obs, batch.last, batch.goal)
        eps = torch.randn(b, z, v, a, device=batch.obs.device)
        actions = mixture.mean[:, :, None] + mixture.std[:, :, None] * eps  # (B, Z, V, A)
        score = self.teacher_score(actions.detach().reshape(b, z * v, a), batch).view(b, z, v, a)
        aux = mixture.detach()
        # Eq. 15, gradient through a alone
        own = aux.log_responsibilities(actions.reshape(b, z * v, a)).view(b, z, v, z)
        index = torch.arange(z, device=own.device)
        repulsion = own.permute(0, 2, 1, 3)[:, :, index, index]  # log q~(z | a_z): (B, V, Z)
        drive = (score * actions).sum(-1).permute(0, 2, 1)  # (B, V, Z)
        gating = aux.log_gating.exp()
        weight = (1 - self.config.uniform_share) * gating + self.config.uniform_share / z
        loss = -(weight * ((drive + repulsion).mean(1) + mixture.entropies())).sum(-1).mean()
        entropy = -(gating * aux.log_gating).sum(-1).mean()
        return loss, {"gating_entropy": entropy, "std": aux.std.mean()}

    @torch.no_grad()
    def teacher_score(self, actions: Tensor, batch: Batch) -> Tensor:
        """Score of the teacher at (B, M, A), one noise level a window (section 4.3, interval sampling)."""
        teacher = self.get_teacher()
        level = teacher.draw_level(self.config.level_min, self.config.level_max, (actions.shape[0], 1))
        context = teacher.encode(batch.obs, batch.goal)
        scale = teacher.signal_scale(level)[..., None] if self.config.rescale else 1.0
        return scale * teacher.score(scale * actions, level, context, batch.last)

    def gating_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 13: cross-entropy of the gating to the responsibilities of the demonstrated action."""
        with torch.no_grad():
            h = self.net.hidden(batch.obs, batch.last, batch.goal)
            mean, std = self.net.experts_of(h)
            target = Mixture(self.net.log_gating(h), mean, std).log_responsibilities(batch.action).exp()  # (B, Z)
        return -(target * self.net.log_gating(h.detach())).sum(-1).mean(), {}
