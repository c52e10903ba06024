"""The decoder: blocks stacked into a model, and the functions by which everybody else uses it.

The only file with `nn.scan` and `nn.remat`. Parameters of the blocks are stacked on a leading dim, whether the loop
over blocks is compiled as a loop or unrolled: a checkpoint fits both.

Shapes: B batch, T position, D model width, V vocabulary, N layers.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import manual, registry, sharding
from gptjax.model import lora
from gptjax.model.attention import ATTENTIONS, Context
from gptjax.model.cache import Cache, Memory
from gptjax.model.config import ModelConfig
from gptjax.model.heads import HEADS, classifier
from gptjax.model.layers import NORMS, Dropout, Embedding, Named
from gptjax.model.mlp import MLPS
from gptjax.model.positions import POSITIONS
from gptjax.model.recurrent import GRU, LSTM
from gptjax.sharding import constrain
from gptjax.types import Array, Params, UserError

REMAT: dict[str, Callable | None] = {
    # keeps everything: no second forward pass
    "none": jax.checkpoint_policies.everything_saveable,
    # keeps every matrix product and computes the elementwise work between them again
    "dots": jax.checkpoint_policies.dots_saveable,
    # keeps only products with weights: attention's scores, which grow with the square of T, are computed again
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    # the same, kept in the host's memory: for chips whose link to it is idle
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    # keeps only the input of each block: the least memory, a second forward pass
    "full": None,
}
"""What the backward pass of a block finds kept, by name."""


class Block(nn.Module):
    """Attention and feed-forward, each with its norm, added to the residual stream."""

    cfg: ModelConfig

    num_states = 0

    @nn.compact
    def __call__(self, carry, layer, context: Context):
        """Maps (x_BTD, cache) to the same and the block's auxiliary sums."""
        cfg = self.cfg
        x_BTD, cache = carry
        context = context._replace(layer=layer)

        def mix(x_BTD):
            nonlocal cache
            y_BTD, cache = registry.build(ATTENTIONS, cfg.attention, cfg, name="attention")(x_BTD, context, cache)
            return y_BTD

        aux = {}

        def feed_forward(x_BTD):
            nonlocal aux
            y_BTD, aux = registry.build(MLPS, cfg.mlp, cfg, name="mlp")(x_BTD)
            return y_BTD

        x_BTD = self._residual(x_BTD, mix, "attention")
        x_BTD = self._residual(x_BTD, feed_forward, "mlp")
        self.sow("intermediates", "stream", x_BTD)
        return (x_BTD, cache), aux

    def _residual(self, x_BTD, sub_layer, name):
        """Adds a sub-layer to the stream, with a norm before it, after it, or of the sum."""
        cfg = self.cfg

        def norm(x_BTD, name):
            return registry.build(NORMS, cfg.norm, "embed", name=name)(x_BTD)

        y_BTD = sub_layer(x_BTD if cfg.norm_placement == "post" else norm(x_BTD, f"{name}_norm"))
        self.sow("intermediates", f"{name}_output", y_BTD)
        if cfg.norm_placement == "sandwich":
            y_BTD = norm(y_BTD, f"{name}_output_norm")
        if cfg.residual_scale != 1:
            y_BTD = y_BTD * cfg.residual_scale
        x_BTD = x_BTD + Dropout(cfg.dropout, name=f"{name}_dropout")(y_BTD)
        x_BTD = constrain(x_BTD, "act_batch", "act_stream_seq", "act_embed")
        return norm(x_BTD, f"{name}_norm") if cfg.norm_placement == "post" else x_BTD


BLOCKS = {
    "transformer": Block,
    "lstm": LSTM,
    "gru": GRU,
}


