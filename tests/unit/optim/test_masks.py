"""Groups of parameters by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.optim.config import OptimConfig
from gptjax.optim.masks import (
    assign_factors,
    assign_groups,
    layer_factors,
    leaves_of,
    part_where,
    put,
    take,
    trained_part,
)
from gptjax.types import UserError

PARAMS = {"block": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
PATTERNS = {"decay": ".*/kernel", "no_decay": ".*/bias"}


def test_each_parameter_has_its_group():
    assert assign_groups(PARAMS, PATTERNS) == {"block": {"kernel": "decay", "bias": "no_decay"}}


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"decay": ".*/kernel", "no_decay": "nothing"}, "'block/bias' matches none of decay, no_decay"),
        ({"decay": ".*", "no_decay": ".*/bias"}, "'block/bias' matches decay and no_decay"),
    ],
)
def test_a_parameter_in_no_group_or_in_two_is_refused(patterns, words):
    with pytest.raises(UserError, match=words):
        assign_groups(PARAMS, patterns)


def test_factors_whose_patterns_match_a_parameter_multiply():
    factors = ((".*", 2.0), ("block/kernel", 0.25))
    assert assign_factors(PARAMS, factors) == {"block": {"kernel": 0.5, "bias": 2.0}}
    assert assign_factors(PARAMS, factors[::-1]) == assign_factors(PARAMS, factors)
    assert assign_factors(PARAMS, ()) == {"block": {"kernel": 1, "bias": 1}}


def test_a_factor_that_matches_nothing_is_refused():
    """Part of a path is not enough."""
    with pytest.raises(UserError, match=r"optim\.lr_factors: 'kernel' matches no parameter; .* such as 'block/bias'"):
        assign_factors(PARAMS, ((".*/bias", 2.0), ("kernel", 0.25)))


MODEL = {
    "blocks": {
        "query": {"kernel": (3, 2, 4), "lora_a": {"kernel": (3, 2, 1)}, "lora_b": {"kernel": (3, 1, 4)}},
        "norm": {"scale": (3, 2)},
    },
    "classifiers": {"sentiment": {"kernel": (2, 5)}},
    "final_norm": {"scale": (2,)},
    "positions": {"table": {"embedding": (6, 2)}},
    "tokens": {"embedding": (7, 2)},
}
MODEL = jax.tree.map(
    lambda shape: np.random.default_rng(0).standard_normal(shape, np.float32),
    MODEL,
    is_leaf=lambda x: isinstance(x, tuple),
)
NAMES = jax.tree_util.tree_map_with_path(
    lambda path, x: ("layers" if path[0].key == "blocks" else None, *[None] * (x.ndim - 1)), MODEL
)


def trained(**options):
    return jax.tree.map(lambda x: x.shape, trained_part(OptimConfig(**options), MODEL, NAMES))


def test_all_is_trained_unless_it_is_said_otherwise():
    assert trained() == jax.tree.map(lambda x: x.shape, MODEL)


def test_a_name_or_a_pattern_says_what_is_trained():
    """And branches that have nothing of it are gone."""
    classifiers = {"classifiers": {"sentiment": {"kernel": (2, 5)}}}
    assert trained(trained="classifiers") == classifiers
    adapters = {"lora_a": {"kernel": (3, 2, 1)}, "lora_b": {"kernel": (3, 1, 4)}}
    assert trained(trained="adapters") == {"blocks": {"query": adapters}, **classifiers}
    assert trained(trained=".*/scale") == {"blocks": {"norm": {"scale": (3, 2)}}, "final_norm": {"scale": (2,)}}


def test_of_the_blocks_only_the_top_may_be_trained():
    """And with them what is above, but nothing that they read."""
    part = trained(top_layers=2)
    assert part.keys() == {"blocks", "classifiers", "final_norm"}
    assert part["blocks"]["query"]["kernel"] == (2, 2, 4)
    assert part["final_norm"] == {"scale": (2,)}
    assert trained(top_layers=1, trained="blocks/norm/.*") == {"blocks": {"norm": {"scale": (1, 2)}}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trained": "query/kernel"}, r"trained='query/kernel' matches no parameter, .* such as blocks/query/kernel"),
        ({"top_layers": 4}, r"optim\.top_layers=4 is more than the model's 3 layers"),
        ({"top_layers": 1, "trained": "tokens/.*"}, r"top_layers=1 leaves nothing of optim\.trained='tokens/\.\*'"),
    ],
)
def test_nothing_to_train_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        trained(**options)


@pytest.mark.parametrize("top_layers", [None, 1, 3])
def test_what_is_taken_can_be_put_back(top_layers):
    """What was not taken is the same array, and of stacked ones the lower layers are equal."""
    part = trained_part(OptimConfig(trained="blocks/query/.*", top_layers=top_layers), MODEL, NAMES)
    model = jax.tree.map(jnp.asarray, MODEL)
    taken = take(model, part)
    assert jax.tree.map(jnp.shape, taken) == jax.tree.map(lambda x: x.shape, part)
    same = put(model, taken)
    jax.tree.map(np.testing.assert_array_equal, same, MODEL)
    changed = put(model, jax.tree.map(lambda x: x + 1, taken))
    assert changed["blocks"]["norm"]["scale"] is model["blocks"]["norm"]["scale"]
    kept = 3 - (top_layers or 3)
    for path in ("kernel", "lora_a"):
        before, after = (jax.tree.leaves(tree["blocks"]["query"][path])[0] for tree in (MODEL, changed))
        np.testing.assert_array_equal(after[:kept], before[:kept])
        np.testing.assert_array_equal(after[kept:], before[kept:] + 1)


def test_leaves_may_be_anything():
    part = part_where(NAMES, lambda path: path.endswith("scale"))
    assert part == {"blocks": {"norm": {"scale": ("layers", None)}}, "final_norm": {"scale": (None,)}}
    assert leaves_of(NAMES, part) == part


@pytest.mark.parametrize("top_layers", [None, 2])
def test_the_rate_falls_from_layer_to_layer(top_layers):
    """1 above the blocks; a half, a quarter, an eighth on the way down; below them a sixteenth."""
    part = trained_part(OptimConfig(top_layers=top_layers), MODEL, NAMES)
    factors = layer_factors(MODEL, NAMES, part, 0.5)
    kernel = factors["blocks"]["query"]["kernel"]
    assert kernel.shape == (top_layers or 3, 1, 1)
    np.testing.assert_array_equal(kernel.ravel(), [0.125, 0.25, 0.5][-(top_layers or 3) :])
    assert factors["final_norm"]["scale"] == factors["classifiers"]["sentiment"]["kernel"] == 1
    if top_layers is None:
        assert factors["tokens"]["embedding"] == factors["positions"]["table"]["embedding"] == 0.5**4
