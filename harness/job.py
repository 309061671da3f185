"""One cell from demonstrations to record: the function that every launcher calls.

    demonstrations -> split -> windows -> method (with its teacher) -> train -> weights -> held-out checks -> rollouts
                   -> metrics -> record

An interrupted cell continues: training from its checkpoint, rollouts from the chunks that are finished. Asked to stop
(harness/stop.py), it leaves at the next point from which it can continue, with stop.Stopped.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs.datasets import Demonstrations, load_demonstrations
from harness import (
    backends,
    distribution,
    encoder,
    lease,
    metrics,
    positions,
    record,
    rollout,
    sealed,
    stop,
    train,
    windows,
)
from harness.errors import UserError
from harness.exchange import Exchange
from harness.likelihood import ROWS, likelihood
from harness.progress import Progress
from harness.provenance import provenance
from harness.quality import STATES, quality
from harness.registry import resolve_class
from harness.seeds import derive
from harness.shipped import WEIGHTS, policy_sha256
from methods import policy
from methods._transformer import GPTConfig
from methods.base import Method, Shape
from methods.scaler import Scaler

Spec = dict[str, Any]  # made by harness.plan.spec
BELONGS = "belongs_to.txt"  # below a cell's working folder: the configuration and teacher of its files
NOT_TRAINED = {"curve": {}, "val": {}, "steps": 0, "val_loss": None}
TRAINED = "training.json"  # written after the weights: training is over


@dataclass
class Trained:
    """A method ready to act, with what the record says of its weights and training."""

    method: Method
    sha256: str
    training: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)  # precision and compilation that this machine allowed
    timings: dict[str, float] = field(default_factory=dict)
    teacher: Method | None = None
    held_out: dict[str, Any] = field(default_factory=dict)  # the record's `likelihood` and `quality`


def run_cell(spec: Spec) -> dict[str, Any]:
    """Run one cell and write its record, which is returned. Any error leaves no record; the launcher reports it."""
    began, started = time.perf_counter(), datetime.now(UTC)
    sealed.REMARKS.clear()
    torch.set_num_threads(spec["threads"])
    workdir = prepare_workdir(spec)
    with Progress(workdir) as progress:
        demos = load_data(spec)
        if spec["evaluate_only"]:
            method = load_teacher(spec)
            ready = Trained(method, spec["teacher"]["sha256"], NOT_TRAINED)
        else:
            ready = train_method(spec, demos, workdir, progress)
        stop.check()
        progress.phase("held-out")
        assess(spec, demos, ready)
        stop.check()
        rollouts_began = time.perf_counter()
        episodes = run_rollouts(spec, demos, ready.method, workdir, progress)
        timings = ready.timings | {
            "rollout_s": round(time.perf_counter() - rollouts_began, 3),
            "total_s": round(time.perf_counter() - began, 3),
        }
        progress.phase("write")
        made = make_record(spec, demos, ready, episodes, timings)
        made["provenance"] |= {"started": iso(started), "finished": iso(datetime.now(UTC))}
        return record.write(record.record_path(Path(spec["out"]), spec["key"]), made)


def iso(moment: datetime) -> str:
    """A moment in UTC to the millisecond, in ISO 8601."""
    return moment.isoformat(timespec="milliseconds")


def check(spec: Spec) -> None:
    """Build the cell's configuration objects, so that a bad value is a UserError before anything is spent."""
    try:
        method_class = resolve_class(spec["class"])
        method_class.Config(**spec["config"]["hyper"])
        GPTConfig(**spec["config"]["gpt"])
        train_config = train.TrainConfig(**spec["config"]["train"])
        if "encoder" in spec["config"]:
            encoder.check(spec["config"]["encoder"], spec["role"], train_config)
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        raise UserError(f"{spec['task']}/{spec['method']}: {error}") from None


