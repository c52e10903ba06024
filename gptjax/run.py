"""What can be done with an experiment: `train`, which holds the only loop of the project, `evaluate` and `check`."""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gptjax import config, distributed, evaluation
from gptjax.config import ExperimentConfig
from gptjax.experiment import Experiment, build, facts, summary
from gptjax.model import accounting
from gptjax.registry import Choice
from gptjax.sample.generate import sample_text
from gptjax.train import throughput
from gptjax.train.checkpoint import Checkpoints, open_checkpoint
from gptjax.train.identity import refuse_foreign_tokenizer, refuse_other_classes, refuse_other_run
from gptjax.train.metrics import criterion
from gptjax.train.profile import Profiler
from gptjax.train.progress import Display
from gptjax.train.records import Records
from gptjax.train.signals import StopRequest
from gptjax.train.state import TrainState, create_state, with_params
from gptjax.train.step import group_norms
from gptjax.train.warm_start import read_params, start_from
from gptjax.train.watchdog import Watchdog
from gptjax.train.workdir import Workdir, write_atomically
from gptjax.types import Metrics, Params, UserError, stream_key


@distributed.AsOne()
def train(cfg: ExperimentConfig, path: str, allow_change: Sequence[str]) -> int:
    """Trains until the last step or a signal and returns the exit code; a workdir that holds a run is continued."""
    workdir = Workdir(path)
    with contextlib.ExitStack() as stack:
        distributed.on_primary(workdir.acquire)
        stack.callback(workdir.release)
        display = stack.enter_context(Display(workdir.log, silent=not distributed.is_primary()))
        checkpoints = stack.enter_context(Checkpoints(workdir.checkpoints, keep=cfg.checkpoint.keep))
        experiment = build(cfg)
        distributed.agree("experiment", {**experiment.identity, **config.flatten(config.to_plain(cfg))})
        done = checkpoints.latest()
        if done is not None:
            refuse_foreign_checkpoint(experiment, checkpoints, done, workdir.path, allow_change)
            best = checkpoints.best()
            if done >= cfg.optim.num_steps or (best is not None and cfg.evaluation.gives_up(done - best[0])):
                display.say(done_in_words(done, cfg, checkpoints, workdir))
                return 0
        for line in summary(experiment):
            display.say(line)
        # All before the first step: none waits later, and what does not fit in memory is known now.
        train_steps = {size: experiment.lower_train_step(size).compile() for size in cfg.data.batch_sizes}
        state, cursor = initialize(experiment, checkpoints, display, allow_change)
        experiment = with_references(experiment, display)
        start = int(state.step)
        if start == 0:
            evaluation.rehearse(experiment, state.evaluation_params)
        records = stack.enter_context(Records(workdir, display, start, cfg.optim.num_steps))
        records.text(start, "config", json.dumps(config.to_plain(cfg), indent=2))
        if distributed.is_primary():
            workdir.write_config(config.to_plain(cfg))
            workdir.write_facts(facts(experiment))
            experiment.tokenizer.save(workdir.tokenizer)
        state, step, exit_code = loop(experiment, train_steps, state, cursor, checkpoints, records, display)
        if exit_code:
            display.say(f"stopped at step {step}, saved; run the same command to go on")
            return exit_code
        display.say(done_in_words(step, cfg, checkpoints, workdir))
        if cfg.sample.prompts and jax.process_count() > 1:
            display.warn(f"several processes write no sample; run python -m gptjax.sample --workdir={workdir.path}")
        elif cfg.sample.prompts:
            with StopRequest():  # a run that is done is not interrupted for the moment that its samples take
                write_samples(experiment, state.evaluation_params, step, records, display, workdir)
    return 0


def done_in_words(step: int, cfg: ExperimentConfig, checkpoints: Checkpoints, workdir: Workdir) -> str:
    """Says where a run has ended, and where the best checkpoint is if it ended early."""
    best = checkpoints.best()
    if step >= cfg.optim.num_steps or best is None:
        return f"done at step {step}: {workdir.path}"
    return f"done at step {step}, not better since step {best[0]} ({cfg.evaluation.metric}): {workdir.path}"


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
        other, step = open_checkpoint(Workdir(cfg.resume_from), "latest")
        refuse_foreign_checkpoint(experiment, other, step, Path(cfg.resume_from), allow_change)
        if step > (num_steps := experiment.cfg.optim.num_steps):
            raise UserError(f"{cfg.resume_from} is at step {step}, beyond optim.num_steps={num_steps}; raise it")
        state, cursor = other.restore(step, experiment.abstract)
        display.say(f"resumed from step {step} of {cfg.resume_from}")
        return state, cursor
    # 3. the parameters of another run
    if cfg.init_from is not None:
        params = adopted(experiment, display)
        return with_params(experiment.tx, params, experiment.abstract), 0
    # 4. scratch
    key = stream_key(experiment.cfg.seed, "init", 0)
    return create_state(experiment.init_params, experiment.tx, key, experiment.abstract), 0


