"""Position schemes at the entries of their formulas, near and far.

Shapes: B batch, T position, D model width, H heads, C head channels, R = C / 2.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.model.config import ModelConfig
from gptjax.model.positions import Encoding, Learned, Rotary, Sinusoidal

rotary = Rotary(ModelConfig(d_model=32, num_heads=4))  # C = 8


@functools.partial(jax.jit, static_argnums=0)
def encode(layer, *positions):
    return layer.apply({}, jnp.array([positions]))


@pytest.mark.parametrize("d_model", [6, 7])
def test_sinusoidal_is_the_formula(d_model):
    """PE(p, 2i) = sin(p / 10000^(2i/D)) and PE(p, 2i+1) its cosine; an odd width ends with a sine."""
    added_TD = encode(Sinusoidal(ModelConfig(d_model=d_model, num_heads=1)), 0, 1, 100).added_BTD[0]
    assert added_TD.shape == (3, d_model)
    for row, position in enumerate((0, 1, 100)):
        for i in range((d_model + 1) // 2):
            angle = position / 10000 ** (2 * i / d_model)
            assert added_TD[row, 2 * i] == pytest.approx(math.sin(angle), abs=2e-5)
            if 2 * i + 1 < d_model:
                assert added_TD[row, 2 * i + 1] == pytest.approx(math.cos(angle), abs=2e-5)


rotate = jax.jit(Encoding.rotate)


def turned(x_C, *positions, layer=rotary):
    """Returns x_TC: one vector as it is at each position."""
    x_BTHC = np.broadcast_to(x_C, (1, len(positions), 1, len(x_C)))
    return np.asarray(rotate(encode(layer, *positions), x_BTHC))[0, :, 0]


def test_rotary_scores_depend_on_the_distance_alone():
    """The score of a query and a key is one for all pairs at a distance, another for each distance."""
    q_C, k_C = np.random.default_rng(0).standard_normal((2, 8), np.float32)
    scores_TS = turned(q_C, *range(12)) @ turned(k_C, *range(12)).T
    by_distance = [np.diagonal(scores_TS, -distance) for distance in range(-11, 12)]
    for scores in by_distance:
        np.testing.assert_allclose(scores, scores[0], rtol=1e-5, atol=1e-5)
    assert len({round(float(scores[0]), 3) for scores in by_distance}) == 23


def test_rotary_stretches_no_pair_and_leaves_position_zero_as_it_is():
    x_C = np.random.default_rng(0).standard_normal(8, np.float32)
    norms_TR = np.linalg.norm(turned(x_C, 0, 3, 900).reshape(3, 2, 4), axis=1)
    np.testing.assert_allclose(norms_TR, np.broadcast_to(norms_TR[0], (3, 4)), rtol=1e-6)
    np.testing.assert_array_equal(turned(x_C, 0)[0], x_C)


def test_rotary_base_sets_the_slowest_pair():
    """Pair i turns by base^(-i/R) a position: all at 1 where the base is 1, the last of four by 16^(-3/4) = 1/8."""
    for base, angles_R in ((1.0, [1, 1, 1, 1]), (16.0, [1, 1 / 2, 1 / 4, 1 / 8])):
        encoding = encode(Rotary(rotary.cfg, base=base), 1)
        np.testing.assert_allclose(encoding.cos_BTR[0, 0], np.cos(angles_R), rtol=1e-6)
        np.testing.assert_allclose(encoding.sin_BTR[0, 0], np.sin(angles_R), rtol=1e-6)


def test_rotary_angles_are_float32_in_a_bfloat16_model():
    """A position of 8,191 times a frequency in float32 is off by 5e-4 radians at most; bfloat16 would miss by 16."""
    encoding = encode(Rotary(ModelConfig(d_model=32, num_heads=4, dtype="bfloat16")), 8191)
    angles_R = 8191 * 10000.0 ** (-np.arange(4) / 4)
    assert encoding.cos_BTR.dtype == jnp.float32
    np.testing.assert_allclose(encoding.cos_BTR[0, 0], np.cos(angles_R), atol=1e-3)
    np.testing.assert_allclose(encoding.sin_BTR[0, 0], np.sin(angles_R), atol=1e-3)


def test_rotation_of_bfloat16_rounds_once():
    x_C = np.random.default_rng(0).standard_normal(8).astype(jnp.bfloat16)
    exact_TC = turned(x_C.astype(np.float32), 1, 2, 3)
    np.testing.assert_array_equal(turned(x_C, 1, 2, 3), exact_TC.astype(jnp.bfloat16))


def test_a_scheme_without_angles_turns_nothing():
    x_BTHC = jnp.ones((1, 2, 3, 4))
    assert Encoding().rotate(x_BTHC) is x_BTHC


def test_a_learned_position_beyond_the_last_gives_nan():
    layer = Learned(ModelConfig(d_model=8, num_heads=1, seq_len=3))
    table_TD = np.arange(24, dtype=np.float32).reshape(3, 8)
    positions_BT = np.array([[2, 0, 3, 9]])
    added_BTD = layer.apply({"params": {"table": {"embedding": table_TD}}}, positions_BT).added_BTD
    np.testing.assert_array_equal(added_BTD[0, :2], table_TD[[2, 0]])
    assert np.all(np.isnan(added_BTD[0, 2:]))
