"""What decides the claims of harness/claim_list.py: predicates over a `Judge`.

`VDD` without further word is the better of VDD-VE and VDD-VP in each row, as section 5.2 counts. Words that the paper leaves
open have one meaning here: "on par", "comparable", "high": at most SUCCESS (of a rate), RETURN (Kitchen) or ENTROPY below;
"most", "a majority": more than half.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.claim_numbers import VDD, Value
from harness.claim_rules import Judge, Step, at_least, every, some

D3IL = ("avoiding", "aligning", "pushing", "stacking_1", "stacking_2", "sorting_image", "stacking_image")
FIRST = ("kitchen", "block_push")  # section 5.1
ALL = FIRST + D3IL
SUCCESS, RETURN, ENTROPY = 0.05, 0.2, 0.1  # margins
ONE_STEP, CONSISTENCY, SCRATCH = ("vp1", "ve1"), ("cd", "ctm"), ("em", "imc")
TEACHER = {"vdd_ve": "beso", "vdd_vp": "ddpm"}
EXPERTS = ("1", "2", "4", "8", "16", "32")
LEVELS = ("min", "max", "uniform", "interval")
GATING = ("avoiding", "aligning", "stacking_1")  # Figures 3b and 3c; their "Stacking" is taken for one box


def metric_of(row: str) -> str:
    return "return" if row == "kitchen" else "success"


def margin_of(row: str, metric: str) -> float:
    return ENTROPY if metric == "entropy" else RETURN if row == "kitchen" else SUCCESS


def highest(named: dict[str, Value | None]) -> str:
    """`vdd_ve 0.95 ± 0.01` of the highest known value."""
    known = {name: value for name, value in named.items() if value is not None}
    if not known:
        return "--"
    name = max(known, key=lambda n: known[n].mean)
    return f"{name} {known[name].mean:.2f}"


def compared(ours: dict[str, Value | None], sign: str, theirs: dict[str, Value | None], behind: str = "") -> str:
    """The highest of both sides; which methods have no number."""
    if missing := [name for name, value in (ours | theirs).items() if value is None]:
        behind += f" (no number: {', '.join(missing)})"
    return f"{highest(ours)} {sign} {highest(theirs)}{behind}"


def beats(
    j: Judge, row: str, rivals: Sequence[str], metric: str = "", table: int = 1, mine: Sequence[str] = VDD
) -> Step:
    """One of `mine` is above every rival in a row."""
    metric = metric or metric_of(row)
    ours = {m: j.numbers.cell(row, m, metric, table) for m in mine}
    theirs = {m: j.numbers.cell(row, m, metric, table) for m in rivals}
    truth = some([every([j.more(a, b) for b in theirs.values()]) for a in ours.values()]).truth
    return Step(truth, f"{row} {metric}: {compared(ours, '>', theirs)}")


def keeps_up(j: Judge, row: str, rivals: Sequence[str], metric: str = "", mine: Sequence[str] = VDD) -> Step:
    """One of `mine` is at most a margin below every rival in a row."""
    metric = metric or metric_of(row)
    ours = {m: j.numbers.cell(row, m, metric) for m in mine}
    theirs = {m: j.numbers.cell(row, m, metric) for m in rivals}
    margin = margin_of(row, metric)
    truth = some([every([j.not_below(a, b, margin) for b in theirs.values()]) for a in ours.values()]).truth
    return Step(truth, f"{row} {metric}: {compared(ours, '>=', theirs, f' - {margin}')}")


def on_par_with_teacher(j: Judge, metric: str, rows: Sequence[str]) -> Step:
    """In most rows a VDD keeps up with its own teacher."""
    steps = [
        some([keeps_up(j, row, [TEACHER[m]], metric, [m]) for m in VDD], row) for row in rows
    ]  # fmt: skip
    texts = [Step(s.truth, f"{s.parts[0].text}; {s.parts[1].text}") for s in steps]
    return at_least(len(rows) // 2 + 1, texts)


def bounded(j: Judge) -> Step:
    """No VDD is above its teacher."""
    steps = []
    for row in ALL:
        for m in VDD:
            above = beats(j, row, [TEACHER[m]], mine=[m])
            steps.append(Step(None if above.truth is None else not above.truth, above.text.replace(" > ", " <= ")))
    return every(steps, "every VDD and its teacher")


def both_high(j: Judge) -> Step:
    """In most rows one VDD is within the margins of the best in success and in entropy at once."""
    rivals = (*ONE_STEP, *CONSISTENCY, *VDD)
    steps = []
    for row in D3IL:
        each = [
            every(
                [keeps_up(j, row, [r for r in rivals if r != m], metric, [m]) for metric in ("success", "entropy")], m
            )
            for m in VDD
        ]
        texts = "; ".join(part.text for one in each for part in one.parts)
        steps.append(Step(some(each).truth, texts))
    return at_least(4, steps)


def most(steps: Sequence[Step]) -> Step:
    return at_least(len(steps) // 2 + 1, steps)


def negated(step: Step) -> Step:
    return Step(None if step.truth is None else not step.truth, "not: " + step.text)


def strong_one_step(j: Judge) -> Step:
    """VE-1 reaches 80 % of its teacher."""
    steps = []
    for row in ALL:
        one, teacher = (j.numbers.cell(row, m, metric_of(row)) for m in ("ve1", "beso"))
        share = None if teacher is None else Value(0.8 * teacher.mean, None if teacher.se is None else 0.8 * teacher.se)
        steps.append(j.more(one, share, f"{row}: ve1 {{}} > 0.8 x beso = {{}}"))
    return most(steps)


def exact(j: Judge) -> Step:
    """Every VDD policy with a record has an exact likelihood."""
    steps = [
        j.not_below(j.numbers.exact_likelihood(row), Value(1.0, 0.0), 0.0, row + ": {} of them exact") for row in D3IL
    ]
    known = [step for step in steps if step.truth is not None]
    return every(known) if known else Step(None, "no record")


def faster(j: Judge, default: bool) -> Step:
    """VDD against both teachers at their default numbers of evaluations, or at one."""
    steps = []
    for task, nfe in (("pushing", 64), ("stacking_image", 16)):
        mine = j.numbers.inference(task, "vdd", 1)
        for teacher in ("beso", "ddpm"):
            n = nfe if default else 1
            steps.append(
                j.more(
                    j.numbers.inference(task, teacher, n), mine, f"{task}: {teacher}, {n} NFE, {{}} ms > VDD {{}} ms"
                )
            )
    return every(steps)


# -- Figure 3


def experts(j: Judge, metric: str) -> dict[str, Value | None]:
    return {z: j.numbers.study("experts", z, "avoiding", metric) for z in EXPERTS}


def success_for_all(j: Judge) -> Step:
    found = experts(j, "success")
    pairs = [(a, b) for i, a in enumerate(EXPERTS[1:]) for b in EXPERTS[i + 2 :]]
    return every([j.near(found[a], found[b], SUCCESS, f"Z={a} {{}}, Z={b} {{}}: within {SUCCESS}") for a, b in pairs])


def single_higher(j: Judge) -> Step:
    found = experts(j, "success")
    return every([j.more(found["1"], found[z], f"Z=1 {{}} > Z={z} {{}}") for z in EXPERTS[1:]])


def single_narrow(j: Judge) -> Step:
    return j.not_below(Value(0.05, 0.0), experts(j, "entropy")["1"], 0.0, "0.05 >= entropy with Z=1: {1}")


def entropy_grows(j: Judge) -> Step:
    found = experts(j, "entropy")
    rise = [j.more(found["8"], found[z], f"Z=8 {{}} > Z={z} {{}}") for z in ("1", "2")]
    end = j.near(found["32"], found["16"], ENTROPY, f"Z=32 {{}}, Z=16 {{}}: within {ENTROPY}")
    return every([*rise, end])


def gating(j: Judge, metric: str, higher: str, needed: int) -> Step:
    lower = {"with": "without", "without": "with"}[higher]
    return at_least(needed, [
        j.more(j.numbers.study("gating", higher, row, metric), j.numbers.study("gating", lower, row, metric),
               f"{row} {metric}: {higher} {{}} > {lower} {{}}")
        for row in GATING
    ])  # fmt: skip


def level(j: Judge, variant: str, metric: str) -> Value | None:
    return j.numbers.study("levels", variant, "avoiding", metric)


def levels_comparable(j: Judge) -> Step:
    pairs = [(a, b) for i, a in enumerate(LEVELS) for b in LEVELS[i + 1 :]]
    found = {v: level(j, v, "success") for v in LEVELS}
    return every([j.near(found[a], found[b], SUCCESS, f"{a} {{}}, {b} {{}}: within {SUCCESS}") for a, b in pairs])


def levels_entropy(j: Judge, variants: Sequence[str]) -> Step:
    mine = level(j, "interval", "entropy")
    return every([j.more(mine, level(j, v, "entropy"), f"entropy: interval {{}} > {v} {{}}") for v in variants])


def single_perfect(j: Judge) -> Step:
    best = j.not_below(experts(j, "success")["1"], Value(0.99, 0.0), 0.0, "success with Z=1: {} >= {}")
    return every([best, single_narrow(j)])


def many_trade(j: Judge) -> Step:
    success, entropy = experts(j, "success"), experts(j, "entropy")
    slightly = j.not_below(success["8"], success["1"], 2 * SUCCESS, f"success: Z=8 {{}} >= Z=1 {{}} - {2 * SUCCESS}")
    return every([slightly, j.more(entropy["8"], entropy["1"], "entropy: Z=8 {} > Z=1 {}")])


def redundant(j: Judge) -> Step:
    """With 8 experts the gating's entropy is that of at most 5, and 8 to 32 do not do worse than 4."""
    used = j.numbers.study("experts", "8", "avoiding", "gating_entropy")
    few = j.not_below(Value(1.609, 0.0), used, 0.0, "ln 5 = {} >= entropy of the gating with Z=8, {} nats")
    found = experts(j, "success")
    harm = [
        j.not_below(found[z], found["4"], SUCCESS, f"success: Z={z} {{}} >= Z=4 {{}} - {SUCCESS}")
        for z in ("8", "16", "32")
    ]
    return every([few, *harm])


# -- Appendix F and G


def steps_matter(j: Judge) -> Step:
    steps = []
    for row in D3IL:
        for metric in ("success", "entropy"):
            a, b, c = (j.numbers.sampling(row, metric, n) for n in ("16", "32", "64"))
            same = every(
                [
                    j.near(x, y, margin_of(row, metric), f"{row} {metric}: {{}} and {{}}")
                    for x, y in ((a, b), (a, c), (b, c))
                ]
            )
            found = next((p for p in same.parts if p.truth is False), same.parts[0])
            steps.append(Step(None if same.truth is None else not same.truth, f"{found.text} differ"))
    return some(steps)


def cost_ratio(j: Judge, what: str, largest: float) -> Step:
    one, many = (j.numbers.cost(z, what) for z in ("1", "16"))
    scaled = None if one is None else Value(largest * one.mean, None if one.se is None else largest * one.se)
    return j.not_below(scaled, many, 0.0, f"{largest} x {what} with Z=1, {{}} >= with Z=16, {{}}")


def more_time(j: Judge) -> Step:
    return j.more(
        j.numbers.cost("16", "seconds"), j.numbers.cost("1", "seconds"), "seconds for 1000 iterations: Z=16 {} > Z=1 {}"
    )
