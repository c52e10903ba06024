"""Our models into folders that `transformers` loads: config, weights in shards, tokenizer; padding is left out."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data.console import Console
from gptjax.data.tokenizer import Tokenizer
from gptjax.interop import huggingface, safetensors
from gptjax.interop.blueprint import Blueprint, by_path, write_config
from gptjax.interop.folder import new_folder
from gptjax.interop.library import library_json
from gptjax.interop.tensors import Tensor
from gptjax.model import accounting, lora
from gptjax.model.config import ModelConfig
from gptjax.types import Params, UserError

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""What weights can be written as, and the format's name for it."""


def export_huggingface(
    cfg: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    path: Path,
    console: Console,
    *,
    dtype: str = "float32",
    shard_size: int = 5 * 10**9,
) -> str:
    """Writes the folder and returns the model_type of the family that holds the model.

    A shard holds at most `shard_size` bytes, or one tensor. Adapters are merged into the weights. Raises UserError
    where no family has the model's options.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype={dtype} is unknown; weights are written as {', '.join(DTYPES)}")
    cfg, params = lora.merge(cfg, params)
    blueprint, fields = write_config(cfg)
    ends = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id}
    with new_folder(path) as folder:
        _write_json(folder / huggingface.CONFIG, {**fields, **ends, "dtype": dtype, "torch_dtype": dtype})
        _write_json(folder / huggingface.GENERATION, {name: i for name, i in ends.items() if i is not None})
        _write_tokenizer(folder, tokenizer, cfg.seq_len)
        with console.progress(f"exporting to {path}", 4 * accounting.num_params(blueprint.cfg)) as advance:
            _write_weights(folder, blueprint, params, DTYPES[dtype], shard_size, advance)
    return blueprint.model_type


def _write_weights(
    folder: Path, blueprint: Blueprint, params: Params, dtype: str, shard_size: int, advance: Callable[[int], object]
) -> None:
    rows = {name: (tensor, layer) for name, tensor, layer in blueprint.named()}
    shapes = {name: tensor.shape(blueprint.cfg) for name, (tensor, _) in rows.items()}
    flat = dict(by_path(params))
    sizes = {name: math.prod(shape) * safetensors.DTYPES[dtype].itemsize for name, shape in shapes.items()}
    shards = plan_shards(sizes, shard_size)
    files = [huggingface.WEIGHTS]
    if len(shards) > 1:
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        _write_json(folder / huggingface.INDEX, index)

    def tensors(names: Sequence[str]) -> Iterator[np.ndarray]:
        for name in names:
            tensor, layer = rows[name]
            held = {path: _part(blueprint.cfg, flat[path], tensor, layer) for path in tensor.paths if path in flat}
            packed = tensor.pack(blueprint.cfg, held)
            yield packed
            advance(packed.nbytes)

    for file, names in zip(files, shards, strict=True):
        safetensors.write(folder / file, {name: shapes[name] for name in names}, dtype, tensors(names))


def _part(cfg: ModelConfig, param: Any, tensor: Tensor, layer: int | None) -> np.ndarray:
    """Returns a parameter of a layer without what pads its vocabulary."""
    array = np.asarray(param if layer is None else param[layer])
    return array[tuple(slice(cfg.vocab_size if letter == "V" else None) for letter in tensor.own)]


def plan_shards(sizes: Mapping[str, int], shard_size: int) -> list[list[str]]:
    """Returns the names of each shard's tensors, in order: as many as fit, or one that does not."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = shard_size
        shards[-1].append(name)
        room -= size
    return shards


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, seq_len: int) -> None:
    roles = {"eos_token": tokenizer.eos_id, "bos_token": tokenizer.bos_id}
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": seq_len,
        "clean_up_tokenization_spaces": False,
        **{role: name for role, i in roles.items() for name, other in tokenizer.special_tokens.items() if i == other},
    }
    if tokenizer.chat_template is not None:
        said["chat_template"] = tokenizer.chat_template
    _write_json(folder / "tokenizer.json", library_json(tokenizer))
    _write_json(folder / huggingface.TOKENIZER, said)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
