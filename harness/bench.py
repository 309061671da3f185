"""`python -m harness bench`: how fast the parts are, measured side by side in one run; never part of the tests.

Alternatives are timed in turn, A B A B ..., after a burn-in, so that a ratio holds when the machine's speed drifts. Every
figure is a median; quote ratios before absolute times.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness import cli
from harness.backends import BUILTIN, Backend, check_task, from_options
from harness.config import resolve
from harness.errors import UserError, unknown
from harness.registry import load_suites, resolve_class, teacher_of
from harness.train import TrainConfig, Trainer
from harness.windows import Windows
from methods._transformer import GPTConfig
from methods.base import Method, Shape
from methods.policy import Policy
from methods.scaler import Scaler

SUITES = load_suites()
PARTS = ("env", "train", "act", "mode")
BURST = 20  # actions a turn in bench_act


def interleaved(cases: dict[str, Callable[[], object]], rounds: int, burn_in: int = 3) -> dict[str, float]:
    """Median seconds of each case, timed in turn."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(burn_in + rounds):
        for name, case in cases.items():
            began = time.perf_counter()
            case()
            if i >= burn_in:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def shape_of(task: str) -> Shape:
    block = SUITES.tasks[task]
    return Shape(block["obs_dim"], block["act_dim"], block["goal_tokens"])


def trained_methods(task: str) -> list[str]:
    """The task's methods with weights of their own."""
    return [n for n, b in SUITES.methods.items() if b["role"] != "one_step" and task in b.get("tasks", [task])]


def build(task: str, name: str, **hyper: object) -> Method:
    """A method at a task's published sizes with fresh weights; what it costs does not depend on what they are."""
    if "encoder" in SUITES.tasks[task]:
        raise UserError(
            f"bench measures no networks of {task}: their encoder decides everything, docs/images.md has figures"
        )
    block, config, shape = SUITES.methods[name], resolve(SUITES, task, name, "standard"), shape_of(task)
    cls = resolve_class(block["class"])
    scaler = Scaler.identity(shape.obs, shape.act, bound=2.0)
    source = teacher_of(SUITES, task, name)
    teacher = None if source is None else build(task, source)
    return cls(cls.Config(**{**config["hyper"], **hyper}), shape, GPTConfig(**config["gpt"]), scaler, teacher)


def bench_env(task: str, rounds: int, threads: int, backend: Backend) -> None:
    """Environment steps a second, alone and 64 (the original: 4) in a batch, holding the start."""
    print(f"\nenvironment {task}, {backend.name}, {threads} thread(s)")
    block = SUITES.tasks[task]
    environments = {f"{n} in a batch": backend.make(block, n, threads) for n in (1, min(64, backend.most))}

    def stepper(env) -> Callable[[], None]:
        action = np.zeros((env.num_envs, SUITES.tasks[task]["act_dim"]))

        def steps() -> None:
            env.reset()
            for _ in range(20):
                env.step(action)

        return steps

    seconds = interleaved({name: stepper(env) for name, env in environments.items()}, rounds)
    for name, env in environments.items():
        print(f"  {name:15s} {20 * env.num_envs / seconds[name]:8.0f} steps/s")
        env.close()


def bench_train(task: str, rounds: int, batch: int, only: list[str]) -> None:
    """Milliseconds an iteration of every trained method at equal batch, and the ratio to one BESO step."""
    shape = shape_of(task)
    window = SUITES.tasks[task]["gpt"]["window"]
    data = Windows(
        torch.randn(4096, window, shape.obs), torch.randint(window, (4096,)), torch.randn(4096, shape.act),
        torch.randn(4096, shape.goal, shape.obs) if shape.goal else None,
    )  # fmt: skip
    trainers: dict[str, Trainer] = {}
    names = sorted({"beso", *only} & {*trained_methods(task)}, key=lambda name: (name != "beso", name))  # beso first
    for name in names:
        config = resolve(SUITES, task, name, "standard")["train"]
        method = build(task, name)
        torch._dynamo.reset()
        began = time.perf_counter()
        trainers[name] = Trainer(method.train(), data, data, TrainConfig(**{**config, "batch": batch}), 0)
        trainers[name].iterate()
        trainers[name].iterate()
        print(f"  ({name}: ready after {time.perf_counter() - began:.0f} s)", flush=True)
    seconds = interleaved({name: t.iterate for name, t in trainers.items()}, rounds)
    print(f"\ntraining {task}, batch {batch}, {torch.get_num_threads()} thread(s), {trainers['beso'].precision}")
    for name, value in seconds.items():
        print(f"  {name:8s} {value * 1e3:8.2f} ms an iteration   {value / seconds['beso']:5.2f} x beso")


