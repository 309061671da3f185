"""`--launcher slurm`: a plan as job arrays, through submitit. docs/slurm.md tells how to use it.

Cells that need nothing are one array; those that need the same jobs are another, which waits for just these jobs:

    array 0: teacher a, teacher b, ...        array 1, after 0_0: students of a        array 2, after 0_1: students of b

Arrays wait with `afterany`, not `afterok`: a job whose teacher failed starts, leaves a failed record that says so, and ends
in a second. With `afterok` it would be dropped without a word, or wait for ever.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import clusters, plan, record, scheduler, slurm_job
from harness.clusters import Profile
from harness.display import Display, say
from harness.errors import UserError
from harness.launch import TARGET, Spec

PREVIEW = "SUBMISSION"  # stands for the name that a submission gets
ROOT = Path(__file__).parent.parent
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")  # settings of SLURM's commands, not of a job
POLL = 5.0  # seconds between two questions of `wait`
SURE, LOST = (
    2,
    6,
)  # answers until a cell has no result, if its job failed or is gone: file systems of clusters lag behind


def settle(args: argparse.Namespace) -> Profile:
    """The profile that the options ask for, with their changes; fills in `args.device` and `args.threads`.

    Besides what `clusters.load` raises: a UserError for a GPU that the profile does not ask for, and for missing commands.
    """
    profile = clusters.load(args.clusters, args.profile, args.resource)
    changes = {"cells_per_job": args.cells_per_job, "array_parallelism": args.array_parallelism}
    profile = replace(profile, **{name: value for name, value in changes.items() if value is not None})
    args.device = args.device or ("cuda" if profile.has_gpu else "cpu")
    args.threads = args.threads or profile.cpus
    if args.device != "cpu" and not profile.has_gpu:
        raise UserError(f"--device {args.device}: profile {args.profile or '(none)'} asks for no GPU; set gpus in it")
    if args.device == "cpu" and profile.has_gpu:
        profile = replace(profile, gpus=0, gres=None)
    if args.threads > profile.cpus:
        raise UserError(f"--threads {args.threads} is more than the {profile.cpus} cpus of the profile")
    if args.profile and not args.dry_run:
        check_commands("sbatch", "srun", "squeue")
    return profile


def describe(profile: Profile) -> str:
    """`SLURM, profile gpu` for people."""
    return f"SLURM, profile {profile.name}" if profile.name else "SLURM, no profile named"


@dataclass(frozen=True)
class Array:
    """Jobs that wait for the same jobs. packs: the specs of each job; after: (array, element) of this submission;
    after_ids: jobs submitted earlier."""

    index: int
    packs: list[list[Spec]]
    after: tuple[tuple[int, int], ...] = ()
    after_ids: tuple[str, ...] = ()


def arrange(
    specs: list[Spec], needs: dict[str, tuple[str, ...]], active: dict[str, str], cells_per_job: int, max_array: int
) -> list[Array]:
    """Specs -> arrays, each after those that it waits for. `active`: key -> id of the job that runs it already."""
    waiting = {spec["key"]: spec for spec in specs}
    place: dict[str, tuple[int, int]] = {}
    arrays: list[Array] = []
    while waiting:
        groups: dict[tuple, list[Spec]] = {}
        for key, spec in waiting.items():
            wanted = needs.get(key, ())
            if not any(need in waiting for need in wanted):
                after = tuple(sorted({place[need] for need in wanted if need in place}))
                earlier = tuple(sorted({active[need] for need in wanted if need in active}))
                groups.setdefault((after, earlier), []).append(spec)
        if not groups:
            raise ValueError(f"these cells need one another: {', '.join(waiting)}")
        for (after, earlier), members in groups.items():
            packs = [members[i : i + cells_per_job] for i in range(0, len(members), cells_per_job)]
            for first in range(0, len(packs), max_array):
                array = Array(len(arrays), packs[first : first + max_array], after, earlier)
                arrays.append(array)
                for element, pack in enumerate(array.packs):
                    for spec in pack:
                        place[spec["key"]] = (array.index, element)
                        del waiting[spec["key"]]
    return arrays


def dependency(array: Array, ids: dict[tuple[int, int], str]) -> str | None:
    """The value of sbatch's --dependency."""
    jobs = [*(ids.get(place, f"ARRAY{place[0]}_{place[1]}") for place in array.after), *array.after_ids]
    return "afterany:" + ":".join(jobs) if jobs else None


