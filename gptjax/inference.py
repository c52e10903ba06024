"""A workdir's model, ready to be used: what sampling, chatting and the evaluation harness start from."""

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


def load(path: str, which: str | int = "latest") -> tuple[ModelConfig, Params, Tokenizer]:
    """Returns the model config, the parameters (on the first device) and the tokenizer of a workdir."""
    workdir = Workdir(path)
    checkpoints, step = open_checkpoint(workdir, which)
    cfg = config.from_config_dict(workdir.read_config())
    tokenizer = load_tokenizer(workdir.tokenizer)
    refuse_foreign_tokenizer(tokenizer, checkpoints, step, workdir)
    model_cfg = sized(cfg.model, tokenizer)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), model.param_shapes(model_cfg)
    )
    return model_cfg, read_params(checkpoints, step, abstract), tokenizer


def classifiers(path: str, which: str | int = "latest") -> list[str]:
    """Returns the tasks whose classifiers a checkpoint of a workdir holds."""
    checkpoints, step = open_checkpoint(Workdir(path), which)
    return sorted({name.split("/")[1] for name in checkpoints.param_shapes(step) if name.startswith("classifiers/")})
