"""Tokenizers in GGUF files, compared with the same tokenizers from other files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

pytest.importorskip("gguf", reason="the extra `interop` is not installed")

from gptjax.data.bpe import read
from gptjax.data.chat import Chat
from gptjax.interop.gguf_tokenizer import tokenizer_of
from gptjax.types import UserError
from tests.unit.interop.gguf_files import BYTE_LEVEL, SCORED

LINE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def metadata(values, **changes):
    """Metadata as the reader gives it: numbers in arrays."""
    changed = {**values, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()}}
    changed = {key: value for key, value in changed.items() if value is not None}
    return {
        key: np.array(x) if isinstance(x, list) and x and not isinstance(x[0], str) else x for key, x in changed.items()
    }


def byte_level(pre, words, merges=(), **changes):
    """A tokenizer whose tokens are the letters of all bytes and some words."""
    tokens = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    kinds = [3] + [1] * (len(tokens) - 1)
    changes = {"pre": pre, "tokens": tokens, "token_type": kinds, "merges": list(merges), **changes}
    return tokenizer_of(metadata(BYTE_LEVEL, **changes), "model.gguf")


def pieces(tokenizer, text):
    return [tokenizer.pieces[i].decode() for i in tokenizer.encode(text)]


def test_special_tokens_and_the_template():
    tokenizer = tokenizer_of(metadata(BYTE_LEVEL), "model.gguf")
    assert (tokenizer.eos_id, tokenizer.bos_id) == (0, None)
    assert tokenizer.special_tokens == {"<|end|>": 0, "<|start|>": 1}
    assert tokenizer.chat_template == BYTE_LEVEL["tokenizer.chat_template"]
    assert tokenizer.encode("ab ab").tolist() == [10, 11]
    begun = tokenizer_of(metadata(BYTE_LEVEL, add_bos_token=True), "model.gguf")
    assert begun.bos_id == 1


def test_a_template_knows_the_beginning_that_prompts_do_not_get():
    values = {**BYTE_LEVEL, "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    tokenizer = tokenizer_of(metadata(values), "model.gguf")
    assert tokenizer.bos_id is None
    assert Chat(tokenizer).prompt([{"role": "user", "content": "a"}]) == [1, 2]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["a", "'d", " 123", "\n\n"]),
        ("smollm", ["a", "'d", " ", "1", "2", "3", "\n\n"]),
        ("llama-bpe", ["a", "'d", " ", "123", "\n\n"]),
        ("qwen2", ["a", "'d", " ", "1", "2", "3", "\n\n"]),
        (None, ["a", "'d", " 123", "\n\n"]),
    ],
)
def test_text_is_split_as_the_patterns_say(pre, expected):
    """With merges that would join everything within a part, and across."""
    merges = ["' d", "1 2", "12 3", "Ġ 123", "Ċ Ċ", "a 'd", "123 ĊĊ"]
    words = ["'d", "12", "123", "Ġ123", "ĊĊ", "a'd", "123ĊĊ"]
    assert pieces(byte_level(pre, words, merges), "a'd 123\n\n") == expected


def test_llama_3_takes_whole_words_before_merges():
    assert pieces(byte_level("llama-bpe", ["abc"]), "abc") == ["abc"]
    assert pieces(byte_level("gpt-2", ["abc"]), "abc") == ["a", "b", "c"]


def test_scores(tmp_path):
    tokenizer = tokenizer_of(metadata(SCORED), "model.gguf")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.prefix) == (1, 2, b" ")
    assert pieces(tokenizer, "ab a") == [" ", "ab", " a"]
    assert tokenizer.decode(tokenizer.encode("ab é a")) == "ab é a"
    no_prefix = tokenizer_of(metadata(SCORED, add_space_prefix=False, add_bos_token=False), "model.gguf")
    assert (no_prefix.bos_id, pieces(no_prefix, "ab a")) == (None, ["ab", " a"])


@pytest.mark.parametrize("values", [BYTE_LEVEL, SCORED], ids=["bytes", "scores"])
def test_user_defined_tokens_are_never_split_and_count_as_text(values):
    kinds = list(values["tokenizer.ggml.token_type"])
    kinds[values["tokenizer.ggml.tokens"].index("ab")] = 4
    tokenizer = tokenizer_of(metadata(values, token_type=kinds), "model.gguf")
    ids = tokenizer.encode("aab")
    assert "ab" not in tokenizer.special_tokens
    assert tokenizer.pieces[ids[-1]] == b"ab"
    assert tokenizer.decode(ids) == "aab"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "bert"}, "'bert', of which none can be read but gpt2 and llama"),
        ({"model": None}, r"does not say tokenizer\.ggml\.model"),
        ({"pre": "jina-v2"}, "'jina-v2'; valid: default, gpt-2"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "a token twice"),
        ({"token_type": [1]}, "12 tokens of 1 kinds"),
        ({"merges": ["a x"]}, "no byte-pair encoding"),
        ({"eos_token_id": 99}, "eos_token_id=99 of 12 tokens"),
        ({"tokens": 3}, "which is no list"),
    ],
)
def test_what_is_no_tokenizer(changes, words):
    with pytest.raises(UserError, match=f"model.gguf .*{words}"):
        tokenizer_of(metadata(BYTE_LEVEL, **changes), "model.gguf")


@pytest.fixture(scope="module")
def published():
    if "GPTJAX_DATA" not in os.environ:
        pytest.skip("GPTJAX_DATA is not set: no real tokenizers at hand")
    folder = Path(os.environ["GPTJAX_DATA"]) / "tokenizer" / "smollm2"
    special = json.loads((folder / "special-tokens.json").read_text())["special"]
    vocab = json.loads((folder / "vocab.json").read_text())
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = (folder / "merges.txt").read_text().split("\n")[1:-1]
    values = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3 if token in special else 1 for token in tokens],
        "merges": merges,
    }
    inside = tokenizer_of(metadata({}, **values), "model.gguf")
    # Digits one by one, then GPT-2's pattern: the files in the folder do not say it.
    library = Tokenizer.from_str(json.dumps(read(folder, tuple(special)).settings()["tokenizer"]))
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    library.encode_special_tokens = True
    return inside, library


@settings(max_examples=100, deadline=None)
@given(text=LINE)
def test_smollm2_is_what_it_is_in_its_own_files(published, text):
    inside, library = published
    assert inside.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids
