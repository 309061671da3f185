"""Reads downloaded pickles without trusting them.

A pickle is a program: its `GLOBAL` and `REDUCE` instructions import and call whatever they name. This reader admits
exactly the names that NumPy writes for arrays, data types and scalars (NumPy 1 and 2), and even those resolve to the
stand-ins below instead of NumPy's own functions: a stand-in records its arguments, calls nothing, and is turned into an
array after the whole file has been read and every size checked. Everything else must be a plain value: None, bool, int,
float, str, bytes, list, tuple, dict, set. Any other name is refused by a `UserError` that gives the file and the name.

Differences from `pickle.load`: no structured, date or sub-array data types; no cyclic values; no protocol below 3 for
arrays (those route their bytes through `_codecs`); sizes are limited (below).
"""

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.errors import UserError

MAX_FILE_BYTES = 256 * 2**20  # a demonstration of the largest state task is below 1 MiB
MAX_ARRAY_BYTES = 1024 * 2**20  # all arrays of one file together: one buffer may be referred to many times
MAX_TUPLES = 20_000  # hashing nested tuples recurses on the C stack, so their number is bounded
MAX_DEPTH = 64  # nesting of containers

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,6}|O8?)")


class _Refused(Exception):
    """Why the content is not acceptable; becomes part of the `UserError`."""


class _Inert:
    """What an admitted name resolves to. No attribute can be set and no state given, so a file cannot change it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it tries to change the state of a function or class")


class _NdarrayType(_Inert):
    __slots__ = ()


class _Dtype:
    """`numpy.dtype(code, align, copy)`, then the state `(3, byte order, None, None, None, size, alignment, flags)`."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise _Refused(
                f"it holds an array of data type {code!r:.40}; only plain numbers, text and objects are read"
            )
        self.dtype = np.dtype("O" if "O" in code else code)

    def __setstate__(self, state: Any) -> None:
        ok = isinstance(state, tuple) and len(state) >= 5 and state[0] in (3, 4) and state[1] in ("<", ">", "|", "=")
        if not ok or state[2:5] != (None, None, None) or (len(state) > 8 and state[8] is not None):
            raise _Refused("it holds a structured data type; only plain numbers, text and objects are read")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _DtypeType(_Inert):
    __slots__ = ()

    def __call__(self, code: str, align: Any = False, copy: Any = False) -> _Dtype:
        return _Dtype(code)


class _Array:
    """An array not yet made: data type, shape, order and raw content (bytes, or a list for objects)."""

    __slots__ = ("dtype", "fortran", "raw", "scalar", "shape")

    def __init__(
        self, shape: Any = (0,), dtype: Any = None, fortran: Any = False, raw: Any = None, scalar: bool = False
    ):
        self.shape, self.dtype, self.fortran, self.raw, self.scalar = (shape, dtype, bool(fortran), raw, scalar)

    def __setstate__(self, state: Any) -> None:
        if self.scalar or not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array's state is malformed")
        _, self.shape, self.dtype, fortran, self.raw = state
        self.fortran = bool(fortran)

    def count(self) -> int:
        """Number of elements; refuses anything that is not a well-formed shape and data type."""
        if not isinstance(self.dtype, _Dtype):
            raise _Refused("an array's data type is malformed")
        shape = self.shape
        if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise _Refused("an array's shape is malformed")
        return math.prod(shape)


class _Reconstruct(_Inert):
    __slots__ = ()

    def __call__(self, subtype: Any, shape: Any, code: Any) -> _Array:
        if not isinstance(subtype, _NdarrayType):
            raise _Refused("it rebuilds an array of a class other than numpy.ndarray")
        return _Array()  # shape and code are placeholders here; the array's state follows


class _Scalar(_Inert):
    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any = None) -> _Array:
        return _Array((), dtype, False, raw, scalar=True)


class _FromBuffer(_Inert):
    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> _Array:
        if axis_order is not None or order not in ("C", "F"):
            raise _Refused("an array's memory order is malformed")
        return _Array(shape, dtype, order == "F", bytes(raw) if isinstance(raw, bytearray) else raw)


