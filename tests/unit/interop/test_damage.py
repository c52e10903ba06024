"""Damaged folders: whatever happened to a file, there is a UserError or a model, soon, and nothing else."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptjax.interop.blueprint import read_config
from gptjax.interop.huggingface import HuggingFaceModel
from gptjax.types import UserError
from tests import pretrained

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        st.sampled_from(["", "silu", "llama3", "yarn", "linear", "<|endoftext|>", "F32", "\ud800"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "factor", "a"]), inner),
    max_leaves=6,
)
quickly = settings(
    max_examples=60,
    deadline=5_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return pretrained.folder_of("llama3", tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def assert_read_or_refused(folder):
    """Reads all that an import reads."""
    try:
        model = HuggingFaceModel(folder)
        blueprint = read_config(model.config, model.source)
        blueprint.check(model)
        for name in model.names():
            assert model.read(name).nbytes <= 4 * (folder / "model.safetensors").stat().st_size
        model.tokenizer()
    except UserError as error:
        words = str(error)
        assert len(words) < 2_000, words


@given(data=st.data())
@quickly
def test_bytes_that_changed(whole, folder, data):
    """Some bytes overwritten, taken out or put in, or the end cut off."""
    name = data.draw(st.sampled_from(FILES))
    content = bytearray((whole / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)) | st.integers(0, min(400, len(content))))
        end = start + data.draw(st.integers(0, 9))
        content[start:end] = data.draw(st.binary(max_size=9))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    (folder / name).write_bytes(content)
    assert_read_or_refused(folder)
    shutil.copy(whole / name, folder / name)


@given(data=st.data())
@quickly
def test_fields_that_lie(whole, folder, data):
    """Any field of any file of JSON, also in its depth, holds anything."""
    name = data.draw(st.sampled_from([file for file in FILES if file.endswith("json")]))
    content = json.loads((whole / name).read_text())
    place = content
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or len(inner) > 50 or data.draw(st.booleans()):
            break
        place = inner
    place[key] = data.draw(VALUES)
    (folder / name).write_text(json.dumps(content))
    assert_read_or_refused(folder)
    shutil.copy(whole / name, folder / name)


@given(data=st.data())
@quickly
def test_headers_that_lie(whole, folder, data):
    """The header of the weights is JSON, and says anything of a tensor."""
    content = (whole / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(header)))
    header[name] = {**header[name], data.draw(st.sampled_from(["dtype", "shape", "data_offsets"])): data.draw(VALUES)}
    text = json.dumps(header).encode()
    claimed = data.draw(st.sampled_from([len(text), len(text) + 1, 0, 2**40]))
    (folder / "model.safetensors").write_bytes(claimed.to_bytes(8, "little") + text + content[8 + length :])
    assert_read_or_refused(folder)


@given(index=st.dictionaries(st.text(max_size=5), VALUES, max_size=4), named=st.booleans())
@quickly
def test_indices_that_lie(folder, index, named):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index} if named else index))
    assert_read_or_refused(folder)
