"""Other people's models into workdirs: parameters alone, each made where its sharding says, a tensor at a time."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax import config, model
from gptjax.config import ExperimentConfig
from gptjax.data.config import DataConfig
from gptjax.data.console import Console
from gptjax.data.tokenizer import Tokenizer
from gptjax.interop.blueprint import Blueprint, by_path, read_config
from gptjax.interop.folder import new_folder
from gptjax.interop.pretrained import Pretrained
from gptjax.model.config import DTYPES, ModelConfig
from gptjax.registry import Choice
from gptjax.sharding import Layout, MeshConfig, make_mesh, shardings
from gptjax.train.checkpoint import Checkpoints
from gptjax.train.workdir import Workdir
from gptjax.types import Params, UserError


def import_pretrained(pretrained: Pretrained, path: Path, console: Console, *, dtype: str = "float32") -> int:
    """Writes a workdir that holds the model at step 0; returns its number of parameters.

    `dtype` is what the model will compute in; its parameters are float32. Raises UserError where the model cannot be
    held, its files are damaged or something stands at the path.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype={dtype} is unknown; a model computes in {' or '.join(DTYPES)}")
    with new_folder(path) as partial:
        tokenizer = pretrained.tokenizer()
        blueprint = read_config(pretrained.config, pretrained.source)
        params, cfg = load(blueprint, pretrained, console), dataclasses.replace(blueprint.cfg, dtype=dtype)
        if tokenizer.vocab_size > (cfg.vocab_size or 0):
            raise UserError(
                f"{pretrained.source}: its tokenizer has {tokenizer.vocab_size:,} tokens and the model "
                f"{cfg.vocab_size:,}; take the tokenizer that it was trained with"
            )
        _fill(partial, path, cfg, params, tokenizer, {"imported_from": pretrained.source})
    return model.num_params(cfg)


def write_model(path: Path, cfg: ModelConfig, params: Params, tokenizer: Tokenizer, **about: Any) -> None:
    """Writes a workdir that holds a model at step 0; the checkpoint says `about` of itself: imported_from, classes.

    Raises UserError where something stands at the path.
    """
    with new_folder(path) as partial:
        _fill(partial, path, cfg, params, tokenizer, about)


def _fill(
    partial: Path, path: Path, cfg: ModelConfig, params: Params, tokenizer: Tokenizer, about: Mapping[str, Any]
) -> None:
    """Makes a folder, which will stand at a path, such a workdir."""
    cfg = dataclasses.replace(cfg, classifiers=())  # they follow the tasks
    workdir = Workdir(partial)
    tokenizer.save(workdir.tokenizer)
    own_tokenizer = Choice("saved", {"path": str(Workdir(path.absolute()).tokenizer)})
    plain = config.to_plain(ExperimentConfig(model=cfg, data=DataConfig(tokenizer=own_tokenizer)))
    meta = {"config": plain, "tokenizer": tokenizer.fingerprint, **about}
    with Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save_params(params, meta)
    workdir.write_config(plain)


def load(blueprint: Blueprint, pretrained: Pretrained, console: Console) -> Params:
    """Returns the parameters of a checked model, spread over the devices; one tensor beside them is in memory."""
    lacking = blueprint.check(pretrained)
    cfg = blueprint.cfg
    shapes = model.param_shapes(cfg)
    devices = jax.devices()[: math.gcd(jax.device_count(), cfg.d_model)]
    placed = shardings(Layout(make_mesh(MeshConfig(), devices)), model.logical_axes(cfg), shapes)
    owners = {path: tensor for tensor in blueprint.tensors for path in tensor.paths}
    params = {}
    with console.progress(f"importing {pretrained.source}", 4 * model.num_params(cfg)) as advance:

        def read(name: str, path: str) -> np.ndarray:
            array = pretrained.read(name)
            if not np.isfinite(array).all():
                raise UserError(f"{pretrained.source}: tensor {name!r} holds numbers that are not finite; get it again")
            part = owners[path].unpack(cfg, array, path)
            advance(part.nbytes)
            return part

        for (path, leaf), (_, sharding) in zip(by_path(shapes), by_path(placed), strict=True):
            name = owners[path].name.removeprefix(lacking)
            names = [name.format(layer) for layer in range(cfg.num_layers)] if "{}" in name else [name]
            layers = [functools.partial(read, name, path) for name in names]
            params[path] = assemble(leaf.shape, sharding, layers, stacked="{}" in name)
    leaves = [params[path] for path, _ in by_path(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def assemble(
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding,
    layers: Sequence[Callable[[], np.ndarray]],
    *,
    stacked: bool,
) -> jax.Array:
    """Makes an array of its layers, read one after the other, of which each device gets its part.

    A layer that is smaller than its place, as a vocabulary that is padded here, is followed by zeros.
    """

    def bounds(index) -> tuple[tuple[int, int], ...]:
        return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))

    places = map(bounds, sharding.addressable_devices_indices_map(shape).values())
    parts = {place: np.zeros([end - start for start, end in place], np.float32) for place in places}
    for layer, read in enumerate(layers):
        value = read()
        for place, part in parts.items():
            inner = [slice(*bound) for bound in (place[1:] if stacked else place)]
            if stacked and not place[0][0] <= layer < place[0][1]:
                continue
            piece = value[tuple(inner)]
            whole = part[layer - place[0][0]] if stacked else part
            whole[tuple(map(slice, piece.shape))] = piece
    return jax.make_array_from_callback(shape, sharding, lambda index: parts[bounds(index)])