def parameters(array: Array, profile: Profile, folder: Path, ids: dict[tuple[int, int], str]) -> dict[str, Any]:
    """What submitit's SlurmExecutor is told."""
    pack = f"{shlex.quote(str(folder / f'{array.index}-'))}${{SLURM_ARRAY_TASK_ID:-0}}.json"
    python = profile.python or shlex.quote(sys.executable)
    teardown = ["code=$?", f"[ $code -le 128 ] || {python} -m harness.slurm_job died {pack} $code", "exit $code"]
    extra = {"requeue": True, "kill-on-invalid-dep": "yes", "chdir": str(ROOT)} | profile.extra
    chosen = {name: getattr(profile, name) for name in ("partition", "account", "qos", "constraint", "gres", "wckey")}
    return chosen | {
        "job_name": f"{folder.name}-{array.index}",
        "time": profile.time,
        "cpus_per_task": profile.cpus,
        "gpus_per_node": profile.gpus or None,
        "mem": None if profile.mem_gb is None else f"{round(profile.mem_gb * 1024)}MB",
        "signal_delay_s": profile.signal_s,
        "array_parallelism": profile.array_parallelism,
        "dependency": dependency(array, ids),
        "stderr_to_stdout": True,
        "srun_args": [f"--cpus-per-task={profile.cpus}"],  # since 22.05 srun does not take it from the job
        "setup": profile.setup,
        "teardown": teardown,
        "additional_parameters": extra,
    }


def script(array: Array, profile: Profile, folder: Path) -> str:
    """The batch script of an array as submitit writes it, made without a SLURM at hand."""
    from submitit.slurm import slurm as backend

    python = profile.python or shlex.quote(sys.executable)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    options = parameters(array, profile, folder, {})
    if len(array.packs) > 1:
        options["map_count"] = len(array.packs)
    return backend._make_sbatch_string(command=command, folder=folder, **options)


def write_packs(
    arrays: list[Array], needs: dict[str, dict[str, str]], profile: Profile, folder: Path, target: str
) -> None:
    """Every job's share as a file: <folder>/<array>-<element>.json."""
    folder.mkdir(parents=True)
    for array in arrays:
        for element, specs in enumerate(array.packs):
            wanted = {spec["key"]: needs[spec["key"]] for spec in specs if needs.get(spec["key"])}
            pack = {
                "target": target,
                "requeues": profile.requeues,
                "deaths": profile.deaths,
                "needs": wanted,
                "specs": specs,
            }
            (folder / f"{array.index}-{element}.json").write_text(json.dumps(pack))


def check_commands(*names: str) -> None:
    """SLURM's commands are here."""
    for name in names:
        if shutil.which(name) is None:
            raise UserError(
                f"no {name} on this machine: run this where SLURM's commands are, take another --launcher, or add --dry-run"
            )


@contextlib.contextmanager
def outside_of_a_job() -> Iterator[None]:
    """Without the variables of the job that we may be in ourselves (`salloc`, `srun --pty`): a new job would inherit them."""
    inherited = {k: v for k, v in os.environ.items() if k.startswith("SLURM_") and k not in KEPT}
    for name in inherited:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(inherited)


def submit(
    arrays: list[Array],
    needs: dict[str, dict[str, str]],
    profile: Profile,
    out: Path,
    table: scheduler.Table,
    tell: Callable[[str], None],
    target: str | None = None,
) -> list[str]:
    """Submit every array by one sbatch, keep the table up to date, and return the job ids. `out` is absolute.

    needs: key -> {key that must be done: its configuration hash}. A refused submission is a UserError; what was submitted
    before it stays submitted, and in the table.
    """
    import submitit

    folder = scheduler.folder(out, table.name)
    write_packs(arrays, needs, profile, folder, target or TARGET)
    table.write(out)
    executor = submitit.SlurmExecutor(folder=folder, python=profile.python)
    ids: dict[tuple[int, int], str] = {}
    for array in arrays:
        files = [str(folder / f"{array.index}-{element}.json") for element in range(len(array.packs))]
        try:
            executor.update_parameters(**parameters(array, profile, folder, ids))
            with contextlib.redirect_stderr(io.StringIO()), outside_of_a_job():  # submitit prints what it raises
                jobs = executor.map_array(slurm_job.run, files)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
            why = [line for line in str(error).splitlines() if "sbatch: error" in line] or [str(error)[-300:]]
            kept = f"; {len(ids)} jobs before it are submitted (python -m harness cancel --out {out})" if ids else ""
            raise UserError(
                f"sbatch refused array {array.index} of profile {profile.name}: {' '.join(why)}{kept}"
            ) from None
        for element, (job, specs) in enumerate(zip(jobs, array.packs, strict=True)):
            ids[array.index, element] = job.job_id
            table.jobs[job.job_id] = [spec["key"] for spec in specs]
        table.write(out)
        waits = f" after {dependency(array, ids)}" if array.after or array.after_ids else ""
        tell(f"array {array.index}: job {jobs[0].job_id.split('_')[0]}, {len(jobs)} elements{waits}")
    return list(ids.values())


