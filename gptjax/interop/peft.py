"""LoRA's adapters alone, as the PEFT library writes them: adapter_config.json and adapter_model.safetensors.

PEFT names them after the modules of Hugging Face's models; where such a module holds several of our projections, their
adapters are one of as many ranks, each part of it for its own outputs.

Shapes: I inputs, O outputs, R rank, of one module.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.interop import safetensors
from gptjax.interop.blueprint import Blueprint, by_path, write_config
from gptjax.interop.folder import new_folder
from gptjax.interop.huggingface import pickles, read_json
from gptjax.interop.tensors import Tensor, sizes
from gptjax.model import lora
from gptjax.model.config import LoRAConfig, ModelConfig
from gptjax.types import Params, UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_REFUSED = {
    "use_dora": "weights are not normalised here",
    "lora_bias": "adapters have no biases here",
    "modules_to_save": "only adapters are read",
    "layer_replication": "layers stand once here",
    "target_parameters": "adapters stand beside whole projections here",
    "megatron_config": "only adapters of transformers' models are read",
}
"""Fields of PEFT's config that have to be off."""
_NUMBERS = (("r", int, 1, 1e5), ("lora_alpha", float, 1e-6, 1e6), ("lora_dropout", float, 0, 0.999))
"""Those that are numbers: type, least and most."""


