"""From a config to a run: `build` makes the parts, `train` holds the only loop of the project."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from gptjax import config, distributed, model, registry
from gptjax.config import ExperimentConfig
from gptjax.data import pipeline
from gptjax.data.sources import Corpus, load_corpus
from gptjax.data.tokenizer import Tokenizer, load_tokenizer
from gptjax.model import accounting
from gptjax.model.config import ModelConfig
from gptjax.optim.optimizer import make_optimizer, make_schedule
from gptjax.sample.generate import sample_text
from gptjax.sharding import Layout, make_mesh
from gptjax.tasks.language_modeling import TASKS
from gptjax.train import evaluate as evaluation
from gptjax.train import throughput
from gptjax.train.checkpoint import Checkpoints
from gptjax.train.identity import refuse_other_run
from gptjax.train.loss import make_loss_fn
from gptjax.train.profile import Profiler
from gptjax.train.progress import Display
from gptjax.train.records import Records
from gptjax.train.signals import StopRequest
from gptjax.train.state import TrainState, abstract_state, create_state, with_params
from gptjax.train.step import group_norms, make_train_step
from gptjax.train.workdir import Workdir
from gptjax.types import Metrics, Params, UserError, stream_key


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config made into the parts of a run; nothing here changes while it runs."""

    cfg: ExperimentConfig
    model: ModelConfig
    corpus: Corpus
    layout: Layout
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
        return evaluation.evaluate(self.eval_step, params, batches)


def build(cfg: ExperimentConfig) -> Experiment:
    """Makes the parts of a run; prepares the corpus where that was not done yet."""
    corpus = load_corpus(cfg.data)
    model_cfg = dataclasses.replace(cfg.model, vocab_size=cfg.model.vocab_size or corpus.tokenizer.vocab_size).resolve()
    if corpus.tokenizer.vocab_size > model_cfg.vocab_size:
        raise UserError(
            f"model.vocab_size={model_cfg.vocab_size} is less than the tokenizer's {corpus.tokenizer.vocab_size}; "
            f"raise it, or leave it None to take the tokenizer's"
        )
    layout = Layout(make_mesh(cfg.mesh), cfg.mesh.rules)
    task = registry.build(TASKS, cfg.train.task, corpus.tokenizer.token_bytes())
    init_params = functools.partial(model.init_params, model_cfg)
    tx = make_optimizer(cfg.optim, jax.eval_shape(init_params, jax.random.key(0)))
    abstract = abstract_state(init_params, model.logical_axes(model_cfg), tx, layout)
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
        tx=tx,
        abstract=abstract,
        accumulation=accumulation,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(state_shardings, layout.replicated)),
        eval_step=jax.jit(evaluation.make_eval_step(valid_loss, layout), out_shardings=layout.replicated),
    )


def train(cfg: ExperimentConfig, path: str, allow_change: Sequence[str]) -> int:
    """Trains until the last step or a signal and returns the exit code; a workdir that holds a run is continued."""
    workdir = Workdir(path)
    with contextlib.ExitStack() as stack:
        if distributed.is_primary():
            workdir.acquire()
            stack.callback(workdir.release)
        distributed.barrier("workdir")
        display = Display(workdir.log, silent=not distributed.is_primary())
        stack.callback(display.close)
        checkpoints = Checkpoints(workdir.checkpoints, keep=cfg.checkpoint.keep)
        stack.callback(checkpoints.close)
        experiment = build(cfg)
        done = checkpoints.latest()
        if done is not None:
            refuse_other_run(checkpoints.meta(done)["identity"], experiment.identity, workdir.path, allow_change)
            if done >= cfg.optim.num_steps:
                display.say(f"done at step {done}: {workdir.path}")
                return 0
        for line in summary(experiment):
            display.say(line)
        state, cursor = initialize(experiment, checkpoints, display, allow_change)
        records = None
        if distributed.is_primary():
            workdir.write_config(config.to_plain(cfg))
            experiment.corpus.tokenizer.save(workdir.tokenizer)
            records = Records(workdir, display, int(state.step), cfg.optim.num_steps)
            stack.callback(records.close)
            records.text(int(state.step), "config", json.dumps(config.to_plain(cfg), indent=2))
        return loop(experiment, state, cursor, checkpoints, records, display, workdir)


