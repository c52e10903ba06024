"""The decoder behind one wall: plain functions over plain trees of arrays, whatever Flax does inside.

The functions are imported on first use, so that reading a config (gptjax.model.config) does not load jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptjax.model.accounting import flops_per_token, num_params, parameter_table
    from gptjax.model.cache import Cache, Memory, init_cache
    from gptjax.model.gpt import (
        activations,
        apply,
        classify,
        features,
        head_params,
        init_params,
        logical_axes,
        lr_factors,
        param_shapes,
        unembed,
    )

_OWNERS = {
    "Cache": "cache",
    "Memory": "cache",
    "activations": "gpt",
    "apply": "gpt",
    "classify": "gpt",
    "features": "gpt",
    "flops_per_token": "accounting",
    "head_params": "gpt",
    "init_cache": "cache",
    "init_params": "gpt",
    "logical_axes": "gpt",
    "lr_factors": "gpt",
    "num_params": "accounting",
    "param_shapes": "gpt",
    "parameter_table": "accounting",
    "unembed": "gpt",
}

__all__ = [
    "Cache",
    "Memory",
    "activations",
    "apply",
    "classify",
    "features",
    "flops_per_token",
    "head_params",
    "init_cache",
    "init_params",
    "logical_axes",
    "lr_factors",
    "num_params",
    "param_shapes",
    "parameter_table",
    "unembed",
]


def __getattr__(name: str) -> Any:
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_OWNERS[name]}"), name)
