"""LoRA's adapters in a tree of parameters: set apart, merged into the weights and taken out again. Knows no files.

Shapes: N layers, I inputs, O outputs, R rank.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from gptjax.model import quantised
from gptjax.model.config import LoRAConfig, ModelConfig
from gptjax.types import Array, Params

ADAPTER = ("lora_a", "lora_b")


def adapted(params: Params) -> list[str]:
    """Returns the paths of the projections that have an adapter."""
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(params))
    names = [[key.key for key in path if isinstance(key, jax.tree_util.DictKey)] for path in paths]
    return ["/".join(path[:-2]) for path in names if path[-2:] == ["lora_a", "kernel"]]


def split(params: Params) -> tuple[Params, Params]:
    """Returns the parameters without adapters, and the adapters alone, under the same paths."""
    if not isinstance(params, Mapping):
        return params, {}
    below = {name: split(value) for name, value in params.items() if name not in ADAPTER}
    base = {name: rest for name, (rest, _) in below.items()}
    adapters = {name: found for name, (_, found) in below.items() if found}
    return base, {**adapters, **{name: params[name] for name in ADAPTER if name in params}}


def join(base: Params, adapters: Params) -> Params:
    """Returns the parameters with the adapters at their places."""
    if not isinstance(adapters, Mapping):
        return adapters
    return {**base, **{name: join(base.get(name, {}), below) for name, below in adapters.items()}}


def quantise(cfg: ModelConfig, params: Params) -> Params:
    """Returns the parameters of a model with the adapted kernels kept as `cfg.lora.base` says."""
    if not isinstance(params, Mapping):
        return params
    below = {name: quantise(cfg, value) for name, value in params.items()}
    if "lora_a" not in params:
        return below
    dim = params["lora_a"]["kernel"].ndim - 2  # beside the rank, A has the inputs' dims
    return {**below, **quantised.quantise(params["kernel"], cfg.lora.base, dim)}


def merge(cfg: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Returns the model without adapters whose weights are W + (alpha / rank) A B: the same function, to rounding."""
    base, adapters = split(params)
    plain = dataclasses.replace(cfg, lora=LoRAConfig())
    return plain, _change(base, adapters, lambda kernel, delta: kernel + delta, cfg.lora) if adapters else base


def unmerge(cfg: ModelConfig, merged: Params, adapters: Params) -> Params:
    """Returns the parameters of a model with adapters, whose config `cfg` is, from merged weights and the adapters."""
    return join(_change(merged, adapters, lambda kernel, delta: kernel - delta, cfg.lora), adapters)


def _change(base: Params, adapters: Params, function: Callable, lora: LoRAConfig) -> Params:
    if "lora_a" in adapters:
        a, b = (adapters[name]["kernel"] for name in ADAPTER)
        others = {name: value for name, value in base.items() if name not in ("kernel", "scale")}
        kernel = base["kernel"]
        if "scale" in base:
            kernel = quantised.dequantise(kernel, base["scale"], lora.base)
        delta = (lora.alpha / lora.rank) * _product(kernel.shape, a, b)
        return {**others, "kernel": function(kernel, delta.astype(kernel.dtype))}
    return {
        name: _change(value, adapters[name], function, lora) if name in adapters else value
        for name, value in base.items()
    }


def _product(shape: tuple[int, ...], a: Array, b: Array) -> Array:
    """Returns A B in the shape of the kernel: (layers,) inputs, outputs; float32 products, whatever the platform."""
    stacked = a.ndim + b.ndim - len(shape) == 3  # beside the rank, the layers stand in all three
    num_layers, rank = (a.shape[0] if stacked else 1), a.shape[-1]
    a_NIR, b_NRO = a.reshape(num_layers, -1, rank), b.reshape(num_layers, rank, -1)
    return jnp.matmul(a_NIR, b_NRO, precision="highest").reshape(shape)
