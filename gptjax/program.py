"""What the devices run: model, mesh, optimiser and the two jitted steps, built from a config without any text.

Builds and runs nothing; the devices may be absent ones, for which the steps can only be compiled.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from gptjax import model
from gptjax.config import ExperimentConfig
from gptjax.model import accounting
from gptjax.model.config import ModelConfig
from gptjax.optim.masks import trained_part
from gptjax.optim.optimizer import make_optimizer, make_schedule
from gptjax.sharding import Layout, make_mesh
from gptjax.tasks.mixture import Mixture
from gptjax.tasks.task import Task
from gptjax.train.evaluate import make_eval_step
from gptjax.train.loss import make_loss_fn, make_output_fn
from gptjax.train.state import TrainState, abstract_state
from gptjax.train.step import make_train_step
from gptjax.types import Batch, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """The parts of a run that are compiled; nothing here changes while it runs."""

    cfg: ExperimentConfig
    model: ModelConfig
    layout: Layout
    init_params: Callable
    trained: Params
    """The part of the parameters that is trained, as shapes."""
    tx: optax.GradientTransformationExtraArgs
    abstract: TrainState
    accumulation: int
    """Micro-batches of a full batch."""
    tasks: Mixture
    train_step: Callable
    eval_steps: Mapping[str, Callable]
    """Of each task: (params, batch) -> (metrics, outputs)."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens in a global batch of the full size."""
        return self.cfg.data.batch_size * self.model.seq_len

    @property
    def flops_per_token(self) -> int:
        """Model FLOPs of training on one token (model/accounting.py says what is counted)."""
        return accounting.flops_per_token(self.model, trained=self.trained, unembeds=self.tasks.unembeds)

    @property
    def flops_per_step(self) -> float:
        """Model FLOPs of a training step of the full batch size."""
        return self.flops_per_token * self.tokens_per_step

    @property
    def total_tokens(self) -> int:
        """Tokens that the whole run reads."""
        return self.cfg.data.batch_at(0, self.cfg.optim.num_steps)[0] * self.model.seq_len

    @property
    def batch_sharding(self) -> jax.sharding.NamedSharding:
        """How a batch of sequences lies on the mesh."""
        return self.layout.sharding(("act_batch", "act_seq"))

    def trace_train_step(self, batch_size: int | None = None) -> jax.stages.Traced:
        """Traces the training step, by default of a full batch, from shapes alone: no state or batch is needed."""
        shape, where = (batch_size or self.cfg.data.batch_size, self.model.seq_len), self.batch_sharding
        ints = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=where)
        floats = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
        labels = {
            name: jax.ShapeDtypeStruct((*shape, *dims), dtype, sharding=where)
            for name, (dims, dtype) in self.tasks.label_arrays.items()
        }
        batch = Batch(ints, ints, loss_mask_BT=floats, segment_ids_BT=ints, positions_BT=ints, labels=labels)
        return self.train_step.trace(self.abstract, batch)

    def lower_train_step(self, batch_size: int | None = None) -> jax.stages.Lowered:
        """Traces the training step and lowers it for the layout's platform; `.compile()` is the next."""
        return self.trace_train_step(batch_size).lower(lowering_platforms=(self.layout.platform,))


def build_program(
    cfg: ExperimentConfig,
    model_cfg: ModelConfig,
    tasks: Mixture,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Makes the steps of a model with its vocabulary filled in, on the given devices (default: all there are)."""
    layout = Layout(make_mesh(cfg.mesh, devices), cfg.mesh.rules)
    model_cfg = dataclasses.replace(model_cfg, classifiers=tasks.classifiers)
    shapes, names = model.param_shapes(model_cfg), model.logical_axes(model_cfg)
    factors = None if model_cfg.mup_base_width is None else model.lr_factors(model_cfg)
    trained = trained_part(cfg.optim, shapes, names)
    tx = make_optimizer(cfg.optim, shapes, names, factors)
    abstract = abstract_state(shapes, names, tx, layout)
    accumulation = functools.partial(cfg.train.accumulation, parts=layout.parts("act_batch"))
    train_loss = make_loss_fn(model_cfg, tasks, cfg.seed)
    train_step = make_train_step(train_loss, tx, make_schedule(cfg.optim), layout, names, trained, accumulation)

    def eval_step(task: Task) -> Callable:
        output_fn = make_output_fn(model_cfg, task, by_position=cfg.evaluation.by_position)
        return jax.jit(make_eval_step(output_fn, layout, names), out_shardings=layout.replicated)

    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return Program(
        cfg=cfg,
        model=model_cfg,
        layout=layout,
        init_params=functools.partial(model.init_params, model_cfg),
        trained=trained,
        tx=tx,
        abstract=abstract,
        accumulation=accumulation(cfg.data.batch_size),
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(state_shardings, layout.replicated)),
        tasks=tasks,
        eval_steps={name: eval_step(task) for name, task in tasks.tasks.items()},
    )
