"""Groups of parameters, and factors for them, by regular expressions over their paths."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from gptjax.types import Params, UserError


def path_of(key_path: tuple) -> str:
    """Returns a key path of a tree as "blocks/attention/query/kernel"."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def assign_groups(params: Params, patterns: Mapping[str, str]) -> Any:
    """Returns the name of its group for each parameter: the one whose pattern matches its whole path.

    Raises UserError for a parameter in no group or in several, so that nothing is decayed, or frozen, by accident.
    """

    def group(key_path, _):
        path = path_of(key_path)
        matches = [name for name, pattern in patterns.items() if re.fullmatch(pattern, path)]
        if len(matches) != 1:
            found = f"matches {' and '.join(matches)}" if matches else f"matches none of {', '.join(patterns)}"
            raise UserError(f"parameter {path!r} {found}; change optim.{' or optim.'.join(patterns)} to match it once")
        return matches[0]

    return jax.tree_util.tree_map_with_path(group, params)


def assign_factors(params: Params, factors: Sequence[tuple[str, float]]) -> Any:
    """Returns for each parameter the product of the factors whose patterns match its whole path, 1 where none does.

    Raises UserError for a pattern that matches no parameter.
    """
    paths = [path_of(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, _ in factors:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise UserError(
                f"optim.lr_factors: {pattern!r} matches no parameter; it must match a whole path, such as {paths[0]!r}"
            )

    def product(key_path, _):
        path = path_of(key_path)
        return math.prod(factor for pattern, factor in factors if re.fullmatch(pattern, path))

    return jax.tree_util.tree_map_with_path(product, params)
