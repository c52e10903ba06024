"""Beam search: what it finds, what its scores are, and what may not matter (chunks, other rows, meshes)."""

import itertools
import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.sample.beam import Rules, beam_search, extend, search, start
from gptjax.sample.config import SampleConfig
from gptjax.sharding import Layout, MeshConfig, make_mesh, shardings

PROMPTS = [[2, 1, 0], [1], [2, 0, 1, 1, 2, 0, 2, 2]]
OTHERS = [[9, 9, 9, 9, 9, 9], [30, 2], [4]]
SHAPE = {"vocab_size": 40, "d_model": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "seq_len": 48}
SHAPES = {
    "transformer": SHAPE | {"positions": Choice("rotary")},
    "lstm": SHAPE | {"block": Choice("lstm"), "seq_len": 16},
    "gru": SHAPE | {"block": Choice("gru"), "seq_len": 16},
}
BLOCKS = ["transformer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lstm", "gru"))]
EOS = {"transformer": 17, "lstm": 32, "gru": 24}
"""A token that ends some texts of each model early and others not."""


@cache
def build(block="transformer"):
    """Returns a config and random parameters, large enough that a token depends on all that came before it."""
    cfg = ModelConfig(**SHAPES[block])
    return cfg, jax.tree.map(lambda x: 4 * x, model.init_params(cfg, jax.random.key(1)))


def rules(num_beams=6, max_tokens=12, length_penalty=1.0):
    """All tests but one search with six beams, since they then share a compiled program."""
    return SampleConfig(num_beams=num_beams, max_tokens=max_tokens, length_penalty=length_penalty)


def find(block, prompts, sample_cfg, **options):
    return beam_search(*build(block), prompts, sample_cfg, **options)


def tokens(found):
    return [[text.tokens for text in texts] for texts in found]


@jax.jit
def _transformer(tokens_BT):
    return model.apply(*build("transformer"), tokens_BT)[0]


@jax.jit
def _lstm(tokens_BT):
    return model.apply(*build("lstm"), tokens_BT)[0]


@jax.jit
def _gru(tokens_BT):
    return model.apply(*build("gru"), tokens_BT)[0]


def logs_TV(block, prompt, text, vocab_size=40):
    """Returns the log-probabilities of every token of a text, and of the one after it, by one whole forward pass."""
    tokens_1T = np.zeros((1, 48), np.int32)
    tokens_1T[0, : len(prompt) + len(text)] = [*prompt, *text]
    forward = {"transformer": _transformer, "lstm": _lstm, "gru": _gru}[block]
    logits_TV = forward(tokens_1T)[0, len(prompt) - 1 :][: len(text) + 1, :vocab_size]
    return np.asarray(jax.nn.log_softmax(logits_TV))


def log_of(block, prompt, text, vocab_size=40):
    """Returns the log-probability of a text after its prompt."""
    return float(logs_TV(block, prompt, text, vocab_size)[np.arange(len(text)), text].sum())


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS[:1])
def test_one_beam_is_greedy(block):
    """Each token is the likeliest after those before it, and the first that ends a text is its last."""
    for eos_id in (None, EOS[block]):
        for prompt, (text,) in zip(PROMPTS, find(block, PROMPTS, rules(1), eos_id=eos_id), strict=True):
            assert text.tokens == np.argmax(logs_TV(block, prompt, text.tokens)[:-1], axis=-1).tolist()
            assert len(text.tokens) == 12 or text.tokens[-1] == eos_id
            assert eos_id not in text.tokens[:-1]


@pytest.mark.parametrize("block", BLOCKS)
def test_wide_enough_beams_find_the_best_of_all_texts(block):
    """Of three ids, one of which ends a text: every text of at most three tokens is scored by a whole forward pass.

    Before the last token no more than four texts go on, of six candidates, and three have ended: all that there are.
    """
    texts = [
        (*head, last)
        for length in (1, 2, 3)
        for head in itertools.product((1, 2), repeat=length - 1)
        for last in ((0,) if length < 3 else (0, 1, 2))
    ]
    firsts = set()
    for penalty in (0.0, 1.0, -0.7, 4.0):
        found = find(block, PROMPTS, rules(6, 3, penalty), eos_id=0, vocab_size=3)
        for prompt, beams in zip(PROMPTS, found, strict=True):
            logs = {text: log_of(block, prompt, text, vocab_size=3) for text in texts}
            assert sum(np.exp(log) for log in logs.values()) == pytest.approx(1)
            best = sorted(texts, key=lambda text: -logs[text] / len(text) ** penalty)[:6]
            assert [tuple(text.tokens) for text in beams] == best
            np.testing.assert_allclose([text.log_probability for text in beams], [logs[t] for t in best], atol=1e-4)
            firsts.add(best[0])
    assert len({len(first) for first in firsts}) > 1, "short and long texts never compete: the test shows nothing"


@pytest.mark.parametrize("block", BLOCKS)
def test_scores_are_those_of_the_texts(block):
    penalty = 0.7
    found = find(block, PROMPTS, rules(length_penalty=penalty), eos_id=EOS[block])
    lengths = {len(text.tokens) for texts in found for text in texts}
    assert min(lengths) < 12, "no text ends early: the test shows less than it could"
    for prompt, texts in zip(PROMPTS, found, strict=True):
        assert len({tuple(text.tokens) for text in texts}) == 6
        assert [text.score for text in texts] == sorted((text.score for text in texts), reverse=True)
        for new, log, score in texts:
            assert log == pytest.approx(log_of(block, prompt, new), abs=1e-3)
            assert score == pytest.approx(log / len(new) ** penalty)
            assert EOS[block] not in new[:-1]
            assert len(new) == 12 or new[-1] == EOS[block]


