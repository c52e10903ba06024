"""Groups of parameters, factors for them, and the part of them that is trained, by their paths and layers.

A part of a parameter tree is a tree with some of its leaves, and may have fewer layers of them: those at the top.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.optim.config import TRAINED, OptimConfig
from gptjax.types import Params, UserError

BELOW_BLOCKS = r"(tokens|positions)/.*"
"""What the lowest block reads."""


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


def trained_part(cfg: OptimConfig, params: Params, names: Any) -> Params:
    """Returns the part of the parameters (or their shapes) that is trained, as shapes; the rest is frozen.

    `names` are the logical names of the dims: `layers` numbers the blocks. Raises UserError where nothing is trained.
    """
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    pattern = cfg.trained_pattern
    matching = [path for path in paths if re.fullmatch(pattern, path)]
    if not matching:
        near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.4) or paths[:3]
        raise UserError(
            f"optim.trained={cfg.trained!r} matches no parameter, so that there is nothing to train; it must be "
            f"{', '.join(TRAINED)} or match whole paths, such as {', '.join(near)}"
        )

    def wanted(path: str) -> bool:
        below = cfg.top_layers is not None and re.fullmatch(BELOW_BLOCKS, path)
        return re.fullmatch(pattern, path) is not None and not below

    def one(key_path, x, dims):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"optim.trained={cfg.trained!r} matches {path_of(key_path)!r}, kept as {x.dtype}: not trained"
            )
        num_layers = x.shape[0] if dims[:1] == ("layers",) else None
        if num_layers is None or cfg.top_layers is None:
            return jax.ShapeDtypeStruct(x.shape, x.dtype)
        if num_layers < cfg.top_layers:
            raise UserError(f"optim.top_layers={cfg.top_layers} is more than the model's {num_layers} layers")
        return jax.ShapeDtypeStruct((cfg.top_layers, *x.shape[1:]), x.dtype)

    part = part_where(params, wanted)
    if not part:
        raise UserError(f"optim.top_layers={cfg.top_layers} leaves nothing of optim.trained={cfg.trained!r} to train")
    return jax.tree_util.tree_map_with_path(one, part, leaves_of(names, part))


def part_where(tree: Mapping[str, Any], wanted: Callable[[str], bool], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a tree (of anything) whose paths are wanted, without branches that have none."""
    part = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            if wanted(path):
                part[key] = value
        elif below := part_where(value, wanted, f"{path}/"):
            part[key] = below
    return part


def leaves_of(tree: Any, part: Params) -> Any:
    """Returns the leaves of a tree (of anything) that the part has too, whole."""
    if not isinstance(part, Mapping):
        return tree
    return {key: leaves_of(tree[key], below) for key, below in part.items()}


def take(params: Params, part: Params) -> Params:
    """Returns of the parameters the part with the leaves of another, and as many of their layers."""

    def one(like, x):
        return x[-like.shape[0] :] if x.shape[:1] > like.shape[:1] else x

    return jax.tree.map(one, part, leaves_of(params, part))


def put(params: Params, part: Params) -> Params:
    """Returns the parameters with a part of them replaced."""
    if not isinstance(part, Mapping):
        return params.at[-part.shape[0] :].set(part) if params.shape[:1] > part.shape[:1] else part
    return {key: put(below, part[key]) if key in part else below for key, below in params.items()}


def layer_factors(params: Params, names: Any, part: Params, decay: float) -> Any:
    """Returns a factor for each parameter of a part: 1 above the blocks, decay for the top one, decay^N for the lowest.

    What they read has decay^(N + 1) (ELECTRA, arXiv 2003.10555; BEiT, arXiv 2106.08254). Factors of stacked parameters
    are arrays along the layers dim.
    """
    dims_of = jax.tree.leaves(names, is_leaf=lambda x: isinstance(x, tuple))
    stacked = [x for x, dims in zip(jax.tree.leaves(params), dims_of, strict=True) if dims[:1] == ("layers",)]
    below = decay ** (1 + max((x.shape[0] for x in stacked), default=0))

    def one(key_path, x, dims):
        if dims[:1] == ("layers",):
            return decay ** np.arange(x.shape[0], 0, -1, dtype=np.float32).reshape(-1, *[1] * (len(x.shape) - 1))
        return below if re.fullmatch(BELOW_BLOCKS, path_of(key_path)) else 1.0

    return jax.tree_util.tree_map_with_path(one, part, leaves_of(names, part))
