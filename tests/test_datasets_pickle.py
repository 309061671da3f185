"""The reader of untrusted pickles: what it reads, and what it refuses without executing anything."""

import builtins
import contextlib
import io
import os
import pickle
import struct
import types

import numpy as np
import pytest

from envs import safe_pickle
from harness.errors import UserError

PLAIN = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "objects": np.array([1, "a", None, np.float32(3)], dtype=object),
    "text": np.array(["ab", "c"]),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3)),
    "scalar": np.float64(2.5),
    "big_endian": np.arange(3, dtype=">i4"),
    "zero_dim": np.array(3),
    "nested": (1, [2, b"x", {"k": 1.5}], None, True),
}


def assert_same(got, expected):
    assert type(got) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        if expected.dtype == object:
            for a, b in zip(got.flat, expected.flat, strict=True):
                assert_same(a, b)
        else:
            np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    else:
        assert got == expected


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("key", sorted(PLAIN))
def test_reads_arrays_and_plain_values(protocol, key):
    assert_same(safe_pickle.loads(pickle.dumps(PLAIN[key], protocol), "x"), PLAIN[key])


@pytest.mark.parametrize(("old", "new"), [(b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")])
def test_reads_the_module_names_of_both_numpy_versions(old, new):
    content = pickle.dumps([PLAIN["matrix"], PLAIN["scalar"]], 3)  # protocol 3: names are lines, so lengths may change
    content = content.replace(old + b".", new + b".")
    assert new + b"." in content or old + b"." not in content
    assert_same(safe_pickle.loads(content, "x"), [PLAIN["matrix"], PLAIN["scalar"]])


def test_arrays_read_are_writable_copies():
    array = safe_pickle.loads(pickle.dumps([PLAIN["matrix"]] * 2), "x")
    assert array[0] is array[1]
    array[0][0, 0] = 7.0


# ---------------------------------------------------------------------------------------------------------------------
# Hostile files
# ---------------------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


MARK = "touched-by-a-pickle"


def hostile():
    system = Call(os.system, f"touch {MARK}")
    in_objects = np.empty(1, dtype=object)
    in_objects[0] = system
    reconstruct = np.arange(2).__reduce__()[0]
    return {
        "system": (system, "system"),
        "nested": ({"robot": {"c_pos": [1, (2, system)]}}, "system"),
        "eval": (Call(eval, f"open('{MARK}', 'w')"), "builtins.eval"),
        "exec": (Call(exec, f"open('{MARK}', 'w')"), "builtins.exec"),
        "import": (Call(builtins.__import__, "os"), "__import__"),
        "getattr": (Call(getattr, "", "join"), "builtins.getattr"),
        "open": (Call(open, MARK, "w"), "open"),
        "numpy.load": (Call(np.load, MARK, None, True), "load"),
        "numpy.save": (Call(np.save, MARK, [1]), "save"),
        "numpy.memmap": (Call(np.memmap, MARK, "u1", "w+", 0, (3,)), "memmap"),
        "pickle.loads": (Call(pickle.loads, pickle.dumps(system)), "loads"),
        "bytearray": (Call(bytearray, 2**33), "builtins.bytearray"),
        "in an object array": (in_objects, "system"),
        "as array class": (Call(reconstruct, Call(type, "x"), (0,), b"b"), "builtins.type"),
        "other array class": (Call(reconstruct, np.matrix, (0,), b"b"), "matrix"),
        "huge array": (Call(np.zeros, (2**40,)), "zeros"),
        "bare class": ([np.ndarray], "bare"),
        "bare dtype": ([np.dtype("f8")], "bare"),
        "structured": (np.zeros(2, dtype=[("a", "f8"), ("b", "O")]), "data type"),
        "dates": (np.zeros(2, dtype="M8[s]"), "data type"),
        "record": (np.rec.array([(1, 2.0)]), "numpy"),
        "masked": (np.ma.masked_array([1, 2], [0, 1]), "numpy.ma"),
        "namespace": (types.SimpleNamespace(a=1), "SimpleNamespace"),
    }


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", sorted(hostile()))
def test_hostile_content_is_refused_and_not_executed(kind, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value, named = hostile()[kind]
    path = tmp_path / "demo.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(UserError) as caught:
        safe_pickle.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "refused" in message
    assert named in message
    assert "\n" not in message
    assert os.listdir(tmp_path) == ["demo.pkl"]


def text(value):
    return b"\x8c" + struct.pack("<B", len(value)) + value.encode()


def names(module, name):
    return text(module) + text(name) + b"\x93"  # STACK_GLOBAL


RECONSTRUCT = names("numpy.core.multiarray", "_reconstruct")
NDARRAY = names("numpy", "ndarray")
F8 = names("numpy", "dtype") + text("f8") + b"\x85R"  # dtype("f8")
EMPTY_ARRAY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"
HEAD = b"\x80\x04"


def array_state(shape, raw, dtype=F8):
    return b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"


HANDMADE = {
    "dotted name": HEAD + names("numpy", "ndarray.__class__") + b".",
    "submodule": HEAD + names("numpy.core.multiarray._reconstruct", "__globals__") + b".",
    "INST": b"(S'echo'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'echo'\no.",
    "NEWOBJ": HEAD + NDARRAY + b"K\x05\x85\x81.",
    "calling the array class": HEAD + NDARRAY + b"K\x05\x85R.",
    "state for a function": HEAD + RECONSTRUCT + b"}" + text("__code__") + b"K\x01sb.",
    "slot state for a function": HEAD + RECONSTRUCT + b"N}" + text("__defaults__") + b"K\x01s\x86b.",
    "extension registry": HEAD + b"\x82\x01.",
    "persistent id": HEAD + b"K\x01Q.",
    "huge memo index": HEAD + b"Nr\xff\xff\xff\x7f.",
    "shape larger than content": HEAD + EMPTY_ARRAY + array_state(b"J\xff\xff\xff\x7f\x85", b"C\x08" + bytes(8)) + b".",
    "negative shape": HEAD + EMPTY_ARRAY + array_state(b"J\xff\xff\xff\xff\x85", b"C\x00") + b".",
    "shape of floats": HEAD + EMPTY_ARRAY + array_state(b"G" + bytes(8) + b"\x85", b"C\x00") + b".",
    "bytes as objects": HEAD
    + EMPTY_ARRAY
    + array_state(b"K\x01\x85", b"C\x08" + b"A" * 8, names("numpy", "dtype") + text("O8") + b"\x85R")
    + b".",
    "list as numbers": HEAD + EMPTY_ARRAY + array_state(b"K\x01\x85", b"]K\x01a") + b".",
    "no data type": HEAD + EMPTY_ARRAY + array_state(b"K\x01\x85", b"C\x08" + bytes(8), b"N") + b".",
    "array without state": HEAD + EMPTY_ARRAY + b".",
    "data type from code": HEAD + names("numpy", "dtype") + text("f8,O") + b"\x85R.",
    "itself": HEAD + b"]\x94h\x00a.",
    "deep": HEAD + b"]" * 300 + b"a" * 299 + b".",
    "many tuples": HEAD + b"N" + b"\x85" * 30_000 + b".",
    "tail": pickle.dumps([1]) + b"cos\nsystem\n.",
    "array of bytes with other booleans": HEAD
    + EMPTY_ARRAY
    + array_state(b"K\x01\x85", b"C\x01\x07", names("numpy", "dtype") + text("b1") + b"\x85R")
    + b".",
}


@pytest.mark.parametrize("kind", sorted(HANDMADE))
def test_handmade_attacks_are_refused(kind):
    with pytest.raises(UserError, match=r"demo\.pkl"):
        safe_pickle.loads(HANDMADE[kind], "demo.pkl")


def test_a_refused_file_leaves_no_trace_in_the_reader():
    for content in HANDMADE.values():
        with pytest.raises(UserError):
            safe_pickle.loads(content, "x")
    assert_same(safe_pickle.loads(pickle.dumps(PLAIN), "x"), PLAIN)


def test_references_cannot_multiply_into_a_bomb(monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_ARRAY_BYTES", 10_000)
    shared = bytes(1000)
    arrays = [np.frombuffer(shared, dtype=np.uint8) for _ in range(20)]
    with pytest.raises(UserError, match="arrays hold more than"):
        safe_pickle.loads(pickle.dumps(arrays), "x")
    lists = [0]
    for _ in range(50):
        lists = [lists, lists]  # 2**50 leaves, if it were expanded
    assert isinstance(safe_pickle.loads(pickle.dumps(lists), "x"), list)


@pytest.mark.parametrize("size", [0, 1, 10, 100, -1])
def test_truncated_files_name_the_file(size, tmp_path):
    path = tmp_path / "demo.pkl"
    path.write_bytes(pickle.dumps(PLAIN)[:size])
    with pytest.raises(UserError, match=r"demo\.pkl.*truncated"):
        safe_pickle.load(path)


def test_every_truncation_is_an_error():
    content = pickle.dumps({"a": np.arange(3.0), "b": [1, "x"]})
    for size in range(len(content)):
        with pytest.raises(UserError):
            safe_pickle.loads(content[:size], "x")


def test_random_damage_never_raises_anything_else():
    rng = np.random.default_rng(0)
    content = np.frombuffer(pickle.dumps(PLAIN), dtype=np.uint8)
    for _ in range(2000):
        damaged = content.copy()
        where = rng.integers(len(content), size=rng.integers(1, 4))
        damaged[where] = rng.integers(256, size=len(where))
        with contextlib.suppress(UserError):
            safe_pickle.loads(damaged.tobytes(), "x")


@pytest.mark.parametrize("content", [b"garbage", b"\x89PNG\r\n\x1a\n", b"version https://git-lfs.github.com/spec/v1\n"])
def test_files_that_are_no_pickles(content):
    with pytest.raises(UserError, match="not a readable pickle"):
        safe_pickle.loads(content, "x")


def test_unreadable_and_oversized_files(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be read"):
        safe_pickle.load(tmp_path / "absent.pkl")
    with pytest.raises(UserError, match="cannot be read"):
        safe_pickle.load(tmp_path)
    path = tmp_path / "demo.pkl"
    path.write_bytes(pickle.dumps([1]))
    monkeypatch.setattr(safe_pickle, "MAX_FILE_BYTES", 3)
    with pytest.raises(UserError, match="more than the 3"):
        safe_pickle.load(path)


def test_admitted_names_are_exactly_the_array_machinery():
    assert {module.split(".")[0] for module, _ in safe_pickle.ADMITTED} == {"numpy"}
    assert {name for _, name in safe_pickle.ADMITTED} == {"ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer"}
    unpickler = safe_pickle._Unpickler(io.BytesIO())
    for module, name in safe_pickle.ADMITTED:
        stand_in = unpickler.find_class(module, name)
        assert type(stand_in).__module__ == "envs.safe_pickle"
        with pytest.raises(AttributeError):
            stand_in.extra = 1
