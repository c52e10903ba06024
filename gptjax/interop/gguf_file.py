"""The container GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata and where tensors lie.

Every count, length and offset is checked against the file before it is used, so that a damaged file costs neither time
nor memory beyond its size. The `gguf` library's own reader trusts them, and makes an array of every token; what is
taken from it is the table of types and how they are unpacked.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptjax.types import UserError

VERSIONS = (2, 3)
TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
)
"""What can be unpacked into float32."""
MOST_DIMS = 4

_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Types of numbers, as NumPy writes them."""
_STRING, _ARRAY = 8, 9


class Tensor(NamedTuple):
    """Where a tensor lies and how it is packed; the last dim of its shape is the one that lies together."""

    type: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class _UnreadableError(Exception):
    """What is wrong, and the cure, to be said with the file's name."""

    def __init__(self, problem: str, cure: str = "it is damaged; get it again"):
        super().__init__(problem, cure)


class _Cursor:
    """Reads little-endian values from the front of a file, never beyond its end."""

    def __init__(self, data: memoryview):
        self._data, self.offset = data, 0

    @property
    def left(self) -> int:
        """Bytes up to the end."""
        return len(self._data) - self.offset

    def take(self, count: int, what: str) -> memoryview:
        """Returns the next bytes."""
        if count > self.left:
            raise _UnreadableError(f"{what} needs {count:,} bytes where {self.left:,} are left")
        self.offset += count
        return self._data[self.offset - count : self.offset]

    def number(self, code: str, what: str) -> Any:
        """Returns a number of a type of `struct`."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))[0]

    def string(self, what: str) -> str:
        """Returns a string."""
        raw = self.take(self.number("Q", what), what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise _UnreadableError(f"{what} is no UTF-8") from None

    def value(self, kind: int, what: str) -> Any:
        """Returns a value of metadata: a number, a string, or an array or list of them."""
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            kind, count = self.number("I", what), self.number("Q", what)
            if kind == _STRING:
                if 8 * count > self.left:
                    raise _UnreadableError(f"{what} claims {count:,} strings where {self.left:,} bytes are left")
                return [self.string(what) for _ in range(count)]
            dtype = self._dtype(kind, what)
            return np.frombuffer(self.take(dtype.itemsize * count, what), dtype)
        dtype = self._dtype(kind, what)
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()

    def _dtype(self, kind: int, what: str) -> np.dtype:
        if kind not in _NUMBERS:
            raise _UnreadableError(f"{what} is of an unknown type {kind}")
        return np.dtype(_NUMBERS[kind])


class GGUFFile:
    """The metadata and the tensors of a file, which is mapped into memory."""

    def __init__(self, path: Path):
        """Reads everything but the tensors; raises UserError where the file contradicts itself."""
        self.path = path
        if not path.is_file() or not path.stat().st_size:
            raise UserError(f"{path} is no file, or empty; correct the path")
        with path.open("rb") as file:
            self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            self.metadata, self.tensors = _read(_Cursor(self._data))
        except _UnreadableError as error:
            raise UserError(f"{path}: {', and '.join(error.args)}") from None

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor in float32; raises UserError where it holds what is no number."""
        tensor = self.tensors[name]
        kind = library().GGMLQuantizationType[tensor.type]
        rows = self._bytes(name).reshape(math.prod(tensor.shape[:-1]), -1)
        with np.errstate(all="ignore"):  # what damage makes of the numbers is said below
            x = np.asarray(library().quants.dequantize(rows, kind), np.float32).reshape(tensor.shape)
        if not np.isfinite(x).all():
            raise UserError(f"{self.path}: the tensor {name} holds values that are no numbers; get the file again")
        return x

    def same_bytes(self, one: str, other: str) -> bool:
        """Returns whether two tensors are packed alike and equal."""
        a, b = self.tensors[one], self.tensors[other]
        return (a.type, a.shape) == (b.type, b.shape) and np.array_equal(self._bytes(one), self._bytes(other))

    def _bytes(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        return np.frombuffer(self._data, np.uint8, tensor.num_bytes, tensor.offset)


def library() -> Any:
    """Returns the `gguf` library; raises UserError where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF files need the gguf library; pip install 'gptjax[interop]'") from None
    return gguf


def _read(cursor: _Cursor) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    if bytes(cursor.take(4, "the beginning")) != b"GGUF":
        raise _UnreadableError("it does not begin with GGUF", "is therefore no GGUF file; correct the path")
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        if version.to_bytes(4, "big")[0] in VERSIONS:
            raise _UnreadableError("its numbers are big-endian", "only little-endian files can be read; convert it")
        raise _UnreadableError(f"its version is {version}", "only 2 and 3 can be read; convert the model anew")
    num_tensors, num_values = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of values")
    metadata: dict[str, Any] = {}
    for i in range(num_values):
        key = cursor.string(f"the name of value {i}")
        _add(metadata, key, cursor.value(cursor.number("I", f"the type of {key!r}"), f"the value {key!r}"))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _UnreadableError(f"general.alignment={alignment!r} is no power of two")
    tensors: dict[str, Tensor] = {}
    for i in range(num_tensors):
        name = cursor.string(f"the name of tensor {i}")
        _add(tensors, name, _tensor(cursor, f"the tensor {name!r}"))
    start = -(-cursor.offset // alignment) * alignment
    return metadata, _placed(tensors, start, cursor.offset + cursor.left, alignment)


def _add(table: dict[str, Any], name: str, value: Any) -> None:
    if name in table:
        raise _UnreadableError(f"{name!r} stands twice")
    table[name] = value


def _tensor(cursor: _Cursor, what: str) -> Tensor:
    """Reads how a tensor is packed, and its offset from where tensors start."""
    num_dims = cursor.number("I", what)
    if not 1 <= num_dims <= MOST_DIMS:
        raise _UnreadableError(f"{what} has {num_dims} dims, not 1 to {MOST_DIMS}")
    shape = tuple(cursor.number("Q", what) for _ in range(num_dims))[::-1]
    number, offset = cursor.number("I", what), cursor.number("Q", what)
    types = {kind.value: kind for kind in library().GGMLQuantizationType}
    if number not in types or types[number].name not in TYPES:
        name = types[number].name if number in types else f"number {number}"
        raise _UnreadableError(
            f"{what} is of the type {name}", f"only these can be read: {', '.join(TYPES)}; quantise it anew"
        )
    block, block_bytes = library().GGML_QUANT_SIZES[types[number]]
    if not min(shape) or shape[-1] % block:
        raise _UnreadableError(f"{what} has the shape {shape}, which {types[number].name} cannot pack by {block}")
    return Tensor(types[number].name, shape, offset, math.prod(shape) // block * block_bytes)


def _placed(tensors: Mapping[str, Tensor], start: int, size: int, alignment: int) -> dict[str, Tensor]:
    """Returns the tensors with their offsets in the file; none may reach into another."""
    end, names = start, sorted(tensors, key=lambda name: tensors[name].offset)
    placed = {}
    for name in names:
        tensor = tensors[name]
        offset = start + tensor.offset
        if offset + tensor.num_bytes > size:
            missing = offset + tensor.num_bytes - size
            raise _UnreadableError(f"the tensor {name!r} ends {missing:,} bytes after the file's {size:,}")
        if tensor.offset % alignment or offset < end:
            raise _UnreadableError(f"the tensor {name!r} starts at {tensor.offset:,}, within another or out of line")
        placed[name], end = tensor._replace(offset=offset), offset + tensor.num_bytes
    return placed
