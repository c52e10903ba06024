"""The safetensors format: what the library writes and reads, and headers that lie."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from gptjax.interop.safetensors import DTYPES, read_header, read_tensor, write
from gptjax.types import UserError

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3) / 3, "a": np.array([1.5, -2.0], np.float32)}


def packed(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(("name", "dtype"), [("F32", np.float32), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_it_reads_what_the_library_writes(tmp_path, name, dtype):
    stored = {key: tensor.astype(dtype) for key, tensor in TENSORS.items()}
    safetensors.numpy.save_file(stored, tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors")
    assert header.keys() == TENSORS.keys()
    for key, tensor in stored.items():
        assert (header[key].dtype, header[key].shape) == (name, tensor.shape)
        read = read_tensor(key, header[key])
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, tensor.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_reads_what_it_writes(tmp_path, dtype):
    write(tmp_path / "out", {key: tensor.shape for key, tensor in TENSORS.items()}, dtype, TENSORS.values())
    read = safetensors.numpy.load_file(tmp_path / "out")
    assert read.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        np.testing.assert_array_equal(read[key], tensor.astype(DTYPES[dtype]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "its header should have 0 bytes"),
        (b"\x05\x00\x00", "its header"),
        (packed({}, length=2**63), "header should have 9,223,372,036,854,775,808 bytes, and the file has 10"),
        (packed({}, length=100), "header should have 100 bytes"),
        (packed(b"{nothing"), "no JSON"),
        (packed(b"[" * 10_000), "no JSON"),
        (packed([]), "no JSON object"),
        (packed({"a": 3}), "'a' lacks dtype"),
        (packed({"a": entry(dtype="F3")}, bytes(8)), "unknown dtype 'F3'"),
        (packed({"a": entry(shape=(-2,))}, bytes(8)), "'a' has a shape or data_offsets"),
        (packed({"a": entry(shape=(2, *[1] * 20))}, bytes(8)), "'a' has a shape or data_offsets"),
        (packed({"a": entry(shape=(True,))}, bytes(8)), "'a' has a shape or data_offsets"),
        (packed({"a": entry(shape=(2**62, 2**62))}, bytes(8)), "needs"),
        (packed({"a": entry(offsets=(0, 12))}, bytes(8)), "lies at 0 to 12 of 8 bytes"),
        (packed({"a": entry(offsets=(8, 0))}, bytes(8)), "lies at 8 to 0"),
        (packed({"a": entry(shape=(1,))}, bytes(8)), "needs 4 bytes and has 8"),
        (packed({"a": entry(), "b": entry()}, bytes(8)), "overlap"),
        (packed({"a": entry(), "b": entry()}, bytes(64)), "overlap"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, content, words):
    """By its words, with the file's name and the cure; nothing that it claims is allocated."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is no safetensors file, or is damaged .* get it again"):
        read_header(path)
    with pytest.raises(UserError) as error:
        read_header(path)
    assert words in str(error.value)


def test_what_is_no_parameter_is_refused_when_it_is_read(tmp_path):
    """Integers may stand in a file, as old masks do, as long as nobody asks for them."""
    safetensors.numpy.save_file({"mask": np.ones((2, 2), np.uint8)}, tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"'mask' has dtype U8, which is not supported; valid: F32, F16, BF16"):
        read_tensor("mask", header["mask"])


def test_a_file_that_becomes_shorter_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="became shorter"):
        [read_tensor(key, header[key]) for key in header]