def bench_act(task: str, rounds: int, only: list[str]) -> None:
    """Milliseconds of `act` for one state, scaling and NumPy conversion included: eager and traced.

    Each turn is a burst of calls, as in a control loop: single calls in turn would time every policy with cold caches.
    """
    print(f"\nact for one state, {task}, {torch.get_num_threads()} thread(s)")
    cases: dict[str, Callable[[], object]] = {}
    obs = np.zeros((1, SUITES.tasks[task]["obs_dim"]), np.float32)
    for name in only:
        for compiled in ("off", "trace"):
            policy = Policy(build(task, name), compiled)
            policy.reset([0], blank_goal(task))
            cases[f"{name} {'eager' if compiled == 'off' else 'traced'}"] = functools.partial(burst, policy, obs)
    seconds = interleaved(cases, rounds)
    for name, value in seconds.items():
        print(f"  {name:15s} {value / BURST * 1e3:8.3f} ms")


def blank_goal(task: str) -> np.ndarray | None:
    """A goal (1, G, D) for a policy of the task, None where it has none."""
    shape = shape_of(task)
    return np.zeros((1, shape.goal, shape.obs), np.float32) if shape.goal else None


def burst(policy: Policy, obs: np.ndarray) -> None:
    """`BURST` actions of one policy after one another."""
    for _ in range(BURST):
        policy.act(obs)


def bench_mode(task: str, rounds: int) -> None:
    """MoDE with and without cached experts, beside one dense MLP of as many active parameters: one action for one state.

    FLOPs are those of PyTorch's counter: two for each multiply-and-add of its matrix products.
    """
    hyper = resolve(SUITES, task, "mode", "standard")["hyper"]
    dense = {"experts": 1, "top_k": 1, "expert_ratio": hyper["top_k"] * hyper["expert_ratio"]}
    policies = {"cached": Policy(build(task, "mode")), "uncached": Policy(build(task, "mode"))}
    policies["dense"] = Policy(build(task, "mode", **dense))
    policies["uncached"].method.train().eval()  # drops the cache
    obs = np.zeros((1, SUITES.tasks[task]["obs_dim"]), np.float32)
    for policy in policies.values():
        policy.reset([0], blank_goal(task))
    seconds = interleaved({name: functools.partial(burst, p, obs) for name, p in policies.items()}, rounds)
    print(f"\nMoDE, act for one state, {task}, {hyper['sampling_steps']} steps, {torch.get_num_threads()} thread(s)")
    for name, policy in policies.items():
        counter = FlopCounterMode(display=False)
        with counter:
            policy.act(obs)
        size = sum(p.numel() for p in policy.method.parameters())
        flops = counter.get_total_flops() / 1e6
        print(f"  {name:15s} {seconds[name] / BURST * 1e3:8.3f} ms   {flops:8.1f} MFLOP   {size:,} parameters")


def main(argv: list[str] | None = None) -> int:
    if argv and argv[0] == "inference":  # a measurement that tables read, with options of its own
        from harness import bench_inference

        return bench_inference.main(argv[1:])
    about = "How fast the parts are, measured side by side. `bench inference --out DIR` measures Table 3."
    parser = cli.Parser(prog="python -m harness bench", description=about)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--task", default="avoiding", choices=sorted(SUITES.tasks))
    parser.add_argument("--methods", help="train, act: comma-separated, some of the task's methods (default all)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=256, help="windows a minibatch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default=BUILTIN, help="env: builtin (default) or official")
    cli.official_options(parser)
    args = parser.parse_args(argv)
    for part in args.parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    for name in ("rounds", "batch", "threads"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1. Got {getattr(args, name)}")
    only = trained_methods(args.task) if args.methods is None else args.methods.split(",")
    for name in only:
        if name not in trained_methods(args.task):
            raise unknown("method", name, trained_methods(args.task))
    backend = from_options(args.backend, args.official_python, args.official_checkout)
    check_task(backend.name, args.task, SUITES.tasks[args.task])
    torch.set_num_threads(args.threads)
    for part in args.parts or PARTS:
        if part == "env":
            bench_env(args.task, args.rounds, args.threads, backend)
        elif part == "train":
            bench_train(args.task, args.rounds, args.batch, only)
        elif part == "mode":
            bench_mode(args.task, args.rounds)
        else:
            bench_act(args.task, args.rounds, only)
    return 0