class Decoder(nn.Module):
    """Embeddings and the stack of blocks: tokens to features."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT, positions_BT, segment_ids_BT, cache):
        """Returns x_BTD in the compute dtype, the cache and the auxiliary sums over all blocks."""
        cfg = self.cfg
        x_BTD = Embedding(cfg, cfg.padded_vocab_size, ("vocab", "embed"), name="tokens")(tokens_BT)
        if cfg.embedding_scale != 1:
            x_BTD = x_BTD * cfg.embedding_scale
        encoding = registry.build(POSITIONS, cfg.positions, cfg, name="positions")(positions_BT)
        if encoding.added_BTD is not None:
            x_BTD = x_BTD + encoding.added_BTD
        x_BTD = Dropout(cfg.dropout, name="dropout")(x_BTD.astype(cfg.dtype))
        x_BTD = constrain(x_BTD, "act_batch", "act_stream_seq", "act_embed")
        layers_N = jnp.arange(cfg.num_layers)
        context = Context(positions_BT, segment_ids_BT, encoding._replace(added_BTD=None), layers_N[0])
        (x_BTD, cache), aux_N = stack(cfg)(cfg, name="blocks", **cfg.block.kwargs)((x_BTD, cache), layers_N, context)
        if cfg.has_stream and cfg.norm_placement != "post":
            x_BTD = registry.build(NORMS, cfg.norm, "embed", name="final_norm")(x_BTD)
        return x_BTD, cache, jax.tree.map(lambda x_N: jnp.sum(x_N, axis=0), aux_N)


def stack(cfg: ModelConfig) -> Callable:
    """Returns the module class that runs all blocks in turn, recomputing and unrolling as the config says."""
    block = registry.lookup(BLOCKS, cfg.block.name)
    by_hand = manual.layout() is not None
    if by_hand:
        # Whole weights live from here to the end of the block; the gradient gathers them again rather than keep them.
        names = jax.tree.map(
            lambda names: names[1:], logical_axes(cfg)["blocks"], is_leaf=lambda x: isinstance(x, tuple)
        )
        block = nn.map_variables(
            block, "params", lambda variables: {"params": manual.gather(variables["params"], names, cfg.dtype)}
        )
    if cfg.remat != "none" or by_hand:
        # Unrolled, XLA would merge the second computation with the first, and nothing would be saved.
        block = nn.remat(block, policy=keep(cfg.remat, by_hand), prevent_cse=not cfg.scan_layers)
    return nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast),
        length=cfg.num_layers,
        unroll=1 if cfg.scan_layers else cfg.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def keep(remat: str, by_hand: bool) -> Callable | None:
    """Returns what the backward pass finds kept, as a policy of `jax.checkpoint`; by hand never a gathered weight."""
    policy = REMAT[remat]
    if policy is None or not by_hand:
        return policy
    return lambda primitive, *args, **params: primitive.name != "all_gather" and policy(primitive, *args, **params)


def _init(cfg: ModelConfig, key: Array) -> Params:
    """Returns the parameters in boxes that name their dims: whole, whatever layout their shapes are asked for under."""
    cfg = cfg.resolve()
    decoder_key, head_key = jax.random.split(key)
    one_BT = jnp.zeros((1, 1), jnp.int32)
    x_BTD = jnp.zeros((1, 1, cfg.d_model))
    with sharding.use(None):
        params = Decoder(cfg).init(decoder_key, one_BT, one_BT, None, None)["params"]
        head = registry.build(HEADS, cfg.head, cfg).init(head_key, x_BTD, params["tokens"]["embedding"].unbox())
        # Each has a key of its own, whatever other classifiers there are.
        keys = {name: jax.random.fold_in(head_key, zlib.crc32(name.encode())) for name, _ in cfg.classifiers}
        classifiers = {name: classifier(cfg, name).init(key, x_BTD)["params"] for name, key in keys.items()}
    return {
        **params,
        **({"head": head["params"]} if head else {}),
        **({"classifiers": classifiers} if classifiers else {}),
    }


@functools.cache
def _boxes(cfg: ModelConfig) -> Params:
    """Returns the boxes with shapes in place of arrays; a config is traced once, since that takes a while."""
    boxes = jax.eval_shape(lambda: _init(cfg, jax.random.key(0)))
    if cfg.lora.rank and not lora.adapted(boxes):
        everywhere = dataclasses.replace(cfg, lora=dataclasses.replace(cfg.lora, targets=".*"))
        valid = lora.adapted(jax.eval_shape(lambda: _init(everywhere, jax.random.key(0))))
        raise UserError(
            f"model.lora.targets={cfg.lora.targets!r} matches no projection; "
            + (f"it must match a whole path: {', '.join(valid)}" if valid else "this model has none; set lora.rank=0")
        )
    return boxes


def init_params(cfg: ModelConfig, key: Array) -> Params:
    """Returns fresh parameters: nested dicts of float32 arrays, those of the blocks stacked on a leading layers dim."""
    return jax.tree.map(Named.unbox, _init(cfg, key), is_leaf=lambda x: isinstance(x, Named))


def param_shapes(cfg: ModelConfig) -> Params:
    """Returns a tree like the parameters' with, in place of each array, its shape and dtype."""
    return jax.tree.map(Named.unbox, _boxes(cfg), is_leaf=lambda x: isinstance(x, Named))


def logical_axes(cfg: ModelConfig) -> Params:
    """Returns a tree like the parameters' with, in place of each array, the tuple of its dims' logical names."""
    return jax.tree.map(lambda box: box.names, _boxes(cfg), is_leaf=lambda x: isinstance(x, Named))


