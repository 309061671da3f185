"""An off-screen OpenGL context, for pictures and cameras."""

from __future__ import annotations

import importlib
import os
from typing import Any

from harness.errors import UserError

BACKENDS = ("egl", "osmesa")


def gl_context(width: int, height: int) -> Any:
    """A context of the first back end that works: `$MUJOCO_GL` (egl or osmesa) where it is set, else EGL, then OSMesa.

    Raises UserError where there is none, with each one's reason and what to install.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    reasons = []
    for name in (chosen,) if chosen in BACKENDS else BACKENDS:
        try:
            return importlib.import_module(f"mujoco.{name}").GLContext(width, height)
        except Exception as error:  # each library fails in its own way; all reasons go into the message
            reasons.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            os.environ.pop("PYOPENGL_PLATFORM", None)  # set by the failed import, refused by the next
    raise UserError(
        f"no OpenGL library for pictures ({'; '.join(reasons)}); install one, e.g. apt-get install libegl1 or libosmesa6"
    )
