"""FLOPs of traced programs against what arithmetic says.

Shapes: T position, D model width, H heads, C head channels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gptjax.config import ExperimentConfig
from gptjax.model import kernels
from gptjax.model.gpt import BLOCKS
from gptjax.plan.compiler import _any_cudnn
from gptjax.plan.flops import count_flops
from gptjax.program import build_program
from gptjax.registry import Choice
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Setting

T, D = (
    30,
    16,
)  # a length that attention does not cut into chunks: it computes the whole square, as the model's FLOPs say


def program(remat="none", sequences=None, block="transformer"):
    cfg = ExperimentConfig()
    model = dataclasses.replace(
        cfg.model, vocab_size=128, d_model=D, num_layers=3, seq_len=T, remat=remat, block=Choice(block)
    )
    data = dataclasses.replace(cfg.data, batch_size=32)
    train = dataclasses.replace(cfg.train, max_sequences_per_device=sequences)
    return build_program(
        dataclasses.replace(cfg, model=model, data=data, train=train),
        model.resolve(),
        build_tasks(cfg.tasks, Setting("")),
    )


def flops(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize(("sequences", "block"), [(1, "transformer"), *((None, block) for block in BLOCKS)])
def test_a_step_without_remat_is_the_models_flops(sequences, block):
    """Whether in one batch or accumulated over four, whatever the blocks."""
    built = program(sequences=sequences, block=block)
    assert built.accumulation == (1 if sequences is None else 4)
    assert count_flops(built.trace_train_step().jaxpr.jaxpr) == built.flops_per_step


def test_full_remat_adds_what_the_backward_pass_needs_again():
    """Of a block, all products but the last: nothing reads the output of the feed-forward layer again."""
    built = program("full")
    again_per_token = 2 * 3 * (4 * D * D + 4 * D * D) + 3 * 4 * T * D
    expected = built.flops_per_step + again_per_token * built.tokens_per_step
    assert count_flops(built.trace_train_step().jaxpr.jaxpr) == expected


def test_loops_multiply_and_conditionals_take_the_dearer_branch():
    x = jnp.ones((4, 4))

    def looped(x):
        def body(x, _):
            return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x), None

        return jax.lax.scan(body, x, length=5)[0]

    assert flops(looped, x) == 5 * 2 * 2 * 4**3


def test_the_body_of_a_shard_map_counts_once_a_device():
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    product = jax.shard_map(lambda x, y: x @ y, mesh=mesh, in_specs=(P("a"), P()), out_specs=P("a"), check_vma=False)
    assert flops(product, jnp.ones((8, 16)), jnp.ones((16, 4))) == 2 * 2 * 8 * 16 * 4  # "b" does the same twice


def qkv(length, heads=2, channels=64):
    return np.ones((3, 1, length, heads, channels), jnp.bfloat16)


def test_splash_attention_counts_the_blocks_on_and_below_the_diagonal():
    """4 x 4 blocks of 512, of which 10 are seen; two products each."""
    length = 4 * kernels.BLOCK
    counted = flops(lambda q, k, v: kernels.splash(q, k, v, kernels.Visible.whole(None, length, None)), *qkv(length))
    assert counted == 2 * 2 * 2 * length * length * 64 * 10 // 16


@pytest.mark.parametrize(("segments", "share"), [(None, 2), (np.ones((1, 256), np.int32), 1)])
def test_cudnn_attention_computes_half_the_square_where_it_knows_the_mask(segments, share):
    """With packed documents the mask is an array to it: everything is computed. Backward it has five products."""

    def loss(q, k, v):
        return kernels.cudnn(q, k, v, kernels.Visible.whole(segments, 256, None)).astype(jnp.float32).sum()

    with _any_cudnn():
        counted = flops(jax.grad(loss, argnums=(0, 1, 2)), *qkv(256))
    assert counted == (2 + 5) * 2 * 2 * 256 * 256 * 64 // share
