"""Methods and tasks of other packages: entry points of the groups `vdd_harness.methods` and `vdd_harness.tasks`.

An entry point's value is a top-level package; its folder holds `methods.toml` or `tasks.toml` with blocks as in harness/suites.
Finding and reading them imports nothing of the plug-in. docs/add-a-method.md, docs/add-a-task.md.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.errors import UserError, printable

GROUPS = {"tasks": "vdd_harness.tasks", "methods": "vdd_harness.methods"}
LONGEST = 300  # characters of a warning


@dataclass(frozen=True)
class EntryPoint:
    """One entry point: `kind` is tasks or methods, `package` a top-level package; `distribution` and `version` bring it."""

    distribution: str
    version: str
    kind: str
    package: str

    @property
    def source(self) -> str:
        return f"{self.distribution} {self.version}"

    def path(self) -> Path:
        """The TOML file beside the package's `__init__.py`. Raises UserError where there is none."""
        if not self.package.isidentifier():
            raise UserError(f"the entry point must name a top-level package. Got {self.package[:60]!r}")
        spec = importlib.util.find_spec(self.package)
        if spec is None:
            raise UserError(f"there is no package {self.package!r}")
        for folder in spec.submodule_search_locations or ():
            path = Path(folder) / f"{self.kind}.toml"
            if path.is_file():
                return path
        raise UserError(f"package {self.package!r} has no file {self.kind}.toml")


@functools.lru_cache(1)
def installed() -> dict[str, list[EntryPoint]]:
    """The entry points of every distribution that has some, in order of its name."""
    found: dict[str, list[EntryPoint]] = {}
    for kind, group in GROUPS.items():
        for point in metadata.entry_points(group=group):
            name, version = ("unknown", "0") if point.dist is None else (point.dist.name, point.dist.version)
            found.setdefault(name, []).append(EntryPoint(name, version, kind, point.value))
    return {name: sorted(set(found[name]), key=lambda p: (p.kind, p.package)) for name in sorted(found)}


def packages() -> set[str]:
    """The top-level packages that a block's class may come from, besides `methods` and `envs`."""
    return {point.package for points in installed().values() for point in points}


@functools.cache
def warn(text: str) -> None:
    """One line on stderr, once a process."""
    print(printable(" ".join(text.split()))[:LONGEST], file=sys.stderr, flush=True)
