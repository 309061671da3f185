"""Which simulation an episode runs in: `builtin`, this project's own, or `official`, the original (docs/environments.md).

A cell's back end is part of its configuration hash and of its record. Where the original is installed belongs to a run and
travels in the specs. Imports neither torch nor mujoco until an environment is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, unknown

if TYPE_CHECKING:  # envs takes a second to import, which no other verb should wait for
    from envs._official_process import Installation

BUILTIN, OFFICIAL = "builtin", "official"
BACKENDS = (BUILTIN, OFFICIAL)
MOST = {BUILTIN: 10_000, OFFICIAL: 4}  # episodes stepped together; the original takes a process of 0.3 GB for each
ORIGINAL_TASKS = ("avoiding", "aligning", "pushing", "sorting", "stacking")


@dataclass(frozen=True)
class Backend:
    """A back end by its name; `installation` of the original, None for `builtin`."""

    name: str = BUILTIN
    installation: Installation | None = None

    @property
    def most(self) -> int:
        """Episodes stepped together, at most."""
        return MOST[self.name]

    def batch_class(self, block: Mapping[str, Any]) -> type:
        """The simulation class of a task's block, `module:Class`, or the original's of the same task."""
        module, name = block["env"].split(":")
        own = getattr(importlib.import_module(module), name)
        if self.name == BUILTIN:
            return own
        from envs.official import class_for

        return class_for(own)

    def make(self, block: Mapping[str, Any], count: int, threads: int, data_root: str | Path | None = None) -> Any:
        """A batch of `count` environments of a task's block."""
        more: dict[str, Any] = {"data_root": data_root} if "contexts" in block else {}
        if self.installation is not None:
            more["installation"] = self.installation
        return self.batch_class(block)(count, num_threads=threads, **more)

    def settings(self) -> dict[str, Any]:
        """What a spec carries of it, as plain data."""
        return {} if self.installation is None else {"official": asdict(self.installation)}

    def versions(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """What the original simulates with; {} for `builtin`, whose versions every record has."""
        if self.installation is None:
            return {}
        from envs._official_process import check

        return check(self.installation, block["env"].split(":")[0].rpartition(".")[2])


def from_options(name: str, python: str | None = None, checkout: str | None = None) -> Backend:
    """The back end that `--backend` and the options of the original name. Raises UserError, also where it is not there."""
    if name not in BACKENDS:
        raise unknown("back end", name, BACKENDS)
    if name == BUILTIN:
        if python or checkout:
            raise UserError("--official-python and --official-checkout are for --backend official")
        return Backend()
    from envs._official_process import find_installation

    return Backend(name, find_installation(python, checkout))


def from_spec(spec: Mapping[str, Any]) -> Backend:
    """The back end of a cell's spec."""
    if spec["backend"] == BUILTIN:
        return Backend()
    from envs._official_process import Installation

    return Backend(spec["backend"], Installation(**spec["official"]))


def check_task(name: str, task: str, block: Mapping[str, Any]) -> None:
    """Raises UserError for a task that a back end does not have."""
    if name == OFFICIAL and block["env"].split(":")[0].rpartition(".")[2] not in ORIGINAL_TASKS:
        raise UserError(f"--backend official has no {task}: the original has {', '.join(ORIGINAL_TASKS)}")


def about() -> str:
    """One line for `python -m harness ls`: whether the original is there. Starts nothing."""
    from envs._official_process import CHECKOUT, PYTHON, find_installation

    try:
        found = find_installation()
    except UserError:
        return f"not available: ${PYTHON} names no interpreter with the original's packages (docs/environments.md)"
    return f"{found.python}, " + (f"checkout {found.d3il}" if found.d3il else f"package d3il_sim (no ${CHECKOUT})")