def prepare_workdir(spec: Spec) -> Path:
    """The cell's working folder; files of another configuration or teacher are removed, so that nothing resumes from them."""
    workdir = record.work_path(Path(spec["out"]), spec["key"])
    marker = workdir / BELONGS
    belongs = spec["config_hash"] + (" " + policy_sha256(Path(spec["teacher"]["path"])) if spec["teacher"] else "")
    if workdir.is_dir() and not (marker.is_file() and marker.read_text() == belongs):
        for path in workdir.iterdir():
            if path.name != "log.txt" and not lease.FILE.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    record.write_atomic(marker, belongs)
    return workdir


def load_data(spec: Spec) -> Demonstrations:
    """The demonstrations that the plan saw; other ones are a UserError."""
    demos = load_demonstrations(spec["task"], data_root=spec["data_root"], episodes=spec["data"].get("episodes"))
    if demos.identity != spec["data"]["identity"]:
        raise UserError(f"the demonstrations of {spec['task']} changed while the run was going on: start it again")
    return demos


def load_teacher(spec: Spec) -> Method:
    """The cell's teacher; for an evaluate-only cell, acting as the cell's own hyper block says. Notes its SHA-256."""
    teacher = spec["teacher"]
    path = Path(teacher["path"])
    sha256 = policy_sha256(path)
    if teacher["sha256"] is None:  # trained in this run folder: what its record says
        out = Path(spec["out"])
        teacher["sha256"] = record.read(record.record_path(out, teacher["cell"]), teacher["cell"])["weights"]["sha256"]
    if sha256 != teacher["sha256"]:
        raise UserError(f"{path} is not what the record of {teacher['cell']} says: delete that record and run again")
    hyper = spec["config"]["hyper"] if spec["evaluate_only"] else teacher["hyper"]
    return policy.load(path, lambda _name: resolve_class(teacher["class"]), **hyper).to(spec["device"])


def train_method(spec: Spec, demos: Demonstrations, workdir: Path, progress: Progress) -> Trained:
    """Train the cell's method, or load it where an earlier run has finished training."""
    began = time.perf_counter()
    config = spec["config"]
    teacher = None if spec["teacher"] is None else load_teacher(spec)
    # one split a task: what validates a student was never seen by its teacher, and their scalers agree
    kept, held = windows.split(demos, seed=derive(spec["task"], "split"))
    task = spec["task_block"]
    scaler = fit_scaler(spec, kept) if teacher is None else teacher.scaler
    weights = workdir / WEIGHTS
    training = finished_training(workdir)
    if training is None:
        shutil.rmtree(workdir / "rollouts", ignore_errors=True)  # those of weights that are gone
        torch.manual_seed(derive(spec["key"], "init"))
        gpt = GPTConfig(**config["gpt"])
        shape = Shape(task["obs_dim"], task["act_dim"], task["goal_tokens"])
        method_class = resolve_class(spec["class"])
        hyper = method_class.Config(**config["hyper"])

        def build(window: int) -> Method:
            small = replace(gpt, window=window)
            return method_class(hyper, shape, small, scaler, teacher).to(spec["device"])

        def first() -> tuple[Method, windows.Windows, windows.Windows]:  # what an encoder is pre-trained with
            if config["encoder"]["encoder_target"] == "positions":
                env: Any = backends.Backend().batch_class(task)
                return positions.pretraining(kept, held, gpt, env.geometry)
            data = windows.make_windows(kept, 1, scaler)
            return build(1), data, data.select(torch.arange(0))

        method = build(gpt.window)
        train_config = train.TrainConfig(**config["train"])
        data = windows.make_windows(kept, gpt.window, scaler, shape.goal)
        held_data = held_out_windows(spec, held, method)
        seen = None
        if "encoder" in config:
            data, held_data, seen = encoder.prepare(
                config["encoder"], method, teacher, data, held_data, train_config, spec["key"], workdir, progress, first,
                spec.get("encoder_weights"), demos.identity,
                Path(spec["teacher"]["path"]).parent if spec["teacher"] else None,
            )  # fmt: skip
        progress.phase("train", train_config.steps)
        seed = derive(spec["key"], "train")
        exchange = exchange_of(spec, scaler) if train_config.exchange else None
        result = train.train(method, data, held_data, train_config, seed, workdir, progress.report, exchange)
        lease.guard()
        policy.save(method, weights, spec["method"])
        held_out = result.val.get("loss", [])
        training = {"curve": result.curve, "val": result.val, "steps": result.steps}
        training |= {"val_loss": held_out[-1] if held_out else None, "sha256": policy_sha256(weights)}
        training |= {"how": {"precision": result.precision, "compiled": result.compiled}}
        training |= {} if seen is None else {"encoder": seen}
        sealed.write_json(workdir / TRAINED, record.plain(training))
        (workdir / train.CHECKPOINT).unlink(missing_ok=True)
        if "encoder" in config:
            encoder.clear(workdir, keep=spec["role"] == "teacher" and config["encoder"]["encoder_frozen"])
    # acting from the file, as everyone else will
    method = policy.load(weights, lambda _name: resolve_class(spec["class"])).to(spec["device"])
    sha256, how = training.pop("sha256"), training.pop("how")
    return Trained(method, sha256, training, how, {"train_s": round(time.perf_counter() - began, 3)}, teacher)


