"""Image demonstrations: stored without loss, decoded when looked at, resumable, and read from the original's layout."""

import pickle
import types

import numpy as np
import pytest
from PIL import Image

from envs import datasets, frames, image_data
from envs.d3il_files import Episode
from envs.datasets import check_cache, identify, load_demonstrations
from envs.frames import GROUP, SHAPE, WIDTH, FrameCache, Frames
from harness.errors import UserError
from tests.image_cases import skip_without_gl


def images(rows, seed=0):
    """(rows, 55296): a still background with a square that moves, beside noise."""
    rng = np.random.default_rng(seed)
    found = np.zeros((rows, *SHAPE), np.uint8)
    found[:] = rng.integers(0, 256, SHAPE[1:]) // 64 * 64
    for k in range(rows):
        found[k, 0, 20:30, k % 80 : k % 80 + 10] = rng.integers(0, 256, 3)
        found[k, 1, ::7] = rng.integers(0, 256, (14, 96, 3))
    return found.reshape(rows, WIDTH)


@pytest.fixture
def stored(tmp_path):
    """A file of 40 rows and what went into it."""
    pixels, actions = images(40), np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
    path = tmp_path / "rb-0000.frames"
    positions = np.random.default_rng(2).normal(size=(40, 16)).astype(np.float32)
    path.write_bytes(frames.encode(pixels, actions, positions, np.arange(28.0).reshape(4, 7), "rb"))
    return path, pixels, actions


def test_what_is_stored_comes_back_to_the_last_bit(stored):
    path, pixels, actions = stored
    found, head, digest = frames.read(path, FrameCache())
    np.testing.assert_array_equal(np.asarray(found), pixels)
    np.testing.assert_array_equal(head["actions"], actions)
    np.testing.assert_array_equal(head["positions"], np.random.default_rng(2).normal(size=(40, 16)).astype(np.float32))
    assert head["mode"] == "rb" and head["context"] == np.arange(28.0).reshape(4, 7).tolist() and len(digest) == 64


@pytest.mark.parametrize(
    "index",
    [3, -1, np.int64(17), slice(2, 7), slice(None, None, 9), slice(5, 5), np.array([39, 0, 16, 16]), [[1, 2], [33, 4]]],
    ids=str,
)
def test_frames_index_like_an_array(stored, index):
    path, pixels, _ = stored
    found = frames.read(path, FrameCache())[0]
    got = found[np.array(index) if isinstance(index, list) else index]
    np.testing.assert_array_equal(got, pixels[np.array(index) if isinstance(index, list) else index])
    assert got.dtype == np.uint8 and found.dtype == np.uint8
    assert found.shape == (40, WIDTH) and len(found) == 40 and found.ndim == 2
    with pytest.raises(IndexError):
        found[40]


def test_frames_may_be_read_without_being_kept(stored):
    path, pixels, _ = stored
    cache = FrameCache()
    found = frames.read(path, cache)[0]
    np.testing.assert_array_equal(frames.uncached(found, slice(1, None, 3)), pixels[1::3])
    assert cache.used == 0
    np.testing.assert_array_equal(frames.uncached(pixels, slice(1, None, 3)), pixels[1::3])


