"""Groups of parameters by path."""

import jax.numpy as jnp
import pytest

from gptjax.optim.masks import assign_factors, assign_groups
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
