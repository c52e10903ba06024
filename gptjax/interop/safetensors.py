"""The safetensors format, read and written a tensor at a time: 8 bytes of length, a JSON header, then plain arrays.

A header is believed only where it agrees with the file's length: nothing is allocated before.
"""

import dataclasses
import itertools
import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gptjax.types import UserError

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
"""What parameters may be stored as."""

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
_BITS |= {"I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64}
_LARGEST_HEADER = 16 << 20  # a model of a hundred thousand tensors needs less
_MOST_DIMS = 8


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor stands in a file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """The first byte, from the beginning of the file."""


def read_header(path: Path) -> dict[str, Entry]:
    """Returns the tensors of a file by name; raises UserError where its header is damaged or does not fit the file."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
            if length > min(size - 8, _LARGEST_HEADER):
                raise _damaged(path, f"its header should have {length:,} bytes, and the file has {size:,}")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); get it again") from None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        problem = _problem(entry, size - 8 - length)
        if problem is not None:
            raise _damaged(path, f"tensor {name!r:.80} {problem}")
        found[name] = Entry(path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
    places = sorted(entry["data_offsets"] for entry in header.values() if len(set(entry["data_offsets"])) > 1)
    if any(end > start for (_, end), (start, _) in itertools.pairwise(places)):
        raise _damaged(path, "its tensors overlap")
    return found


def _problem(entry: Any, data_size: int) -> str | None:
    """Says what is wrong with an entry of a header whose data has so many bytes; None where nothing is."""
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        return "lacks dtype, shape or data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        return f"has the unknown dtype {dtype!r:.20}"
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > _MOST_DIMS:
        return "has a shape or data_offsets that are none"
    start, end = offsets
    if not start <= end <= data_size:
        return f"lies at {start:,} to {end:,} of {data_size:,} bytes"
    if (needed := math.prod(shape) * _BITS[dtype] // 8) != end - start:
        return f"of shape {shape} and dtype {dtype} needs {needed:,} bytes and has {end - start:,}"
    return None


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is no safetensors file, or is damaged ({reason}); get it again")


def read_tensor(name: str, entry: Entry) -> np.ndarray:
    """Returns a tensor in float32; nothing else of the file is read."""
    if entry.dtype not in DTYPES:
        raise UserError(
            f"{entry.path}: tensor {name!r:.80} has dtype {entry.dtype}, which is not supported; valid: "
            f"{', '.join(DTYPES)}; save the model again in one of these"
        )
    count = math.prod(entry.shape)
    try:
        array = np.fromfile(entry.path, DTYPES[entry.dtype].newbyteorder("<"), count, offset=entry.start)
    except OSError as error:
        raise UserError(f"{entry.path} cannot be read ({error.strerror}); get it again") from None
    if len(array) != count:
        raise _damaged(entry.path, "it became shorter while it was read")
    return array.reshape(entry.shape).astype(np.float32, copy=False)


def write(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, tensors: Iterable[np.ndarray]) -> None:
    """Writes tensors, in the order of their shapes, as they come."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # by which transformers knows whose layout it is
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape, tensor in zip(shapes.values(), tensors, strict=True):
            assert tensor.shape == shape, (path, shape, tensor.shape)
            np.ascontiguousarray(tensor, DTYPES[dtype]).tofile(file)
