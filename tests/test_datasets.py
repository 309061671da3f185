"""Loading demonstrations: the original's format, what is refused, scripted ones and their cache."""

import hashlib
import os
import pickle
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from envs import datasets
from envs.d3il_files import avoiding_mode
from envs.datasets import Episode, identify, load_demonstrations
from harness.errors import UserError


@pytest.fixture(autouse=True)
def no_ambient_data(monkeypatch, tmp_path):
    monkeypatch.delenv("VDD_DATA_ROOT", raising=False)
    monkeypatch.setenv("VDD_CACHE_DIR", str(tmp_path / "cache"))


def recording(rows=12, seed=0):
    """A demonstration in the original's layout: a straight path through gaps 1, 2 and 3 of the levels."""
    rng = np.random.default_rng(seed)
    desired = np.zeros((rows, 3))
    desired[:, 0], desired[:, 1] = 0.45, np.linspace(-0.28, 0.4, rows)
    actual = desired + rng.normal(scale=1e-4, size=desired.shape)
    return {"robot": {"des_c_pos": desired, "c_pos": actual, "j_pos": np.zeros((rows, 7))}}


def write(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "data" / "d3il" / "avoiding" / "data", {f"env_{i:03d}.pkl": recording(seed=i) for i in range(3)})
    return tmp_path / "data"


# ---------------------------------------------------------------------------------------------------------------------
# The original's format
# ---------------------------------------------------------------------------------------------------------------------


def test_observations_and_actions_follow_the_original(root):
    demos = load_demonstrations("avoiding", root)
    assert (demos.task, demos.source, len(demos.episodes), demos.rows) == ("avoiding", "official", 3, 33)
    robot, episode = recording(seed=1)["robot"], demos.episodes[1]
    np.testing.assert_array_equal(episode.obs[:, :2], robot["des_c_pos"][:-1, :2].astype(np.float32))
    np.testing.assert_array_equal(episode.obs[:, 2:], robot["c_pos"][:-1, :2].astype(np.float32))
    np.testing.assert_allclose(episode.obs[0, :2] + episode.actions.sum(axis=0), robot["des_c_pos"][-1, :2], atol=1e-6)
    assert (episode.obs.dtype, episode.actions.dtype) == (np.float32, np.float32)
    assert episode.context is None
    assert episode.mode == "100100100"


@pytest.mark.parametrize("below", ["", "d3il"])
def test_the_data_root_may_be_either_folder(root, below):
    assert load_demonstrations("avoiding", root / below).sha256 == load_demonstrations("avoiding", str(root)).sha256


def test_the_environment_variable_is_the_fallback(root, monkeypatch):
    monkeypatch.setenv("VDD_DATA_ROOT", str(root))
    assert load_demonstrations("avoiding").source == "official"
    monkeypatch.setenv("VDD_DATA_ROOT", "/nowhere")
    assert load_demonstrations("avoiding", root).source == "official"
    with pytest.raises(UserError, match="/nowhere"):
        load_demonstrations("avoiding")


def test_identity_is_over_the_contents_only(root, tmp_path):
    source, identity = identify("avoiding", root)
    assert (source, identity) == ("official", load_demonstrations("avoiding", root).identity)
    (tmp_path / "other").mkdir()
    moved = (root / "d3il").rename(tmp_path / "other" / "d3il").parent
    assert identify("avoiding", moved)[1] == identity
    (moved / "d3il/avoiding/data/env_003.pkl").write_bytes(pickle.dumps(recording(seed=9)))
    assert identify("avoiding", moved)[1] != identity


def test_origin_gives_no_path_of_this_machine(root):
    assert str(root) not in load_demonstrations("avoiding", root).origin


# ---------------------------------------------------------------------------------------------------------------------
# Bad files
# ---------------------------------------------------------------------------------------------------------------------


def broken(**changes):
    content = recording()
    content["robot"].update(changes)
    return content


def with_value(key, row, value):
    array = recording()["robot"][key]
    array[row, 1] = value
    return {key: array}


