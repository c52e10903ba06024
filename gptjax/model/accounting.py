"""Counts parameters and floating-point operations from the config alone.

Shapes: T position, D model width, F feed-forward width, H query heads, C head channels, V vocabulary, N layers.
"""

import math
from typing import NamedTuple

import jax

from gptjax import registry
from gptjax.model.config import ModelConfig
from gptjax.model.gpt import logical_axes, param_shapes
from gptjax.model.heads import HEADS
from gptjax.model.mlp import MLPS
from gptjax.types import Params

FLOPS_CONVENTION = (
    "2 flops per multiply-add of every matrix product (6 per weight and token with the backward pass, the output "
    "projection included, the embedding look-up not; 4 where a weight is frozen, 2 where all below is frozen too), "
    "attention over the whole square of positions, no remat"
)
"""What `flops_per_token` counts, in words: the convention of PaLM's appendix B (arXiv 2204.02311)."""


class Parameter(NamedTuple):
    """One row of the parameter table."""

    path: str
    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    count: int


def parameter_table(cfg: ModelConfig) -> list[Parameter]:
    """Returns every parameter array with its shape and its dims' logical names, in the order of the tree."""
    paths = jax.tree_util.tree_leaves_with_path(param_shapes(cfg))
    names = jax.tree.leaves(logical_axes(cfg), is_leaf=lambda x: isinstance(x, tuple))
    return [
        Parameter(jax.tree_util.keystr(path, simple=True, separator="/"), x.shape, dims, math.prod(x.shape))
        for (path, x), dims in zip(paths, names, strict=True)
    ]


def num_params(cfg: ModelConfig, trained: Params | None = None) -> int:
    """Returns the number of parameters, or of those in a part; the rows that only pad the vocabulary are left out."""
    padding = cfg.padded_vocab_size - (cfg.vocab_size or 0)
    total, share = 0, shares(cfg, trained)
    for row in parameter_table(cfg):
        count = round(row.count * share[row.path])
        total += count
        if "vocab" in row.names:
            total -= padding * (count // cfg.padded_vocab_size)
    return total


def shares(cfg: ModelConfig, trained: Params | None) -> dict[str, float]:
    """Returns by path how much of each parameter a part (its shapes; None: all parameters) has: 0 to 1."""
    leaves = jax.tree_util.tree_leaves_with_path(param_shapes(cfg) if trained is None else trained)
    sizes = {jax.tree_util.keystr(path, simple=True, separator="/"): math.prod(x.shape) for path, x in leaves}
    return {row.path: sizes.get(row.path, 0) / row.count for row in parameter_table(cfg)}


def flops_per_token(
    cfg: ModelConfig, seq_len: int | None = None, trained: Params | None = None, unembeds: bool = True
) -> int:
    """Returns the training flops (forward and backward) of one token in a sequence of seq_len (default: the config's).

    The convention is FLOPS_CONVENTION. `trained` holds the shapes of what is (None: all parameters): a frozen weight
    has no gradient of its own, but hands one on to what is trained below it. `unembeds` says whether the loss reads
    the next token. What a causal mask hides is counted, though most of it is not computed; so is everything outside a
    sliding window; so are the columns that pad the vocabulary. Of experts those that a token is sent to are counted.
    """
    cfg = cfg.resolve()
    assert cfg.d_head is not None
    T, share = seq_len or cfg.seq_len, shares(cfg, trained)
    # The part of the blocks that the gradient goes back through, and whether it leaves the head.
    through = max([share[path] for path in share if path.startswith("blocks/")], default=0)
    if any(share[path] for path in share if path.startswith(("tokens/", "positions/"))):
        through = 1
    leaves_head = through > 0 or any(share[path] for path in share if path.startswith("final_norm/"))
    total = 0.0  # multiply-adds
    for row in parameter_table(cfg):
        if row.path.endswith("kernel") and (unembeds or not row.path.startswith("head/")):
            back = through if row.path.startswith("blocks/") else leaves_head
            total += row.count * _used(cfg, row) * (1 + back + share[row.path])
    if unembeds:
        num_readings = registry.resolve(HEADS, cfg.head).kwargs["num_tokens"] - (not cfg.tie_embeddings)
        own = share["tokens/embedding" if cfg.tie_embeddings else "head/kernel"]
        total += num_readings * cfg.padded_vocab_size * cfg.d_model * (1 + leaves_head + own)
    if not cfg.num_states:
        total += 2 * T * cfg.num_heads * cfg.d_head * cfg.num_layers * (1 + 2 * through)  # scores and mixing
    return round(2 * total)


def _used(cfg: ModelConfig, row: Parameter) -> float:
    """Returns the part of a parameter that a token goes through: of experts, those that it is sent to."""
    if "/experts/" not in row.path:
        return 1
    options = registry.resolve(MLPS, cfg.mlp).kwargs
    return options["top_k"] / options["num_experts"]
