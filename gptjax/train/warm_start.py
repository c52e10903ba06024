"""The parameters of another run for a model that has more of them, or fewer: adapters and classifiers may differ."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import jax

from gptjax import model
from gptjax.model import lora
from gptjax.model.config import ModelConfig
from gptjax.optim.masks import leaves_of, part_where, path_of, put
from gptjax.sharding import Layout, shardings
from gptjax.train.checkpoint import Checkpoints
from gptjax.types import Params

ADDED = r".*/lora_[ab]/.*|(classifiers|head)/.*"
"""What a model may have that the checkpoint lacks, or the other way round; by whole paths."""
CLASSIFIERS = r"classifiers/.*"
"""What a checkpoint may have beside what is asked of its model."""


def start_from(
    checkpoints: Checkpoints, step: int, cfg: ModelConfig, abstract: Params, layout: Layout, key: jax.Array
) -> tuple[Params, list[str]]:
    """Returns the parameters that a run of a model starts from, laid out as `abstract` says, and lines about them.

    Where the model keeps kernels in few bits and the checkpoint has them whole, they come whole, and are then packed.
    """
    saved = checkpoints.param_shapes(step)
    packed = any(f"{path.removesuffix('/scale')}/lora_a/kernel" in saved for path in saved if path.endswith("/scale"))
    if cfg.lora.base == "float32" or packed:
        return adopt(checkpoints, step, abstract, functools.partial(model.init_params, cfg), key)
    whole = dataclasses.replace(cfg, lora=dataclasses.replace(cfg.lora, base="float32"))
    shapes = model.param_shapes(whole)
    where = shardings(layout, model.logical_axes(whole), shapes)
    shapes = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, where)
    params, lines = adopt(checkpoints, step, shapes, functools.partial(model.init_params, whole), key)
    pack = jax.jit(functools.partial(lora.quantise, cfg), out_shardings=jax.tree.map(lambda x: x.sharding, abstract))
    return pack(params), [*lines, f"adapted kernels are kept as {cfg.lora.base}"]


def adopt(
    checkpoints: Checkpoints, step: int, abstract: Params, init_params: Callable, key: jax.Array
) -> tuple[Params, list[str]]:
    """Returns the parameters of a checkpoint, laid out as `abstract` says, and lines that say what differs.

    What the checkpoint lacks comes from `init_params` (key -> all parameters); what the model lacks is not read. Raises
    UserError where anything but adapters, classifiers and heads differs.
    """
    saved, absent, left_out = _compare(checkpoints, step, abstract, may_lack=ADDED, may_have=ADDED)
    params = put(abstract, checkpoints.restore_params(step, part_where(abstract, lambda path: path in saved)))
    lines = []
    if absent:
        fresh = part_where(abstract, lambda path: path not in saved)
        where = jax.tree.map(lambda leaf: leaf.sharding, fresh)
        params = put(params, jax.jit(lambda key: leaves_of(init_params(key), fresh), out_shardings=where)(key))
        lines.append(f"fresh, since it has none: {_in_words(absent)}")
    if left_out:
        lines.append(f"left out, since the model has none: {_in_words(left_out)}")
    return params, lines


def read_params(checkpoints: Checkpoints, step: int, abstract: Params) -> Params:
    """Returns the parameters of a checkpoint, laid out as `abstract` says, to use as they are.

    Classifiers that are not asked for are not read. Raises UserError where anything else differs.
    """
    _compare(checkpoints, step, abstract, may_lack="", may_have=CLASSIFIERS)
    return checkpoints.restore_params(step, abstract)


def _compare(
    checkpoints: Checkpoints, step: int, abstract: Params, *, may_lack: str, may_have: str
) -> tuple[Mapping[str, tuple[int, ...]], list[str], list[str]]:
    """Returns the shapes that were saved, what the checkpoint lacks of what is asked and what it has beside that."""
    saved = checkpoints.param_shapes(step)
    asked = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)}
    absent, beside = sorted(asked.keys() - saved.keys()), sorted(saved.keys() - asked.keys())
    for paths, allowed, where in ((absent, may_lack, "there"), (beside, may_have, "in this model")):
        if foreign := [path for path in paths if not re.fullmatch(allowed, path)]:
            checkpoints.refuse_other_model(step, f"there is no {foreign[0]} {where}")
    for path in sorted(asked.keys() & saved.keys()):
        if (here := tuple(asked[path].shape)) != saved[path]:
            checkpoints.refuse_other_model(step, f"{path} has the shape {saved[path]} there and {here} here")
    return saved, absent, beside


def _in_words(paths: Sequence[str]) -> str:
    """Names up to four parameters, and of more the first three and how many there are."""
    shown = paths if len(paths) <= 4 else paths[:3]
    return ", ".join(shown) + (f" and {len(paths) - 3} more" if len(paths) > 4 else "")
