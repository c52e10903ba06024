"""Decoding with a cache: what may not matter (cache, chunks, other rows, meshes) and what ends a text."""

import warnings
from functools import partial
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.data.tokenizer import ByteTokenizer, CharTokenizer
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.sample import generate as module
from gptjax.sample.config import SampleConfig
from gptjax.sample.generate import Text, context_start, decode, generate, prefill, sample_text, stream_text
from gptjax.sample.logits import Rules
from gptjax.sharding import Layout, MeshConfig, make_mesh, shardings

GREEDY = SampleConfig(temperature=0.0, max_tokens=20)
RANDOM = SampleConfig(max_tokens=20)
PROMPTS = [[5, 3, 8], [1], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4]]
VARIANTS = {
    "learned": {},
    "rotary_grouped": {"positions": Choice("rotary"), "num_kv_heads": 2},
    "none_window": {"positions": Choice("none"), "attention": Choice("causal", {"window": 4})},
    "sinusoidal_padded_untied": {"positions": Choice("sinusoidal"), "vocab_multiple": 64, "tie_embeddings": False},
}


def build(**options):
    """Returns a config and random parameters, large enough that a token depends on all that came before it."""
    cfg = ModelConfig(**{"vocab_size": 40, "d_model": 16, "num_layers": 2, "num_heads": 4, "seq_len": 48, **options})
    return cfg, jax.tree.map(lambda x: 6 * x, model.init_params(cfg, jax.random.key(1)))


def tokens_of(cfg, params, prompts, sample_cfg, seed=0, **options):
    """Returns every row's new tokens."""
    chunks = list(generate(cfg, params, prompts, sample_cfg, seed, **options))
    return [list(chain.from_iterable(row)) for row in zip(*chunks, strict=True)]


@partial(jax.jit, static_argnames="cfg")
def full_forward(cfg, params, tokens_BT):
    return model.apply(cfg, params, tokens_BT)[0]


def likeliest(cfg, params, context):
    """Returns the token that a whole forward pass without a cache puts first after the context."""
    padded_BT = np.zeros((1, cfg.seq_len), np.int32)
    padded_BT[0, : len(context)] = context
    return int(jnp.argmax(full_forward(cfg, params, padded_BT)[0, len(context) - 1]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "rotary_grouped")) for name in VARIANTS]
)
def test_greedy_with_a_cache_is_greedy_without(name):
    """Token for token, for prompts of unequal length in one batch."""
    cfg, params = build(**VARIANTS[name])
    rows = tokens_of(cfg, params, PROMPTS, GREEDY)
    for prompt, new in zip(PROMPTS, rows, strict=True):
        tokens = list(prompt)
        for _ in range(GREEDY.max_tokens):
            tokens.append(likeliest(cfg, params, tokens))
        assert new == tokens[len(prompt) :]
    assert len(set(map(tuple, rows))) == len(rows), "the prompts make no difference: the test shows nothing"


@pytest.mark.parametrize("chunk", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 50))])
def test_the_chunk_makes_no_difference(chunk):
    """Beyond the end of a context, too: 90 tokens are almost two of them."""
    cfg, params = build()
    long = SampleConfig(max_tokens=90, repetition_penalty=1.1)
    rows = tokens_of(cfg, params, PROMPTS, long)
    assert tokens_of(cfg, params, PROMPTS, long, chunk=chunk) == rows
    assert [len(row) for row in rows] == [90] * 3


def test_the_other_rows_make_no_difference():
    """A row is itself alone, beside others and beside longer ones that pad it; its number is part of its randomness."""
    cfg, params = build()
    rows = tokens_of(cfg, params, PROMPTS, RANDOM)
    assert tokens_of(cfg, params, PROMPTS[:1], RANDOM) == rows[:1]
    assert tokens_of(cfg, params, [PROMPTS[0], [9] * 40, [3]], RANDOM)[0] == rows[0]
    first, second = tokens_of(cfg, params, [PROMPTS[0]] * 2, RANDOM)
    assert first != second


def test_seeds():
    cfg, params = build()
    assert tokens_of(cfg, params, PROMPTS, RANDOM, seed=7) == tokens_of(cfg, params, PROMPTS, RANDOM, seed=7)
    assert tokens_of(cfg, params, PROMPTS, RANDOM, seed=7) != tokens_of(cfg, params, PROMPTS, RANDOM, seed=8)
    assert tokens_of(cfg, params, PROMPTS, GREEDY, seed=7) == tokens_of(cfg, params, PROMPTS, GREEDY, seed=8)


def test_a_text_can_be_continued_where_it_ended():
    """The place in the sequence, not the number of the draw, picks the random key."""
    cfg, params = build()
    (whole,) = tokens_of(cfg, params, PROMPTS[:1], RANDOM)
    (rest,) = tokens_of(cfg, params, [PROMPTS[0] + whole[:9]], SampleConfig(max_tokens=11))
    assert rest == whole[9:]


