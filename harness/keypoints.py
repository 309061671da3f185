"""`python -m harness render --keypoints RECORD --out FILE.png`: what a policy's encoder looks at, drawn over what it sees.

Each key point is the mean of a map of attention (`methods/_encoder.py`), drawn where that mean lies in the frame: a filled dot
for a map that is concentrated, a hollow one for a map that is spread, with the colour of its number. Imports torch.

C cameras, P pixels a side, K key points, D values of an observation.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import torch

from harness.backends import Backend
from harness.errors import UserError
from harness.films import policy_of
from harness.rollout import context_of
from harness.seeds import derive
from methods._encoder import STRIDE, ImageEncoder, KeyPoints

SCALE = 5  # of the picture
GAP = 8  # between cameras, in its pixels


def of_record(path: Path, out: Path) -> Path:
    """Draw the first observation of the first evaluation episode of the record at `path`; returns the picture's path."""
    method, task, key, _ = policy_of(path)
    if method.encoder is None:
        raise UserError(f"{path}: this task has no images")
    where = {"data_root": None} if "contexts" in task else {}
    env = Backend().batch_class(task)(1, num_threads=1, **where)
    try:
        seed = derive(str(derive(key, "rollout")), "episode", 0)
        obs = env.reset(contexts=[context_of(task, 0)], seeds=[seed])
    finally:
        env.close()
    return draw(method.encoder, obs[0], out)


@torch.no_grad()
def places(encoder: ImageEncoder, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (C, K, 2) at which the key points of an observation (D,) uint8 lie, x to the right, y downwards; and how much
    of each map lies in its brightest place (C, K)."""
    images = encoder.images(torch.from_numpy(obs)[None])
    cells = encoder.pixels // STRIDE
    points, peaks = [], []
    for net, image in zip(encoder.cameras, images, strict=True):
        assert isinstance(net, KeyPoints)
        points.append(((net(image)[0] + 1) / 2 * (cells - 1) + 0.5) * STRIDE)
        peaks.append(net.attention(image)[0].flatten(1).max(-1).values)
    return torch.stack(points).numpy(), torch.stack(peaks).numpy()


def draw(encoder: ImageEncoder, obs: np.ndarray, out: Path) -> Path:
    """The cameras of one observation (D,) uint8 side by side, with key points."""
    from PIL import Image, ImageDraw

    points, peaks = places(encoder, obs)
    frames = obs.reshape(len(points), encoder.pixels, encoder.pixels, 3)
    side = encoder.pixels * SCALE
    picture = Image.new("RGB", (len(frames) * (side + GAP) - GAP, side), "white")
    for c, frame in enumerate(frames):
        tile = Image.fromarray(frame).resize((side, side), Image.Resampling.NEAREST)
        pen = ImageDraw.Draw(tile)
        for k, ((x, y), peak) in enumerate(zip(points[c] * SCALE, peaks[c], strict=True)):
            colour = tuple(int(255 * v) for v in colorsys.hsv_to_rgb(k / len(points[c]), 1.0, 1.0))
            fill = colour if peak > 0.5 else None
            pen.ellipse([x - 6, y - 6, x + 6, y + 6], fill=fill, outline=colour, width=2)
        picture.paste(tile, (c * (side + GAP), 0))
    picture.save(out)
    return out