# The whole list of what a file may name, exact pairs of (module, name).
ADMITTED = {
    ("numpy", "ndarray"): _NdarrayType,
    ("numpy", "dtype"): _DtypeType,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = ADMITTED.get((module, name))
        if stand_in is None:
            raise _Refused(
                f"it names {module}.{name}, which is neither a NumPy array nor a plain value; nothing was executed"
            )
        return stand_in()

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to objects outside the file; nothing was executed")


def _scan(content: bytes) -> None:
    """Walks the instructions without executing them: well-formed to the end, no registry look-ups, bounded memory."""
    count = tuples = end = 0
    for opcode, argument, position in pickletools.genops(content):
        count, end, name = count + 1, position or 0, opcode.name
        if name.startswith("EXT"):
            raise _Refused("it uses the process's extension registry; nothing was executed")
        if (
            name.endswith("PUT") and isinstance(argument, int) and argument > count
        ):  # the memo is an array as long as the highest index
            raise _Refused("its memo indices are malformed")
        tuples += name.startswith("TUPLE")
    if tuples > MAX_TUPLES:
        raise _Refused(f"it holds {tuples} tuples, more than the {MAX_TUPLES} allowed")
    if end != len(content) - 1:
        raise _Refused(f"{len(content) - 1 - end} bytes follow the end of the pickle")


class _Builder:
    """Turns what was read into plain values and arrays; refuses stand-ins left elsewhere, cycles and excess."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.open: set[int] = set()
        self.array_bytes = 0

    def build(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, _PLAIN):
            return value
        if id(value) in self.done:
            return self.done[id(value)]
        if id(value) in self.open:
            raise _Refused("it holds a value that contains itself")
        if depth > MAX_DEPTH:
            raise _Refused(f"its containers are nested more than {MAX_DEPTH} deep")
        self.open.add(id(value))
        result: Any
        if isinstance(value, bytearray):
            result = bytes(value)
        elif isinstance(value, list | tuple | set | frozenset):
            result = type(value)([self.build(item, depth + 1) for item in value])
        elif isinstance(value, dict):
            result = {self.build(k, depth + 1): self.build(v, depth + 1) for k, v in value.items()}
        elif isinstance(value, _Array):
            result = self._array(value, depth)
        else:
            raise _Refused("it holds a bare NumPy function, class or data type")
        self.open.remove(id(value))
        self.done[id(value)] = result  # `value` stays alive through the root, so its id is not reused
        return result

    def _array(self, value: _Array, depth: int) -> Any:
        count = value.count()
        dtype = value.dtype.dtype
        order: Literal["C", "F"] = "F" if value.fortran else "C"
        self.array_bytes += max(count * dtype.itemsize, 1)
        if self.array_bytes > MAX_ARRAY_BYTES:
            raise _Refused(f"its arrays hold more than {MAX_ARRAY_BYTES // 2**20} MiB")
        if dtype.kind == "O":
            if value.scalar or not isinstance(value.raw, list) or len(value.raw) != count:
                raise _Refused("an array's content does not match its shape")
            array = np.empty(count, dtype=object)
            for i, item in enumerate(value.raw):
                array[i] = self.build(item, depth + 1)
            return array.reshape(value.shape, order=order)
        if not isinstance(value.raw, bytes) or len(value.raw) != count * dtype.itemsize:
            raise _Refused("an array's content does not match its shape")
        if dtype.kind == "b" and value.raw.strip(b"\0\1"):
            raise _Refused("a boolean array holds other values")
        array = np.ndarray(value.shape, dtype, value.raw, order=order)
        return array[()] if value.scalar else array.copy(order="K")


def loads(content: bytes, name: str) -> Any:
    """The value in a pickle's bytes, executing nothing. `name` stands for the file in messages. Raises `UserError`."""
    try:
        _scan(content)
        return _Builder().build(_Unpickler(io.BytesIO(content)).load())
    except _Refused as refusal:
        raise UserError(f"{name}: refused, {refusal}") from None
    except Exception as error:  # a malformed pickle can raise almost anything
        detail = " ".join(str(error).split())[:120]
        raise UserError(
            f"{name}: not a readable pickle, perhaps truncated ({type(error).__name__}: {detail}); download it again"
        ) from None


def load(path: Path | str) -> Any:
    """The value in the pickle file at `path`. Raises `UserError` when it is unreadable, too large or refused."""
    return loads(read_bytes(path), str(path))


def read_bytes(path: Path | str) -> bytes:
    """The content of a file of at most `MAX_FILE_BYTES`. Raises `UserError`."""
    try:
        size = Path(path).stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(f"{path}: {size} bytes, more than the {MAX_FILE_BYTES} that a demonstration file may have")
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