def features(
    cfg: ModelConfig,
    params: Params,
    tokens_BT: Array,
    *,
    positions_BT: Array | None = None,
    segment_ids_BT: Array | None = None,
    cache: Cache | Memory | None = None,
    dropout_key: Array | None = None,
) -> tuple[Array, Cache | Memory | None, dict[str, Array]]:
    """Returns x_BTD, what the head reads; the cache with these tokens; and auxiliary sums (none in a dense model).

    Positions default to 0..T-1 and segments to one a row; segment 0 is padding. With a cache, a token at position p is
    written to slot p (padding nowhere) and sees the slots up to p; a recurrent block goes on from its state, and from
    zeros at position 0. Without a dropout key nothing is dropped.
    """
    cfg = cfg.resolve()
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    rngs = {} if dropout_key is None else {"dropout": manual.own_key(dropout_key)}
    shared = {name: params[name] for name in ("final_norm",) if name in params}
    shared = manual.gather(shared, {name: logical_axes(cfg)[name] for name in shared}, cfg.dtype)
    params = {**params, **shared}
    return Decoder(cfg).apply({"params": params}, tokens_BT, positions_BT, segment_ids_BT, cache, rngs=rngs)


def activations(cfg: ModelConfig, params: Params, tokens_BT: Array) -> dict[str, Array]:
    """Returns what blocks add and make, each NBTD: attention_output, mlp_output and stream."""
    cfg = cfg.resolve()
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    inputs = (tokens_BT, positions_BT, None, None)
    _, variables = Decoder(cfg).apply({"params": params}, *inputs, mutable=["intermediates"])
    return {name: x for name, (x,) in variables["intermediates"]["blocks"].items()}


def lr_factors(cfg: ModelConfig) -> Params:
    """Returns, for each parameter, what muP multiplies its learning rate by; 1 everywhere without (arXiv 2203.03466).

    For rules that, like Adam's, make updates of one size whatever the gradient's: matrices inside the blocks learn the
    slower the wider they are. Embeddings, vectors and the head keep the rate; the logits are divided instead. An
    adapter's B keeps it too: its inputs are `rank` wide, whatever the model is (arXiv 2402.12354).
    """

    def factor(path, _):
        names = [key.key for key in path]
        is_wide = names[0] == "blocks" and names[-1] == "kernel" and "lora_b" not in names
        return 1 / cfg.width_multiplier if is_wide else 1.0

    return jax.tree_util.tree_map_with_path(factor, param_shapes(cfg))


def head_params(cfg: ModelConfig, params: Params, x_BTD: Array) -> tuple[Params, Array]:
    """Returns the parameters that `unembed` and `classify` read, whole on each device but for the tensor axis, and x.

    Called once, for where `unembed` is called part by part: XLA would gather them for every part. By hand they come
    together once x is there, and their gradient is scattered before that of x goes on: so the head is in memory neither
    while the blocks run nor while their gradients are computed.
    """
    names = ({"tokens"} if cfg.tie_embeddings else set()) | ({"head", "classifiers"} & params.keys())
    axes = logical_axes(cfg)
    head, axes = {name: params[name] for name in names}, {name: axes[name] for name in names}
    if manual.layout() is not None:
        head, x_BTD = jax.lax.optimization_barrier((head, x_BTD))
        return manual.gather(head, axes, cfg.dtype), x_BTD

    def whole(x, dims):
        return constrain(x.astype(cfg.dtype), *(None if dim == "embed" else dim for dim in dims))

    return jax.tree.map(whole, head, axes), x_BTD


def unembed(cfg: ModelConfig, params: Params, x_BTD: Array, ahead: int = 0) -> Array:
    """Returns the head's logits_BTV in float32; V is the padded vocabulary, its padding masked with the least float.

    They are of the token `ahead` places after the next, for heads that see as far.
    """
    cfg = cfg.resolve()
    variables = {"params": params["head"]} if "head" in params else {}
    embedding_VD = params["tokens"]["embedding"] if cfg.tie_embeddings else None
    return registry.build(HEADS, cfg.head, cfg).apply(variables, x_BTD, embedding_VD, ahead)


def classify(cfg: ModelConfig, params: Params, x_BTD: Array, name: str) -> Array:
    """Returns logits_BTL, in float32, of the classifier of a task."""
    cfg = cfg.resolve()
    logits_BTL = classifier(cfg, name).apply({"params": params["classifiers"][name]}, x_BTD)
    return logits_BTL.astype(jnp.promote_types(logits_BTL.dtype, jnp.float32))


def apply(
    cfg: ModelConfig, params: Params, tokens_BT: Array, **inputs: Array | Cache | Memory | None
) -> tuple[Array, Cache | Memory | None, dict[str, Array]]:
    """Returns logits_BTV, the cache and the auxiliary sums: `features`, with its arguments, and `unembed`."""
    x_BTD, cache, aux = features(cfg, params, tokens_BT, **inputs)
    head, x_BTD = head_params(cfg, params, x_BTD)
    return unembed(cfg, head, x_BTD), cache, aux
