"""An experiment made into the parts of a run: model, data, mesh, optimiser and the two jitted steps, from its config.

Builds, and describes what it built; runs nothing.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gptjax import config, model, registry
from gptjax.config import ExperimentConfig
from gptjax.data import pipeline
from gptjax.data.sources import Corpus, load_corpus
from gptjax.data.tokenizer import Tokenizer
from gptjax.model import accounting
from gptjax.model.config import ModelConfig
from gptjax.optim.optimizer import make_optimizer, make_schedule
from gptjax.sharding import Layout, make_mesh
from gptjax.tasks.language_modeling import TASKS
from gptjax.train.evaluate import evaluate, make_eval_step
from gptjax.train.loss import make_loss_fn
from gptjax.train.state import TrainState, abstract_state
from gptjax.train.step import make_train_step
from gptjax.types import Batch, Params, UserError


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config made into the parts of a run; nothing here changes while it runs."""

    cfg: ExperimentConfig
    model: ModelConfig
    corpus: Corpus
    layout: Layout
    init_params: Callable
    tx: optax.GradientTransformationExtraArgs
    abstract: TrainState
    accumulation: int
    train_step: Callable
    eval_step: Callable

    @property
    def tokens_per_step(self) -> int:
        """Tokens in a global batch."""
        return self.cfg.data.batch_size * self.model.seq_len

    @property
    def batch_sharding(self) -> jax.sharding.NamedSharding:
        """How a batch of sequences lies on the mesh."""
        return self.layout.sharding(("act_batch", "act_seq"))

    def lower_train_step(self) -> jax.stages.Lowered:
        """Traces the training step from shapes alone, before there is a state or a batch; `.compile()` is the next."""
        shape, where = (self.cfg.data.batch_size, self.model.seq_len), self.batch_sharding
        ints = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=where)
        floats = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
        batch = Batch(ints, ints, loss_mask_BT=floats, segment_ids_BT=ints, positions_BT=ints, labels={})
        return self.train_step.lower(self.abstract, batch)

    def train_batches(self, cursor: int) -> Any:
        """Returns the batches from a cursor on."""
        return pipeline.train_batches(
            self.cfg.data, self.corpus, self.model.seq_len, self.cfg.seed, self.batch_sharding, cursor
        )

    @property
    def flops_per_step(self) -> float:
        """Model FLOPs of a training step (model/accounting.py says what is counted)."""
        return accounting.flops_per_token(self.model) * self.tokens_per_step

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this run the one it is: options by path, and the text that it learns from."""
        return {**config.fingerprint(self.cfg), "data.fingerprint": self.corpus.fingerprint}

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint says of itself beside its step: the whole config, the identity and the tokenizer's hash."""
        return {
            "config": config.to_plain(self.cfg),
            "fingerprint": self.identity,
            "tokenizer": self.corpus.tokenizer.fingerprint,
        }

    def evaluate(self, params: Params) -> dict[str, float | None]:
        """Returns the metrics of the validation split: of all of it, or of its first evaluation.num_windows."""
        batches = pipeline.evaluation_batches(
            self.cfg.data,
            self.corpus.split("valid"),
            self.model.seq_len,
            self.cfg.evaluation.batch_size or self.cfg.data.batch_size,
            self.batch_sharding,
            self.cfg.evaluation.num_windows,
        )
        return evaluate(self.eval_step, params, batches)


def sized(cfg: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Returns the model config with the tokenizer's vocabulary where it names none; raises UserError if it is less."""
    if cfg.vocab_size is not None and cfg.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={cfg.vocab_size} is less than the tokenizer's {tokenizer.vocab_size}; "
            f"raise it, or leave it None to take the tokenizer's"
        )
    return dataclasses.replace(cfg, vocab_size=cfg.vocab_size or tokenizer.vocab_size).resolve()


def build(cfg: ExperimentConfig, corpus: Corpus | None = None) -> Experiment:
    """Makes the parts of a run; without a corpus it loads the config's, and prepares it where that was not done yet."""
    corpus = corpus or load_corpus(cfg.data)
    model_cfg = sized(cfg.model, corpus.tokenizer)
    layout = Layout(make_mesh(cfg.mesh), cfg.mesh.rules)
    task = registry.build(TASKS, cfg.train.task, corpus.tokenizer.token_bytes())
    shapes = model.param_shapes(model_cfg)
    tx = make_optimizer(cfg.optim, shapes)
    abstract = abstract_state(shapes, model.logical_axes(model_cfg), tx, layout)
    accumulation = cfg.train.accumulation(cfg.data.batch_size, layout.rows)
    train_loss = make_loss_fn(model_cfg, task, cfg.seed)
    valid_loss = make_loss_fn(model_cfg, task, None)
    train_step = make_train_step(train_loss, tx, make_schedule(cfg.optim), layout, accumulation)
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return Experiment(
        cfg=cfg,
        model=model_cfg,
        corpus=corpus,
        layout=layout,
        init_params=functools.partial(model.init_params, model_cfg),
        tx=tx,
        abstract=abstract,
        accumulation=accumulation,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(state_shardings, layout.replicated)),
        eval_step=jax.jit(make_eval_step(valid_loss, layout), out_shardings=layout.replicated),
    )


def summary(experiment: Experiment) -> list[str]:
    """Says what a run will do, in a few lines; raises UserError where the text is too short for it."""
    cfg, corpus, shape = experiment.cfg, experiment.corpus, experiment.layout.mesh.shape
    num_sequences = sum(pipeline.num_sequences(corpus, experiment.model.seq_len))
    mesh = " x ".join(f"{axis} {size}" for axis, size in shape.items() if size > 1) or "one device"
    per_device = cfg.data.batch_size // experiment.layout.rows // experiment.accumulation
    return [
        f"model     {accounting.num_params(experiment.model):,} parameters, vocabulary {experiment.model.vocab_size:,}",
        f"data      {len(corpus.split('train')):,} training and {len(corpus.split('valid')):,} validation tokens; "
        f"an epoch is {num_sequences:,} sequences",
        f"mesh      {mesh} ({jax.devices()[0].platform}), rules {cfg.mesh.rules}",
        f"batch     {cfg.data.batch_size} sequences of {experiment.model.seq_len} tokens: {experiment.accumulation} x "
        f"{per_device} a device",
        f"run       {cfg.optim.num_steps:,} steps, {cfg.optim.num_steps * experiment.tokens_per_step:,} tokens, "
        f"{experiment.flops_per_step:.3g} FLOPs a step",
    ]
