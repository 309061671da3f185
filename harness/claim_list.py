"""The paper's claims that its tables and figures can support: abstract to section 5.6, captions, conclusion, appendices F, G.

Zhou et al. (NeurIPS 2024). Statements are in this project's words; `rule` says how `holds` decides
(harness/claim_predicates.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.claim_numbers import VDD, Value
from harness.claim_predicates import (
    ALL,
    CONSISTENCY,
    D3IL,
    ENTROPY,
    FIRST,
    ONE_STEP,
    RETURN,
    SCRATCH,
    SUCCESS,
    beats,
    both_high,
    bounded,
    cost_ratio,
    entropy_grows,
    exact,
    faster,
    gating,
    keeps_up,
    levels_comparable,
    levels_entropy,
    many_trade,
    more_time,
    most,
    negated,
    on_par_with_teacher,
    redundant,
    single_higher,
    single_narrow,
    single_perfect,
    steps_matter,
    strong_one_step,
    success_for_all,
)
from harness.claim_rules import Judge, Step, at_least, every


@dataclass(frozen=True)
class Claim:
    """`rule`: how `holds` decides, in words; `says`: how many of the rows the paper says that it holds in."""

    id: str
    section: str
    statement: str
    rule: str
    holds: Callable[[Judge], Step]
    says: int | None = None


CLAIMS = (
    Claim(
        "abstract-1",
        "abstract, 1, 6",
        "VDD keeps the success of the diffusion policy that it distils.",
        f"in most of 9 rows VDD-VE or VDD-VP is at most {SUCCESS} (Kitchen {RETURN}) below its own teacher",
        lambda j: on_par_with_teacher(j, "", ALL),
    ),
    Claim(
        "abstract-2",
        "abstract, 1",
        "VDD outperforms the existing distillation methods, CD and CTM.",
        "in most of 9 rows VDD is above both",
        lambda j: most([beats(j, row, CONSISTENCY) for row in ALL]),
    ),
    Claim(
        "abstract-3",
        "abstract, 1",
        "VDD surpasses the usual ways of training mixtures of experts, EM and IMC.",
        "in most of 9 rows of Table 2 VDD is above both",
        lambda j: most([beats(j, row, SCRATCH, table=2) for row in ALL]),
    ),
    Claim(
        "intro-modes",
        "1",
        "VDD covers the same modes as the diffusion model.",
        f"in most of 7 rows VDD-VE's or VDD-VP's entropy is at most {ENTROPY} below its own teacher's",
        lambda j: on_par_with_teacher(j, "entropy", D3IL),
    ),
    Claim(
        "intro-likelihood",
        "1",
        "The distilled policy has a tractable likelihood.",
        "every VDD record holds an exact held-out likelihood",
        exact,
    ),
    Claim(
        "intro-one-step",
        "1, 5.1",
        "One-step continuous diffusion models already perform well.",
        "in most of 9 rows VE-1 is above 0.8 of BESO's result",
        strong_one_step,
    ),
    Claim(
        "fig-2",
        "Figure 2",
        "The experts end on all modes of the two-dimensional toy.",
        "VDD-VE covers 8 of 8 modes with every seed",
        lambda j: j.not_below(j.numbers.toy_modes(), Value(1.0, 0.0), 0.0, "share of modes covered: {} >= {}"),
    ),
    Claim(
        "5.1-comparable",
        "5.1",
        "VDD is comparable to CD in Kitchen and Block Push.",
        f"in both at most {RETURN} (Kitchen) or {SUCCESS} below CD",
        lambda j: every([keeps_up(j, row, ["cd"]) for row in FIRST]),
    ),
    Claim(
        "5.1-block-push",
        "5.1",
        "VDD is slightly better than CD in Block Push.",
        "VDD is above CD",
        lambda j: beats(j, "block_push", ["cd"]),
    ),
    Claim(
        "5.1-originals",
        "5.1",
        "In Kitchen and Block Push the original models outperform the distilled ones.",
        "in both DDPM or BESO is above CD, CTM and both VDD",
        lambda j: every([beats(j, row, (*CONSISTENCY, *VDD), mine=("ddpm", "beso")) for row in FIRST]),
    ),
    Claim(
        "5.1-ve1",
        "5.1",
        "With one step BESO is already as strong as the distilled models there.",
        "in both VE-1 is above CD, CTM and both VDD",
        lambda j: every([beats(j, row, (*CONSISTENCY, *VDD), mine=("ve1",)) for row in FIRST]),
    ),
    Claim(
        "5.2-success",
        "5.2",
        "VDD outperforms consistency distillation and the one-step models in 6 of 7 tasks.",
        "in at least 6 of 7 rows VDD's success is above that of CD, CTM, VP-1 and VE-1",
        lambda j: at_least(6, [beats(j, row, (*CONSISTENCY, *ONE_STEP)) for row in D3IL]),
        6,
    ),
    Claim(
        "5.2-aligning-success",
        "5.2",
        "Aligning is the exception.",
        "VDD's success is not above all of CD, CTM, VP-1, VE-1",
        lambda j: negated(beats(j, "aligning", (*CONSISTENCY, *ONE_STEP))),
    ),
    Claim(
        "5.2-aligning-entropy",
        "5.2",
        "In Aligning VDD shows more behaviours.",
        "VDD's entropy is above that of CD, CTM, VP-1 and VE-1",
        lambda j: beats(j, "aligning", (*CONSISTENCY, *ONE_STEP), "entropy"),
    ),
    Claim(
        "5.2-entropy",
        "5.2",
        "VDD has the higher entropy in 4 of 7 tasks.",
        "in at least 4 of 7 rows VDD's entropy is above that of CD, CTM, VP-1 and VE-1",
        lambda j: at_least(4, [beats(j, row, (*CONSISTENCY, *ONE_STEP), "entropy") for row in D3IL]),
        4,
    ),
    Claim(
        "table-1-on-par",
        "caption of Table 1",
        "VDD is on par with consistency distillation.",
        f"in most of 9 rows VDD is at most {SUCCESS} (Kitchen {RETURN}) below CD",
        lambda j: most([keeps_up(j, row, ["cd"]) for row in ALL]),
    ),
    Claim(
        "table-1-both",
        "caption of Table 1",
        "In most tasks VDD has both high success and high entropy.",
        f"in at least 4 of 7 rows one VDD is at most {SUCCESS} in success and {ENTROPY} in entropy below the best",
        both_high,
    ),
    Claim(
        "5.3-success",
        "5.3, caption of Table 2",
        "VDD consistently outperforms EM-GPT and IMC-GPT in success.",
        "in all 9 rows of Table 2 VDD is above both",
        lambda j: every([beats(j, row, SCRATCH, table=2) for row in ALL]),
    ),
    Claim(
        "5.3-entropy",
        "5.3, caption of Table 2",
        "VDD has the higher entropy in 4 of 7 D3IL tasks.",
        "in at least 4 of 7 rows of Table 2 VDD's entropy is above both",
        lambda j: at_least(4, [beats(j, row, SCRATCH, "entropy", table=2) for row in D3IL]),
        4,
    ),
    Claim(
        "5.4-faster",
        "5.4, 1",
        "VDD acts significantly faster than the diffusion models.",
        "at their default numbers of evaluations both take longer, in both tasks of Table 3",
        lambda j: faster(j, True),
    ),
    Claim(
        "5.4-one-step",
        "5.4",
        "VDD is faster even than one denoising step.",
        "with one evaluation both take longer, in both tasks",
        lambda j: faster(j, False),
    ),
    Claim(
        "5.5-experts-success",
        "5.5, Figure 3a",
        "Success is almost constantly high for every number of experts above one.",
        f"Z = 2 to 32 are within {SUCCESS} of one another",
        success_for_all,
    ),
    Claim(
        "5.5-one-expert-success",
        "5.5, Figure 3a",
        "A single expert has a slightly higher success.",
        "Z = 1 is above all others",
        single_higher,
    ),
    Claim(
        "5.5-one-expert-entropy",
        "5.5, 6, Figure 3a",
        "A single expert shows one behaviour.",
        "entropy at most 0.05 with Z = 1",
        single_narrow,
    ),
    Claim(
        "5.5-experts-entropy",
        "5.5, Figure 3a",
        "With more experts entropy rises and then stays.",
        f"Z = 8 is above 1 and 2, and 32 within {ENTROPY} of 16",
        entropy_grows,
    ),
    Claim(
        "5.5-gating-success",
        "5.5, 6, Figure 3b",
        "A learned gating raises success.",
        "in all three tasks",
        lambda j: gating(j, "success", "with", 3),
        3,
    ),
    Claim(
        "5.5-gating-entropy",
        "5.5, 6, Figure 3c",
        "A uniform gating has the higher entropy in two of three tasks.",
        "in at least two of three tasks",
        lambda j: gating(j, "entropy", "without", 2),
        2,
    ),
    Claim(
        "5.5-levels-success",
        "5.5, Figure 3d",
        "The choice of noise levels hardly changes success.",
        f"all four choices are within {SUCCESS} of one another",
        levels_comparable,
    ),
    Claim(
        "5.5-levels-entropy",
        "5.5, Figure 3d",
        "Levels drawn from an interval give the highest entropy.",
        "interval is above min, max and uniform",
        lambda j: levels_entropy(j, ("min", "max", "uniform")),
    ),
    Claim(
        "5.5-levels-several",
        "4.3, Figure 3d",
        "Several noise levels distil better than one.",
        "interval is above min and max in entropy",
        lambda j: levels_entropy(j, ("min", "max")),
    ),
    Claim(
        "5.6-distinct",
        "5.6, Figure 4",
        "The experts have distinct behaviours.",
        "no number in the paper or in records decides it; see Figure 4",
        lambda _: Step(None, "Figure 4 is a picture"),
    ),
    Claim(
        "5.6-redundant",
        "5.6, Figure 4",
        "The gating switches redundant experts off, so more of them do no harm.",
        f"with Z = 8 the gating's entropy is at most ln 5, and success with Z = 8, 16, 32 at most {SUCCESS} below Z = 4",
        redundant,
    ),
    Claim(
        "5.6-single",
        "5.6, Figure 4",
        "A single expert succeeds always, in one way.",
        "success at least 0.99 and entropy at most 0.05 with Z = 1",
        single_perfect,
    ),
    Claim(
        "5.6-many",
        "5.6, Figure 4",
        "Many experts cost a little success and gain diversity.",
        f"Z = 8 against 1: success at most {2 * SUCCESS} lower, entropy higher",
        many_trade,
    ),
    Claim(
        "6-bounded",
        "6",
        "VDD is bounded by the model that it distils.",
        "in all 9 rows neither VDD is above its teacher",
        bounded,
    ),
    Claim(
        "6-time",
        "6",
        "Many experts can make training longer.",
        "seconds for 1000 iterations: Z = 16 above Z = 1 (Table 7)",
        more_time,
    ),
    Claim(
        "F-steps",
        "appendix F",
        "The number of sampling steps can change BESO's result.",
        f"some row of Table 5 differs by more than {SUCCESS} in success or {ENTROPY} in entropy",
        steps_matter,
    ),
    Claim(
        "G-parameters",
        "appendix G, Table 7",
        "More experts hardly add parameters.",
        "Z = 16 has at most 1.05 times those of Z = 1",
        lambda j: cost_ratio(j, "parameters", 1.05),
    ),
    Claim(
        "G-time",
        "appendix G, Table 7",
        "More experts hardly add training time.",
        "Z = 16 takes at most 1.5 times as long as Z = 1",
        lambda j: cost_ratio(j, "seconds", 1.5),
    ),
)
