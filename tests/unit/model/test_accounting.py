"""Counts against published models and against XLA's own."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice

LLAMA = {"positions": Choice("rotary"), "norm": Choice("rmsnorm"), "mlp": Choice("swiglu"), "use_bias": False}
PUBLISHED = {
    "gpt2": (
        124_439_808,
        ModelConfig(vocab_size=50257, d_model=768, num_layers=12, num_heads=12, seq_len=1024),
    ),
    "smollm2_135m": (
        134_515_008,
        ModelConfig(vocab_size=49152, d_model=576, num_layers=30, num_heads=9, num_kv_heads=3, d_ff=1536, **LLAMA),
    ),
    "llama3_8b": (
        8_030_261_248,
        ModelConfig(
            vocab_size=128256,
            d_model=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=8,
            d_ff=14336,
            tie_embeddings=False,
            **LLAMA,
        ),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name):
    count, cfg = PUBLISHED[name]
    assert model.num_params(cfg) == count


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_pad_the_vocabulary_are_not_counted(tied):
    """They are in the table, which says what is stored: 28 columns of 16 in each of the embedding and its own head."""
    cfg = ModelConfig(vocab_size=100, d_model=16, num_layers=2, num_heads=2, tie_embeddings=tied, vocab_multiple=128)
    count = model.num_params(cfg)
    assert count == model.num_params(dataclasses.replace(cfg, vocab_multiple=1))
    assert sum(row.count for row in model.parameter_table(cfg)) == count + 28 * 16 * (1 if tied else 2)


def test_the_parameter_table_says_path_shape_and_names():
    cfg = ModelConfig(
        vocab_size=100,
        d_model=12,
        num_layers=3,
        num_heads=2,
        num_kv_heads=1,
        d_ff=20,
        seq_len=9,
        norm=Choice("rmsnorm"),
        mlp=Choice("swiglu"),
        tie_embeddings=False,
    )
    assert [tuple(row) for row in model.parameter_table(cfg)] == [
        ("blocks/attention/key/bias", (3, 1, 6), ("layers", "kv_heads", "head_dim"), 18),
        ("blocks/attention/key/kernel", (3, 12, 1, 6), ("layers", "embed", "kv_heads", "head_dim"), 216),
        ("blocks/attention/output/bias", (3, 12), ("layers", "embed"), 36),
        ("blocks/attention/output/kernel", (3, 2, 6, 12), ("layers", "q_heads", "head_dim", "embed"), 432),
        ("blocks/attention/query/bias", (3, 2, 6), ("layers", "q_heads", "head_dim"), 36),
        ("blocks/attention/query/kernel", (3, 12, 2, 6), ("layers", "embed", "q_heads", "head_dim"), 432),
        ("blocks/attention/value/bias", (3, 1, 6), ("layers", "kv_heads", "head_dim"), 18),
        ("blocks/attention/value/kernel", (3, 12, 1, 6), ("layers", "embed", "kv_heads", "head_dim"), 216),
        ("blocks/attention_norm/scale", (3, 12), ("layers", "embed"), 36),
        ("blocks/mlp/down/bias", (3, 12), ("layers", "embed"), 36),
        ("blocks/mlp/down/kernel", (3, 20, 12), ("layers", "ff", "embed"), 720),
        ("blocks/mlp/gate/bias", (3, 20), ("layers", "ff"), 60),
        ("blocks/mlp/gate/kernel", (3, 12, 20), ("layers", "embed", "ff"), 720),
        ("blocks/mlp/up/bias", (3, 20), ("layers", "ff"), 60),
        ("blocks/mlp/up/kernel", (3, 12, 20), ("layers", "embed", "ff"), 720),
        ("blocks/mlp_norm/scale", (3, 12), ("layers", "embed"), 36),
        ("final_norm/scale", (12,), ("embed",), 12),
        ("head/kernel", (12, 128), ("embed", "vocab"), 1536),
        ("positions/table/embedding", (9, 12), (None, "embed"), 108),
        ("tokens/embedding", (128, 12), ("vocab", "embed"), 1536),
    ]


@pytest.mark.parametrize(
    "changes", [{}, {"num_kv_heads": 2, "d_head": 32, "tie_embeddings": False, **LLAMA}], ids=["gpt2", "llama"]
)
def test_flops_are_those_of_xla(changes):
    """XLA also counts elementwise work, 1 % here; without the head we would be short by 7 %, without scores by 4 %.

    A length that is cut into no chunks, so that the whole square of scores is computed, as the convention counts it.
    """
    cfg = ModelConfig(
        **{"vocab_size": 512, "d_model": 256, "num_layers": 2, "num_heads": 4, "seq_len": 126} | changes,
        vocab_multiple=1,
        scan_layers=False,  # a loop's body is counted once
    )

    def loss(params, tokens_BT):
        return jnp.sum(jax.nn.log_softmax(model.apply(cfg, params, tokens_BT)[0])[..., 0])

    params = model.param_shapes(cfg)
    program = jax.jit(jax.value_and_grad(loss)).lower(params, jax.ShapeDtypeStruct((1, 126), jnp.int32))
    compiled = program.compile(compiler_options={"xla_backend_optimization_level": 0})
    ratio = compiled.cost_analysis()["flops"] / (126 * model.flops_per_token(cfg))
    assert 1 <= ratio < 1.02


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_flops_of_recurrent_blocks_are_those_of_xla(name):
    """One token, since the body of the loop over time is counted once; with its state, that no product is by zeros."""
    cfg = ModelConfig(
        vocab_size=512, d_model=256, num_layers=2, vocab_multiple=1, block=Choice(name, {"d_hidden": 128}),
        scan_layers=False,
    )  # fmt: skip

    def loss(params, cache, tokens_BT):
        positions_BT = jnp.ones_like(tokens_BT)
        logits_BTV, cache, _ = model.apply(cfg, params, tokens_BT, positions_BT=positions_BT, cache=cache)
        return jnp.sum(jax.nn.log_softmax(logits_BTV)[..., 0]) + jnp.sum(cache.states_NPBH)

    cache = jax.eval_shape(lambda: model.init_cache(cfg, 32, 1))
    inputs = model.param_shapes(cfg), cache, jax.ShapeDtypeStruct((32, 1), jnp.int32)
    program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*inputs)
    compiled = program.compile(compiler_options={"xla_backend_optimization_level": 0})
    ratio = compiled.cost_analysis()["flops"] / (32 * model.flops_per_token(cfg))
    assert 1 <= ratio < 1.02
    assert model.flops_per_token(cfg) == model.flops_per_token(cfg, 2048)


def test_flops_of_another_length_differ_by_attention_alone():
    """Scores and mixing: 2 products of T x C a head and layer, 6 flops each."""
    cfg = ModelConfig(vocab_size=512, d_model=64, num_layers=3, num_heads=4, seq_len=128)
    assert model.flops_per_token(cfg) == model.flops_per_token(cfg, 128)
    assert model.flops_per_token(cfg, 160) - model.flops_per_token(cfg) == 12 * 32 * 64 * 3
