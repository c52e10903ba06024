"""Merges by score, compared with the plain algorithm on arbitrary texts and vocabularies."""

import itertools
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.data.bpe import BPETokenizer
from gptjax.data.scored_bpe import SPACE, scored_bpe
from gptjax.data.tokenizer import load_tokenizer
from gptjax.types import UserError

BYTES = [f"<0x{i:02X}>" for i in range(256)]


def greedy(text, tokens, scores, prefix=" "):
    """llama2.c's algorithm: of all neighbours that are a token together, join those with the best score, leftmost."""
    ids = {token: i for i, token in enumerate(tokens)}
    found = []
    for character in (prefix if text else "") + text:
        found += [ids[character]] if character in ids else [ids[BYTES[byte]] for byte in character.encode()]
    while True:
        joined = [ids.get(tokens[a] + tokens[b]) for a, b in itertools.pairwise(found)]
        best = max((i for i in joined if i is not None), key=lambda i: scores[i], default=None)
        if best is None:
            return found
        at = joined.index(best)
        found[at : at + 2] = [best]


def vocabulary(seed, letters, size):
    """A vocabulary that grew by merges, with scores in another order."""
    pick = random.Random(seed)
    words = [" ", *letters]
    for _ in range(size):
        word = pick.choice(words) + pick.choice(words)
        if word not in words and len(word) < 9:
            words.append(word)
    scores = [-float(i) for i in range(len(words))]
    pick.shuffle(scores)
    return ["<unk>", *BYTES, *words], [0.0] * 257 + scores


@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32), size=st.integers(0, 20))
def test_it_is_the_plain_algorithm(data, seed, size):
    tokens, scores = vocabulary(seed, "abc", size)
    library = scored_bpe(tokens, scores, special=["<unk>"], unknown="<unk>", space=" ")
    text = data.draw(st.text(st.sampled_from("aaabbc é"), max_size=40))
    assert BPETokenizer(library).encode(text).tolist() == greedy(text, tokens, scores)


@pytest.fixture(scope="module")
def published():
    """The tokens and scores of a published file."""
    if "GPTJAX_DATA" not in os.environ:
        pytest.skip("GPTJAX_DATA is not set: no real tokenizer at hand")
    data = (Path(os.environ["GPTJAX_DATA"]) / "model" / "stories260K" / "tok512.bin").read_bytes()
    tokens, scores, offset = [], [], 4
    while offset < len(data):
        score, length = struct.unpack_from("<fi", data, offset)
        tokens.append(data[offset + 8 : offset + 8 + length].decode())
        scores.append(score)
        offset += 8 + length
    return tokens, scores, BPETokenizer(scored_bpe(tokens, scores, special=tokens[:3], space=" "))


STORY = st.text(st.sampled_from("etaoinshrdlu  .,TIO\n'é▁<s>"), max_size=60)


@settings(max_examples=150, deadline=None)
@given(text=STORY | st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_it_is_the_plain_algorithm_with_a_published_vocabulary(published, text):
    tokens, scores, tokenizer = published
    ids = tokenizer.encode(text)
    assert ids.tolist() == greedy(text, tokens, scores)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode()) + bool(text)  # the space in front


@pytest.fixture(scope="module", params=[" ", SPACE], ids=["plain", "marked"])
def small(request):
    words = [request.param, "a", "b", f"{request.param}a", "ab"]
    tokens = ["<unk>", "<s>", *BYTES, *words]
    library = scored_bpe(tokens, [0.0] * 258 + [-5, -4, -3, -2, -1], special=tokens[:2], space=request.param)
    return BPETokenizer(library, bos="<s>")


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 262), max_size=20), continued=st.booleans())
def test_streaming_gives_what_decoding_gives(small, ids, continued):
    stream = small.stream(continued=continued)
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.finish() == small.decode(ids, continued=continued)


def test_a_text_begins_with_a_space_that_is_not_shown(small):
    ids = small.encode("a ab")
    assert [small.pieces[i] for i in ids] == [b" a", b" ", b"ab"]
    assert (small.prefix, small.decode(ids), small.decode(ids, continued=True)) == (b" ", "a ab", " a ab")
    assert small.decode([small.bos_id, *ids]) == "a ab"
    assert [small.pieces[i] for i in small.encode("a ab", continued=True)] == [b"a", b" ", b"ab"]
    assert small.encode("").tolist() == []


def test_saved_and_loaded_it_is_the_same(small, tmp_path):
    small.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.fingerprint, loaded.bos_id, loaded.prefix) == (small.fingerprint, 1, b" ")
    assert loaded.encode("ab é").tolist() == small.encode("ab é").tolist()
    assert loaded.encode("ab", continued=True).tolist() == small.encode("ab", continued=True).tolist()


def test_special_tokens_are_never_made_of_text():
    tokens = ["<unk>", "<s>", *BYTES, "<", "s", ">", "<s"]
    tokenizer = BPETokenizer(scored_bpe(tokens, [0.0] * len(tokens), special=tokens[:2], space=" "))
    assert 1 not in tokenizer.encode("<s>")
    assert tokenizer.decode(tokenizer.encode("<s>")) == "<s>"


def test_a_token_that_stands_twice():
    with pytest.raises(UserError, match="tokens 0 and 2 are both 'a'"):
        scored_bpe(["a", "b", "a"], [0.0] * 3, special=())
