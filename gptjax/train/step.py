"""One training step: a pure function from state and batch to state and metrics.

Shapes: B batch, T position, A micro-batches.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gptjax.optim.masks import leaves_of, put, take
from gptjax.optim.optimizer import skips
from gptjax.sharding import Layout
from gptjax.train.loss import on_mesh
from gptjax.train.state import TrainState
from gptjax.types import Array, Batch, Metrics, Params


def make_train_step(
    loss_fn: Callable,
    tx: optax.GradientTransformationExtraArgs,
    schedule: optax.Schedule,
    layout: Layout,
    names: Params,
    trained: Params,
    accumulation: Callable[[int], int],
) -> Callable:
    """Builds (state, batch) -> (state, metrics).

    Loss and gradients are sums over tokens, divided once by the global token count, so that cutting the batch into
    micro-batches, as many as `accumulation` says for its size, changes nothing but rounding. `metrics` are (sum, count)
    pairs of this step alone, and single numbers with the count 1. `names` are the logical names of the parameters'
    dims. Gradients are taken of the part `trained` (its shapes) alone, and what is frozen is handed on untouched.
    """

    def differentiate(params: Params, batch: Batch, step: Array, part: Array) -> tuple[Params, Metrics]:
        def loss(leaves: Params) -> tuple[Array, Metrics]:
            return loss_fn(put(params, leaves), batch, step, part)

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(leaves_of(params, trained))
        return take(grads, trained), metrics

    sums = on_mesh(differentiate, layout, names, (leaves_of(names, trained), ()))

    def accumulated(params: Params, batch: Batch, step: Array, count: int) -> tuple[Params, Metrics]:
        # Row r goes to micro-batch r % A: every device keeps its own rows.
        parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, part):
            number, micro_batch = part
            return jax.tree.map(jnp.add, total, sums(params, micro_batch, step, number)), None

        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(sums, params, first, step, 0))
        return jax.lax.scan(add, zeros, (jnp.arange(count), parts))[0]

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        num_parts = accumulation(batch.tokens_BT.shape[0])
        if num_parts == 1:
            grads, metrics = sums(state.params, batch, state.step, 0)
        else:
            grads, metrics = accumulated(state.params, batch, state.step, num_parts)
        loss_sum, count = metrics["loss"]
        grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1), grads)

        def gradient_at(params: Params) -> Params:
            """For rules that differentiate once more: of the first micro-batch, as a mean over its tokens."""
            first = jax.tree.map(lambda x: x[::num_parts], batch)
            grads, metrics = sums(put(state.params, params), first, state.step, 0)
            return jax.tree.map(lambda g: g / jnp.maximum(metrics["loss"][1], 1), grads)

        extra = {"loss": loss_sum, "gradient_at": gradient_at}
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        params = put(state.params, optax.apply_updates(take(state.params, trained), updates))
        before = skips(state.opt_state)
        after = skips(opt_state)
        numbers = {
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step - before.total),
            "batch_checksum": batch_checksum(batch),
            "skipped_steps": after.total,
            "skipped_in_a_row": after.consecutive,
            **{f"grad_norm/{group}": norm for group, norm in group_norms(grads).items()},
        }
        ones = {name: (number, 1) for name, number in numbers.items()}
        return TrainState(state.step + 1, params, opt_state), {**metrics, **ones}

    return train_step


def group_norms(tree: Params, depth: int = 2) -> dict[str, Array]:
    """Returns the norm of each group of a parameter tree: those whose paths begin with the same `depth` names.

    What is kept in few bits has no norm.
    """
    groups: dict[str, list[Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        name = jax.tree_util.keystr(path[:depth], simple=True, separator="/")
        groups.setdefault(name, []).append(leaf)
    return {name: optax.tree.norm(leaves) for name, leaves in groups.items()}


def batch_checksum(batch: Batch) -> Array:
    """Returns the sum modulo 2^32, over the global batch, of a mix of (place in the batch, token, position), uint32.

    Addition commutes, so any split of the batch over devices or hosts gives the same number.
    """
    B, T = batch.tokens_BT.shape
    place_BT = jnp.arange(B, dtype=jnp.uint32)[:, None] * jnp.uint32(T) + jnp.arange(T, dtype=jnp.uint32)
    mixed_BT = mix(mix(mix(place_BT) ^ batch.tokens_BT.astype(jnp.uint32)) ^ batch.positions_BT.astype(jnp.uint32))
    return jnp.sum(mixed_BT, dtype=jnp.uint32)


def mix(x: Array) -> Array:
    """Scrambles 32 bits, one to one: the finaliser of MurmurHash3 (Appleby 2011) after an odd offset."""
    x = x + jnp.uint32(0x9E3779B9)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
