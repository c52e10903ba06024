"""Groups of parameters by path."""

import jax.numpy as jnp
import pytest

from gptjax.optim.masks import assign_groups
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