def initialize(
    experiment: Experiment, checkpoints: Checkpoints, display: Display, allow_change: Sequence[str]
) -> tuple[TrainState, int]:
    """Returns the state that a run starts from and its place in the data; the first of these that there is:"""
    cfg = experiment.cfg.checkpoint
    # 1. the workdir's own last checkpoint
    own = checkpoints.latest()
    if own is not None:
        state, cursor = checkpoints.restore(own, experiment.abstract)
        display.say(f"resumed from step {own}")
        return state, cursor
    # 2. everything of another run
    if cfg.resume_from is not None:
        other, step = existing_checkpoint(Workdir(cfg.resume_from), "latest")
        refuse_other_run(other.meta(step)["identity"], experiment.identity, Path(cfg.resume_from), allow_change)
        state, cursor = other.restore(step, experiment.abstract)
        display.say(f"resumed from step {step} of {cfg.resume_from}")
        return state, cursor
    # 3. the parameters of another run
    if cfg.init_from is not None:
        other, step = existing_checkpoint(Workdir(cfg.init_from), "latest")
        params = other.restore_params(step, experiment.abstract.params)
        display.say(f"parameters from step {step} of {cfg.init_from}")
        return with_params(experiment.tx, params, experiment.abstract), 0
    # 4. scratch
    init_params = functools.partial(model.init_params, experiment.model)
    key = stream_key(experiment.cfg.seed, "init", 0)
    return create_state(init_params, experiment.tx, key, experiment.abstract), 0


def loop(
    experiment: Experiment,
    state: TrainState,
    cursor: int,
    checkpoints: Checkpoints,
    records: Records | None,
    display: Display,
    workdir: Workdir,
) -> int:
    """Evaluates, checkpoints, fetches a batch, steps and records, until the last step or a signal.

    The metrics of a step are read only after the next one was dispatched, so that the device never waits for the host.
    A checkpoint is taken before the data advances, and after the rows that led to it are on disk.
    """
    cfg, num_steps = experiment.cfg, experiment.cfg.optim.num_steps
    start = step = int(state.step)
    batches = experiment.train_batches(cursor)
    best = checkpoints.best()
    best_loss = best[1] if best is not None else float("inf")
    param_norms = jax.jit(group_norms)
    peak = throughput.peak_flops(experiment.model.dtype)
    meter = throughput.Meter(experiment.tokens_per_step, experiment.flops_per_step, peak)
    profiler = Profiler(cfg.profile, workdir.path)
    unread: Callable[[], None] | None = None  # reads the metrics of the step dispatched last

    def read(step: int, cursor: int, metrics: Metrics, norms: dict[str, Any]) -> None:
        if int(metrics["skipped_in_a_row"][0]) > cfg.optim.max_skipped_steps:
            raise UserError(
                f"loss or gradient was not finite for {cfg.optim.max_skipped_steps + 1} steps in a row, until step "
                f"{step}; the last good checkpoint is step {checkpoints.latest()}; lower optim.peak_lr"
            )
        meter.step()
        if records is not None and (step % cfg.train.log_every == 0 or step == num_steps):
            tokens_seen = cursor * experiment.model.seq_len
            records.train_row(step, tokens_seen, jax.device_get(metrics), meter.read(), jax.device_get(norms))

    with StopRequest() as stop, display.progress(step, num_steps):
        while True:
            last, stopped = step == num_steps, distributed.any_process(stop.requested)
            evaluation_due = step > start and (last or step % cfg.evaluation.every == 0)
            checkpoint_due = step > start and (last or stopped or step % cfg.checkpoint.every == 0)
            valid_loss = None
            if unread is not None and (evaluation_due or checkpoint_due):
                unread()
                unread = None
            if evaluation_due:
                means = experiment.evaluate(state.params)
                valid_loss = means["loss"]
                if records is not None:
                    records.valid_row(step, cursor * experiment.model.seq_len, means)
            if checkpoint_due or (valid_loss is not None and valid_loss < best_loss):
                if records is not None:
                    records.sync()
                checkpoints.save(state, step, cursor, {"identity": experiment.identity}, valid_loss)
            if valid_loss is not None:
                best_loss = min(best_loss, valid_loss)
            if evaluation_due or checkpoint_due:
                meter.restart()
            if last or stopped:
                break
            profiler.before(step + 1)
            state, metrics = experiment.train_step(state, next(batches))
            step, cursor = step + 1, cursor + cfg.data.batch_size
            norms = param_norms(state.params) if step % cfg.train.log_every == 0 else {}
            profiler.after(step, metrics)
            if unread is not None:
                unread()
            unread = functools.partial(read, step, cursor, metrics, norms)
            display.advance(step)
        checkpoints.wait()
    if not last:
        display.say(f"stopped at step {step}, saved; run the same command to go on")
        return stop.exit_code
    display.say(f"done at step {step}: {workdir.path}")
    if records is not None and cfg.sample.prompts and jax.process_count() == 1:
        write_samples(experiment, state.params, step, records, display, workdir)
    return 0


