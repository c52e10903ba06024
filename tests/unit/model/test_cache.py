"""The cache's slots: where tokens are written and what is left alone.

Shapes: B batch, T query position, S slot, N layers, K key/value heads, C head channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.model.cache import Cache, init_cache
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.types import UserError

N, B, S, K, C, T = 3, 2, 5, 2, 4, 3


def test_a_write_touches_its_layer_and_its_slots_and_drops_what_lies_past_the_end():
    random = np.random.default_rng(0)
    before_NBSKC = random.standard_normal((2, N, B, S, K, C), np.float32)
    new_BTKC = random.standard_normal((2, B, T, K, C), np.float32)
    slots_BT = np.array([[3, 0, 4], [S, 2, S + 40]])
    write = jax.jit(lambda cache, layer: cache.write(layer, *new_BTKC, slots_BT))
    cache, k_BSKC, v_BSKC = write(Cache(*before_NBSKC), 1)

    after_NBSKC = before_NBSKC.copy()
    for row, t, slot in ((0, 0, 3), (0, 1, 0), (0, 2, 4), (1, 1, 2)):
        after_NBSKC[:, 1, row, slot] = new_BTKC[:, row, t]
    np.testing.assert_array_equal(cache, after_NBSKC)
    np.testing.assert_array_equal((k_BSKC, v_BSKC), after_NBSKC[:, 1])


def test_an_empty_cache_has_a_slot_a_position_for_the_key_value_heads_alone():
    cfg = ModelConfig(d_model=32, num_layers=N, num_heads=4, num_kv_heads=K, seq_len=64, dtype="bfloat16")
    cache = init_cache(cfg, B, S)
    assert cache.length == S
    for x_NBSKC in cache:
        assert (x_NBSKC.shape, x_NBSKC.dtype) == ((N, B, S, K, 8), jnp.bfloat16)


def test_a_model_that_sees_both_ways_has_none():
    with pytest.raises(UserError, match=r"'bidirectional' sees the words that follow.*--mode=evaluate$"):
        init_cache(ModelConfig(attention=Choice("bidirectional")), B, S)