def fit_scaler(spec: Spec, demos: Demonstrations) -> Scaler:
    """The scaler of a cell's training demonstrations, as its task and its `gpt` block want it."""
    task = spec["task_block"]
    relative = spec["config"]["gpt"].get("relative", False)
    mask = geometry = None
    if task["goal_tokens"] or relative:
        env: Any = backends.Backend().batch_class(task)
        mask, geometry = env.goal_mask if task["goal_tokens"] else None, env.geometry if relative else None
        if relative and geometry is None:
            raise UserError(f"{spec['task']} has no geometry to add to observations: set relative = false")
    return windows.fit_scaler(demos, task["obs_dim"], mask, geometry)


def exchange_of(spec: Spec, scaler: Scaler) -> Exchange:
    """How the things that look alike in the cell's task change places. UserError where that is not defined."""
    if spec["task_block"]["goal_tokens"]:
        raise UserError(f"{spec['task']} has goals, in which nothing changes places: set exchange = false")
    env: Any = backends.Backend().batch_class(spec["task_block"])
    return Exchange.of(() if env.geometry is None else env.geometry.alike, scaler)


def held_out_windows(spec: Spec, held: Demonstrations, method: Method) -> windows.Windows:
    """The held-out windows; their goals, if any, are the same for all methods of the task."""
    data = windows.make_windows(held, method.gpt_config.window, method.scaler, method.shape.goal)
    return data.with_fixed_goals(derive(spec["task"], "goals"))


def finished_training(workdir: Path) -> dict[str, Any] | None:
    """What training left when it ended, if its weights are still those. What is damaged is set aside, and said so."""
    weights, marker = workdir / WEIGHTS, workdir / TRAINED
    try:
        training = sealed.read_json(marker)
    except FileNotFoundError:
        return None
    except sealed.Damaged as error:
        sealed.put_away(marker, str(error))
        return None
    whole = weights.is_file() and weights.with_suffix(".json").is_file()
    if whole and policy_sha256(weights) == training["sha256"]:
        return training
    sealed.put_away(marker, f"does not belong to {WEIGHTS}, which was altered or is gone: training again")
    return None