def adopted(experiment: Experiment, display: Display) -> Params:
    """Returns the parameters of checkpoint.init_from, with fresh ones where it has none for the model."""
    init_from = experiment.cfg.checkpoint.init_from
    assert init_from is not None
    other, step = open_checkpoint(Workdir(init_from), "latest")
    refuse_foreign_tokenizer(experiment.tokenizer, other, step, Workdir(init_from))
    refuse_other_classes(experiment.classes, other, step, Workdir(init_from))
    key = stream_key(experiment.cfg.seed, "init", 0)
    params, lines = start_from(other, step, experiment.model, experiment.abstract.params, experiment.layout, key)
    for line in (f"parameters from step {step} of {init_from}", *lines):
        display.say(line)
    return params


def with_references(experiment: Experiment, display: Display) -> Experiment:
    """Lets the model that a run starts from score the rows of the tasks that compare with it."""
    if not any(task.needs_reference for task in experiment.tasks.tasks.values()):
        return experiment
    if experiment.cfg.checkpoint.init_from is None:
        raise UserError("a task compares with the model that the run starts from; set checkpoint.init_from=WORKDIR")
    display.say("reference scored by the model that the run starts from")
    return evaluation.with_references(experiment, adopted(experiment, display))


def refuse_foreign_checkpoint(
    experiment: Experiment, checkpoints: Checkpoints, step: int, path: Path, allow_change: Sequence[str]
) -> None:
    """Raises UserError where a checkpoint belongs to another run; options in `allow_change` may differ."""
    meta, defaults = checkpoints.meta(step), config.fingerprint(ExperimentConfig())
    if "imported_from" in meta:
        raise UserError(
            f"{path} holds a model imported from {meta['imported_from']} and no run to go on with; start one from its "
            f"parameters with --config.checkpoint.init_from={path} and another --workdir=DIR"
        )
    refuse_other_run(meta["fingerprint"], experiment.identity, defaults, path, allow_change)


def loop(
    experiment: Experiment,
    train_steps: Mapping[int, Callable],
    state: TrainState,
    cursor: int,
    checkpoints: Checkpoints,
    records: Records,
    display: Display,
) -> tuple[TrainState, int, int]:
    """Evaluates, checkpoints, fetches a batch, steps and records, until the last step or a signal.

    `train_steps` holds the compiled step for each size of batch. The metrics of a step are read only after the next one
    was dispatched, so that the device never waits for the host.
    A checkpoint is taken before the data advances, and after the rows that led to it are on disk. Returns the state,
    its step, and 0 or the exit code of the signal that stopped it.
    """
    cfg, num_steps, seq_len = experiment.cfg, experiment.cfg.optim.num_steps, experiment.model.seq_len
    start = step = int(state.step)
    best = checkpoints.best() or (start, math.inf)  # step and criterion
    param_norms = jax.jit(group_norms)
    peak = throughput.peak_flops(experiment.model.dtype)
    meter = throughput.Meter(experiment.flops_per_token, peak)
    unread: Callable[[], int] | None = None  # reads the metrics of the step dispatched last
    skipped = 0  # updates skipped in a row, as far as metrics were read

    def read(step: int, cursor: int, size: int, metrics: Metrics, norms: Mapping[str, Any]) -> int:
        skipped = int(metrics["skipped_in_a_row"][0])
        if skipped:
            display.warn(f"step {step}: loss or gradient is not finite, the update was skipped ({skipped} in a row)")
        meter.step(size * seq_len)
        if is_logged(step):
            records.train_row(step, cursor * seq_len, jax.device_get(metrics), meter.read(), jax.device_get(norms))
        if skipped > cfg.optim.max_skipped_steps:
            good = checkpoints.latest()
            raise UserError(
                f"loss or gradient was not finite for {skipped} steps in a row, until step {step}; "
                f"{'there is no checkpoint yet' if good is None else f'the last good checkpoint is step {good}'}; "
                f"lower optim.peak_lr"
            )
        return skipped

    def is_logged(step: int) -> bool:
        return step % cfg.train.log_every == 0 or step == num_steps

    with (
        StopRequest() as stop,
        display.progress(step, num_steps),
        Watchdog(cfg.train.watchdog_seconds, records.directory, step) as watchdog,
        Profiler(cfg.profile, records.directory) as profiler,
        contextlib.closing(experiment.train_batches(cursor)) as batches,
    ):
        while True:
            last = step == num_steps
            # Processes agree on a stop only now and then: asking is a collective, and waits for the devices.
            asked = jax.process_count() == 1 or step % cfg.train.log_every == 0
            stopped = asked and distributed.any_process(stop.requested)
            new = step > start or (last and checkpoints.latest() is None)  # the end of another run may be taken over
            evaluation_due = new and (last or step % cfg.evaluation.every == 0)
            checkpoint_due = new and (last or stopped or step % cfg.checkpoint.every == 0)
            if unread is not None and (evaluation_due or checkpoint_due):
                skipped, unread = unread(), None
            with meter.paused(), watchdog.paused():
                judged = None
                if evaluation_due:
                    means = evaluation.numbers(evaluation.score_all(experiment, state.evaluation_params))
                    judged = criterion(means, cfg.evaluation.metric)
                    records.valid_row(step, cursor * seq_len, means)
                is_best = judged is not None and judged < best[1]
                if judged is not None and is_best:
                    best = step, judged
                ended = last or (evaluation_due and cfg.evaluation.gives_up(step - best[0]))
                # Where updates are being skipped the parameters may be the reason: such a state displaces no good one.
                if is_best or ended or (checkpoint_due and (not skipped or stopped)):
                    records.sync()
                    checkpoints.save(state, step, cursor, experiment.meta, judged)
            if ended or stopped:
                break
            profiler.before(step + 1)
            batch = next(batches)
            size = batch.tokens_BT.shape[0]
            state, metrics = train_steps[size](state, batch)
            step, cursor = step + 1, cursor + size
            norms = param_norms(state.params) if is_logged(step) else {}
            profiler.after(step, metrics)
            if unread is not None:
                skipped = unread()
            unread = functools.partial(read, step, cursor, size, metrics, norms)
            display.advance(step)
            watchdog.step(step)
        checkpoints.wait()
    return state, step, 0 if ended else stop.exit_code


