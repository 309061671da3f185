"""Drawing without a window, for pictures and cameras."""

from __future__ import annotations

import importlib
import os
from typing import Any

import mujoco
import numpy as np

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


class Offscreen:
    """What draws a model's states, all in one size; belongs to the thread that made it. Raises UserError as `gl_context`."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int, maxgeom: int):
        self._gl = gl_context(width, height)
        self.make_current()
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self.context)
        self.scene = mujoco.MjvScene(model, maxgeom=maxgeom)
        self._model, self._rectangle = model, mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def make_current(self) -> None:
        """Where several are alive in one thread, before drawing."""
        self._gl.make_current()

    def draw(self, data: mujoco.MjData, view: mujoco.MjvCamera, option: mujoco.MjvOption) -> np.ndarray:
        """(height, width, 3) uint8, valid until the next drawing."""
        mujoco.mjv_updateScene(self._model, data, option, None, view, mujoco.mjtCatBit.mjCAT_ALL.value, self.scene)
        mujoco.mjr_render(self._rectangle, self.scene, self.context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self.context)
        return self._pixels[::-1]

    def close(self) -> None:
        """Frees the OpenGL context."""
        if self._gl is not None:
            self._gl.make_current()
            self.context.free()
            self._gl.free()
            self._gl = None
