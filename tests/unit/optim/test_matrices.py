"""Which parameters are matrices, by the names of their dims."""

import jax
import pytest

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.optim.matrices import Matrix, matrices, matrix_of


@pytest.mark.parametrize(
    ("names", "matrix"),
    [
        (("layers", "embed", "ff"), Matrix(1, 2)),
        (("layers", "embed", "q_heads", "head_dim"), Matrix(1, 2)),
        (("layers", "q_heads", "head_dim", "embed"), Matrix(1, 3)),
        (("layers", "experts", "embed", "ff"), Matrix(2, 3)),
        (("vocab", "embed"), Matrix(0, 1)),
        ((None, "embed"), Matrix(0, 1)),
        (("layers", "kv_heads", "head_dim"), None),
        (("layers", "embed", "experts"), Matrix(1, 2)),
        (("layers", "head_dim"), None),
        (("layers", "experts", "ff"), None),
        (("layers", "embed", None, "ff"), None),
        (("embed",), None),
        (("layers",), None),
        ((), None),
    ],
)
def test_sides_follow_from_names(names, matrix):
    assert matrix_of(names) == matrix


def test_every_kernel_of_a_model_is_a_matrix_and_no_bias_or_scale_is():
    cfg = ModelConfig(vocab_size=32, d_model=16, num_layers=2, num_heads=2, seq_len=8, tie_embeddings=False)
    shapes = model.param_shapes(cfg)
    found = matrices(shapes, model.logical_axes(cfg))
    for path, matrix in jax.tree_util.tree_leaves_with_path(found, is_leaf=lambda leaf: leaf is None):
        assert (matrix is not None) == (path[-1].key in ("kernel", "embedding")), path
    assert found["blocks"]["attention"]["output"]["kernel"].sides((2, 2, 8, 16)) == (16, 16)