def write_samples(
    experiment: Experiment, params: Params, step: int, records: Records, display: Display, workdir: Workdir
) -> None:
    """Continues the configured prompts and keeps the texts in samples/, in TensorBoard and on the screen."""
    prompts, tokenizer = experiment.cfg.sample.prompts, experiment.tokenizer
    texts = sample_text(experiment.model, params, tokenizer, prompts, experiment.cfg.sample, experiment.cfg.seed)
    whole = "\n\n".join(f"{prompt}{text}" for prompt, text in zip(prompts, texts, strict=True))
    write_atomically(workdir.samples / f"step-{step}.txt", f"{whole}\n")
    records.text(step, "samples", whole)
    display.say(f"sample at step {step}:\n{whole}")


@distributed.AsOne()
def evaluate(cfg: ExperimentConfig, path: str, which: str | int, name: str) -> int:
    """Scores a checkpoint of a workdir on the tasks of an experiment; model and tokenizer are the workdir's own."""
    workdir, display = Workdir(path), Display(None, silent=not distributed.is_primary())
    checkpoints, step = open_checkpoint(workdir, which)
    own = config.from_config_dict(workdir.read_config(), str(workdir.config))
    tokenizer = Choice("saved", {"path": str(workdir.tokenizer)})
    everything = dataclasses.replace(cfg.optim, trained="all", top_layers=None)  # nothing is: any model will do
    data = dataclasses.replace(cfg.data, tokenizer=tokenizer)
    scored = dataclasses.replace(cfg, model=own.model, data=data, optim=everything)
    if leaks := config.leaks(scored):
        raise UserError.join(f"{workdir.path} cannot be scored on these tasks", leaks)
    experiment = build(scored)
    refuse_foreign_tokenizer(experiment.tokenizer, checkpoints, step, workdir)
    refuse_other_classes(experiment.classes, checkpoints, step, workdir)
    distributed.agree("experiment", {**experiment.identity, **config.flatten(config.to_plain(cfg))})
    experiment = with_references(experiment, display)
    results = evaluation.score_all(experiment, read_params(checkpoints, step, experiment.abstract.params))
    display.say(f"step {step} of {workdir.path}, {evaluation.extent(cfg.evaluation)}\n{evaluation.table(results)}")
    if distributed.is_primary():
        folder = workdir.path / "evaluation" / name / f"step-{step}"
        about = {"workdir": str(workdir.path), "step": step, "extent": evaluation.extent(cfg.evaluation)}
        for file in evaluation.write(results, folder, about):
            display.say(f"wrote {file}")
    return 0


@distributed.AsOne()
def check(cfg: ExperimentConfig) -> int:
    """Prints parameters, memory and the plan of batches; trains nothing."""
    display = Display(None, silent=not distributed.is_primary())
    experiment = build(cfg)
    shares = accounting.shares(experiment.model, experiment.trained)
    for path, shape, names, count in accounting.parameter_table(experiment.model):
        dims = ", ".join(f"{name or '-'} {size}" for name, size in zip(names, shape, strict=True))
        trained = shares[path]
        frozen = "" if trained == 1 else f", {trained:.0%} of it trained" if trained else ", frozen"
        display.say(f"{path:36} {count:>14,}  {dims}{frozen}")
    for line in summary(experiment):
        display.say(line)
    display.say(f"flops     counted as {accounting.FLOPS_CONVENTION}")
    memory = experiment.lower_train_step().compile().memory_analysis()
    sizes = {"state and batch": memory.argument_size_in_bytes, "activations": memory.temp_size_in_bytes}
    display.say(
        "memory    " + ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in sizes.items()) + " a device"
    )
    return 0
