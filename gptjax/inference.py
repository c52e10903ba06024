"""A workdir's model, ready to be used: what sampling, chatting and the evaluation harness start from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from gptjax import config, model
from gptjax.data.tokenizer import Tokenizer, load_tokenizer
from gptjax.experiment import sized
from gptjax.model.config import ModelConfig
from gptjax.train.checkpoint import open_checkpoint
from gptjax.train.identity import refuse_foreign_tokenizer
from gptjax.train.warm_start import read_params
from gptjax.train.workdir import Workdir
from gptjax.types import Params


class Loaded(NamedTuple):
    """A model out of a workdir."""

    cfg: ModelConfig
    params: Params
    """On the first device."""
    tokenizer: Tokenizer
    classes: Mapping[str, Sequence[str]]
    """What the classifiers of its tasks tell apart."""


def load(path: str, which: str | int = "latest") -> Loaded:
    """Returns the model of a checkpoint of a workdir."""
    workdir = Workdir(path)
    checkpoints, step = open_checkpoint(workdir, which)
    cfg = config.from_config_dict(workdir.read_config())
    tokenizer = load_tokenizer(workdir.tokenizer)
    refuse_foreign_tokenizer(tokenizer, checkpoints, step, workdir)
    classes = checkpoints.meta(step).get("classes", {})
    classifiers = tuple((name, len(labels)) for name, labels in classes.items())
    model_cfg = dataclasses.replace(sized(cfg.model, tokenizer), classifiers=classifiers)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), model.param_shapes(model_cfg)
    )
    return Loaded(model_cfg, read_params(checkpoints, step, abstract), tokenizer, classes)