BAD = {
    "nan": (broken(**with_value("c_pos", 4, np.nan)), r"robot\.c_pos is NaN or infinite in row 4"),
    "inf": (broken(**with_value("des_c_pos", 7, -np.inf)), r"robot\.des_c_pos is NaN or infinite in row 7"),
    "wrong width": (broken(des_c_pos=np.zeros((12, 2))), r"shape \(12, 2\), expected \(rows, 3\)"),
    "flat": (broken(c_pos=np.zeros(12)), r"shape \(12,\), expected \(rows, 3\)"),
    "mixed lengths": (broken(c_pos=np.zeros((11, 3))), "12 rows and robot.c_pos 11"),
    "one row": (broken(des_c_pos=np.zeros((1, 3))), "1 row"),
    "text": (broken(c_pos=np.full((12, 3), "x")), "array of numbers"),
    "objects": (broken(c_pos=np.full((12, 3), None)), "array of numbers"),
    "list": (broken(c_pos=[[0.0] * 3] * 12), "array of numbers, found list"),
    "missing key": ({"robot": {"des_c_pos": np.zeros((12, 3))}}, r"robot\.c_pos is missing; found des_c_pos"),
    "no robot": ({"box": 1}, "expected a dict with a dict 'robot'"),
    "not a dict": ([1, 2], "found list"),
    "truncated": (pickle.dumps(recording())[:-40], "truncated"),
    "empty": (b"", "truncated"),
    "code": (b"cos\nsystem\n(S'true'\ntR.", r"refused, it names os\.system"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_file_is_named_with_what_is_wrong(root, kind):
    content, expected = BAD[kind]
    write(root / "d3il/avoiding/data", {"env_002.pkl": content})
    with pytest.raises(UserError, match=expected) as caught:
        load_demonstrations("avoiding", root)
    assert "env_002.pkl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_folders_and_unknown_tasks(root, tmp_path):
    for call in (load_demonstrations, identify):
        with pytest.raises(UserError, match=r"absent: no such folder.*--data-root"):
            call("avoiding", tmp_path / "absent")
        (tmp_path / "bare").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=r"nothing for task 'avoiding'; expected .*avoiding/data"):
            call("avoiding", tmp_path / "bare")
        (tmp_path / "hollow/avoiding/data").mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError, match=r"holds no \*\.pkl"):
            call("avoiding", tmp_path / "hollow")
        with pytest.raises(UserError, match=r"no loader .*: aligning, avoiding"):
            call("juggling", root)
        with pytest.raises(UserError, match=r"no scripted demonstrator.*: aligning, avoiding"):
            call("juggling")


# ---------------------------------------------------------------------------------------------------------------------
# Modes
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap1", [0, 1])
@pytest.mark.parametrize("gap2", [0, 1, 2])
@pytest.mark.parametrize("gap3", [0, 1, 2, 3])
def test_every_mode(gap1, gap2, gap3):
    path = [(0.5, -0.28), ((0.45, 0.55)[gap1], -0.1), ((0.4, 0.5, 0.6)[gap2], 0.08), ((0.3, 0.4, 0.6, 0.7)[gap3], 0.3)]
    expected = "".join(
        "".join("1" if i == gap else "0" for i in range(n)) for gap, n in ((gap1, 2), (gap2, 3), (gap3, 4))
    )
    assert avoiding_mode(np.array(path)) == expected


@pytest.mark.parametrize(("x", "bits"), [(0.35, None), (0.5, "0001"), (0.65, "0001")])
def test_borders_of_the_third_level(x, bits):
    assert avoiding_mode(np.array([(0.45, -0.1), (0.4, 0.08), (x, 0.3)])) == ("10100" + bits if bits else "")


def test_the_first_position_in_a_band_decides_and_borders_do_not():
    tail = [(0.4, 0.08), (0.3, 0.3)]
    assert avoiding_mode(np.array([(0.45, -0.125), (0.55, -0.1), *tail])) == "101001000"
    assert avoiding_mode(np.array([(0.45, -0.14), (0.55, -0.1), *tail])) == "011001000"  # the first is below the band
    assert (
        avoiding_mode(np.array([(0.5, -0.1), (0.55, -0.09), *tail])) == ""
    )  # the first is on the border, and is final
    assert avoiding_mode(np.array([(0.45, -0.1), (0.425, 0.08), (0.3, 0.3)])) == ""
    assert avoiding_mode(np.array([(0.45, -0.1), (0.4, 0.08), (0.3, 0.25)])) == ""


def test_the_environment_gives_the_same_modes():
    from envs.avoiding import AvoidingBatch, update_mode

    rng = np.random.default_rng(0)
    for _ in range(200):
        path = np.stack(
            [rng.uniform(0.2, 0.8, 60), np.linspace(-0.28, rng.uniform(0.0, 0.4), 60), np.zeros(60)], axis=1
        )
        row = np.zeros((1, 9), dtype=np.float32)
        for position in path:
            update_mode(row, position[None])
        assert AvoidingBatch.mode_name(row[0]) == avoiding_mode(path[:, :2])


# ---------------------------------------------------------------------------------------------------------------------
# Scripted demonstrations and their cache
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def generator(monkeypatch):
    """A stand-in demonstrator that counts how often it is asked."""
    module = types.ModuleType("stand_in_demonstrator")
    module.GENERATOR_VERSION, module.calls = 3, []

    def generate(seed=0, progress=None):
        module.calls.append(seed)
        rng = np.random.default_rng(seed)
        lengths = (5, 6, 7, 8)
        return [
            Episode(*(rng.normal(size=(n, k)).astype(np.float32) for k in (4, 2)), None, f"m{n % 2}") for n in lengths
        ]

    module.generate = generate
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(datasets.SCRIPTED, "avoiding", datasets.Scripted(module.__name__, 4))
    return module