def preview(specs: list[Spec], made: plan.Plan, profile: Profile) -> None:
    """Print what a submission would ask for, and every batch script."""
    if not profile.name:
        known = ", ".join(clusters.read(clusters.CLUSTERS))
        say(
            f"no --profile named, so nothing is submitted: this is what SLURM's own defaults would get. Profiles: {known}"
        )
    active = active_jobs(made)
    specs = [spec for spec in specs if spec["key"] not in active]
    arrays = arrange(specs, needs_of(made), active, profile.cells_per_job, profile.max_array)
    told = {k: v for k, v in vars(profile).items() if v not in (None, [], {}, "")}
    say("resources of a job: " + ", ".join(f"{name} {value}" for name, value in told.items()))
    say(f"{len(specs)} cells in {sum(len(array.packs) for array in arrays)} jobs, {len(arrays)} arrays")
    folder = scheduler.folder(made.out, PREVIEW)
    for array in arrays:
        keys = " | ".join(" ".join(spec["key"] for spec in pack) for pack in array.packs)
        say(f"\n--- array {array.index}: {keys}\n{script(array, profile, folder)}")


def needs_of(made: plan.Plan) -> dict[str, tuple[str, ...]]:
    return {cell.key: cell.needs for cell in made.cells}


def active_jobs(made: plan.Plan) -> dict[str, str]:
    """The plan's cells that a job of an earlier submission is to run or runs: key -> job id. A UserError where only SLURM knows
    and does not answer."""
    keys = {cell.key for cell in made.to_run}
    jobs = scheduler.jobs(made.out)
    if unknown := [job for key, job in jobs.items() if key in keys and job.state == "unknown"]:
        raise UserError(f"jobs of an earlier submission may still run, but {unknown[0].detail}: try again once it does")
    return {key: job.job_id for key, job in jobs.items() if key in keys and job.state in scheduler.ACTIVE}


def launch_plan(
    specs: list[Spec], made: plan.Plan, profile: Profile, table: scheduler.Table, stay: bool
) -> dict[str, str]:
    """Submit the specs that no job has yet. With `stay`, wait for all and return key -> "" or why it has no result."""
    if "%" in str(made.out):
        raise UserError(f"--out {made.out}: SLURM takes a % in a path for a placeholder; choose another folder")
    active = active_jobs(made)
    if active:
        say(f"{len(active)} cells are in the queue already, or run; they are not submitted again")
    fresh = [spec for spec in specs if spec["key"] not in active]
    table.cells = [spec["key"] for spec in fresh]
    if fresh:
        plan.clear_failed(replace(made, cells=tuple(cell for cell in made.cells if cell.key not in active)))
        hashes = {cell.key: cell.config_hash for cell in made.cells}
        needs = needs_of(made)
        arrays = arrange(fresh, needs, active, profile.cells_per_job, profile.max_array)
        wanted = {key: {need: hashes[need] for need in needs[key]} for key in table.cells}
        ids = submit(arrays, wanted, profile, made.out, table, say)
        say(
            f"submitted {len(fresh)} cells in {len(ids)} jobs; how they stand: python -m harness status --out {made.out}"
        )
    if not stay:
        return {}
    try:
        with Display(made, 1) as display:
            return wait(made.out, {spec["key"]: spec["config_hash"] for spec in specs}, display.event)
    except KeyboardInterrupt:
        say("the jobs go on; `python -m harness cancel` ends them")
        raise


def wait(out: Path, hashes: dict[str, str], on_event: Callable[[str, str, str], None]) -> dict[str, str]:
    """Until every cell has a record, or no job any more. Returns key -> "" or why it has no result.

    hashes: key -> configuration hash.
    """
    results: dict[str, str] = {}
    started: set[str] = set()
    lost = dict.fromkeys(hashes, 0)
    while True:
        jobs = scheduler.jobs(out)
        for key in [key for key in hashes if key not in results]:
            job = jobs.get(key)
            active = job is not None and job.state in scheduler.ACTIVE
            if job is not None and job.state == "running" and key not in started:
                started.add(key)
                on_event("start", key, "")
            found = record.state(out, key, hashes[key])
            if found.name in ("done", "failed"):
                results[key] = found.why if found.name == "failed" else ""
            elif not active:
                lost[key] += 1
                over = job is not None and job.state in ("failed", "cancelled")
                if lost[key] >= (SURE if over else LOST):
                    results[key] = (
                        f"job {job.job_id}: {job.detail} (log: {job.log})" if job else "it was never submitted"
                    )
            if key in results:
                on_event("failed" if results[key] else "done", key, results[key])
        if len(results) == len(hashes):
            return results
        end = time.monotonic() + POLL
        while time.monotonic() < end:
            on_event("tick", "", "")
            time.sleep(0.2)