def test_no_more_is_kept_than_the_limit():
    decoded = []

    def decode(group):
        decoded.append(group)
        return np.full((GROUP, WIDTH), group, np.uint8)

    cache = FrameCache(limit=2 * GROUP * WIDTH)
    first, second = (Frames(4 * GROUP, decode, cache) for _ in range(2))
    assert first[0][0] == 0 and first[1][0] == 0 and first[GROUP][0] == 1
    assert decoded == [0, 1]  # a group is decoded once
    assert second[0][0] == 0 and cache.used == cache.limit  # shared by both; the oldest group made room
    assert first[GROUP][0] == 1 and decoded == [0, 1, 0]
    assert first[0][0] == 0 and decoded == [0, 1, 0, 0]
    assert np.asarray(first).shape == (4 * GROUP, WIDTH) and cache.used <= cache.limit


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_a_damaged_file_is_named(stored, damage):
    path, *_ = stored
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes({"cut": bytes(raw[: len(raw) // 3]), "altered": bytes(raw), "empty": b""}[damage])
    with pytest.raises(UserError, match=r"rb-0000.frames: is no file of images, or was altered or cut"):
        frames.read(path, FrameCache())
    assert "is damaged" in check_cache(path)


def test_a_file_that_is_damaged_later_is_named(stored):
    path, *_ = stored
    found = frames.read(path, FrameCache())[0]
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + b"\0" * (len(raw) - len(raw) // 2))
    with pytest.raises(UserError, match=r"rb-0000.frames: its images cannot be decoded"):
        np.asarray(found)


# ---------------------------------------------------------------------------------------------------------------------
# Scripted demonstrations
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def demonstrator(monkeypatch):
    """A stand-in whose runs are a few steps of the real simulation; skips without an OpenGL library."""
    from envs.sorting import SortingBatch

    module = types.SimpleNamespace(GENERATOR_VERSION="7", asked=[], counts=lambda: {"br": 3, "rb": 3})

    def generate(seed, per_mode, states):
        module.asked.append(per_mode)
        ((mode, count),) = per_mode.items()
        made = []
        for copy in range(count):
            rng = np.random.default_rng([seed, *mode.encode(), copy])
            env = SortingBatch(1)
            env.reset(seeds=[int(rng.integers(1000))])
            seen, rows, setpoints = [], [], []
            for _ in range(4 + copy):
                seen.append(env.sims.data[0].qpos.copy())
                rows.append(env.step(rng.normal(0.0, 0.004, (1, 2)))[0][0])
                setpoints.append(env.setpoint[0, :2].copy())
            made.append(
                Episode(
                    np.array(rows[:-1]), np.diff(setpoints, axis=0), env.context[0].copy(), mode, np.array(seen[:-1])
                )
            )
        return made

    module.generate = generate
    monkeypatch.setattr(image_data, "_demonstrator", lambda task: module)
    monkeypatch.delenv("VDD_DATA_ROOT", raising=False)
    skip_without_gl()
    return module


def test_scripted_images_show_the_runs_of_the_state_task(demonstrator, tmp_path):
    from envs._renderers import Renderers

    calls = []
    demos = load_demonstrations(
        "sorting_image", cache_dir=tmp_path, seed=3, episodes=3, progress=lambda *done: calls.append(done)
    )
    assert [e.mode for e in demos.episodes] == ["br", "br", "rb"] and calls == [(n, 3) for n in range(4)]
    expected = [run for mode, n in (("br", 2), ("rb", 1)) for run in demonstrator.generate(3, {mode: n}, True)]
    renderers = Renderers("sorting")
    for episode, run in zip(demos.episodes, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(episode.obs), renderers.draw(run.states))
        np.testing.assert_array_equal(episode.actions, run.actions.astype(np.float32))
        np.testing.assert_array_equal(episode.context, run.context)
        np.testing.assert_array_equal(episode.positions, run.obs.astype(np.float32))
        assert episode.actions.dtype == np.float32 and episode.obs.shape == (len(run.actions), WIDTH)
    renderers.close()
    assert demos.rows == sum(len(e.actions) for e in demos.episodes)
    assert demos.identity == "scripted/sorting_image/v7.2/seed3/3"
    assert identify("sorting_image", seed=3, episodes=3) == ("scripted", demos.identity)


def test_what_is_there_is_kept_and_what_is_damaged_drawn_again(demonstrator, tmp_path, caplog):
    first = load_demonstrations("sorting_image", cache_dir=tmp_path, episodes=2)
    more = load_demonstrations("sorting_image", cache_dir=tmp_path, episodes=3)
    assert demonstrator.asked == [{"br": 1}, {"rb": 1}, {"br": 2}]  # nothing of rb again
    assert more.sha256 != first.sha256
    folder = tmp_path / "demonstrations" / "scripted-sorting_image-v7.2-seed0"
    assert sorted(path.name for path in folder.iterdir()) == ["br-0000.frames", "br-0001.frames", "rb-0000.frames"]
    path = folder / "rb-0000.frames"
    path.write_bytes(path.read_bytes()[:-100])
    again = load_demonstrations("sorting_image", cache_dir=tmp_path, episodes=3)
    assert again.sha256 == more.sha256 and "rb-0000.frames" in caplog.text
    assert (folder / "rb-0000.corrupt").exists() and demonstrator.asked[3:] == [{"rb": 1}]
    load_demonstrations("sorting_image", cache_dir=tmp_path, episodes=3)
    assert len(demonstrator.asked) == 4


def test_more_than_there_are(demonstrator, tmp_path):
    with pytest.raises(UserError, match="there are 6 demonstrations; asked for 7"):
        load_demonstrations("sorting_image", cache_dir=tmp_path, episodes=7)
    with pytest.raises(UserError, match="can be chosen for sorting_image, stacking_image, not for avoiding"):
        load_demonstrations("avoiding", cache_dir=tmp_path, episodes=7)


def test_shares_are_even():
    assert image_data.shares({"a": 10, "b": 10, "c": 10}, 8) == {"a": 3, "b": 3, "c": 2}
    assert image_data.shares({"a": 1, "b": 10, "c": 10}, 8) == {"a": 1, "b": 4, "c": 3}
    assert image_data.shares({"a": 1, "b": 2}, 3) == {"a": 1, "b": 2}


# ---------------------------------------------------------------------------------------------------------------------
# The original's layout
# ---------------------------------------------------------------------------------------------------------------------

OBJECTS = {
    "sorting_image": ("red-box1", "red-box2", "blue-box1", "blue-box2"),
    "stacking_image": ("red-box", "green-box", "blue-box", "target-box"),
}
ROWS = 5


def write_original(root, task, demos=("env_000_00", "env_001_00", "env_002_00")):
    """A folder as the original's data sets have it."""
    state = root / "d3il" / datasets.OFFICIAL[task].folder
    state.mkdir(parents=True)
    rng = np.random.default_rng(0)
    columns = {"des_c_pos": 3, "c_pos": 3, "des_j_pos": 7, "j_pos": 7}
    for demo in demos:
        robot = {key: rng.normal(size=(ROWS, width)) for key, width in columns.items()}
        robot["gripper_width"] = rng.uniform(0, 0.08, ROWS)
        objects = {
            name: {"pos": rng.normal(size=(ROWS, 3)), "quat": np.tile([1.0, 0, 0, 0], (ROWS, 1))}
            for name in OBJECTS[task]
        }
        (state / f"{demo}.pkl").write_bytes(pickle.dumps({"context": None, "robot": robot, **objects}))
        for camera in ("bp-cam", "inhand-cam"):
            folder = state.parent / "images" / camera / demo
            folder.mkdir(parents=True)
            for k in range(ROWS):
                colour = 40 * k, 100 if camera == "bp-cam" else 200, 10 * demos.index(demo)
                Image.new("RGB", (96, 96), colour).save(folder / f"{k}.jpg", quality=95)
    return state.parent


@pytest.mark.parametrize("task", sorted(OBJECTS))
def test_the_originals_layout(task, tmp_path):
    write_original(tmp_path, task)
    demos = load_demonstrations(task, tmp_path)
    assert demos.source == "official" and len(demos.episodes) == 3
    for n, episode in enumerate(demos.episodes):
        assert episode.obs.shape == (ROWS - 1, WIDTH) and len(episode.actions) == ROWS - 1
        colours = episode.obs[:].reshape(-1, *SHAPE)[:, :, 48, 48]  # (rows, cameras, RGB)
        expected = [[(40 * k, green, 10 * n) for green in (100, 200)] for k in range(ROWS - 1)]
        np.testing.assert_allclose(colours, expected, atol=4)  # JPEG
        assert episode.positions.shape == (ROWS - 1, {"sorting_image": 16, "stacking_image": 20}[task])
    fewer = load_demonstrations(task, tmp_path, episodes=2)
    assert len(fewer.episodes) == 2 and fewer.identity != demos.identity
    assert identify(task, tmp_path, episodes=2) == ("official", fewer.identity)
    with pytest.raises(UserError, match="there are 3 demonstrations; asked for 4"):
        load_demonstrations(task, tmp_path, episodes=4)


def test_images_are_part_of_the_identity(tmp_path):
    base = write_original(tmp_path, "sorting_image")
    before = identify("sorting_image", tmp_path)
    Image.new("RGB", (96, 96), "white").save(base / "images" / "bp-cam" / "env_001_00" / "2.jpg")
    assert identify("sorting_image", tmp_path) != before


def test_missing_and_damaged_images_are_named(tmp_path):
    folder = write_original(tmp_path, "sorting_image") / "images" / "inhand-cam" / "env_001_00"
    whole = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(whole[:300])
    with pytest.raises(UserError, match=r"inhand-cam/env_001_00/2.jpg: is no whole JPEG image"):
        load_demonstrations("sorting_image", tmp_path)
    (folder / "2.jpg").write_bytes(whole[:2] + b"\0" * 300 + whole[-2:])
    with pytest.raises(UserError, match=r"inhand-cam/env_001_00/2.jpg: cannot be read as an image"):
        np.asarray(load_demonstrations("sorting_image", tmp_path).episodes[1].obs)
    Image.new("RGB", (64, 96)).save(folder / "2.jpg")
    with pytest.raises(UserError, match=r"env_001_00/2.jpg: has 64 x 96 pixels, expected 96 x 96"):
        np.asarray(load_demonstrations("sorting_image", tmp_path).episodes[1].obs)
    (folder / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"inhand-cam/env_001_00/2.jpg: this image is missing"):
        load_demonstrations("sorting_image", tmp_path)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"inhand-cam/env_001_00: holds 0 images .* env_001_00.pkl has 4 rows to show"):
        load_demonstrations("sorting_image", tmp_path)
