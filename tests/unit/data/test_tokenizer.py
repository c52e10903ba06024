"""What is particular to each kind of tokenizer."""

import hashlib
import json
import logging

import numpy as np
import pytest
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from gptjax.data.bpe import BPETokenizer, read, train
from gptjax.data.tokenizer import ByteTokenizer, CharTokenizer, char
from gptjax.types import UserError

CORPUS = ["low lower lowest new newer newest wide wider widest\n" * 30]
SPECIAL = ("<|endoftext|>",)


@pytest.fixture(scope="module")
def trained():
    return train(iter(CORPUS), 300, SPECIAL)


def test_bytes_are_their_own_ids():
    np.testing.assert_array_equal(ByteTokenizer().encode("aé"), [97, 0xC3, 0xA9])
    assert (ByteTokenizer.vocab_size, ByteTokenizer.eos_id) == (257, 256)


def test_invalid_bytes_are_decoded_with_a_replacement():
    assert ByteTokenizer().decode([97, 0xC3, 98, 256]) == "a\ufffdb"


def test_characters_are_those_of_all_texts_in_order():
    tokenizer = char(lambda: iter(["ba"]), lambda: iter(["ba", "c🙂"]))
    assert tokenizer.characters == "abc🙂"
    np.testing.assert_array_equal(tokenizer.encode("c🙂ab"), [2, 3, 0, 1])
    np.testing.assert_array_equal(tokenizer.token_bytes(), [1, 1, 1, 4])


def test_an_unknown_character_is_named_with_the_cure():
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) is not among the tokenizer's 2; .* byte or bpe"):
        CharTokenizer("ab").encode("abé")


def test_no_characters_at_all():
    assert len(CharTokenizer("").encode("")) == 0
    with pytest.raises(UserError, match="U\\+0061"):
        CharTokenizer("").encode("a")


def test_merges_are_learned(trained):
    assert trained.vocab_size <= 300
    assert len(trained.encode(CORPUS[0])) < len(CORPUS[0]) / 3
    assert trained.eos_id == 0


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
    with pytest.raises(UserError, match=r"vocab_size=256 .* less than 257"):
        train(iter(CORPUS), 256, SPECIAL)


def test_a_text_with_fewer_tokens_than_asked_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, logger="gptjax"):
        assert train(iter(["ab"]), 1000, SPECIAL).vocab_size < 1000
    assert "1000 asked for" in caplog.text


def library_files(tokenizer, folder, names):
    """Writes a byte-level tokenizer as GPT-2's two files."""
    model = tokenizer.settings()["tokenizer"]["model"]
    (folder / names[0]).write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / names[1]).write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_two_files_in_the_manner_of_gpt2(trained, tmp_path, names):
    library_files(trained, tmp_path, names)
    tokenizer = read(tmp_path, SPECIAL)
    text = "the newest lowest <|endoftext|> 🙂"
    np.testing.assert_array_equal(tokenizer.encode(text), trained.encode(text))
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (trained.eos_id, trained.vocab_size)
    np.testing.assert_array_equal(tokenizer.token_bytes(), trained.token_bytes())


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_tokenizer_json(trained, tmp_path, as_folder):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(trained.settings()["tokenizer"]))
    tokenizer = read(tmp_path if as_folder else path, ())
    assert tokenizer.fingerprint == trained.fingerprint


def test_a_tokenizer_that_is_not_byte_level(tmp_path):
    """Spaces as marks, in the manner of Llama: the length of a token depends on its place, so it is not said."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {"<unk>": 0, "</s>": 1, "▁a": 2, "▁b": 3, "b": 4}
    library = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["</s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = read(tmp_path, ())
    assert (tokenizer.token_bytes(), tokenizer.eos_id) == (None, 1)
    ids = tokenizer.encode("a b a")
    assert tokenizer.decode(ids) == "a b a"
    stream = tokenizer.stream()
    assert "".join([stream.push(int(i)) for i in ids]) + stream.finish() == "a b a"


def test_paths_that_hold_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "none", SPECIAL)
    with pytest.raises(UserError, match=r"holds no tokenizer; .*tokenizer\.json, encoder\.json and vocab\.bpe"):
        read(tmp_path, SPECIAL)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json is no tokenizer"):
        read(tmp_path, SPECIAL)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(UserError, match=r"no byte-pair encoding"):
        read(tmp_path, SPECIAL)


def test_what_is_said_of_special_tokens(trained):
    """Fingerprints of tokenizers that say nothing are what they were before anything could be said."""
    library = trained.settings()["tokenizer"]
    silent = BPETokenizer.from_settings({"tokenizer": library})
    assert silent.settings().keys() == {"tokenizer"}
    document = json.dumps({"kind": "bpe", "tokenizer": library}, ensure_ascii=False, sort_keys=True)
    assert silent.fingerprint == hashlib.sha256(document.encode()).hexdigest()
    assert (silent.eos_id, silent.bos_id, silent.chat_template) == (0, None, None)

    said = {"eos": "<|endoftext|>", "bos": "<|endoftext|>", "chat_template": "{{ messages }}"}
    speaking = BPETokenizer.from_settings({"tokenizer": library, **said})
    assert (speaking.eos_id, speaking.bos_id, speaking.chat_template) == (0, 0, "{{ messages }}")
    assert speaking.settings() == {"tokenizer": library, **said}
    assert speaking.fingerprint != silent.fingerprint


def test_a_special_token_that_is_none(trained):
    library = tokenizers.Tokenizer.from_str(json.dumps(trained.settings()["tokenizer"]))
    with pytest.raises(UserError, match=r"eos='</s>' is no special token; valid: <\|endoftext\|>"):
        BPETokenizer(library, eos="</s>")


def test_several_ends_of_a_text_one_of_which_is_its_own():
    """What a model's files call its end of a text comes before what is usual."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    library.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    assert BPETokenizer(library).eos_id == 1
    assert BPETokenizer(library, eos="<|im_end|>").eos_id == 2


PREFIXES = {
    "prepended": (normalizers.Prepend("_"), None),
    "prepended, and marked": (normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")]), None),
    "metaspace": (None, pre_tokenizers.Metaspace("_", prepend_scheme="always")),
    "byte-level": (None, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)),
    "nothing": (None, None),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_what_goes_on_gets_nothing_in_front(name):
    letters = ["a", "_", "Ġ", "_a", "Ġa"]
    model = tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, [("_", "a"), ("Ġ", "a")])
    library = tokenizers.Tokenizer(model)
    normalizer, pre_tokenizer = PREFIXES[name]
    if normalizer is not None:
        library.normalizer = normalizer
    if pre_tokenizer is not None:
        library.pre_tokenizer = pre_tokenizer
    tokenizer = BPETokenizer(library)
    assert (tokenizer.encode("a").tolist() == [0]) is (name == "nothing")
    assert tokenizer.encode("a", continued=True).tolist() == [0]


def test_fillers_of_a_vocabulary_are_text():
    """A byte-level token with a letter that stands for no byte is what the library decodes it to."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE({"Ġa": 0, "<dummy 7>": 1}, []))
    library.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = BPETokenizer(library)
    assert tokenizer.decode([0, 1]) == library.decode([0, 1]) == " a<dummy 7>"
