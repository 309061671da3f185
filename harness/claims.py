"""`python -m harness claims`: what of the paper's claims its own numbers support, and what our records do.

Three verdicts a claim: on the printed numbers as they stand, on the printed numbers with their errors, on our records with
theirs. The rules: harness/claim_rules.py; the claims: harness/claim_list.py; docs/claims.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness import tables
from harness.claim_list import CLAIMS, Claim
from harness.claim_numbers import Numbers, Paper, Records
from harness.claim_rules import SURE, VERDICTS, Judge, Step
from harness.registry import Suites
from harness.table_text import markdown_escape

SIDES = {
    "printed": "the paper's numbers as printed",
    "paper": f"the paper's numbers, {SURE:g} standard errors",
    "ours": f"our records, {SURE:g} standard errors",
}
MARKS = {True: "yes", False: "no", None: "open"}


@dataclass(frozen=True)
class Result:
    """A claim and how it came out on every side of SIDES."""

    claim: Claim
    steps: dict[str, Step]

    def verdict(self, side: str) -> str:
        return VERDICTS[self.steps[side].truth]

    def tally(self, side: str) -> str:
        """`1 yes, 8 open` of a claim about several rows; "" of a single comparison."""
        truths = [part.truth for part in self.steps[side].parts]
        return ", ".join(f"{n} {MARKS[truth]}" for truth in MARKS if (n := truths.count(truth)))

    def why(self, side: str) -> list[str]:
        """The numbers that decide, a line each: `yes: avoiding success: ...`; the count first where there is one."""
        step = self.steps[side]
        lines = [step.text] if step.text and step.parts else []
        parts = step.parts or (step,)
        return lines + [f"{MARKS[part.truth]}: {part.text}" for part in parts if part.text]


def judge(claim: Claim, numbers: Numbers, errors: float) -> Step:
    """One claim on one side."""
    return claim.holds(Judge(numbers, errors))


def evaluate(source: tables.Source, suites: Suites) -> list[Result]:
    """Every claim on all sides. Pure: reads records, writes nothing."""
    paper, records = Paper(suites), Records(source, suites)
    return [
        Result(
            claim,
            {
                "printed": judge(claim, paper, 0),
                "paper": judge(claim, paper, SURE),
                "ours": judge(claim, records, SURE),
            },
        )
        for claim in CLAIMS
    ]


def findings(results: list[Result]) -> list[str]:
    """Where the paper disagrees with itself: its tables with one another, and its text with its tables."""
    return disagreements() + counts(results) + [
        f"{r.claim.id} ({r.claim.section}): the printed numbers do not support it: {r.claim.statement}"
        for r in results
        if r.steps["printed"].truth is False
    ]  # fmt: skip


def disagreements() -> list[str]:
    """Cells that stand in two tables with different numbers."""
    one, two = (tables.read_paper(f"table{number}.csv") for number in (1, 2))

    def text(mean: float, std: float | None) -> str:
        return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")

    lines = [
        f"{' '.join(key)}: Table 1 prints {text(*one[key])}, Table 2 {text(*two[key])}"
        for key in one.keys() & two.keys()
        if one[key] != two[key]
    ]
    return sorted(lines) + default_steps(one)


def default_steps(one: dict[tuple[str, str, str], tuple[float, float | None]]) -> list[str]:
    """BESO at its default number of steps (Table 4) in Table 5 and in Table 1."""
    lines = tables.paper_lines("table4.csv")
    (defaults,) = [line for line in lines if (line["method"], line["hyperparameter"]) == ("beso", "sampling_steps")]
    found = []
    for line in tables.paper_lines("table5.csv"):
        task = line["task"].removesuffix("_1").removesuffix("_2")
        mean = one[line["task"], "beso", line["metric"]][0]
        if line["steps"] == defaults[task] and float(line["value"]) != mean:
            found.append(
                f"{line['task']} beso {line['metric']}: Table 1 prints {mean:.2f}, Table 5 with the same "
                f"{line['steps']} steps {float(line['value']):.2f}"
            )
    return found


def counts(results: list[Result]) -> list[str]:
    """Claims that name another number of tasks than the tables show."""
    return [
        f"{r.claim.id} ({r.claim.section}): the text says {r.claim.says}, the printed numbers show {r.steps['printed'].count}"
        for r in results
        if r.claim.says is not None
        and r.steps["printed"].truth is not None
        and r.steps["printed"].count != r.claim.says
    ]


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """The results as plain data: id, section, statement, rule, and for every side verdict and why."""
    return [
        {
            "id": r.claim.id, "section": r.claim.section, "statement": r.claim.statement, "rule": r.claim.rule,
            "sides": {
                side: {"verdict": r.verdict(side), "tally": r.tally(side), "why": r.why(side)} for side in SIDES
            },
        }
        for r in results
    ]  # fmt: skip


def text(results: list[Result]) -> str:
    """For a terminal: a line a claim, then the findings."""
    width = max(len(r.claim.id) for r in results)
    lines = [f"{'claim':{width}}  {'as printed':14} {'with errors':14} {'our records':32}"]
    for r in results:
        ours = r.verdict("ours") + (f" ({r.tally('ours')})" if r.tally("ours") else "")
        verdicts = f"{r.verdict('printed'):14} {r.verdict('paper'):14} {ours:32}"
        lines.append(f"{r.claim.id:{width}}  {verdicts} {r.claim.statement}".rstrip())
    return "\n".join(
        [*lines, "", "findings in the paper's own numbers:", *(f"- {line}" for line in findings(results)), ""]
    )


def markdown(results: list[Result]) -> str:
    """A table of verdicts, then every claim with its rule and the numbers, then the findings."""
    e = markdown_escape
    lines = [
        "# Claims",
        "",
        "| claim | section | statement | as printed | with errors | our records |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        ours = r.verdict("ours") + (f" ({r.tally('ours')})" if r.tally("ours") else "")
        cells = (r.claim.id, r.claim.section, r.claim.statement, r.verdict("printed"), r.verdict("paper"), ours)
        lines.append("| " + " | ".join(e(cell) for cell in cells) + " |")
    lines += ["", "## Findings in the paper's own numbers", "", *(f"* {e(line)}" for line in findings(results))]
    for r in results:
        lines += [
            "",
            f"## {r.claim.id}",
            "",
            f"{e(r.claim.statement)} ({e(r.claim.section)})",
            "",
            f"Rule: {e(r.claim.rule)}.",
        ]
        for side, about in SIDES.items():
            lines += ["", f"{about}: **{r.verdict(side)}**", "", *(f"* {e(line)}" for line in r.why(side))]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[list[Result]], str]] = {
    "text": text,
    "markdown": markdown,
    "json": lambda results: json.dumps({"claims": as_json(results), "findings": findings(results)}, indent=1) + "\n",
}
