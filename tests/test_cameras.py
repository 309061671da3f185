"""The cameras of the image tasks: against frames of the original, alike in every process, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs import _cameras
from envs._renderers import Renderers
from envs.frames import CAMERAS, SHAPE, WIDTH
from harness.errors import UserError

ROOT = Path(__file__).parents[1]
FRAMES = Path(__file__).parent / "data" / "frames"  # 20 states of a recording, drawn by the original simulator
COLOURS = {"sorting": ("red", "blue"), "stacking": ("red", "green", "blue")}
every_task = pytest.mark.parametrize("task", sorted(COLOURS))


@pytest.fixture(scope="module")
def draw():
    """Images (N, 2, 96, 96, 3) of states of a task; skips where there is no OpenGL library."""
    found = {}

    def drawn(task, states):
        if task not in found:
            found[task] = Renderers(task, 2)
        try:
            return found[task].draw(states).reshape(-1, *SHAPE)
        except UserError as error:
            if "no OpenGL library" not in str(error):
                raise
            pytest.skip(str(error))

    yield drawn
    for renderers in found.values():
        renderers.close()


def original(task):
    with np.load(FRAMES / f"{task}.npz") as file:
        return file["qpos"], np.stack([file[camera] for camera in CAMERAS], 1)


def mask(images, colour):
    """Where images (…, 3) show a face of a cube of that colour."""
    channel = "rgb".index(colour[0])
    others = np.delete(images.astype(int), channel, -1).max(-1)
    return (images[..., channel] > 150) & (others < 60)


@every_task
def test_images_are_those_of_the_original(task, draw):
    states, expected = original(task)
    apart = np.abs(draw(task, states).astype(int) - expected).mean((2, 3, 4))  # (states, cameras) of 255
    assert apart[:, 0].max() < 1.5 and apart[:, 1].max() < 0.5  # measured: 1.0, 0.2; the benchmark's bar is 4


@every_task
def test_coloured_objects_lie_where_the_original_shows_them(task, draw):
    states, expected = original(task)
    ours, compared = draw(task, states), 0
    for colour in COLOURS[task]:
        for image, other in zip(ours.reshape(-1, 96, 96, 3), expected.reshape(-1, 96, 96, 3), strict=True):
            a, b = mask(image, colour), mask(other, colour)
            if b.sum() >= 10:  # pixels
                assert np.abs(np.argwhere(a).mean(0) - np.argwhere(b).mean(0)).max() < 0.5
                compared += 1
    assert compared >= 30


def test_the_comparison_sees_a_centimetre(draw):
    """A red cube 20 mm away is noticed: the comparisons above can fail."""
    states, expected = original("stacking")
    moved = states.copy()
    moved[:, 0] += 0.02
    a, b = mask(draw("stacking", moved)[0, 0], "red"), mask(expected[0, 0], "red")
    assert np.abs(np.argwhere(a).mean(0) - np.argwhere(b).mean(0)).max() > 0.5


def test_a_state_looks_the_same_in_every_process(draw):
    states, _ = original("sorting")
    expected = draw("sorting", states)
    for workers, order in ((1, np.arange(20)), (3, np.random.default_rng(0).permutation(20))):
        renderers = Renderers("sorting", workers)
        try:
            np.testing.assert_array_equal(renderers.draw(states[order]).reshape(-1, *SHAPE), expected[order])
        finally:
            renderers.close()


def test_more_states_than_places_in_the_shared_memory(draw, monkeypatch):
    states, _ = original("sorting")
    expected = draw("sorting", states)
    monkeypatch.setattr("envs._renderers.SLOTS", 3)
    renderers = Renderers("sorting", 2)
    out = np.zeros((7, WIDTH), np.uint8)
    assert renderers.draw(states[:7], out) is out
    renderers.close()
    np.testing.assert_array_equal(out.reshape(-1, *SHAPE), expected[:7])


def test_a_process_that_dies_is_an_error_and_replaced(draw):
    states, _ = original("sorting")
    draw("sorting", states[:1])
    renderers = Renderers("sorting", 2)
    expected = renderers.draw(states[:4])
    victim = renderers.processes[1]
    victim.kill()
    victim.wait()
    with pytest.raises(UserError, match=rf"process {victim.pid}, which draws the cameras of sorting, has ended"):
        renderers.draw(states[:4])
    np.testing.assert_array_equal(renderers.draw(states[:4]), expected)
    pids = [process.pid for process in renderers.processes]
    renderers.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_processes_end_with_a_parent_that_is_killed(draw, tmp_path):
    states, _ = original("sorting")
    draw("sorting", states[:1])
    code = (
        "import time, numpy as np\nfrom envs._renderers import Renderers\n"
        "r = Renderers('sorting', 2)\nr.draw(np.zeros((2, 37)))\n"
        "print(*[p.pid for p in r.processes], flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(running(pid) for pid in pids)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", os.devnull)  # EGL finds no driver
    monkeypatch.delenv("__EGL_VENDOR_LIBRARY_FILENAMES", raising=False)
    renderers = Renderers("sorting")
    with pytest.raises(UserError, match=r"^no OpenGL library for pictures \(egl: .*apt-get install") as caught:
        renderers.draw(np.zeros((1, 37)))
    assert "\n" not in str(caught.value)
    assert renderers.processes == []
    with pytest.raises(UserError, match="positive integer, got 0"):
        Renderers("sorting", 0)


def test_meshes_are_reduced():
    for name, most in (("link5", _cameras.LINK_FACES), ("hand", _cameras.FACES["hand"])):
        whole, faces = _cameras.read_stl(_cameras.mesh_folder() / "visual" / f"{name}.stl")
        vertices, fewer = _cameras.reduced_mesh(name)
        assert len(fewer) <= most < len(faces) and fewer.max() < len(vertices)
        np.testing.assert_allclose([vertices.min(0), vertices.max(0)], [whole.min(0), whole.max(0)], atol=1e-3)  # m
