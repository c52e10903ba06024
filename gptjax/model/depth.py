"""Blocks of a model taken off its top."""

import dataclasses

import jax

from gptjax.model.config import ModelConfig
from gptjax.types import Params


def lowest(cfg: ModelConfig, params: Params, num_layers: int) -> tuple[ModelConfig, Params]:
    """Returns the model that has the lowest so many blocks, and all that is above and below them, as it is."""
    assert 1 <= num_layers <= cfg.num_layers, (num_layers, cfg.num_layers)
    blocks = jax.tree.map(lambda leaf_N: leaf_N[:num_layers], params["blocks"])
    return dataclasses.replace(cfg, num_layers=num_layers), {**params, "blocks": blocks}
