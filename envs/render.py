"""Pictures: a task's scene drawn by MuJoCo without a window, films of it, and demonstrations drawn as paths.

Drawing needs a software or hardware OpenGL library (EGL or OSMesa) and PyOpenGL, which MuJoCo installs; nothing else in
this project does. `$MUJOCO_GL` (egl or osmesa) chooses one; otherwise EGL is tried, then OSMesa.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from envs._gl import Offscreen
from envs.base import BatchEnv
from envs.frames import SHAPE
from harness.errors import UserError, unknown

TASKS = ("avoiding", "aligning", "pushing", "sorting", "stacking", "kitchen", "block_push")
IMAGE_TASKS = ("sorting_image", "stacking_image")
ENLARGED = 4  # times, what the cameras of an image task see
VIEW = {"lookat": (0.4, 0.03, 0.28), "distance": 1.45, "azimuth": 150.0, "elevation": -30.0}  # m, degrees


class SceneRenderer:
    """Draws states of a task. solid: the robot opaque (the original draws its links almost transparent)."""

    def __init__(self, task: type[BatchEnv], width: int = 640, height: int = 480, solid: bool = True):
        spec = task.build_spec(visual=True)
        getattr(spec.visual, "global").offwidth, getattr(spec.visual, "global").offheight = width, height
        self.model = spec.compile()
        if solid:
            links = [g for g in range(self.model.ngeom) if self.model.geom(g).name.startswith("link")]
            self.model.geom_rgba[links] = (0.93, 0.94, 0.95, 1.0)
        self.data = mujoco.MjData(self.model)
        self.view = getattr(task, "view", VIEW)  # a task may choose its own
        self._screen = Offscreen(self.model, width, height, maxgeom=1000)

    def picture(
        self, qpos: np.ndarray, camera: dict | None = None, moved: dict[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """(height, width, 3) uint8 of the state qpos, seen from camera (see `VIEW`; default: the task's own).

        moved: poses (7,) of bodies without joints that a context moves, by name (`ObjectBatch.scene_poses`).
        """
        self._screen.make_current()
        for name, pose in (moved or {}).items():
            body = self.model.body(name).id
            self.model.body_pos[body], self.model.body_quat[body] = pose[:3], pose[3:]
        self.data.qpos[:] = qpos
        mujoco.mj_forward(self.model, self.data)
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FREE
        for key, value in (camera or self.view).items():
            setattr(view, key, value)
        return self._screen.draw(self.data, view, mujoco.MjvOption()).copy()

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._screen.close()


def _task(name: str) -> type[BatchEnv]:
    if name not in TASKS + IMAGE_TASKS:
        raise unknown("task with a scene", name, TASKS + IMAGE_TASKS)
    title = f"{name.title().replace('_', '')}Batch"
    if name in IMAGE_TASKS:
        return getattr(importlib.import_module("envs.image_tasks"), title)
    return getattr(importlib.import_module(f"envs.{name}"), title)


def render_task(
    task: str, path: str | Path, qpos: np.ndarray | None = None, width: int = 960, height: int = 640,
    solid: bool = True, camera: dict | None = None,
) -> Path:  # fmt: skip
    """Writes a PNG of the task's scene in the state qpos (default: after a reset); returns its path.

    Tasks with contexts are drawn in their first evaluation context. Of an image task, what its two cameras see, side by side
    and enlarged; the other arguments do not matter then, but for qpos.
    """
    batch = _task(task)
    env: Any = batch(1)
    obs = env.reset(contexts=[0])
    if task in IMAGE_TASKS:
        pixels = _enlarged(obs[0] if qpos is None else env.renderers.draw(np.asarray(qpos)[None])[0])
        env.close()
        return _save(pixels, path)
    renderer = SceneRenderer(batch, width, height, solid)
    try:
        pixels = renderer.picture(env.sims.data[0].qpos if qpos is None else qpos, camera, env.scene_poses(0))
    finally:
        renderer.close()
        env.close()
    return _save(pixels, path)


def _enlarged(obs: np.ndarray) -> np.ndarray:
    """An observation (55296,) of an image task as one picture, camera beside camera."""
    views = np.concatenate(obs.reshape(SHAPE), 1)
    return views.repeat(ENLARGED, 0).repeat(ENLARGED, 1)


def _save(pixels: np.ndarray, path: str | Path) -> Path:
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_film(frames: list[np.ndarray], path: str | Path, frame_ms: int, quality: int = 55) -> Path:
    """Writes an animated WebP of frames (height, width, 3) uint8, each shown for frame_ms ms; returns its path.

    quality: 0 to 100, as WebP counts. Raises UserError without frames.
    """
    from PIL import Image

    if not frames:
        raise UserError("a film needs at least one frame")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [Image.fromarray(frame) for frame in frames]
    how: dict[str, Any] = {"duration": frame_ms, "loop": 0, "quality": quality, "method": 4, "minimize_size": True}
    first.save(path, save_all=True, append_images=rest, **how)
    return path


def draw_avoiding_paths(episodes: Iterable[Any], path: str | Path, title: str = "") -> Path:
    """Writes a PNG of the actual paths of Avoiding episodes (obs (L, 4) m, mode), one colour a route."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from envs.avoiding import FINISH_Y, MODES, OBSTACLES, START_XY

    colours = {mode: plt.get_cmap("turbo")(i / (len(MODES) - 1)) for i, mode in enumerate(MODES)}
    figure, axes = plt.subplots(figsize=(4.6, 5.2), layout="constrained")
    for episode in episodes:
        xy = np.asarray(episode.obs)[:, 2:4]
        axes.plot(xy[:, 0], xy[:, 1], lw=0.9, alpha=0.85, color=colours.get(episode.mode, "0.6"))
    for _, x, y, radius, _ in OBSTACLES:
        axes.add_patch(plt.Circle((x, y), radius, color="#b3261e", zorder=3))
    axes.axhline(FINISH_Y, color="#2e7d32", lw=1.5, ls="--")
    axes.text(0.812, FINISH_Y + 0.006, "finish", color="#2e7d32", fontsize=8, ha="right")
    axes.plot(*START_XY, "ko", ms=4, zorder=4)
    axes.set(xlabel="x [m]", ylabel="y [m]", aspect="equal", title=title, xlim=(0.2, 0.82), ylim=(-0.31, 0.53))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, pil_kwargs={"optimize": True})
    plt.close(figure)
    return path
