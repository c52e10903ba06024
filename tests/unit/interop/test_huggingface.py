"""Folders of transformers: which files are read, what the tokenizer takes from those beside it, and what is refused."""

import json

import numpy as np
import pytest

from gptjax.data import bpe
from gptjax.interop.huggingface import HuggingFaceModel
from gptjax.types import UserError
from tests import pretrained


@pytest.fixture
def folder(tmp_path):
    return pretrained.folder_of("llama", tmp_path / "model")


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def shards(folder):
    """Cuts the weights into two files with an index."""
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{1 + i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        part = {name: tensor for name, tensor in tensors.items() if weight_map[name] == file}
        safetensors.numpy.save_file(part, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tensors


def test_shards_are_one_model(folder):
    tensors = shards(folder)
    model = HuggingFaceModel(folder)
    assert model.names() == tensors.keys()
    for name, tensor in tensors.items():
        assert model.shape(name) == tensor.shape
        np.testing.assert_array_equal(model.read(name), tensor)


def break_index(folder):
    shards(folder)
    return folder / "model.safetensors.index.json"


MISTAKES = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["holds no model.safetensors", "save_pretrained"]),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        ["pytorch_model.bin is a pickle", "runs whatever code", "take the model's safetensors"],
    ),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json cannot be read (No such file"]),
    "config that is no JSON": (lambda f: (f / "config.json").write_text("{"), ["config.json is no JSON"]),
    "config that is a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json holds no JSON object"]),
    "config that is no text": (lambda f: (f / "config.json").write_bytes(b"\xff{}"), ["no UTF-8", "at byte 0"]),
    "deep config": (lambda f: (f / "config.json").write_text("[" * 100_000), ["config.json is no JSON"]),
    "index without map": (lambda f: break_index(f).write_text("{}"), ["index.json has no weight_map"]),
    "map of numbers": (lambda f: break_index(f).write_text('{"weight_map": {"a": 1}}'), ["has no weight_map"]),
    "index to nowhere": (
        lambda f: break_index(f).write_text('{"weight_map": {"a": "model-9.safetensors"}}'),
        ["names model-9.safetensors, which is not in"],
    ),
    "index to a name that no disk has": (
        lambda f: break_index(f).write_text(json.dumps({"weight_map": {"a": "x" * 5000}})),
        ["names xxx", "which is not in"],
    ),
    "index that leaves the folder": (
        lambda f: break_index(f).write_text('{"weight_map": {"a": "../model/model-1.safetensors"}}'),
        ["names model-1.safetensors, which is not in"],
    ),
    "shard that lacks a tensor": (
        lambda f: break_index(f).write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
        ["says that model-1.safetensors holds 'a', which it does not"],
    ),
    "shard that is missing": (
        lambda f: (break_index(f), (f / "model-2.safetensors").unlink()),
        ["names model-2.safetensors, which is not in"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_folder_that_is_none_is_refused(folder, name):
    damage, words = MISTAKES[name]
    damage(folder)
    with pytest.raises(UserError) as error:
        HuggingFaceModel(folder)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


# ---- the tokenizer


def test_the_tokenizer_has_what_the_files_beside_it_say(folder):
    tokenizer = HuggingFaceModel(folder).tokenizer()
    assert tokenizer.encode("the cat sat").tolist() == pretrained.tokenizer().encode("the cat sat").tolist()
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.chat_template) == (0, None, pretrained.TEMPLATE)


def with_tokens(folder, *tokens):
    """Gives the tokenizer more special tokens; returns their ids."""
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    first = 280
    description["added_tokens"] += [
        {**description["added_tokens"][0], "id": first + i, "content": token} for i, token in enumerate(tokens)
    ]
    path.write_text(json.dumps(description))
    return list(range(first, first + len(tokens)))


def test_the_end_is_where_the_files_say_it_is(folder):
    """By tokenizer_config.json, else special_tokens_map.json, else the number in generation_config.json."""
    end, turn = with_tokens(folder, "<end>", "<turn>")
    said = folder / "tokenizer_config.json"
    change(said, eos_token={"content": "<turn>", "lstrip": False})
    assert HuggingFaceModel(folder).tokenizer().eos_id == turn
    said.unlink()
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<end>"}')
    assert HuggingFaceModel(folder).tokenizer().eos_id == end
    (folder / "special_tokens_map.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [turn, end]}))
    assert HuggingFaceModel(folder).tokenizer().eos_id == turn
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", eos_token_id=end)
    assert HuggingFaceModel(folder).tokenizer().eos_id == end
    change(folder / "config.json", eos_token_id=None)
    assert HuggingFaceModel(folder).tokenizer().eos_id == 0


def test_a_text_begins_with_a_token_where_the_tokenizer_adds_one(folder):
    """By add_bos_token, or by what stands first in the template of tokenizer.json."""
    (begin,) = with_tokens(folder, "<begin>")
    change(folder / "tokenizer_config.json", bos_token="<begin>")
    assert HuggingFaceModel(folder).tokenizer().bos_id is None
    single = [{"SpecialToken": {"id": "<begin>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single,
        "special_tokens": {"<begin>": {"id": "<begin>", "ids": [begin], "tokens": ["<begin>"]}},
    }
    change(folder / "tokenizer.json", post_processor={"type": "Sequence", "processors": [template]})
    assert HuggingFaceModel(folder).tokenizer().bos_id == begin
    change(folder / "tokenizer_config.json", add_bos_token=False)
    assert HuggingFaceModel(folder).tokenizer().bos_id is None
    change(folder / "tokenizer.json", post_processor=None)
    change(folder / "tokenizer_config.json", add_bos_token=True)
    assert HuggingFaceModel(folder).tokenizer().bos_id == begin


def test_the_template_may_stand_in_a_file_or_among_others(folder):
    said = folder / "tokenizer_config.json"
    change(said, chat_template=[{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}])
    assert HuggingFaceModel(folder).tokenizer().chat_template == "yes"
    (folder / "chat_template.jinja").write_text("beside")
    assert HuggingFaceModel(folder).tokenizer().chat_template == "beside"


def test_vocabulary_and_merges_are_a_tokenizer_too(folder):
    model = pretrained.tokenizer().settings()["tokenizer"]["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (folder / "tokenizer.json").unlink()
    tokenizer = HuggingFaceModel(folder).tokenizer()
    assert isinstance(tokenizer, bpe.BPETokenizer)
    assert tokenizer.encode("the cat").tolist() == pretrained.tokenizer().encode("the cat").tolist()
    assert tokenizer.eos_id == 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_bytes(b"\xff"), "no UTF-8"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"eos_token": "<no>"}'), "'<no>' is no special token"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"chat_template": [3]}'), None),
        (lambda f: (f / "tokenizer_config.json").write_text('{"eos_token": 3}'), None),
        (lambda f: (f / "generation_config.json").write_text('{"eos_token_id": [{}]}'), None),
    ],
)
def test_a_tokenizer_that_is_none_is_refused(folder, damage, words):
    damage(folder)
    if words is None:  # what makes no sense in a file beside it is passed over
        assert HuggingFaceModel(folder).tokenizer().eos_id == 0
        return
    with pytest.raises(UserError, match=words):
        HuggingFaceModel(folder).tokenizer()


def test_a_missing_folder_is_said():
    with pytest.raises(UserError, match="there is no folder"):
        HuggingFaceModel(pretrained.GOLDEN / "no_such_model")
