"""The process that draws the cameras' images, started by `envs._renderers`.

Arguments: the parent's process id, the descriptor of the memory shared with it, the number of slots, of numbers a state, of
bytes of the compiled scene. The memory holds the slots' states, then their images, then the scene. An order on stdin is two
64-bit integers, the first slot and how many; it is answered by one line on stdout, as is the start: "ready" and the samples a
pixel, or "!" and what is wrong. The process ends when its parent does, however that ends.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
import sys
from typing import Any

ORDER = struct.Struct("<qq")
PATIENCE = 2.0  # s between two looks whether the parent is still there


def layout(slots: int, state: int, image: int) -> tuple[int, int]:
    """Where the images and where the scene begin in the shared memory, in bytes, for states of `state` numbers."""
    images = slots * state * 8
    return images, images + slots * image


def main() -> None:
    """Serves orders until stdin ends."""
    parent, descriptor, slots, state, size = map(int, sys.argv[1:6])
    reply = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    chosen = os.environ.pop("MUJOCO_GL", None)  # a missing library would already break the import of MuJoCo
    try:
        renderer, states, images = _start(descriptor, slots, state, size, chosen)
    except Exception as error:  # the parent says it in one line
        said = sys.argv[6] if len(sys.argv) > 6 else " ".join(str(error).split())[:600]
        if chosen is None:  # a process that has tried EGL can use OSMesa no more; this one starts anew
            os.dup2(reply.fileno(), 1)
            os.environ["MUJOCO_GL"] = "osmesa"
            os.execv(sys.executable, [sys.executable, "-m", "envs._render_worker", *sys.argv[1:6], said])
        print("!" + said, file=reply)
        return
    print(f"ready {renderer.samples}", file=reply)
    while (order := _next_order(parent)) is not None:
        first, count = ORDER.unpack(order)
        for slot in range(first, first + count):
            renderer.draw(states[slot], images[slot])
        print(count, file=reply)


def _start(descriptor: int, slots: int, state: int, size: int, chosen: str | None) -> tuple[Any, Any, Any]:
    """The renderer and the shared arrays: states (slots, state) float64, images (slots, WIDTH) uint8."""
    import mujoco
    import numpy as np

    if chosen is not None:
        os.environ["MUJOCO_GL"] = chosen
    from envs._cameras import CameraRenderer
    from envs.frames import WIDTH

    images, scene = layout(slots, state, WIDTH)
    memory = mmap.mmap(descriptor, scene + size)
    model = mujoco.MjModel.from_binary_path("scene.mjb", {"scene.mjb": memory[scene : scene + size]})
    return (
        CameraRenderer(model),
        np.frombuffer(memory, np.float64, slots * state).reshape(slots, state),
        np.frombuffer(memory, np.uint8, slots * WIDTH, images).reshape(slots, WIDTH),
    )


def _next_order(parent: int) -> bytes | None:
    """The next order; None when the parent has closed the pipe or has gone (another process may hold its end open)."""
    got = b""
    while len(got) < ORDER.size:
        while not select.select([0], [], [], PATIENCE)[0]:
            if os.getppid() != parent:
                return None
        part = os.read(0, ORDER.size - len(got))
        if not part:
            return None
        got += part
    return got


if __name__ == "__main__":
    main()
