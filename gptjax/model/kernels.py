"""The implementations of causal attention, which of them runs where, and how each lies on the mesh.

Owns nothing but the mixing of values: projections, positions and caches are attention's. A kernel sees the queries of
one device, whose places in their row may be any, and all the keys of the row in order.

Shapes: B batch, T query position, S key position, H query heads, K key/value heads, G = H / K queries per key/value
head, C head channels.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from gptjax import sharding, zigzag
from gptjax.model.config import ModelConfig
from gptjax.model.visible import Visible
from gptjax.types import Array, UserError

BLOCK = 512  # positions in a tile of the TPU kernel


# ---- plain XLA


def attend(
    q_BTHC: Array,
    k_BSKC: Array,
    v_BSKC: Array,
    mask_BTS: Array,
    bias_BHTS: Array | None = None,
    sink_H: Array | None = None,
    soft_cap: float | None = None,
) -> Array:
    """Softmax attention, scores and weights in float32; H is a multiple of K. Returns y_BTHC in the dtype of v.

    Scores are bounded by `soft_cap` x tanh(score / `soft_cap`), and then biased. A sink is the score of one more key,
    which has no value. A query that sees no key at all gets the mean of the values rather than NaN.
    """
    T = q_BTHC.shape[1]
    scores_BKMS = _scores(q_BTHC, k_BSKC, mask_BTS, bias_BHTS, soft_cap)
    if sink_H is None:
        weights_BKMS = jax.nn.softmax(scores_BKMS, axis=-1)
    else:
        B, K, M, S = scores_BKMS.shape
        sink_KM = jnp.repeat(sink_H.reshape(K, -1), T, axis=1).astype(scores_BKMS.dtype)
        sink_BKM1 = jnp.broadcast_to(sink_KM[..., None], (B, K, M, 1))
        weights_BKMS = jax.nn.softmax(jnp.concatenate([scores_BKMS, sink_BKM1], axis=-1), axis=-1)[..., :S]
    y_BKMC = jnp.einsum("BKMS,BKSC->BKMC", weights_BKMS.astype(v_BSKC.dtype), v_BSKC.swapaxes(1, 2))
    return _heads_last(y_BKMC, T)


def _scores(q_BTHC, k_BSKC, mask_BTS, bias_BHTS=None, soft_cap=None):
    """Returns the masked scores, in float32 or wider; M counts the queries of a group, G x T."""
    B, T, H, C = q_BTHC.shape
    K = k_BSKC.shape[2]
    G = H // K
    # Heads before positions, and the queries of a group in one matrix: plain batched products, which CPUs need.
    q_BKMC = (q_BTHC * C**-0.5).reshape(B, T, K, G, C).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, C)
    dtype = jnp.promote_types(q_BTHC.dtype, jnp.float32)
    scores_BKMS = jnp.einsum("BKMC,BKSC->BKMS", q_BKMC, k_BSKC.swapaxes(1, 2), preferred_element_type=dtype)
    if soft_cap is not None:
        scores_BKMS = soft_cap * jnp.tanh(scores_BKMS / soft_cap)
    # Added, not selected: the gradient then passes the mask by.
    bias_BKGTS = jnp.where(mask_BTS, 0, jnp.finfo(dtype).min / 2).astype(dtype)[:, None, None]
    if bias_BHTS is not None:
        bias_BKGTS = bias_BKGTS + bias_BHTS.reshape(-1, K, G, *bias_BHTS.shape[2:])
    return (scores_BKMS.reshape(B, K, G, T, -1) + bias_BKGTS).reshape(scores_BKMS.shape)


def _heads_last(y_BKMC, T):
    B, K, M, C = y_BKMC.shape
    return y_BKMC.reshape(B, K, M // T, T, C).transpose(0, 3, 1, 2, 4).reshape(B, T, K * M // T, C)


def in_chunks(
    mix: Callable, q_BTHC: Array, k_BSKC: Array, v_BSKC: Array, visible: Visible, num_chunks: int = 4
) -> Array:
    """Mixes the queries in equal chunks, each with the keys up to its end; keys are the queries' own tokens, in order.

    So scores that a causal mask hides from a whole chunk are never computed: 3/8 of all, with 4 chunks. Where T cannot
    be cut it is one chunk, with the same result.
    """
    T = q_BTHC.shape[1]
    if T % num_chunks:
        return mix(q_BTHC, k_BSKC, v_BSKC, visible)
    size = T // num_chunks
    ends = range(size, T + 1, size)
    return jnp.concatenate(
        [mix(q_BTHC[:, e - size : e], k_BSKC[:, :e], v_BSKC[:, :e], visible.cut(e - size, e)) for e in ends], axis=1
    )


def in_blocks(q_BTHC: Array, k_BSKC: Array, v_BSKC: Array, visible: Visible, size: int) -> Array:
    """Mixes neighbouring queries with the keys block by block, and leaves out the blocks that none of them sees.

    The softmax is carried along as a running maximum and sum (Milakov and Gimelshein 2018, arXiv 1805.02867), and the
    scores of a block are computed again for its gradient.
    """
    T, S = q_BTHC.shape[1], k_BSKC.shape[1]
    first, last = visible.places[0], visible.places[-1]

    def mix(carry, start):
        greatest_BKM, sum_BKM, y_BKMC = carry
        k_BsKC, v_BsKC = (jax.lax.dynamic_slice_in_dim(x, start, size, 1) for x in (k_BSKC, v_BSKC))
        scores_BKMs = _scores(q_BTHC, k_BsKC, visible.mask_BTS(start, size))
        new_BKM = jnp.maximum(greatest_BKM, jnp.max(scores_BKMs, axis=-1))
        weights_BKMs = jnp.exp(scores_BKMs - new_BKM[..., None])
        shrink_BKM = jnp.exp(greatest_BKM - new_BKM)
        mixed_BKMC = jnp.einsum(
            "BKMS,BKSC->BKMC",
            weights_BKMs.astype(v_BsKC.dtype),
            v_BsKC.swapaxes(1, 2),
            preferred_element_type=y_BKMC.dtype,
        )
        return (
            new_BKM,
            sum_BKM * shrink_BKM + jnp.sum(weights_BKMs, axis=-1),
            y_BKMC * shrink_BKM[..., None] + mixed_BKMC,
        )

    @jax.checkpoint
    def step(carry, start):
        seen = start <= last
        if visible.window is not None:
            seen &= start + size > first - visible.window + 1
        return jax.lax.cond(seen, mix, lambda carry, start: carry, carry, start), None

    B, _, H, C = q_BTHC.shape
    K = k_BSKC.shape[2]
    dtype = jnp.promote_types(q_BTHC.dtype, jnp.float32)
    none_BKM = jnp.full((B, K, H // K * T), jnp.finfo(dtype).min, dtype)
    start = (none_BKM, jnp.zeros_like(none_BKM), jnp.zeros((*none_BKM.shape, C), dtype))
    (_, sum_BKM, y_BKMC), _ = jax.lax.scan(step, start, jnp.arange(0, S, size))
    return _heads_last((y_BKMC / sum_BKM[..., None]).astype(v_BSKC.dtype), T)


def xla(q_BTHC: Array, k_BSKC: Array, v_BSKC: Array, visible: Visible) -> Array:
    """Runs anywhere: chunks of queries where they are in order, else each half of them with blocks of keys."""
    if visible.in_order:
        return in_chunks(lambda q, k, v, seen: attend(q, k, v, seen.mask_BTS()), q_BTHC, k_BSKC, v_BSKC, visible)
    T, halves = q_BTHC.shape[1], []
    for part in (slice(0, T // 2), slice(T // 2, T)):
        segments_BT = None if visible.query_segments_BT is None else visible.query_segments_BT[:, part]
        seen = visible._replace(places=visible.places[part], query_segments_BT=segments_BT)
        halves.append(in_blocks(q_BTHC[:, part], k_BSKC, v_BSKC, seen, T // 2))
    return jnp.concatenate(halves, axis=1)


# ---- kernels of chips


def splash(q_BTHC: Array, k_BSKC: Array, v_BSKC: Array, visible: Visible) -> Array:
    """Flash attention for TPUs that skips the blocks which a mask hides (jax's Pallas splash attention)."""
    (_, T, H, C), S = q_BTHC.shape, k_BSKC.shape[1]
    kernel = _splash_kernel(H, T, S, visible.window)
    if T != S:  # the masks of all devices lie side by side: take one's own
        kernel = jax.tree.map(lambda x: _own_part(x, visible.shard, S // T), kernel)
    segments = None
    if visible.query_segments_BT is not None:
        segments = splash_attention_kernel.SegmentIds(visible.query_segments_BT, visible.key_segments_BS)
    q_BHTC, k_BKSC, v_BKSC = (q_BTHC * C**-0.5).swapaxes(1, 2), k_BSKC.swapaxes(1, 2), v_BSKC.swapaxes(1, 2)
    return jax.vmap(kernel)(q_BHTC, k_BKSC, v_BKSC, segments).swapaxes(1, 2)


def _own_part(x, shard, num_shards):
    dim = 1 if x.ndim > 1 else 0
    size = x.shape[dim] // num_shards
    return jax.lax.dynamic_slice_in_dim(x, shard * size, size, dim)


def _splash_kernel(num_heads: int, T: int, S: int, window: int | None):
    mask = splash_attention_mask.LocalMask((S, S), (S if window is None else window - 1, 0), offset=0)
    mask.q_sequence = zigzag.order(S, S // T)
    sizes = dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), _block(T))
    keys = ("block_kv", "block_kv_compute", "block_kv_dkv", "block_kv_dkv_compute", "block_kv_dq")
    sizes |= dict.fromkeys(keys, _block(S))
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * num_heads),
        block_sizes=splash_attention_kernel.BlockSizes(**sizes),
        head_shards=1,
        q_seq_shards=S // T,
    )


