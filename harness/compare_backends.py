"""`python -m harness compare-backends`: the same episodes in our simulation and in the original, and whether they differ.

Episode e starts in both from the evaluation context e mod their number, with the same random numbers, driven by the same
policy: the scripted expert, asked for the task's behaviours in turn, or a trained one. Single episodes may part (pushes are
chaotic), frequencies must not: success rates are compared by their 95 % intervals (Wilson) and, as the episodes are paired, by
McNemar's exact test; behaviours of the successes by a chi-squared test.

`<out>/<task>-<policy>.json` is written again after every few episodes; what is finished lies in `<out>/work/` and is not run
again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from envs.contexts import evaluation_contexts
from harness import backends, cli, record, sealed, stop
from harness.backends import BUILTIN, OFFICIAL, ORIGINAL_TASKS, Backend
from harness.config import digest
from harness.display import say
from harness.errors import UserError
from harness.metrics import KEYS
from harness.registry import SUITES, load_suites, select
from harness.rollout import CHUNK, read_chunk
from harness.seeds import derive

SCHEMA = 1
LEVEL = 0.01  # below this p two simulations are said to differ
Episodes = dict[str, list[Any]]


@dataclass(frozen=True)
class Subject:
    """A policy for one task. run(environments, contexts, episodes' numbers) gives the lists of a roll-out.

    identity: what decides its episodes besides the simulation; describe: what the result says of it.
    """

    name: str
    identity: dict[str, Any]
    describe: dict[str, Any]
    run: Callable[[Backend, list[int], list[int]], Episodes]


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    found = stats.binomtest(successes, count).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def compare(one: Episodes, other: Episodes) -> dict[str, Any]:
    """Success and behaviours of two lists of paired episodes, and whether they differ (`LEVEL`)."""
    a, b = (np.asarray(e["success"], bool) for e in (one, other))
    count = len(a)
    intervals = [wilson(int(x.sum()), count) for x in (a, b)]
    only = int((a & ~b).sum()), int((~a & b).sum())
    paired = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    shown = [Counter(m for m, s in zip(e["mode"], e["success"], strict=True) if s and m) for e in (one, other)]
    names = sorted(shown[0] | shown[1])
    table = np.array([[c[name] for name in names] for c in shown])  # (2, behaviours)
    usable = len(names) > 1 and (table.sum(1) > 0).all()
    chi2 = stats.chi2_contingency(table) if usable else None
    overlap = intervals[0][0] <= intervals[1][1] and intervals[1][0] <= intervals[0][1]
    p_modes = float(chi2.pvalue) if chi2 is not None else None
    return {
        "episodes": count,
        "success": [float(a.mean()), float(b.mean())],
        "wilson_95": [list(interval) for interval in intervals],
        "intervals_overlap": bool(overlap),
        "agree": int((a == b).sum()),
        "success_in_one_only": list(only),
        "mcnemar_p": float(paired),
        "modes": {name: [int(row[i]) for row in table] for i, name in enumerate(names)},
        "same_mode_where_both_succeed": [
            sum(x == y for x, y, s in zip(one["mode"], other["mode"], a & b, strict=True) if s), int((a & b).sum())
        ],
        "modes_chi2_p": p_modes,
        "length": [float(np.mean(e["length"])) for e in (one, other)],
        "differ": bool(not overlap or (p_modes is not None and p_modes < LEVEL)),
    }  # fmt: skip


def expert(task: str, block: dict[str, Any], seed: int, data_root: str | None, threads: int) -> Subject:
    """The task's scripted expert, asked for its behaviours in turn."""
    from envs.demonstrators import drivers

    modes = drivers.modes(task)

    def run(backend: Backend, contexts: list[int], numbers: list[int]) -> Episodes:
        env = backend.make(block, len(numbers), threads, data_root)
        try:
            wanted = [modes[n % len(modes)] for n in numbers]
            return drivers.run(task, env, contexts, wanted, [derive(f"compare/{seed}", task, n) for n in numbers])
        finally:
            env.close()

    identity = {"expert": drivers.version(task), "modes": modes}
    return Subject("expert", identity, {"kind": "scripted expert", "version": drivers.version(task)}, run)


def trained(path: Path, task: str, block: dict[str, Any], seed: int, data_root: str | None, threads: int) -> Subject:
    """A trained policy: its weights' file, or the record of the cell that trained it."""
    from harness import rollout
    from harness.shipped import policy_sha256
    from methods import policy

    weights = weights_of(path)
    method = policy.load(weights)
    if (method.shape.obs, method.shape.act) != (block["obs_dim"], block["act_dim"]):
        raise UserError(f"{path} is a policy of another task than {task}: choose one with --tasks")
    sha256 = policy_sha256(weights.with_suffix(".safetensors"))
    name = json.loads(weights.with_suffix(".json").read_text())["method"]

    def run(backend: Backend, contexts: list[int], numbers: list[int]) -> Episodes:
        seeds = [derive(f"compare/{seed}", task, n) for n in numbers]
        return rollout.run_chunk(method, block, contexts, seeds, threads, data_root, backend=backend)

    return Subject(name, {"policy": sha256}, {"kind": "trained policy", "method": name, "sha256": sha256}, run)


def weights_of(path: Path) -> Path:
    """The weights' file that is named, or that belongs to a record. Raises UserError where there is none."""
    if path.suffix == ".safetensors":
        return path
    if path.suffix != ".json":
        raise UserError(f"--policy is expert, a .safetensors file or a record's .json file. Got {path}")
    try:
        cell = record.read(path)["cell"]
    except OSError as error:
        raise UserError(f"no record {path}: {error.strerror}") from None
    except record.InvalidRecord as error:
        raise UserError(f"{path} {error}") from None
    key = record.key_of(cell["task"], cell["method"], cell["seed"])
    beside = path.with_name(path.name.replace(".record.json", ".safetensors"))  # a teacher that comes with the project
    below = record.work_path(path.absolute().parents[3], key) / "policy.safetensors"
    for found in (beside, below):
        if found.suffix == ".safetensors" and found.is_file():
            return found
    raise UserError(f"the weights of {path} are not there: expected {below}")


def episodes_of(
    subject: Subject, backend: Backend, count: int, contexts: int, work: Path, threads: int,
    on_batch: Callable[[Episodes], None],
) -> None:  # fmt: skip
    """Runs what of `count` episodes is not finished; on_batch(episodes so far) after each batch."""
    done: Episodes = {key: [] for key in KEYS}
    size = min(CHUNK, max(backend.most, threads))
    for first in range(0, count, size):
        numbers = list(range(first, min(first + size, count)))
        path = work / backend.name / f"{first}-{len(numbers)}.json"  # more episodes may be asked for later
        chunk = read_chunk(path, len(numbers), KEYS)
        if chunk is None:
            stop.check()
            chunk = subject.run(backend, [n % contexts for n in numbers], numbers)
            path.parent.mkdir(parents=True, exist_ok=True)
            sealed.write_json(path, record.plain(chunk))
        for key in KEYS:
            done[key] += chunk[key]
        on_batch(done)


def compare_task(task: str, subject: Subject, official: Backend, block: dict[str, Any], args: Any) -> dict[str, Any]:
    """All episodes of a task in both simulations; the result, which is also written."""
    known = evaluation_contexts(task, args.data_root) if "contexts" in block else None
    contexts = 1 if known is None else len(known.poses)
    made: dict[str, Any] = {
        "schema": SCHEMA, "task": task, "policy": subject.describe, "seed": args.seed, "planned": args.episodes,
        "contexts": None if known is None else {"origin": known.origin, "sha256": known.sha256},
        "original": official.versions(block),
    }  # fmt: skip
    identity = {**subject.identity, "task": task, "seed": args.seed, "contexts": made["contexts"]}
    identity["original"] = made["original"]
    work = args.out / "work" / f"{task}-{subject.name}-{digest(identity)[:12]}"
    path = args.out / f"{task}-{subject.name}.json"
    found: dict[str, Episodes] = {}

    def write(done: Episodes) -> None:
        count = len(done["success"])
        found[OFFICIAL] = done
        both = {name: {key: e[key][:count] for key in KEYS} for name, e in found.items()}
        made["comparison"] = compare(both[BUILTIN], both[OFFICIAL])
        made["episodes"] = both
        record.write_atomic(path, text_of(made))
        say(f"{task}: {count} of {args.episodes} episodes, {time.strftime('%H:%M:%S')}")

    episodes_of(
        subject, Backend(), args.episodes, contexts, work, args.threads, lambda done: found.update({BUILTIN: done})
    )
    episodes_of(subject, official, args.episodes, contexts, work, args.threads, write)
    return made


def text_of(made: dict[str, Any]) -> str:
    """The result as JSON, one line a list of episodes."""
    rows = {name: {k: f"@{name}.{k}" for k in e} for name, e in made["episodes"].items()}
    text = json.dumps(record.plain({**made, "episodes": rows}), indent=1)
    for name, e in made["episodes"].items():
        for key, values in e.items():
            text = text.replace(f'"@{name}.{key}"', json.dumps(record.plain(values)))
    return text + "\n"


def lines(made: dict[str, Any]) -> list[str]:
    """A result for people."""
    c = made["comparison"]
    rates = " | ".join(
        f"{name} {100 * rate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        for name, rate, (low, high) in zip((BUILTIN, OFFICIAL), c["success"], c["wilson_95"], strict=True)
    )
    p = "--" if c["modes_chi2_p"] is None else f"{c['modes_chi2_p']:.2f}"
    same, both = c["same_mode_where_both_succeed"]
    return [
        f"{made['task']}, {c['episodes']} episodes: success {rates}; McNemar p = {c['mcnemar_p']:.2f}",
        f"  behaviours: chi-squared p = {p}; the same in {same} of {both} episodes that succeed in both; "
        f"mean steps {c['length'][0]:.0f} and {c['length'][1]:.0f}",
        "  the simulations DIFFER" if c["differ"] else "  no difference found",
    ]


def main(argv: list[str]) -> int:
    parser = cli.Parser(
        prog="python -m harness compare-backends",
        description="The same episodes in our simulation and in the original one. Exit code 1 where they differ.",
    )
    parser.add_argument("--tasks", default=",".join(ORIGINAL_TASKS), help="comma-separated (default: the original's)")
    parser.add_argument("--episodes", type=int, default=100, help="of each task in each simulation (default 100)")
    parser.add_argument("--policy", default="expert", help="expert (default), or a trained policy: record or weights")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' random numbers")
    parser.add_argument("--threads", type=int, default=1, help="processes of the original that compute at once")
    cli.official_options(parser)
    parser.add_argument("--data-root", help="folder with the original evaluation contexts (or $VDD_DATA_ROOT)")
    parser.add_argument("--out", type=Path, default=Path("runs/backends"), help="default runs/backends")
    args = parser.parse_args(argv)
    for name in ("episodes", "threads"):
        if not 1 <= getattr(args, name) <= 100_000:
            raise UserError(f"--{name} must be at least 1 and no absurd number. Got {getattr(args, name)}")
    if args.seed < 0:
        raise UserError(f"--seed must not be negative. Got {args.seed}")
    suites = load_suites(SUITES)
    tasks, _ = select("task", args.tasks, suites.tasks, suites.names["tasks"])
    for task in tasks:
        backends.check_task(OFFICIAL, task, suites.tasks[task])
    official = backends.from_options(OFFICIAL, args.official_python, args.official_checkout)
    cli.check_out(args.out, write=True)
    differ = False
    for task in tasks:
        block = suites.tasks[task]
        if args.policy == "expert":
            subject = expert(task, block, args.seed, args.data_root, args.threads)
        else:
            subject = trained(Path(args.policy), task, block, args.seed, args.data_root, args.threads)
        made = compare_task(task, subject, official, block, args)
        differ |= made["comparison"]["differ"]
        print("\n".join(lines(made)))
    return 1 if differ else 0
