"""Parameters for tests: random in every entry, since a bias of 0 or a scale of 1 would hide what is done with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.types import Params


@functools.cache
def random_params(cfg: ModelConfig, std: float) -> Params:
    """Draws normal numbers, those of scales around 1; outside jax, to compile nothing."""
    random = np.random.default_rng(1)

    def draw(path, shape):
        noise = std * random.standard_normal(shape.shape, np.float32)
        return jnp.asarray(noise + 1 if path[-1].key == "scale" else noise)

    return jax.tree_util.tree_map_with_path(draw, model.param_shapes(cfg))