def _block(length: int) -> int:
    return max(size for size in range(128, BLOCK + 1, 128) if length % size == 0)


def cudnn(q_BTHC: Array, k_BSKC: Array, v_BSKC: Array, visible: Visible) -> Array:
    """Flash attention of NVIDIA's cuDNN, by way of jax."""
    attention = functools.partial(jax.nn.dot_product_attention, q_BTHC, k_BSKC, v_BSKC, implementation="cudnn")
    if visible.in_order and visible.query_segments_BT is None:
        window = None if visible.window is None else (visible.window - 1, 0)
        return attention(is_causal=True, local_window_size=window)
    return attention(mask=visible.mask_BTS()[:, None])


# ---- which of them runs

KERNELS: Mapping[str, Callable] = {
    "xla": xla,
    "splash": splash,
    "cudnn": cudnn,
}
FASTEST = {"tpu": "splash", "cuda": "cudnn"}
"""The kernel that a platform has for itself; all others, and whatever does not fit it, take plain XLA."""


def choose(cfg: ModelConfig, platform: str, length: int, obstacle: str | None = None) -> tuple[str, str]:
    """Returns the kernel for `length` positions a device on a platform, and the reason in words.

    An obstacle says why plain XLA alone will do. Raises UserError where `require_kernel` names another.
    """
    cfg = cfg.resolve()
    name, wanted = FASTEST.get(platform, "xla"), cfg.require_kernel
    if obstacle is None:
        obstacle = _misfit(cfg, name, length)
    chosen = "xla" if obstacle or wanted == "xla" else name
    if wanted not in (None, chosen):
        why = obstacle or f"there is {' or '.join(sorted({name, 'xla'}))}"
        raise UserError(f"model.require_kernel={wanted!r} cannot run on {platform}: {why}; None takes what can")
    return chosen, obstacle or ("as required" if wanted else f"the fastest on {platform}")


