"""`python -m harness bench inference`: Table 3's milliseconds an action, as a measurement that tables and claims read.

One state, batch of one, a full window, scaling and conversion to NumPy included, as in section 5.4. Every teacher with each
number of evaluations and VDD, in three ways: eager; eager with the averaged weights copied in and the others back at every
call, as the original teachers do; compiled (traced and frozen). Fresh weights: what acting costs does not depend on them.
The cases are timed in turn, so that all of them meet the same load; a turn is `burst` actions, and its value their median. With
one thread on the CPU the clock is the processor time of this process, which what else runs there does not enter; otherwise it
is the clock on the wall. Compiled up to MOST_TRACED evaluations: tracing writes every one of them out.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import cli, measurement
from harness.bench import SUITES, build
from harness.display import say
from harness.errors import UserError
from harness.provenance import provenance
from methods.policy import Policy

WAYS = (("eager", False), ("eager", True), ("compiled", False))
MOST_TRACED = 16
Case = dict[str, Any]


def hyper_of(method: str, evaluations: int) -> dict[str, Any]:
    """The hyper-parameters of a teacher that evaluates its network so often."""
    if method == "ddpm":
        return {"sampling": "one_step_x0"} if evaluations == 1 else {"timesteps": evaluations, "sampling": "ancestral"}
    return {"sampling_steps": evaluations}


def cases(task: str, evaluations: list[int], device: str) -> list[tuple[Case, Callable[[], object]]]:
    """What is measured on a device, and a call that acts once."""
    obs = np.zeros((1, SUITES.tasks[task]["obs_dim"]), np.float32)
    found = []
    for name, method, n in [*((m, m, n) for m in ("beso", "ddpm") for n in evaluations), ("vdd", "vdd_ve", 1)]:
        for mode, copies in WAYS:
            if (copies and name == "vdd") or (mode == "compiled" and n > MOST_TRACED):
                continue  # VDD has no averaged weights to copy
            made = build(task, method, **(hyper_of(method, n) if name != "vdd" else {})).to(device)
            policy = Policy(made, "trace" if mode == "compiled" else "off")
            policy.reset([0])
            act = acting(policy, obs, copies)
            for _ in range(made.gpt_config.window):
                act()  # fills the window, and compiles
            about = {"method": name, "nfe": n, "device": device, "mode": mode, "copies": copies, "ms": []}
            found.append((about, act))
    return found


def acting(policy: Policy, obs: np.ndarray, copies: bool) -> Callable[[], object]:
    """One action; with `copies` between storing all weights, copying the averaged ones in, and copying the stored ones back."""
    if not copies:
        return lambda: policy.act(obs)
    weights = [p.data for p in policy.method.parameters()]
    averaged = [p.clone() for p in weights]

    def act() -> None:
        stored = [p.clone() for p in weights]
        for p, average in zip(weights, averaged, strict=True):
            p.copy_(average)
        policy.act(obs)
        for p, own in zip(weights, stored, strict=True):
            p.copy_(own)

    return act


def measure(
    task: str, evaluations: list[int], device: str, rounds: int, burst: int, threads: int
) -> measurement.Measurement:
    """The measurement of one device (measurement.py has its form)."""
    load = round(os.getloadavg()[0], 1)
    processor = device == "cpu" and threads == 1
    clock = time.process_time if processor else time.perf_counter
    made = cases(task, evaluations, device)
    for i in range(rounds + 1):  # the first round warms up
        for about, act in made:
            times = []
            for _ in range(burst):
                began = clock()
                act()
                times.append(clock() - began)
            if i:
                about["ms"].append(round(statistics.median(times) * 1e3, 4))
    about_us = provenance(device, threads) | {"device": device_name(device), "load": load}
    about_us["clock"] = "processor" if processor else "wall"
    about_us["when"] = datetime.now(UTC).date().isoformat()
    return {
        "schema": measurement.SCHEMA, "kind": "inference", "task": task, "predictions": rounds * burst,
        "cases": [about for about, _ in made], "provenance": about_us,
    }  # fmt: skip


def device_name(device: str) -> str:
    """The model of the processor or GPU; no name of a machine."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def of_table(task: str) -> str:
    """The evaluations of the task's part of Table 3; those of its first part for a task that it lacks."""
    blocks = [block for block in SUITES.tables.values() if block.get("kind") == "inference"]
    block = next((block for block in blocks if block["task"] == task), blocks[0])
    return ",".join(map(str, block["evaluations"]))


def main(argv: list[str]) -> int:
    parser = cli.Parser(
        prog="python -m harness bench inference", description="Milliseconds an action, as a file for Table 3."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for inference-<task>-<device>.json")
    parser.add_argument("--task", default="pushing", choices=sorted(SUITES.tasks))
    parser.add_argument("--evaluations", help="of the teachers' networks, such as 1,8 (default: those of Table 3)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of every case")
    parser.add_argument("--burst", type=int, default=20, help="actions a turn")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    words = [word.strip() for word in (args.evaluations or of_table(args.task)).split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 1000 for word in words):
        raise UserError(f"--evaluations must be numbers from 1 to 1000, such as 1,8. Got {args.evaluations[:60]!r}")
    for name in ("rounds", "burst", "threads"):
        if not 1 <= getattr(args, name) <= 100_000:
            raise UserError(f"--{name} must be at least 1. Got {getattr(args, name)}")
    cli.check_out(args.out, write=True)
    torch.set_num_threads(args.threads)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        content = measure(args.task, [int(word) for word in words], device, args.rounds, args.burst, args.threads)
        path = args.out / f"inference-{args.task}-{device}.json"
        measurement.write(path, content)
        say("\n".join(lines(content)))
        say(str(path))
    return 0


def lines(content: measurement.Measurement) -> list[str]:
    """A line a case: milliseconds, and how many times VDD's in the same way."""
    median = {
        (c["method"], c["nfe"], c["mode"], c["copies"]): float(np.median(c["ms"])) for c in content["cases"]
    }  # fmt: skip
    about = content["provenance"]
    head = f"{content['task']}, {about['device']}, {about['threads']} thread(s), load {about['load']}; median of turns"
    return [head] + [
        f"  {method:5} {nfe:3} NFE {mode:9}{'weights copied' if copies else '':15} {value:9.3f} ms "
        f"{value / median['vdd', 1, mode, False]:7.2f} x VDD"
        for (method, nfe, mode, copies), value in median.items()
    ]
