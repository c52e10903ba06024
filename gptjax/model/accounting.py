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

FLOPS_CONVENTION = (
    "2 flops per multiply-add of every matrix product (6 per weight and token with the backward pass, the output "
    "projection included, the embedding look-up not), attention over the whole square of positions, no remat"
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


def num_params(cfg: ModelConfig) -> int:
    """Returns the number of trained parameters, the rows that only pad the vocabulary left out."""
    padding = cfg.padded_vocab_size - (cfg.vocab_size or 0)
    total = 0
    for row in parameter_table(cfg):
        total += row.count
        if "vocab" in row.names:
            total -= padding * (row.count // cfg.padded_vocab_size)
    return total


def flops_per_token(cfg: ModelConfig, seq_len: int | None = None) -> int:
    """Returns the training flops (forward and backward) of one token in a sequence of seq_len (default: the config's).

    The convention is FLOPS_CONVENTION. What a causal mask hides is counted, though most of it is not
    computed; so is everything outside a sliding window; so are the columns that pad the vocabulary. Of experts those
    that a token is sent to are counted.
    """
    cfg = cfg.resolve()
    assert cfg.d_head is not None
    T = seq_len or cfg.seq_len
    weights = sum(row.count * _used(cfg, row) for row in parameter_table(cfg) if row.path.endswith("kernel"))
    num_readings = registry.resolve(HEADS, cfg.head).kwargs["num_tokens"] - (not cfg.tie_embeddings)
    weights += num_readings * cfg.padded_vocab_size * cfg.d_model
    scores_and_mixing = 2 * T * cfg.num_heads * cfg.d_head * cfg.num_layers  # multiply-adds, forward
    if cfg.num_states:
        scores_and_mixing = 0
    return round(6 * (weights + scores_and_mixing))


def _used(cfg: ModelConfig, row: Parameter) -> float:
    """Returns the part of a parameter that a token goes through: of experts, those that it is sent to."""
    if "/experts/" not in row.path:
        return 1
    options = registry.resolve(MLPS, cfg.mlp).kwargs
    return options["top_k"] / options["num_experts"]