def _misfit(cfg: ModelConfig, name: str, length: int) -> str | None:
    """Returns why a kernel does not take the model's shapes; None where it does."""
    assert cfg.d_head is not None
    if name == "splash" and length % 128:
        return f"splash takes multiples of 128 positions a device, not {length}"
    if name == "cudnn" and cfg.dtype != "bfloat16":
        return f"cudnn takes bfloat16, not {cfg.dtype}"
    if name == "cudnn" and (cfg.d_head % 8 or cfg.d_head > 128):
        return f"cudnn takes up to 128 channels a head, in multiples of 8, not {cfg.d_head}"
    if name == "cudnn" and length % 2:
        return f"cudnn takes an even number of positions a device, not {length}"
    return None


def mix(
    kernel: Callable,
    q_BTHC: Array,
    k_BTKC: Array,
    v_BTKC: Array,
    segment_ids_BT: Array | None,
    window: int | None,
    by_head: Mapping[str, Array],
) -> Array:
    """Returns each query's mixture of the values that it sees, on whatever mesh is in use; y_BTHC in the dtype of v.

    The kernel takes q_BTHC, k_BSKC, v_BSKC, which keys are visible, and by name what else each head has, its first dim
    the heads. Where the rows are split over devices, these hold their positions in zig-zag order, and gather all keys
    and values.
    """
    layout = sharding.in_use()
    axes = () if layout is None else layout.axes("act_seq")
    parts = 1 if layout is None else layout.parts("act_seq")

    def local(q_BTHC, k_BTKC, v_BTKC, segment_ids_BT, by_head):
        T = q_BTHC.shape[1]
        if parts == 1:
            return kernel(q_BTHC, k_BTKC, v_BTKC, Visible.whole(segment_ids_BT, T, window), **by_head)
        k_BSKC, v_BSKC, segment_ids_BS = jax.tree.map(
            lambda x: zigzag.gathered(jax.lax.all_gather(x, axes, axis=1, tiled=True), parts),
            (k_BTKC, v_BTKC, segment_ids_BT),
        )
        segments = segment_ids_BT, segment_ids_BS
        visible = Visible.part(segments, jax.lax.axis_index(axes), parts * T, parts, window)
        return kernel(q_BTHC, k_BSKC, v_BSKC, visible, **by_head)

    arguments = (q_BTHC, k_BTKC, v_BTKC, segment_ids_BT, dict(by_head))
    if layout is None or layout.is_manual or (kernel not in (splash, cudnn) and parts == 1):
        return local(*arguments)
    queries, keys = (layout.spec(("act_batch", "act_seq", heads, None)) for heads in ("act_q_heads", "act_kv_heads"))
    ids, heads = layout.spec(("act_batch", "act_seq")), layout.spec(("act_q_heads",))
    return jax.shard_map(
        local, mesh=layout.mesh, in_specs=(queries, keys, keys, ids, heads), out_specs=queries, check_vma=False
    )(*arguments)


def positions_per_device(length: int) -> int:
    """Returns how many of a row's positions a device holds; by hand, `length` is its part already."""
    layout = sharding.in_use()
    return length if layout is None or layout.is_manual else length // layout.parts("act_seq")
