"""A config made into the parts of a run: how they are wired, on a corpus that is written down here.

Shapes: B batch, T position, V vocabulary.
"""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import evaluation, experiment, model
from gptjax.config import ExperimentConfig
from gptjax.data.shards import Shard, TokenStream
from gptjax.data.sources import Corpus
from gptjax.data.tokenizer import ByteTokenizer
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Setting
from gptjax.types import UserError

# Without biases and a loop, there is less to compile.
SMALL = {"num_layers": 1, "num_heads": 2, "d_model": 16, "seq_len": 8, "vocab_multiple": 1}
BASE = {"model": {**SMALL, "use_bias": False, "scan_layers": False}, "data": {"batch_size": 16, "num_threads": 0}}
UNREAD: dict[str, TokenStream] = {}


def config(**groups):
    """The small config, with changes by group."""
    cfg = ExperimentConfig()
    for name in {*BASE, *groups}:
        changes = {**BASE.get(name, {}), **groups.get(name, {})}
        cfg = dataclasses.replace(cfg, **{name: dataclasses.replace(getattr(cfg, name), **changes)})
    return cfg


def stream(num_tokens, seed):
    ids = np.random.default_rng(seed).integers(0, 256, num_tokens)
    return TokenStream("text", [[Shard(ids, np.array([num_tokens]))]])


def corpus(streams=None, fingerprint="abc"):
    streams = {"train": stream(1000, 0), "valid": stream(100, 1)} if streams is None else streams
    return Corpus(ByteTokenizer(), fingerprint, [], ["text"], [1.0], streams)


@functools.cache
def built():
    """With dropout, so that what draws it and what must not are told apart."""
    return experiment.build(config(model={"dropout": 0.5}), corpus())


@functools.cache
def compiled():
    lowered = experiment.build(config(model={"dropout": 0.5}), corpus(UNREAD)).lower_train_step()
    return lowered, lowered.compile({"xla_backend_optimization_level": 0})


@functools.cache
def params():
    """Drawn outside jax, to compile nothing; on the mesh."""
    random = np.random.default_rng(2)

    def draw(leaf):
        return jax.device_put(0.5 * random.standard_normal(leaf.shape, np.float32), leaf.sharding)

    return jax.tree.map(draw, built().abstract.params)


# ---- the vocabulary


def test_the_vocabulary_is_the_tokenizers_or_a_larger_one():
    tokenizer = ByteTokenizer()
    sizes = [experiment.sized(ModelConfig(vocab_size=size), tokenizer).vocab_size for size in (None, 257, 300)]
    assert sizes == [tokenizer.vocab_size, 257, 300] == [257, 257, 300]
    assert experiment.sized(ModelConfig(), tokenizer).d_ff == 4 * ModelConfig().d_model  # every dim is written out


def test_a_vocabulary_that_is_too_small_is_refused():
    """Its last tokens would be looked up as others, in silence."""
    with pytest.raises(UserError, match=r"model\.vocab_size=256 is less than the tokenizer's 257; raise it"):
        experiment.build(config(model={"vocab_size": 256}), corpus(UNREAD))


# ---- the plan


@pytest.mark.parametrize(
    ("mesh", "limit", "expected"),
    [({}, None, 1), ({}, 1, 2), ({"tensor": 2}, 1, 4), ({"fsdp": 1, "tensor": 8}, 3, 8), ({"rules": "dp"}, 1, 2)],
)
def test_accumulation_follows_the_mesh_and_what_a_device_holds(mesh, limit, expected):
    """16 sequences, over the parts that the mesh cuts a batch into."""
    found = experiment.build(config(mesh=mesh, train={"max_sequences_per_device": limit}), corpus(UNREAD))
    assert found.accumulation == expected


def test_the_summary_names_parameters_text_mesh_batch_and_length():
    cfg = config(
        mesh={"fsdp": 4, "tensor": 2, "rules": "fsdp_tp"},
        model={"vocab_size": 258},
        train={"max_sequences_per_device": 2},
        optim={"num_steps": 3000},
    )
    found = experiment.build(cfg, corpus())
    lines = dict(line.split(maxsplit=1) for line in experiment.summary(found))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(found.abstract.params))
    assert lines["model"] == f"{num_params:,} parameters, vocabulary 258"
    assert lines["data"] == "1,000 training and 100 validation tokens; an epoch is 124 sequences"
    assert lines["mesh"] == "fsdp 4 x tensor 2 (cpu), rules fsdp_tp"
    assert lines["kernel"] == "xla for attention (the fastest on cpu)"
    assert lines["batch"] == "16 sequences of 8 tokens: 2 x 2 a device"
    assert lines["run"].startswith(f"3,000 steps, {3000 * 16 * 8:,} tokens, ")


def test_the_summary_of_a_recurrent_model_says_what_it_ignores():
    """The small config has half of the default's heads."""
    cfg = config(model={"block": Choice("gru"), "attention": Choice("causal", {"window": 3}), "num_heads": 4})
    assert "block     gru, without attention; it ignores model.attention" in summary(cfg)
    cfg = config(model={"block": Choice("gru"), "d_ff": 9})
    assert "block     gru, without attention; it ignores model.num_heads, model.d_ff" in summary(cfg)
    assert "block     lstm, without attention" in summary(config(model={"block": Choice("lstm"), "num_heads": 4}))


