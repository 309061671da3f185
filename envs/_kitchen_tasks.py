"""The kitchen's seven tasks as functions of observations. NumPy only.

Source: `OBS_ELEMENT_INDICES`, `OBS_ELEMENT_GOALS` and `BONUS_THRESH` of `kitchen-all-v0`, in its order of tasks.
"""

from __future__ import annotations

import numpy as np

# Task: where its elements are in an observation (30,), and the values that they have when it is done.
ELEMENTS: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "bottom burner": ((11, 12), (-0.88, -0.01)),
    "top burner": ((15, 16), (-0.92, -0.01)),
    "light switch": ((17, 18), (-0.69, -0.05)),
    "slide cabinet": ((19,), (0.37,)),
    "hinge cabinet": ((20, 21), (0.0, 1.45)),
    "microwave": ((22,), (-0.75,)),
    "kettle": ((23, 24, 25, 26, 27, 28, 29), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
TASKS = tuple(ELEMENTS)
LETTERS = "btlshmk"  # of TASKS: bottom burner, top burner, light, slide, hinge, microwave, kettle
THRESHOLD = 0.3


def completed(obs: np.ndarray) -> np.ndarray:
    """(…, 7) bool, in the order of `TASKS`: which tasks observations (…, 30) show done."""
    obs = np.asarray(obs)
    distances = [np.linalg.norm(obs[..., list(at)] - np.array(goal), axis=-1) for at, goal in ELEMENTS.values()]
    return np.stack(distances, -1) < THRESHOLD


def mode_of(obs: np.ndarray) -> str:
    """The tasks that an episode's observations (L, 30) show done, a letter each, in the order of first completion.

    Tasks completed in the same row come in the order of `TASKS`.
    """
    done = completed(obs)  # (L, 7)
    first = np.where(done.any(0), done.argmax(0), len(done))
    return "".join(LETTERS[t] for t in np.argsort(first, kind="stable") if first[t] < len(done))
