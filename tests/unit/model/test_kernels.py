"""What attention promises beside the contract: queries that see nothing, scores in float32, work saved by chunks.

Shapes: B batch, T query position, S key position, H query heads, K key/value heads, C head channels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AbstractMesh, AxisType

from gptjax import sharding
from gptjax.model import kernels
from gptjax.model.config import ModelConfig
from gptjax.model.kernels import attend, in_chunks
from gptjax.model.visible import Visible
from gptjax.types import UserError


def test_a_query_that_sees_no_key_gets_the_mean_of_the_values():
    """And gradients that are finite, which a softmax over -inf alone has not."""
    q_BTHC, k_BSKC, v_BSKC = np.random.default_rng(0).standard_normal((3, 1, 4, 1, 2), np.float32)
    blind_BTS = jnp.zeros((1, 4, 4), bool)

    @jax.jit
    def run(*qkv):
        y_BTHC, vjp = jax.vjp(lambda *qkv: attend(*qkv, blind_BTS), *qkv)
        return y_BTHC, vjp(jnp.ones_like(y_BTHC))

    y_BTHC, grads = run(q_BTHC, k_BSKC, v_BSKC)
    np.testing.assert_allclose(y_BTHC, np.broadcast_to(v_BSKC.mean(1, keepdims=True), y_BTHC.shape), rtol=1e-6)
    assert all(np.all(np.isfinite(grad)) for grad in grads)


def test_scores_of_bfloat16_are_float32():
    """200 and 200.5 are one number in bfloat16; told apart, their weights are 1 / (1 + sqrt e) and the rest."""
    q_BTHC = np.array([2, 2, 0, 0], jnp.bfloat16).reshape(1, 1, 1, 4)  # halved by the scale
    k_BSKC = np.array([[128, 72, 0, 0], [128, 72.5, 0, 0]], jnp.bfloat16).reshape(1, 2, 1, 4)
    v_BSKC = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], jnp.bfloat16).reshape(1, 2, 1, 4)
    y_BTHC = jax.jit(attend)(q_BTHC, k_BSKC, v_BSKC, np.ones((1, 1, 2), bool))
    assert y_BTHC.dtype == jnp.bfloat16
    np.testing.assert_allclose(y_BTHC.astype(np.float32), 1 - 1 / (1 + np.exp(0.5)), rtol=2**-8)


def visibly(q_BTHC, k_BSKC, v_BSKC, visible):
    return attend(q_BTHC, k_BSKC, v_BSKC, visible.mask_BTS())


@pytest.mark.parametrize("T", [8, 9])
def test_chunks_of_queries_change_nothing(T):
    """9 cannot be cut into 4 chunks and stays whole."""
    q_BTHC, k_BSKC, v_BSKC = np.random.default_rng(0).standard_normal((3, 2, T, 2, 4), np.float32)
    whole_BTHC = attend(q_BTHC, k_BSKC, v_BSKC, np.tril(np.ones((1, T, T), bool)))
    chunks_BTHC = in_chunks(visibly, q_BTHC, k_BSKC, v_BSKC, Visible.whole(None, T, None))
    np.testing.assert_allclose(chunks_BTHC, whole_BTHC, rtol=1e-5, atol=1e-6)


def test_chunks_leave_out_three_eighths_of_the_scores():
    """Counted by the largest work there is: with wide heads, elementwise operations are few beside the products."""
    qkv = np.zeros((3, 1, 64, 1, 4096), np.float32)
    visible = Visible.whole(None, 64, None)

    def flops(num_chunks):
        lowered = jax.jit(lambda *qkv: in_chunks(visibly, *qkv, visible, num_chunks)).lower(*qkv)
        return lowered.compile().cost_analysis()["flops"]

    np.testing.assert_allclose(flops(4) / flops(1), 5 / 8, rtol=0.02)


# ---- which kernel runs

BASE = ModelConfig(vocab_size=256, d_model=256, num_heads=2, seq_len=256, dtype="bfloat16")


@pytest.mark.parametrize(
    ("platform", "changes", "length", "kernel", "why"),
    [
        ("cpu", {}, 256, "xla", "the fastest on cpu"),
        ("tpu", {}, 256, "splash", "the fastest on tpu"),
        ("tpu", {}, 200, "xla", "multiples of 128 positions a device, not 200"),
        ("cuda", {}, 256, "cudnn", "the fastest on cuda"),
        ("cuda", {"dtype": "float32"}, 256, "xla", "bfloat16, not float32"),
        ("cuda", {"d_head": 256}, 256, "xla", "up to 128 channels"),
        ("cuda", {}, 255, "xla", "an even number"),
        ("tpu", {"require_kernel": "xla"}, 256, "xla", "as required"),
        ("tpu", {"require_kernel": "splash"}, 256, "splash", "as required"),
    ],
)
def test_a_platform_has_its_kernel_where_that_fits(platform, changes, length, kernel, why):
    chosen, reason = kernels.choose(dataclasses.replace(BASE, **changes), platform, length)
    assert chosen == kernel
    assert why in reason


@pytest.mark.parametrize(("wanted", "platform", "length"), [("splash", "cpu", 256), ("splash", "tpu", 100)])
def test_a_fall_back_is_an_error_where_a_kernel_is_required(wanted, platform, length):
    with pytest.raises(UserError, match=f"require_kernel='{wanted}' cannot run on {platform}"):
        kernels.choose(dataclasses.replace(BASE, require_kernel=wanted), platform, length)


# ---- kernels of chips that are not here, lowered with their gradients


def lowered(platform, rules, window, monkeypatch, **axes):
    """Returns the text of attention and its gradient, lowered for a platform on a mesh of abstract devices."""
    sizes = {**dict.fromkeys(sharding.AXES, 1), **axes}
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    layout = sharding.Layout(mesh, rules)
    monkeypatch.setattr(sharding.Layout, "platform", platform)
    shapes = [jax.ShapeDtypeStruct((4, 512, heads, 128), jnp.bfloat16) for heads in (2, 1, 1)]
    ids = jax.ShapeDtypeStruct((4, 512), jnp.int32)

    def loss(q_BTHC, k_BTKC, v_BTKC, segment_ids_BT):
        with sharding.use(layout):
            length = kernels.positions_per_device(q_BTHC.shape[1])
            kernel = kernels.KERNELS[kernels.choose(BASE, platform, length)[0]]
            y_BTHC = kernels.mix(kernel, q_BTHC, k_BTKC, v_BTKC, segment_ids_BT, window, {})
        return jnp.sum(y_BTHC.astype(jnp.float32))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*shapes, ids)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("axes", [{}, {"fsdp": 2}, {"fsdp": 2, "context": 2}], ids=str)
def test_splash_attention_lowers_for_tpus(monkeypatch, axes, window):
    """Forward, and both halves of the gradient."""
    rules = "context" if "context" in axes else "fsdp"
    assert lowered("tpu", rules, window, monkeypatch, **axes).count("tpu_custom_call") >= 3


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2}, {"fsdp": 2, "context": 2}], ids=str)
def test_cudnn_attention_lowers_for_gpus(monkeypatch, axes):
    """Without the library: lowering asks it for its version alone."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    rules = "context" if "context" in axes else "fsdp"
    text = lowered("cuda", rules, None, monkeypatch, **axes)
    assert "fmha" in text
    assert "fmhaScaleBiasSoftmaxBackward" in text or "fmhaSoftmaxBackward" in text


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("num_kv_heads", [4, 1])
def test_cudnn_attention_and_its_gradient_are_those_of_plain_attention(segments, window, num_kv_heads):
    """Both in bfloat16, each compared with float32: cuDNN may err twice as much as plain attention at most."""
    rng, (B, T, H, C) = np.random.default_rng(0), (2, 256, 4, 64)
    q_BTHC, dy_BTHC = rng.standard_normal((2, B, T, H, C), np.float32)
    k_BTKC, v_BTKC = rng.standard_normal((2, B, T, num_kv_heads, C), np.float32)
    ids_BT = np.sort(rng.integers(1, 4, (B, T)), axis=1).astype(np.int32) if segments else None
    visible = Visible.whole(ids_BT, T, window)

    def run(kernel, dtype):
        def both(*qkv):
            y_BTHC, vjp = jax.vjp(lambda *qkv: kernel(*qkv, visible), *qkv)
            return y_BTHC, vjp(dy_BTHC.astype(y_BTHC.dtype))

        with jax.default_matmul_precision("highest"):
            found = jax.jit(both)(*(x.astype(dtype) for x in (q_BTHC, k_BTKC, v_BTKC)))
        return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(found)]

    def errors(found):
        return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, exact, strict=True)]

    exact = run(kernels.xla, jnp.float32)
    plain, flash = (errors(run(kernel, jnp.bfloat16)) for kernel in (kernels.xla, kernels.cudnn))
    assert max(plain) < 0.01
    assert all(ours <= 2 * other for ours, other in zip(flash, plain, strict=True)), (flash, plain)