def test_a_context_moves_by_half_when_it_is_full():
    assert [context_start(n, 8) for n in (1, 8, 9, 12, 13, 16, 17)] == [0, 0, 4, 4, 8, 8, 12]
    assert [n - context_start(n, 1) for n in (1, 2, 3)] == [1, 1, 1]
    assert all(1 <= n - context_start(n, 7) <= 7 for n in range(1, 60))


def test_beyond_its_context_a_text_goes_on_from_the_latest_half():
    cfg, params = build()
    (new,) = tokens_of(cfg, params, [[1, 2, 3]], SampleConfig(temperature=0.0, max_tokens=90))
    tokens = [1, 2, 3, *new]
    for n in (47, 48, 49, 50, 72, 73, 90):
        assert tokens[n] == likeliest(cfg, params, tokens[context_start(n, 48) : n])


@pytest.mark.slow
def test_a_state_goes_on_beyond_the_context():
    """A recurrent model enters each token once, however long the prompt and the text, and forgets none."""
    cfg, params = build(block=Choice("lstm"))
    prompts = [[1, 2, 3], list(np.random.default_rng(0).integers(0, 40, 60))]
    before = prefill._cache_size()
    rows = tokens_of(cfg, params, prompts, SampleConfig(temperature=0.0, max_tokens=90))
    assert prefill._cache_size() == before + 1
    for prompt, new in zip(prompts, rows, strict=True):
        tokens_BT = np.zeros((1, 160), np.int32)
        tokens_BT[0, : len(prompt) + 90] = [*prompt, *new]
        logits_TV = full_forward(cfg, params, tokens_BT)[0]
        assert new == np.argmax(logits_TV[len(prompt) - 1 : len(prompt) + 89], axis=-1).tolist()
    assert rows[0][-20:] != rows[1][-20:]


def test_randomness_does_not_repeat_when_the_context_moves():
    """Of a model without preferences the tokens are the randomness alone."""
    cfg, params = build()
    flat = jax.tree.map(jnp.zeros_like, params)
    (tokens,) = tokens_of(cfg, flat, [[1]], SampleConfig(max_tokens=90))
    assert tokens[24:48] != tokens[48:72]
    assert len(set(tokens)) > 20


def test_a_prompt_longer_than_the_context_counts_with_its_end():
    cfg, params = build()
    prompt = list(np.random.default_rng(0).integers(0, 40, 60))
    (new,) = tokens_of(cfg, params, [prompt], GREEDY)
    assert new[0] == likeliest(cfg, params, prompt[context_start(60, 48) :])


def test_eos_ends_its_row_alone_and_is_the_last_token():
    cfg, params = build()
    free = tokens_of(cfg, params, PROMPTS, GREEDY)
    eos_id = free[0][5]
    ended = tokens_of(cfg, params, PROMPTS, GREEDY, eos_id=eos_id)
    assert ended == [row[: row.index(eos_id) + 1] if eos_id in row else row for row in free]
    assert len(ended[0]) <= 6


def test_one_of_several_tokens_ends_a_row():
    cfg, params = build()
    free = tokens_of(cfg, params, PROMPTS[:1], GREEDY)[0]
    later, sooner = free[9], free[4]
    first = min(free.index(later), free.index(sooner))
    assert tokens_of(cfg, params, PROMPTS[:1], GREEDY, eos_id=[later, sooner]) == [free[: first + 1]]
    assert tokens_of(cfg, params, PROMPTS[:1], GREEDY, eos_id=[]) == [free]


def test_decoding_ends_with_the_last_row():
    cfg, params = build()
    (row,) = tokens_of(cfg, params, PROMPTS[:1], GREEDY)
    chunks = list(generate(cfg, params, PROMPTS[:1], GREEDY, 0, eos_id=row[0], chunk=4))
    assert chunks == [[[row[0]]]]


