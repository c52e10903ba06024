"""What is particular to a rule; tests/contracts/test_optimizers.py has what all share."""

import jax
import numpy as np
import optax
import pytest

from gptjax.optim.matrices import matrices
from gptjax.optim.rules import Parts, adafactor, muon

SHAPES = {
    "blocks": {
        "query": {"kernel": (3, 16, 2, 4), "bias": (3, 2, 4)},
        "output": {"kernel": (3, 2, 4, 16)},
        "up": {"kernel": (3, 16, 32)},
    },
    "head": {"kernel": (16, 40)},
    "tokens": {"embedding": (40, 16)},
}
NAMES = {
    "blocks": {
        "query": {"kernel": ("layers", "embed", "q_heads", "head_dim"), "bias": ("layers", "q_heads", "head_dim")},
        "output": {"kernel": ("layers", "q_heads", "head_dim", "embed")},
        "up": {"kernel": ("layers", "embed", "ff")},
    },
    "head": {"kernel": ("embed", "vocab")},
    "tokens": {"embedding": ("vocab", "embed")},
}
SIDES = {"query": (16, 8), "output": (8, 16), "up": (16, 32)}


def random_tree(seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: random.standard_normal(shape, np.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
    )


def first_update(rule, grads, **options):
    parts = Parts((), optax.constant_schedule(1.0), matrices(grads, NAMES))
    tx = rule(parts, **options)
    return jax.jit(lambda grads: tx.update(grads, tx.init(grads), grads))(grads)


def test_muon_makes_each_layers_matrix_orthogonal_on_its_own():
    """Singular values near 1 before the scale (Newton-Schulz leaves them within 0.7 and 1.2), heads taken together."""
    grads = random_tree()
    updates, _ = first_update(muon, grads, rms=0.2)
    for name, (inputs, outputs) in SIDES.items():
        for layer in range(3):
            matrix = np.asarray(updates["blocks"][name]["kernel"][layer]).reshape(inputs, outputs)
            values = np.linalg.svd(matrix / (0.2 * np.sqrt(max(inputs, outputs))), compute_uv=False)
            assert 0.65 < values.min() <= values.max() < 1.25, (name, values)


def test_muon_keeps_the_singular_vectors_of_a_layer_whatever_the_other_layers_are():
    grads = random_tree()
    other = jax.tree.map(lambda g: g * 1, grads)
    other["blocks"]["up"]["kernel"][1:] = random_tree(1)["blocks"]["up"]["kernel"][1:]
    one, two = (first_update(muon, g)[0]["blocks"]["up"]["kernel"] for g in (grads, other))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-4, atol=1e-6)
    assert not np.allclose(one[1], two[1], atol=1e-2)


def test_muon_takes_adams_step_outside_the_matrices_of_the_blocks():
    """Its first is the gradient's sign."""
    grads = random_tree()
    updates, _ = first_update(muon, grads)
    for group, name in (("head", "kernel"), ("tokens", "embedding")):
        np.testing.assert_allclose(updates[group][name], np.sign(grads[group][name]), rtol=1e-4)
    biases = (tree["blocks"]["query"]["bias"] for tree in (updates, grads))
    np.testing.assert_allclose(next(biases), np.sign(next(biases)), rtol=1e-4)


@pytest.mark.parametrize("rms", [0.2, 0.4])
def test_muon_steps_have_the_root_mean_square_that_is_asked_for(rms):
    """To what Newton-Schulz leaves of the singular values; for a square matrix or a wide one."""
    for update in jax.tree.leaves(first_update(muon, random_tree(), rms=rms)[0]["blocks"]["up"]):
        assert np.sqrt(np.mean(update**2)) == pytest.approx(rms, rel=0.2)


def test_adafactor_keeps_means_of_rows_and_columns_alone():
    """For a gradient of rank 1 they say all: the step is its sign."""
    rows, columns = np.arange(1, 17, dtype=np.float32), np.geomspace(1, 9, 32, dtype=np.float32)
    grads = {"blocks": {"up": {"kernel": np.broadcast_to(np.outer(rows, -columns), (3, 16, 32)).copy()}}}
    names = {"blocks": {"up": NAMES["blocks"]["up"]}}
    tx = adafactor(Parts((), optax.constant_schedule(1.0), matrices(grads, names)), min_factored_dim=16)
    updates, state = tx.update(grads, tx.init(grads), grads)
    np.testing.assert_allclose(updates["blocks"]["up"]["kernel"], -1, rtol=1e-5)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= 3 * (16 + 32) + 3