def summary(cfg):
    return experiment.summary(experiment.build(cfg, corpus()))


# ---- who it is


def identity(fingerprint="abc", **groups):
    cfg, setting = config(**groups), Setting("", ByteTokenizer(), corpus(UNREAD, fingerprint))
    return dataclasses.replace(built(), cfg=cfg, tasks=build_tasks(cfg.tasks, setting)).identity


def test_the_text_is_known_by_its_content_and_not_by_its_place():
    """Nor does the way of execution count: a run moves to another machine, mesh or memory."""
    elsewhere = {"data": {"path": "elsewhere.txt"}, "mesh": {"tensor": 2}, "model": {"remat": "full"}}
    assert identity(**elsewhere) == identity()
    other = identity("def")
    assert {name for name in other if other[name] != identity()[name]} == {"data.fingerprint"}


def test_an_identity_is_the_same_after_it_was_saved():
    """JSON has no tuples: a run whose options hold some would refuse its own checkpoint."""
    source = Choice("mixture", {"paths": ("a.txt", "b.txt"), "weights": (1.0, 2.0)})
    found = identity(data={"source": source})
    assert found["data.source.weights"] == [1.0, 2.0]
    assert json.loads(json.dumps(found)) == found


# ---- the step


def test_the_step_is_compiled_from_shapes_and_gives_its_state_back_as_it_came():
    """The corpus has no tokens to read. The state is donated, the batch is not, and nothing is laid out anew."""
    lowered, step = compiled()
    state, batch = lowered.args_info[0]
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves(batch))
    (state_in, _), (state_out, metrics_out) = step.input_shardings[0], step.output_shardings
    for leaf, before, after in zip(*map(jax.tree.leaves, (built().abstract, state_in, state_out)), strict=True):
        assert before.is_equivalent_to(leaf.sharding, leaf.ndim)
        assert after.is_equivalent_to(leaf.sharding, leaf.ndim)
    assert all(where.is_fully_replicated for where in jax.tree.leaves(metrics_out))


@functools.cache
def dry_model():
    """Maps tokens_BT to log-probabilities, without dropout, on one device."""
    cfg = dataclasses.replace(built().model, dropout=0.0)
    weights = jax.device_get(params())
    return jax.jit(
        lambda tokens_BT: jax.nn.log_softmax(model.apply(cfg, weights, tokens_BT)[0]),
        compiler_options={"xla_backend_optimization_level": 0},
    )


def dry_nll_BT(tokens_BT, targets_BT):
    """What each target costs."""
    logprobs_BTV = np.asarray(dry_model()(np.asarray(tokens_BT)), np.float64)
    return -np.take_along_axis(logprobs_BTV, np.asarray(targets_BT)[..., None], -1)[..., 0]


def test_the_compiled_step_takes_the_batches_of_the_pipeline_and_drops():
    """The batch whose shapes it was compiled for is the batch that comes; the seed's dropout is in its loss."""
    batch = next(built().train_batches(cursor=0))
    dry = dry_nll_BT(batch.tokens_BT, batch.targets_BT).mean()
    state = jax.tree.map(
        lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), built().abstract
    )
    state, metrics = compiled()[1](state._replace(params=jax.tree.map(jnp.copy, params())), batch)
    assert int(state.step) == 1
    assert float(metrics["loss"][1]) == built().tokens_per_step == 128
    assert float(metrics["loss"][0]) / 128 == pytest.approx(dry, rel=0.5)
    assert float(metrics["loss"][0]) / 128 != pytest.approx(dry, rel=1e-3)


def test_the_seed_decides_the_order_of_the_data():
    def tokens_BT(seed):
        seeded = dataclasses.replace(built(), cfg=dataclasses.replace(built().cfg, seed=seed))
        return np.asarray(next(seeded.train_batches(cursor=0)).tokens_BT)

    assert np.array_equal(tokens_BT(0), tokens_BT(0))
    assert not np.array_equal(tokens_BT(0), tokens_BT(1))


# ---- evaluation


@pytest.mark.parametrize(("batch_size", "num_windows", "counted"), [(None, None, 99), (8, None, 99), (8, 3, 24)])
def test_evaluation_is_the_mean_over_the_split_whatever_the_batch(batch_size, num_windows, counted):
    """Over all of it, or over its first windows; padding does not count, and nothing is dropped."""
    tokens = np.pad(corpus().split("valid").tokens(0, 100), (0, 29))
    expected = dry_nll_BT(tokens[:-1].reshape(16, 8), tokens[1:].reshape(16, 8)).ravel()[:counted].mean()
    cfg, shapes = config(evaluation={"batch_size": batch_size, "num_windows": num_windows}), []

    def eval_step(params, batch):
        shapes.append(batch.tokens_BT.shape)
        return built().eval_steps["lm"](params, batch)

    scored = dataclasses.replace(built(), cfg=cfg, eval_steps={"lm": eval_step})
    means = evaluation.numbers(evaluation.score_all(scored, params()))
    assert means == pytest.approx({"loss": expected, "bits_per_byte": expected / math.log(2)}, rel=1e-5)
    assert set(shapes) == {(batch_size or 16, 8)}
