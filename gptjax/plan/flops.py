"""Counts the floating-point operations of matrix products in a traced program, exactly: loops times their length.

What is computed twice is counted twice. Elementwise work is not counted; of a conditional, the dearer branch is.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(jaxpr: core.Jaxpr) -> int:
    """Returns the flops of all devices together, 2 a multiply-add."""
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    shapes = [variable.aval.shape for variable in equation.invars if hasattr(variable.aval, "shape")]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(shapes[0][dim] for dim in contracted)
    if name in ("ragged_dot", "ragged_dot_general"):  # rows of the left side, each with the matrix of its group
        return 2 * math.prod(_shape(equation.outvars[0])) * shapes[0][-1]
    if name == "conv_general_dilated":
        spec, kernel = params["dimension_numbers"].rhs_spec, shapes[1]
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) // kernel[spec[0]]
    if name.startswith("dot_product_attention_"):
        return _cudnn(name, params, shapes)
    if name == "pallas_call":
        return _kernel(params)
    inner = [count_flops(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * _repetitions(name, params)


def _repetitions(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # the body is one shard's, over the axes that it is manual in
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    assert name != "while", "a loop of unknown length cannot be counted"
    return 1


def _kernel(params: dict[str, Any]) -> int:
    """A Pallas kernel computes its body for each point of its grid.

    Of a causal grid of n blocks of keys, splash attention computes what lies on or below the diagonal, (n + 1) / 2n.
    """
    grid = params["grid_mapping"].grid
    flops = math.prod(grid) * sum(count_flops(jaxpr) for jaxpr in _jaxprs(params))
    if "splash" in str(params.get("name_and_src_info", params.get("name", ""))):
        blocks = max(grid[-2:])
        return flops * (blocks + 1) // (2 * blocks)
    return flops


def _cudnn(name: str, params: dict[str, Any], shapes: list[tuple[int, ...]]) -> int:
    """cuDNN computes two products forward and five backward (one of them again); half of the square where causal."""
    B, T, H, C = shapes[0]
    square = 2 * B * H * T * shapes[1][1] * C
    products = 5 if "_bwd" in name else 2
    return products * square // (2 if "CAUSAL" in str(params.get("mask_type")) else 1)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _jaxprs(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for leaf in jax.tree.leaves(params, is_leaf=_is_jaxpr):
        if _is_jaxpr(leaf):
            yield getattr(leaf, "jaxpr", leaf)


def _is_jaxpr(x: Any) -> bool:
    return isinstance(x, core.Jaxpr | core.ClosedJaxpr)
