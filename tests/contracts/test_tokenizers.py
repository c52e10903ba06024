"""What every tokenizer of the table promises, on arbitrary Unicode."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax import registry
from gptjax.data.tokenizer import CONFIG, TOKENIZERS, load_tokenizer
from gptjax.registry import Choice
from gptjax.types import UserError

CORPUS = ["The quick brown fox — naïve, 数学 and 🙂🙃 — jumps.\n" * 20, "def f(x):\n    return x ** 2\n" * 20]
OPTIONS = {"bpe": {"vocab_size": 400}}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def build(name, corpus=CORPUS):
    return registry.build(TOKENIZERS, Choice(name, OPTIONS.get(name, {})), lambda: iter(corpus), lambda: iter(corpus))


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def tokenizer(request, tmp_path_factory):
    if request.param != "saved":
        return build(request.param)
    folder = tmp_path_factory.mktemp("saved")
    build("bpe").save(folder)
    return registry.build(TOKENIZERS, Choice("saved", {"path": str(folder)}), lambda: iter(()), lambda: iter(()))


def encodable(tokenizer, text):
    """Every text, but for the char tokenizer, which knows its own characters only."""
    return text if tokenizer.kind != "char" else "".join(c for c in text if c in tokenizer.characters) + "fox 🙂"


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_every_text_comes_back_equal_to_the_byte(tokenizer, text):
    text = encodable(tokenizer, text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids).encode() == text.encode()


@settings(max_examples=100, deadline=None)
@given(text=TEXT)
def test_token_bytes_add_up_to_the_text(tokenizer, text):
    text = encodable(tokenizer, text)
    assert tokenizer.token_bytes()[tokenizer.encode(text)].sum() == len(text.encode())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_streaming_any_tokens_gives_what_decoding_them_gives(tokenizer, data):
    """Also of ids that are no whole characters, and never a part of one before it is complete."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


def test_a_character_is_shown_when_it_is_complete(tokenizer):
    stream, shown = tokenizer.stream(), ""
    for token in tokenizer.encode("🙂 fox 数"):
        shown += stream.push(int(token))
        assert "🙂 fox 数".startswith(shown)
    assert shown + stream.finish() == "🙂 fox 数"


def test_text_never_becomes_a_special_token(tokenizer):
    if tokenizer.eos_id is None:
        assert tokenizer.kind == "char"
        return
    text = "a<|endoftext|>b"
    ids = tokenizer.encode(text)
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_id]) == text
    assert tokenizer.token_bytes()[tokenizer.eos_id] == 0


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    text = "def fox(x): <|endoftext|> 🙂"
    text = encodable(tokenizer, text)
    np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))
    assert (loaded.fingerprint, loaded.vocab_size, loaded.eos_id) == (
        tokenizer.fingerprint,
        tokenizer.vocab_size,
        tokenizer.eos_id,
    )
    assert not [path for path in (tmp_path / "tokenizer").iterdir() if path.suffix != ".json"]


def test_the_same_texts_make_the_same_tokenizer(tokenizer):
    assert build(tokenizer.kind).fingerprint == tokenizer.fingerprint


def test_half_a_surrogate_pair_is_no_text(tokenizer):
    with pytest.raises(UserError):
        tokenizer.encode("a\ud83d")


def test_many_texts_are_encoded_as_one_by_one(tokenizer):
    texts = ["fox", "", "def f", "jumps.\n"]
    for ids, text in zip(tokenizer.encode_many(texts), texts, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))


@pytest.mark.parametrize("damage", ["missing", "empty", "no kind", "unknown kind"])
def test_a_damaged_tokenizer_is_named(tokenizer, tmp_path, damage):
    tokenizer.save(tmp_path)
    path = tmp_path / CONFIG
    if damage == "missing":
        path.unlink()
    else:
        path.write_text({"empty": "", "no kind": "{}", "unknown kind": json.dumps({"kind": "words"})}[damage])
    with pytest.raises(UserError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


@pytest.mark.skipif("GPTJAX_DATA" not in os.environ, reason="GPTJAX_DATA is not set: no real tokenizers at hand")
@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_published_tokenizers_load_and_round_trip(name):
    folder = Path(os.environ["GPTJAX_DATA"]) / "tokenizer" / name
    published = registry.build(TOKENIZERS, Choice("bpe", {"path": str(folder)}), lambda: (), lambda: ())
    text = "Hello world, naïve 🙂 <|endoftext|>!\n\n  def f(x):"
    ids = published.encode(text)
    assert published.decode(ids) == text
    assert published.token_bytes()[ids].sum() == len(text.encode())
    if name == "gpt2":
        assert published.vocab_size == 50257
        assert published.eos_id == 50256
        assert published.encode("Hello world").tolist() == [15496, 995]