def test_the_cache_is_donated():
    cfg, params = build()
    state = prefill(cfg, params, np.ones((1, 48), np.int32), np.array([3], np.int32), length=48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # jax warns where a donated array could not be used
        keys_B, start_B = jax.random.split(jax.random.key(0), 1), np.zeros(1, np.int32)
        after, _ = decode(cfg, params, state, Rules.of(GREEDY, 40), keys_B, start_B, chunk=3)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_prompts_and_rules_share_programs():
    cfg, params = build()
    tokens_of(cfg, params, [[1]], RANDOM)
    compiled = prefill._cache_size(), decode._cache_size()
    for prompt in ([1, 2, 3], [4] * 30):
        tokens_of(cfg, params, [prompt], SampleConfig(max_tokens=40, temperature=0.5, repetition_penalty=1.2))
    assert (prefill._cache_size(), decode._cache_size()) == compiled


@pytest.mark.slow
def test_parameters_on_a_mesh_give_the_same_tokens():
    cfg, params = build()
    layout = Layout(make_mesh(MeshConfig(fsdp=4, tensor=2)), "fsdp_tp")
    sharded = jax.device_put(params, shardings(layout, model.logical_axes(cfg), params))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokens_of(cfg, sharded, PROMPTS, RANDOM) == tokens_of(cfg, params, PROMPTS, RANDOM)


# ---- text


LETTERS = CharTokenizer(" ,.0123456789abcdefghijklmnopqrstuvwxyz")  # one less than the model has ids


def pieces_of(text, stop=(), size=1):
    """Shows a text that comes in tokens of one byte, `size` at a time."""
    ids = ByteTokenizer().encode(text).tolist()
    shown = Text(ByteTokenizer(), stop)
    return [shown.push(ids[at : at + size]) for at in range(0, len(ids), size)] + [shown.push([])]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", (), "one two three"),
        ("one two three", ("two",), "one "),
        ("one two three", ("tree", "wo t"), "one t"),
        ("aaab", ("aab",), "a"),
        ("abcd", ("abcd", "bc"), "a"),  # bc is complete first
        ("abc", ("bc", "abc"), ""),  # both are complete at once: the longer one began first
        ("ends with a hal", ("half",), "ends with a hal"),
        ("für 1 € 🙂.", ("🙂",), "für 1 € "),
        ("two", ("two",), ""),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text, stop, expected, size):
    pieces = pieces_of(text, stop, size)
    assert "".join(pieces) == expected


def test_nothing_is_shown_that_is_cut_or_changed_later():
    assert pieces_of("a<b<end>", ("<end>",)) == ["a", "", "<b", "", "", "", "", "", ""]
    assert pieces_of("x€y") == ["x", "", "", "€", "y", ""]
    assert pieces_of("no", ("nope",)) == ["", "", "no"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    text = Text(ByteTokenizer(), ())
    assert [text.push([97, 0xE2]), text.push([0x82]), text.push([])] == ["a", "", "�"]


def test_text_of_several_prompts_and_stop_strings_in_the_model():
    cfg, params = build()
    prompts = ["def f", "", "longer than the others"]
    free = sample_text(cfg, params, LETTERS, prompts, RANDOM, 3)
    assert len(set(free)) == 3
    stop = free[0][4:7]
    stopped = sample_text(cfg, params, LETTERS, prompts, SampleConfig(max_tokens=20, stop=(stop,)), 3)
    assert stopped[0] == free[0][: free[0].index(stop)]
    streams = [list(stream_text(cfg, params, LETTERS, prompts, RANDOM, 3, chunk=chunk)) for chunk in (1, 6)]
    assert len(streams[0]) > len(streams[1])
    for pieces in streams:
        assert ["".join(row) for row in zip(*pieces, strict=True)] == free


def test_decoding_ends_when_every_text_has_met_its_stop_string(monkeypatch):
    """No chunk is computed after that."""
    cfg, params = build()
    calls = []
    monkeypatch.setattr(module, "decode", lambda *args, **kwargs: calls.append(1) or decode(*args, **kwargs))
    (free,) = sample_text(cfg, params, LETTERS, ["ab"], SampleConfig(max_tokens=40), 0)
    assert len(calls) == 3
    sample_text(cfg, params, LETTERS, ["ab"], SampleConfig(max_tokens=40, stop=(free[0],)), 0)
    assert len(calls) == 4


@pytest.mark.parametrize(("eos_id", "first"), [(None, 0), (7, 7)])
def test_an_empty_prompt_starts_from_the_end_of_a_document(monkeypatch, eos_id, first):
    cfg, params = build()
    monkeypatch.setattr(LETTERS, "eos_id", eos_id)
    (text,) = sample_text(cfg, params, LETTERS, [""], GREEDY, 0)
    (new,) = tokens_of(cfg, params, [[first]], GREEDY, eos_id=eos_id, vocab_size=LETTERS.vocab_size)
    assert text == LETTERS.decode(new)


def test_prompts_begin_with_the_token_that_texts_begin_with(monkeypatch):
    cfg, params = build()
    monkeypatch.setattr(LETTERS, "bos_id", 5)
    for prompt in ("", "ab"):
        (text,) = sample_text(cfg, params, LETTERS, [prompt], GREEDY, 0)
        ids = [5, *LETTERS.encode(prompt)]
        (new,) = tokens_of(cfg, params, [ids], GREEDY, eos_id=LETTERS.eos_id, vocab_size=LETTERS.vocab_size)
        assert text == LETTERS.decode(new)


def test_only_the_tokenizers_ids_are_drawn():
    cfg, params = build()
    (new,) = tokens_of(cfg, params, [[1]], SampleConfig(temperature=9.0, max_tokens=90), vocab_size=3)
    assert set(new) == {0, 1, 2}