def test_scripted_demonstrations_are_generated_once(generator, tmp_path):
    first = load_demonstrations("avoiding", cache_dir=tmp_path / "c", seed=5)
    again = load_demonstrations("avoiding", cache_dir=tmp_path / "c", seed=5)
    assert generator.calls == [5]
    assert first.source == "scripted"
    assert first.identity == "scripted/avoiding/v3/seed5/4"
    assert identify("avoiding", seed=5) == ("scripted", first.identity)
    assert again.sha256 == first.sha256
    for a, b in zip(first.episodes, again.episodes, strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.actions, b.actions)
        assert (a.mode, a.context) == (b.mode, b.context)
    assert load_demonstrations("avoiding", cache_dir=tmp_path / "c", seed=6).sha256 != first.sha256


def test_a_generator_that_gives_too_few_is_an_error_and_not_cached(generator, monkeypatch, tmp_path):
    monkeypatch.setitem(datasets.SCRIPTED, "avoiding", datasets.Scripted(generator.__name__, 5))
    with pytest.raises(RuntimeError, match="gave 4 episodes, expected 5"):
        load_demonstrations("avoiding", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_version_does_not_use_the_old_cache(generator, tmp_path):
    load_demonstrations("avoiding", cache_dir=tmp_path)
    generator.GENERATOR_VERSION = 4
    load_demonstrations("avoiding", cache_dir=tmp_path)
    assert generator.calls == [0, 0]


def forge(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["actions"] = arrays["actions"] * 2
    with path.open("wb") as file:
        np.savez(file, **arrays)


def pickled(path):
    with path.open("wb") as file:
        np.savez(file, obs=np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps([1])),
        forge,
        pickled,
    ],
    ids=["truncated", "empty", "pickle", "changed numbers", "objects"],
)
def test_a_damaged_cache_is_set_aside_and_made_again(generator, tmp_path, caplog, damage):
    first = load_demonstrations("avoiding", cache_dir=tmp_path)
    (path,) = (tmp_path / "demonstrations").iterdir()
    damage(path)
    assert load_demonstrations("avoiding", cache_dir=tmp_path).sha256 == first.sha256
    assert "set aside" in caplog.text
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".corrupt", ".npz"]
    assert load_demonstrations("avoiding", cache_dir=tmp_path).sha256 == first.sha256
    assert generator.calls == [0, 0]


def test_an_unwritable_cache_is_said_and_survived(generator, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert len(load_demonstrations("avoiding", cache_dir=tmp_path / "file").episodes) == 4
    assert "not cached" in caplog.text


def test_nothing_but_whole_files_is_ever_visible(generator, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    load_demonstrations("avoiding", cache_dir=tmp_path)
    assert list((tmp_path / "demonstrations").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# The real data and the import
# ---------------------------------------------------------------------------------------------------------------------

AMBIENT_ROOT = os.environ.get("VDD_DATA_ROOT")


@pytest.mark.skipif(not AMBIENT_ROOT, reason="set VDD_DATA_ROOT to the folder with the original D3IL demonstrations")
def test_the_original_avoiding_demonstrations():
    demos = load_demonstrations("avoiding", AMBIENT_ROOT)
    lengths = [len(e.obs) + 1 for e in demos.episodes]
    assert (len(lengths), min(lengths), max(lengths)) == (96, 61, 107)
    assert Counter(Counter(e.mode for e in demos.episodes).values()) == {4: 22, 3: 1, 5: 1}
    assert max(np.abs(e.actions).max() for e in demos.episodes) == pytest.approx(0.0125, abs=1e-6)
    again = hashlib.sha256()
    for path in sorted(Path(AMBIENT_ROOT).glob("**/avoiding/data/*.pkl")):
        again.update(hashlib.sha256(path.read_bytes()).digest())
    assert demos.identity == again.hexdigest()


@pytest.mark.skipif(not AMBIENT_ROOT, reason="set VDD_DATA_ROOT to the folder with the original D3IL demonstrations")
def test_every_original_pickle_is_read_as_pickle_reads_it():
    from envs import safe_pickle

    paths = sorted(Path(AMBIENT_ROOT).glob("**/*.pkl"))
    assert paths
    for path in paths:
        admitted = safe_pickle.load(path)  # first: what it refuses is never read the other way
        np.testing.assert_equal(admitted, pickle.loads(path.read_bytes()))


def test_loading_files_imports_neither_torch_nor_mujoco(root):
    code = (
        "import sys; from envs.datasets import identify; "
        f"identify('avoiding', {str(root)!r}); assert not {{'torch', 'mujoco'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