def write_samples(
    experiment: Experiment, params: Params, step: int, records: Records, display: Display, workdir: Workdir
) -> None:
    """Continues the configured prompts and keeps the texts in samples/, in TensorBoard and on the screen."""
    cfg = experiment.cfg
    texts = sample_text(
        experiment.model, params, experiment.corpus.tokenizer, list(cfg.sample.prompts), cfg.sample, cfg.seed
    )
    whole = "\n\n".join(
        f"--- {prompt!r}\n{prompt}{text}" for prompt, text in zip(cfg.sample.prompts, texts, strict=True)
    )
    (workdir.samples / f"step-{step}.txt").write_text(whole + "\n", encoding="utf-8")
    records.text(step, "samples", whole)
    display.say(f"\nsample at step {step}\n{whole}")


def summary(experiment: Experiment) -> list[str]:
    """Says what a run will do, in a few lines."""
    cfg, corpus, shape = experiment.cfg, experiment.corpus, experiment.layout.mesh.shape
    mesh = " x ".join(f"{axis} {size}" for axis, size in shape.items() if size > 1) or "one device"
    per_device = cfg.data.batch_size // experiment.layout.rows // experiment.accumulation
    return [
        f"model     {accounting.num_params(experiment.model):,} parameters, vocabulary {experiment.model.vocab_size:,}",
        f"data      {len(corpus.split('train')):,} training and {len(corpus.split('valid')):,} validation tokens",
        f"mesh      {mesh} ({jax.devices()[0].platform}), rules {cfg.mesh.rules}",
        f"batch     {cfg.data.batch_size} sequences of {experiment.model.seq_len} tokens: {experiment.accumulation} x "
        f"{per_device} a device",
        f"run       {cfg.optim.num_steps:,} steps, {cfg.optim.num_steps * experiment.tokens_per_step:,} tokens, "
        f"{experiment.flops_per_step:.3g} FLOPs a step",
    ]


def existing_checkpoint(workdir: Workdir, which: str | int) -> tuple[Checkpoints, int]:
    """Opens a workdir's checkpoints to read one: "latest", "best" or a step; raises UserError where there is none."""
    workdir.read_config()  # says so where this is no workdir
    checkpoints = Checkpoints(workdir.checkpoints, read_only=True) if workdir.checkpoints.is_dir() else None
    steps = checkpoints.steps() if checkpoints is not None else []
    if checkpoints is None or not steps:
        raise UserError(f"{workdir.path} has no checkpoint yet; train it first")
    if which == "latest":
        return checkpoints, steps[-1]
    if which == "best":
        best = checkpoints.best()
        if best is None:
            raise UserError(f"{workdir.path} has no evaluated checkpoint; take the latest, or a step of {steps}")
        return checkpoints, best[0]
    if which not in steps:
        raise UserError(f"{workdir.path} has no checkpoint of step {which}; there are {', '.join(map(str, steps))}")
    return checkpoints, int(which)


def load_for_inference(path: str, which: str | int = "latest") -> tuple[ModelConfig, Params, Tokenizer]:
    """Returns the model config, the parameters (on the first device) and the tokenizer of a workdir."""
    workdir = Workdir(path)
    checkpoints, step = existing_checkpoint(workdir, which)
    cfg = config.from_config_dict(workdir.read_config())
    tokenizer = load_tokenizer(workdir.tokenizer)
    model_cfg = dataclasses.replace(cfg.model, vocab_size=cfg.model.vocab_size or tokenizer.vocab_size).resolve()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(functools.partial(model.init_params, model_cfg), jax.random.key(0))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    return model_cfg, checkpoints.restore_params(step, abstract), tokenizer


def evaluate(cfg: ExperimentConfig, path: str, allow_change: Sequence[str]) -> int:
    """Scores the last checkpoint of a workdir on the validation split."""
    workdir, display = Workdir(path), Display(None, silent=not distributed.is_primary())
    checkpoints, step = existing_checkpoint(workdir, "latest")
    experiment = build(cfg)
    refuse_other_run(checkpoints.meta(step)["identity"], experiment.identity, workdir.path, allow_change)
    params = checkpoints.restore_params(step, experiment.abstract.params)
    means = experiment.evaluate(params)
    windows = cfg.evaluation.num_windows
    what = "the whole validation split" if windows is None else f"the first {windows} windows of the validation split"
    words = "  ".join(f"{name} {value:.6f}" for name, value in means.items() if value is not None)
    display.say(f"step {step}  valid  {words}  ({what})")
    return 0


def check(cfg: ExperimentConfig) -> int:
    """Prints parameters, memory and the plan of batches; trains nothing."""
    display = Display(None, silent=not distributed.is_primary())
    experiment = build(cfg)
    for path, shape, names, count in accounting.parameter_table(experiment.model):
        display.say(f"{path:40} {shape!s:24} {names!s:40} {count:>14,}")
    for line in summary(experiment):
        display.say(line)
    batch = jax.eval_shape(lambda: next(experiment.train_batches(0)))
    memory = experiment.train_step.lower(experiment.abstract, batch).compile().memory_analysis()
    display.say(f"memory per device {memory}")
    return 0