@dataclasses.dataclass(frozen=True)
class Module:
    """A linear map of Hugging Face's model that holds one or more projections of ours."""

    tensor: Tensor
    paths: tuple[str, ...]
    """Those of its projections that have an adapter."""

    @property
    def name(self) -> str:
        """Its name within a layer."""
        return self.tensor.name.split("{}.")[1].removesuffix(".weight")

    def tensors(self, layer: int) -> tuple[str, str]:
        """Returns the names of A and B of a layer."""
        whole = self.tensor.name.format(layer).removesuffix(".weight")
        return f"{_PREFIX}{whole}.lora_A.weight", f"{_PREFIX}{whole}.lora_B.weight"

    def sides(self, cfg: ModelConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the dims of inputs and of outputs of one of its projections."""
        inputs = next(group for group in self.tensor.dims.split() if self.tensor.own.startswith(group))
        assert set(self.tensor.dims.split()) == {inputs, self.tensor.own.removeprefix(inputs)}, self.tensor
        inside, outside = ([sizes(cfg)[letter] for letter in side] for side in (inputs, self.tensor.own[len(inputs) :]))
        return tuple(inside), tuple(outside)


def _modules(blueprint: Blueprint, adapted: set[str]) -> list[Module]:
    found = []
    for tensor in blueprint.tensors:
        paths = tuple(path.removesuffix("/kernel") for path in tensor.paths if path.removesuffix("/kernel") in adapted)
        if paths and tensor.name.endswith(".weight"):
            found.append(Module(tensor, paths))
    return found


def export_adapters(cfg: ModelConfig, params: Params, path: Path) -> int:
    """Writes the adapters of a model and returns their number of parameters; who loads them names the base model.

    Raises UserError where the model has none, or no family of Hugging Face's holds it.
    """
    if not cfg.lora.rank:
        raise UserError("the model has no adapters (model.lora.rank=0); --format=huggingface exports all of it")
    _, adapters = lora.split(params)
    flat = {name: np.asarray(leaf) for name, leaf in by_path(adapters)}
    blueprint, fields = write_config(dataclasses.replace(cfg, lora=LoRAConfig()))
    modules = _modules(blueprint, {name.rsplit("/", 2)[0] for name in flat})
    rank, alpha, written = cfg.lora.rank, cfg.lora.alpha, {}
    for layer in range(cfg.num_layers):
        for module in modules:
            pairs = [tuple(flat[f"{path}/{name}/kernel"][layer] for name in lora.ADAPTER) for path in module.paths]
            written |= dict(zip(module.tensors(layer), _join(module, pairs, rank), strict=True))
    several = {module.name: len(module.paths) for module in modules if len(module.paths) > 1}
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": cfg.lora.dropout,
        "target_modules": [module.name for module in modules],
        "rank_pattern": {re.escape(name): rank * count for name, count in several.items()},
        "alpha_pattern": {re.escape(name): alpha * count for name, count in several.items()},
        "fan_in_fan_out": fields["model_type"] == "gpt2",
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
    }
    with new_folder(path) as folder:
        (folder / CONFIG).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        shapes = {name: array.shape for name, array in written.items()}
        safetensors.write(folder / WEIGHTS, shapes, "F32", iter(written.values()))
    return sum(array.size for array in written.values())


def _join(module: Module, pairs: list[tuple[np.ndarray, ...]], rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns A_RI and B_OR of a module: of several adapters those of the first stand before those of the second."""
    a_RI = np.concatenate([a.reshape(-1, rank).T for a, _ in pairs])
    place, blocks = {path: number for number, path in enumerate(module.paths)}, []
    outputs = pairs[0][1][0].size
    for path in (name.removesuffix("/kernel") for name in module.tensor.paths):
        block_OR = np.zeros((outputs, len(a_RI)), np.float32)
        if path in place:
            start = place[path] * rank
            block_OR[:, start : start + rank] = pairs[place[path]][1].reshape(rank, -1).T
        blocks.append(block_OR)
    return a_RI, np.concatenate(blocks)


def import_adapters(folder: Path, cfg: ModelConfig) -> tuple[ModelConfig, Params]:
    """Returns the config of a model with adapters that PEFT wrote for a model of `cfg`, and these adapters.

    All have the largest rank among them and one alpha / rank: narrower ones are filled up with zeros. Raises UserError
    where they belong to another model, or do what is not done here.
    """
    scaling = _read_scaling(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS}{pickles(folder)}")
    found = safetensors.read_header(folder / WEIGHTS)
    blueprint, _ = write_config(dataclasses.replace(cfg, lora=LoRAConfig()))
    every = {path.removesuffix("/kernel") for tensor in blueprint.tensors for path in tensor.paths}
    modules = [module for module in _modules(blueprint, every) if "{}" in module.tensor.name]
    known = {name for module in modules for layer in range(cfg.num_layers) for name in module.tensors(layer)}
    if not found or (extra := found.keys() - known):
        what = f"{min(extra)!r} is no adapter" if found else "there is no adapter"
        raise UserError(
            f"{folder / WEIGHTS}: {what} of a projection of the {blueprint.model_type} model with {cfg.num_layers} "
            f"layers that --base holds; take the base that they were trained beside"
        )
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for module in modules:
        if any(name in found for layer in range(cfg.num_layers) for name in module.tensors(layer)):
            for layer in range(cfg.num_layers):
                for path, pair in zip(module.paths, _split(module, layer, found, blueprint.cfg, scaling), strict=True):
                    parts.setdefault(path, []).append(pair)
    parts = {path: layers for path, layers in parts.items() if any(a.shape[-1] for a, _ in layers)}
    rank = max(a.shape[-1] for layers in parts.values() for a, _ in layers)
    adapters: dict[str, Any] = {}
    for path, layers in parts.items():
        node = adapters
        for name in path.split("/"):
            node = node.setdefault(name, {})
        for name, arrays, dim in zip(lora.ADAPTER, zip(*layers, strict=True), (-1, 0), strict=True):
            node[name] = {"kernel": np.stack([_widened(array, rank, dim) for array in arrays])}
    targets = "|".join(map(re.escape, parts))
    config = LoRAConfig(rank=rank, alpha=scaling.default * rank, targets=targets, dropout=scaling.dropout)
    return dataclasses.replace(cfg, lora=config), adapters


def beside(cfg: ModelConfig, params: Params, folder: Path) -> tuple[ModelConfig, Params]:
    """Returns a model with the adapters of a folder; raises UserError where it has some already."""
    if cfg.lora.rank:
        raise UserError("--base has adapters already; merge them first (gptjax.convert --format=workdir)")
    cfg, adapters = import_adapters(folder, cfg)
    return cfg, lora.join(params, jax.tree.map(jnp.asarray, adapters))


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What the adapters of a file are multiplied by."""

    path: Path
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    by_root: bool
    """Divided by the root of the rank (rank-stabilised, arXiv 2312.03732)."""
    dropout: float

    @property
    def default(self) -> float:
        """The factor of modules that are not named."""
        return self.alpha / (self.rank**0.5 if self.by_root else self.rank)

    def of(self, module: str, rank: int) -> float:
        """Returns the factor of a module whose adapter has this rank."""
        said = next((value for name, value in self.ranks.items() if f".{module}".endswith(f".{name}")), self.rank)
        if said != rank:
            raise UserError(f"{self.path} gives {module} the rank {said}, and its adapter has {rank}; get both again")
        alpha = next((value for name, value in self.alphas.items() if f".{module}".endswith(f".{name}")), self.alpha)
        return alpha / (rank**0.5 if self.by_root else rank)


def _read_scaling(path: Path) -> Scaling:
    """Reads PEFT's config; raises UserError where it is damaged, or asks for what is not done here."""
    said, problems = {"lora_dropout": 0.0, "bias": "none", **read_json(path)}, []
    for name, value in (("peft_type", "LORA"), ("bias", "none")):
        if said.get(name) != value:
            problems.append(f"{name}={said.get(name)!s:.40} is not supported; valid: {value}")
    problems += [
        f"{name}={said[name]!s:.40} is not supported: {why}" for name, why in _REFUSED.items() if said.get(name)
    ]
    for name, kind, least, most in _NUMBERS:
        value = said.get(name)
        if not isinstance(value, int | kind) or isinstance(value, bool) or not least <= value <= most:
            problems.append(f"{name}={value!s:.40} is no number between {least:g} and {most:g}")
    patterns = []
    for name in ("rank_pattern", "alpha_pattern"):
        given = said.get(name) or {}
        if not isinstance(given, dict) or not all(isinstance(x, int | float) and 0 < x < 1e6 for x in given.values()):
            problems.append(f"{name}={given!s:.40} is no mapping of modules to numbers")
            continue
        patterns.append({key.replace("\\", ""): value for key, value in given.items()})
        if regexes := [key for key in patterns[-1] if re.search(r"[^\w.]", key)]:
            problems.append(f"{name}: {regexes[0]!r:.60} is a pattern; only names of modules are read")
    if problems:
        raise UserError.join(f"{path} cannot be read", [f"{path}: {problem}" for problem in problems])
    ranks, alphas = patterns
    return Scaling(
        path, said["r"], said["lora_alpha"], ranks, alphas, bool(said.get("use_rslora")), said["lora_dropout"]
    )


def _split(
    module: Module, layer: int, found: Mapping[str, safetensors.Entry], cfg: ModelConfig, scaling: Scaling
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields A and B of each projection of a module, in our layout; of rank 0 where the layer has no adapter."""
    names, (inputs, outputs) = module.tensors(layer), module.sides(cfg)
    if not any(name in found for name in names):
        yield from ((np.zeros((*inputs, 0), np.float32), np.zeros((0, *outputs), np.float32)) for _ in module.paths)
        return
    shapes = [found[name].shape if name in found else () for name in names]
    rank = shapes[0][0] if shapes[0] else 0
    wanted = [(rank, math.prod(inputs)), (math.prod(outputs) * len(module.paths), rank)]
    if shapes != wanted or not rank:
        raise UserError(
            f"{found[next(name for name in names if name in found)].path}: {names[0]!r} and its B have the shapes "
            f"{shapes} instead of {wanted}; take the base that they were trained beside"
        )
    a_RI, b_OR = (safetensors.read_tensor(name, found[name]) for name in names)
    if not (np.isfinite(a_RI).all() and np.isfinite(b_OR).all()):
        raise UserError(
            f"{found[names[0]].path}: {names[0]!r} or its B holds numbers that are not finite; get it again"
        )
    factor = np.float32(
        scaling.of(names[0].removeprefix(_PREFIX).removesuffix(".lora_A.weight"), rank) / scaling.default
    )
    parts_OR = np.split(b_OR * factor, len(module.paths))
    for part_OR in parts_OR:
        # Of several side by side each has the ranks that do something for its outputs, as where we wrote them.
        alone = len(parts_OR) == 1 or not np.any(b_OR)
        keep_R = np.any(part_OR != 0, axis=0) | alone
        yield a_RI[keep_R].T.reshape(*inputs, -1), part_OR[:, keep_R].T.reshape(-1, *outputs)


def _widened(array: np.ndarray, rank: int, dim: int) -> np.ndarray:
    """Returns the array with zeros at the end of a dim, up to the rank."""
    pads = [(0, 0)] * array.ndim
    pads[dim] = (0, rank - array.shape[dim])
    return np.pad(array, pads)