def assess(spec: Spec, demos: Demonstrations, ready: Trained) -> None:
    """Fill in what held-out demonstrations say: likelihood, and a student's distance to its teacher.

    A run of few rollouts looks at few states, so that a smoke test stays one.
    """
    began = time.perf_counter()
    _, held = windows.split(demos, seed=derive(spec["task"], "split"))
    data = held_out_windows(spec, held, ready.method)
    rollouts = spec["config"]["eval"]["rollouts"]
    # seeds of the task, not of the cell: all its methods are compared on the same random numbers
    rows = ROWS if rollouts >= 64 else 4 * rollouts  # docs/likelihood.md
    found, pace = likelihood(ready.method, data, derive(spec["task"], "likelihood"), rows)
    distance = None
    if spec["role"] == "student" and ready.teacher is not None:
        seed = derive(spec["task"], "quality")
        distance = quality(ready.method, ready.teacher, data, seed, min(STATES, rollouts))
    ready.held_out = {"likelihood": found, "quality": distance}
    ready.timings["held_out_s"] = round(time.perf_counter() - began, 3)
    if pace is not None:
        ready.timings["likelihood_s_per_1000"] = pace


def evaluation_goals(demos: Demonstrations, task: dict[str, Any]) -> np.ndarray | None:
    """What the evaluation asks for, (training demonstrations, G, width) unscaled; None for a task without goals."""
    if not task["goal_tokens"]:
        return None
    kept, _ = windows.split(demos, seed=derive(demos.task, "split"))
    return windows.final_goals(kept, task["goal_tokens"])


def run_rollouts(
    spec: Spec, demos: Demonstrations, method: Method, workdir: Path, progress: Progress
) -> dict[str, list[Any]]:
    """Evaluate the method in the simulation; goals, if any, are those of the training demonstrations."""
    count = spec["config"]["eval"]["rollouts"]
    progress.phase("rollout", count)
    return rollout.evaluate(
        method.eval(),
        spec["task_block"],
        rollouts=count,
        seed=derive(spec["key"], "rollout"),
        threads=spec["threads"],
        workdir=workdir,
        on_progress=progress.report,
        data_root=spec["data_root"],
        goals=evaluation_goals(demos, spec["task_block"]),
        backend=backends.from_spec(spec),
    )


def recipe(spec: Spec) -> dict[str, Any]:
    """What else it takes to run the cell again from its record alone (harness/reproduce.py)."""
    kept = {name: spec[name] for name in ("class", "role", "evaluate_only", "task_block")}
    teacher = spec["teacher"]
    if spec["data"].get("episodes") is not None:
        kept["episodes"] = spec["data"]["episodes"]
    return kept | {"teacher": teacher and {name: teacher.get(name) for name in ("class", "hyper", "trained")}}


def remarks() -> dict[str, list[str]]:
    """`remarks` for the provenance: the working files that were found damaged; nothing where there were none."""
    return {"remarks": list(sealed.REMARKS)} if sealed.REMARKS else {}


def make_record(
    spec: Spec, demos: Demonstrations, ready: Trained, episodes: dict[str, list[Any]], timings: dict[str, float]
) -> record.Record:
    """The record of a finished cell (schema: docs/architecture.md)."""
    teacher = spec["teacher"]
    original = backends.from_spec(spec).versions(spec["task_block"])
    original = {"original": original} if original else {}
    data = {name: getattr(demos, name) for name in ("source", "origin", "identity", "sha256", "rows")}
    return {
        "schema": record.SCHEMA,
        "cell": {"task": spec["task"], "method": spec["method"], "seed": spec["seed"]},
        "status": "done",
        "error": None,
        "budget": spec["budget"],
        "backend": spec["backend"],
        "config": spec["config"],
        "config_hash": spec["config_hash"],
        "metric_version": spec["metric_version"],
        "data": data | {"episodes": len(demos.episodes)},
        "teacher": teacher and {name: teacher[name] for name in ("cell", "origin", "sha256")},
        "weights": {"sha256": ready.sha256},
        "metrics": metrics.compute(spec["task_block"], episodes)
        | distribution.extra_metrics(spec["task_block"], ready.method),
        "episodes": episodes,
        **ready.held_out,
        "training": ready.training,
        "parameters": sum(p.numel() for p in ready.method.trainable()),  # without a target network
        "provenance": provenance(spec["device"], spec["threads"], spec.get("plugins", []))
        | original
        | ready.how
        | remarks(),
        "timings": timings,
        "recipe": recipe(spec),
    }
