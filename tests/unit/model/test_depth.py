"""A model without its upper blocks."""

import jax
import numpy as np

from gptjax import model
from gptjax.model import depth
from gptjax.model.config import ModelConfig
from tests.params import random_params

CFG = ModelConfig(vocab_size=40, d_model=16, num_layers=3, num_heads=2, seq_len=8)


def test_it_is_the_model_whose_upper_blocks_add_nothing():
    params = random_params(CFG, 0.1)
    small, kept = depth.lowest(CFG, params, 2)
    assert model.num_params(small) < model.num_params(CFG)
    assert jax.tree.map(lambda leaf: leaf.shape, kept) == jax.tree.map(lambda x: x.shape, model.param_shapes(small))

    def idle(path, leaf_N):
        ends = any(key.key in ("output", "down") for key in path)
        return leaf_N.at[2:].set(0) if ends else leaf_N

    whole = {**params, "blocks": jax.tree_util.tree_map_with_path(idle, params["blocks"])}
    tokens_BT = np.arange(16).reshape(2, 8)
    np.testing.assert_allclose(
        model.apply(small, kept, tokens_BT)[0], model.apply(CFG, whole, tokens_BT)[0], rtol=1e-5, atol=1e-5
    )