def reference(prompt, num_beams, max_tokens, penalty, eos_id):
    """Searches by whole forward passes and plain lists: the rules of gptjax/sample/beam.py, once more."""
    live, finished = [(0.0, ())], []
    for length in range(1, max_tokens + 1):
        grown = []
        for log, text in live:
            logs_V = logs_TV("transformer", prompt, text)[-1]
            grown += [(log + logs_V[token], (*text, token)) for token in range(40)]
        grown.sort(reverse=True)
        ends = [text[-1] == eos_id or length == max_tokens for _, text in grown]
        finished += [
            (log / length**penalty, text) for (log, text), end in zip(grown[:num_beams], ends, strict=False) if end
        ]
        finished = sorted(finished, reverse=True)[:num_beams]
        live = [each for each, end in zip(grown, ends, strict=True) if not end][:num_beams]
        if not live or (len(finished) == num_beams and live[0][0] / length**penalty <= finished[-1][0]):
            break
    return [list(text) for _, text in finished]


def test_few_beams_keep_and_drop_by_the_rules():
    for penalty, eos_id in itertools.product((0.2, 1.5), (17, 16)):
        found = find("transformer", PROMPTS, rules(6, 9, penalty), eos_id=eos_id)
        assert tokens(found) == [reference(prompt, 6, 9, penalty, eos_id) for prompt in PROMPTS]


def test_more_beams_find_likelier_texts_than_one():
    found = find("transformer", PROMPTS, rules())
    greedy = find("transformer", PROMPTS, rules(1))
    assert all(many[0].score >= one[0].score for many, one in zip(found, greedy, strict=True))
    assert any(many[0].score > one[0].score + 0.01 for many, one in zip(found, greedy, strict=True))


def test_neither_chunks_nor_other_rows_nor_when_they_end_make_a_difference():
    found = find("transformer", PROMPTS, rules(), eos_id=EOS["transformer"])
    for chunk in (1, 5):
        assert find("transformer", PROMPTS, rules(), eos_id=EOS["transformer"], chunk=chunk) == found
    for place in range(3):
        rows = [*OTHERS[:place], PROMPTS[place], *OTHERS[place + 1 :]]
        assert tokens(find("transformer", rows, rules(), eos_id=EOS["transformer"]))[place] == tokens(found)[place]


def test_a_text_ends_where_its_context_is_full():
    """Beside a row with room; and of a prompt beyond the context the end counts."""
    long = list(range(38)) + PROMPTS[2]
    found = find("transformer", [long, [1], [5] * 24 + long], rules())
    assert [len(texts[0].tokens) for texts in found] == [3, 12, 3]
    *first, last = found[0][0].tokens
    log = log_of("transformer", long, first) + logs_TV("transformer", long, first)[-1][last]
    assert found[0][0].log_probability == pytest.approx(log, abs=1e-3)
    assert tokens(found[2:]) == tokens(found[:1])


@pytest.mark.slow
def test_a_state_goes_on_beyond_the_context():
    (best, *_), *_ = find("lstm", [PROMPTS[2], PROMPTS[2] * 3, [1]], rules(max_tokens=20))
    assert len(best.tokens) == 20
    assert best.log_probability == pytest.approx(log_of("lstm", PROMPTS[2], best.tokens), abs=1e-3)


def test_only_the_tokenizers_ids_are_found():
    found = find("transformer", PROMPTS, rules(), vocab_size=3)
    assert {token for texts in found for text in texts for token in text.tokens} <= {0, 1, 2}


def test_equal_candidates_stand_in_order():
    """So nothing depends on how they are sorted."""
    parent_BC, token_BC, log_BC = extend(jnp.zeros((2, 5)), jnp.zeros((1, 2)), 5)
    assert list(zip(parent_BC[0].tolist(), token_BC[0].tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    np.testing.assert_allclose(log_BC, -np.log(5), rtol=1e-6)


@pytest.mark.slow
def test_a_broken_model_finds_nothing():
    """Rather than a text, or no end."""
    cfg, params = build()
    broken = jax.tree.map(lambda x: x * jnp.nan, params)
    assert beam_search(cfg, broken, PROMPTS, rules()) == [[], [], []]


def test_the_cache_is_donated():
    cfg, params = build()
    state = start(cfg, params, np.ones((3, 48), np.int32), np.full(3, 3, np.int32), num_beams=6, length=48, room=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # jax warns where a donated array could not be used
        after = search(cfg, params, state, Rules(np.full(3, 8, np.int32), 1.0, -1, 40), 2)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert after.beams.length_BW.tolist() == [[2] * 6] * 3


@pytest.mark.slow
def test_parameters_on_a_mesh_give_the_same_texts():
    cfg, params = build()
    layout = Layout(make_mesh(MeshConfig(fsdp=4, tensor=2)), "fsdp_tp")
    sharded = jax.device_put(params, shardings(layout, model.logical_axes(cfg), params))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = beam_search(cfg, sharded, PROMPTS, rules(), eos_id=EOS["transformer"])
    assert tokens(found) == tokens(find("transformer", PROMPTS, rules(), eos_id=EOS["transformer"]))
