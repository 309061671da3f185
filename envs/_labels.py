"""Success and behaviour of the tasks with boxes as pure functions of poses (NumPy only: files are labelled by them, too).

Each is the original environment's rule (D3IL: `check_mode`, `_check_early_termination`); the tasks' files say it in words.

Letters: n states at once; poses are xyz (m) and quaternion wxyz.
"""

from __future__ import annotations

import numpy as np

# ---- Aligning: tray, target
MAX_DISTANCE = 0.018  # m, in space
MAX_TURN = 0.048  # of pi
INSIDE = 0.051  # m, in the plane
# ---- Pushing: red cube, green cube
REACHED = 0.05  # m, in space
AREAS = np.array([[0.42, 0.3, 0.0], [0.63, 0.3, 0.0]])  # m: red, green
PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (cube, area): rr, rg, gr, gg, in the order of priority
PUSHING_MODES = {(0, 3): 0, (3, 0): 1, (1, 2): 2, (2, 1): 3}  # (first pair, second pair) -> mode
# ---- Sorting: red 1, red 2, blue 1, blue 2
COLOUR = np.array([0, 0, 1, 1])  # of the cubes: red 0, blue 1
BINS = np.array([[0.3, 0.5, 0.22, 0.41], [0.525, 0.725, 0.22, 0.41]])  # m: x and y limits of red, blue
CENTRES = np.array([[0.4, 0.32], [0.625, 0.32]])  # m, of the bins; not the rectangles' middles
ORDERS = {48: "rrbb", 80: "rbrb", 96: "rbbr", 144: "brrb", 160: "brbr", 192: "bbrr"}  # complete modes

# ---- Stacking: red, green, blue box
ZONE = (0.5, 0.2)  # m, xy of the target's centre
NEAR = 0.06  # m, in the plane, from the target's centre
APART = 0.03  # m, smallest difference in height of two stacked boxes
LETTERS = np.array(["r", "g", "b"])


def number_text(mode_row: np.ndarray) -> str:
    """A behaviour that the original numbers, as a key: "0", "1", ...; "" for a negative number, none yet."""
    mode = int(np.asarray(mode_row).reshape(()))
    return "" if mode < 0 else str(mode)


def yaw(quat: np.ndarray) -> np.ndarray:
    """(...,) rad: turn about z of quaternions (..., 4) wxyz: the last of the original's Euler angles."""
    w, x, y, z = np.moveaxis(np.asarray(quat, float), -1, 0)
    s = 2.0 / (w * w + x * x + y * y + z * z)
    return -np.arctan2(s * (x * y - w * z), 1.0 - s * (y * y + z * z))


def tan_yaw(quat: np.ndarray) -> np.ndarray:
    """(...,): the tangent of the yaw, by which the original describes a box's orientation; it jumps at +-90 degrees."""
    return np.tan(yaw(quat))


def turn(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(n,) rad: angle of the rotation between unit quaternions (n, 4)."""
    return 2.0 * np.arccos(np.minimum(np.abs((p * q).sum(-1)), 1.0))


def aligned(object_pose: np.ndarray) -> np.ndarray:
    """(n,) bool: success, from the poses (n, 2, 7) of tray and target."""
    tray, target = object_pose[:, 0], object_pose[:, 1]
    near = np.linalg.norm(tray[:, :3] - target[:, :3], axis=1) <= MAX_DISTANCE
    return near & (turn(tray[:, 3:], target[:, 3:]) / np.pi <= MAX_TURN)


def side_of(tcp_pos: np.ndarray, object_pose: np.ndarray) -> np.ndarray:
    """(n,) 0 inside, 1 outside, from tool (n, 3) m and the poses (n, 2, 7)."""
    return np.where(np.linalg.norm(object_pose[:, 0, :2] - tcp_pos[:, :2], axis=1) < INSIDE, 0, 1)


def reached(object_pose: np.ndarray) -> np.ndarray:
    """(n, 4) bool: which of `PAIRS` are together, from the poses (n, 2, 7) of the cubes."""
    far = np.linalg.norm(object_pose[:, :, None, :3] - AREAS, axis=-1)  # (n, cube, area)
    return far.reshape(-1, 4) <= REACHED


def pushed(object_pose: np.ndarray) -> np.ndarray:
    """(n,) bool: success."""
    rr, rg, gr, gg = reached(object_pose).T
    return (rr & gg) | (rg & gr)


def update_pushing(first: np.ndarray, object_pose: np.ndarray) -> np.ndarray:
    """(n,) mode; updates first (n,), the remembered first pair or -1."""
    found = reached(object_pose)
    known = first >= 0
    found[known, first[known]] = False  # the remembered pair is not looked at again
    visit = np.where(found.any(1), found.argmax(1), -1)
    mode = np.full(len(first), -1)
    for (one, two), number in PUSHING_MODES.items():
        mode[(first == one) & (visit == two)] = number
    first[~known] = visit[~known]
    return mode


def inside(object_pose: np.ndarray) -> np.ndarray:
    """(n, 4) bool: which cubes are over their own bin, from the poses (n, 4, 7)."""
    x, y = object_pose[..., 0], object_pose[..., 1]
    low_x, high_x, low_y, high_y = BINS[COLOUR].T
    return (x > low_x) & (x < high_x) & (y > low_y) & (y < high_y)


def update_order(order: np.ndarray, counted: np.ndarray, object_pose: np.ndarray) -> None:
    """Counts at most one more cube in order (n, 4; 0 red, 1 blue, -1 missing) and counted (n, 4) bool."""
    far = np.linalg.norm(object_pose[..., :2] - CENTRES[COLOUR], axis=-1)  # (n, 4)
    far[counted] = np.inf
    rows = np.arange(len(order))
    nearest = far.argmin(1)
    new = rows[inside(object_pose)[rows, nearest] & ~counted.all(1)]
    order[new, counted[new].sum(1)] = COLOUR[nearest[new]]
    counted[new, nearest[new]] = True


def order_byte(order: np.ndarray) -> np.ndarray:
    """(n,) the mode's byte of order (n, 4)."""
    return (order != 0) @ np.array([128, 64, 32, 16])


def stacked(object_pose: np.ndarray) -> np.ndarray:
    """(n,) bool: success at all three boxes, from their poses (n, 3, 7), of which the positions count."""
    near = (np.linalg.norm(object_pose[..., :2] - ZONE, axis=-1) <= NEAR).all(1)
    z = object_pose[..., 2]
    return near & (np.abs(z - np.roll(z, 1, axis=1)).min(1) > APART)


def update_stacking(mode: np.ndarray, object_pose: np.ndarray, zone: tuple[float, float] | np.ndarray = ZONE) -> None:
    """Appends, in mode (n,) text, the nearest box not yet counted, if it is near the zone's centre (2,) in m."""
    far = np.linalg.norm(object_pose[..., :2] - zone, axis=-1)  # (n, 3)
    far[np.char.find(mode[:, None], LETTERS) >= 0] = np.inf
    nearest = far.argmin(1)
    rows = np.flatnonzero(far[np.arange(len(mode)), nearest] <= NEAR)
    mode[rows] = np.char.add(mode[rows], LETTERS[nearest[rows]])
