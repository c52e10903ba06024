"""A program and the text that it learns from: everything that a run needs before it starts, from its config.

Builds, and describes what it built; runs nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from gptjax import config, registry
from gptjax.config import ExperimentConfig
from gptjax.data import pipeline
from gptjax.data.sources import Corpus, load_corpus, tokenizer_alone
from gptjax.data.tokenizer import Tokenizer
from gptjax.model import accounting, attention
from gptjax.model.config import ModelConfig
from gptjax.program import Program, build_program
from gptjax.sharding import in_words
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.table import TASKS
from gptjax.tasks.task import Setting
from gptjax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Program):
    """A config made into the parts of a run; nothing here changes while it runs."""

    tokenizer: Tokenizer

    def train_batches(self, cursor: int) -> Any:
        """Returns the batches from a cursor on."""
        rows = self.tasks.training_rows(self.model.seq_len)
        return pipeline.train_batches(
            self.cfg.data, rows, self.model.seq_len, self.cfg.seed, self.batch_sharding, cursor
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this run the one it is: options by path, and what it learns from."""
        learned = self.tasks.learned
        texts = {task.fingerprint for task in learned.values() if task.reads_corpus}
        files = {f"tasks.{name}.fingerprint": t.fingerprint for name, t in learned.items() if not t.reads_corpus}
        # That of a text holds its tokenizer's.
        shared = [("data.fingerprint", text) for text in texts] or [
            ("data.tokenizer.fingerprint", self.tokenizer.fingerprint)
        ]
        return {**config.fingerprint(self.cfg), **dict(shared), **files}

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint says of itself: config, identity, the tokenizer's hash, what its classifiers tell apart."""
        return {
            "config": config.to_plain(self.cfg),
            "fingerprint": self.identity,
            "tokenizer": self.tokenizer.fingerprint,
            "classes": self.classes,
        }

    @property
    def classes(self) -> dict[str, list[str]]:
        """What the outputs of each task's classifier stand for."""
        return {name: list(task.classes) for name, task in self.tasks.tasks.items() if task.classes}


def sized(cfg: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Returns the model config with the tokenizer's vocabulary where it names none; raises UserError if it is less."""
    if cfg.vocab_size is not None and cfg.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={cfg.vocab_size} is less than the tokenizer's {tokenizer.vocab_size}; "
            f"raise it, or leave it None to take the tokenizer's"
        )
    return dataclasses.replace(cfg, vocab_size=cfg.vocab_size or tokenizer.vocab_size).resolve()


def build(cfg: ExperimentConfig, corpus: Corpus | None = None) -> Experiment:
    """Makes the parts of a run; a corpus is loaded where a task reads one, and prepared where that was not done yet."""
    if corpus is None and any(registry.lookup(TASKS, task.name).reads_corpus for task in cfg.tasks.values()):
        corpus = load_corpus(cfg.data)
    tokenizer = corpus.tokenizer if corpus is not None else tokenizer_alone(cfg.data)
    setting = Setting("", tokenizer, corpus, cfg.data.packing, cfg.train.loss_chunks)
    tasks = build_tasks(cfg.tasks, setting, cfg.train.mixture_temperature)
    program = build_program(cfg, sized(cfg.model, tokenizer), tasks)
    return Experiment(tokenizer=tokenizer, **vars(program))


def facts(experiment: Experiment) -> dict[str, Any]:
    """Returns the numbers that a report of the run needs and that its config alone does not say."""
    return {
        "num_params": accounting.num_params(experiment.model),
        "tokens_per_step": experiment.tokens_per_step,
        "flops_per_step": experiment.flops_per_step,
        "platform": experiment.layout.platform,
        "num_devices": experiment.layout.mesh.size,
    }


def summary(experiment: Experiment) -> list[str]:
    """Says what a run will do, in a few lines; raises UserError where the text is too short for it."""
    cfg, layout = experiment.cfg, experiment.layout
    per_device = cfg.data.batch_size // layout.parts("act_batch") // experiment.accumulation
    return [
        f"model     {accounting.num_params(experiment.model):,} parameters, vocabulary {experiment.model.vocab_size:,}",
        *_trained(experiment),
        *_data(experiment),
        f"mesh      {in_words(layout.mesh.shape)} ({layout.platform}), rules {cfg.mesh.rules}",
        _mixing(experiment),
        f"batch     {cfg.data.batch_size} sequences of {experiment.model.seq_len} tokens: {experiment.accumulation} x "
        f"{per_device} a device",
        *([f"ramp      {_ramp(cfg.data.batch_ramp)}"] if cfg.data.batch_ramp else []),
        f"run       {cfg.optim.num_steps:,} steps, {experiment.total_tokens:,} tokens, "
        f"{experiment.flops_per_step:.3g} FLOPs a {'full ' if cfg.data.batch_ramp else ''}step",
    ]


def _data(experiment: Experiment) -> list[str]:
    """Says what each task learns from and is scored on."""
    lines = {name: task.describe(experiment.model.seq_len) for name, task in experiment.tasks.tasks.items()}
    if len(lines) == 1:
        return [f"data      {line}" for line in lines.values()]
    return [f"data      {name}: {line}" for name, line in lines.items()]


def _trained(experiment: Experiment) -> list[str]:
    """Says how much of the model is trained, unless it is all of it."""
    count, total = (accounting.num_params(experiment.model, part) for part in (experiment.trained, None))
    if count == total:
        return []
    return [f"trained   {count:,} of them ({count / total:.2%}), the rest is frozen"]


def _ramp(stages: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{size} sequences a batch until {until:,} were read" for size, until in stages)


def _mixing(experiment: Experiment) -> str:
    """Says what brings positions together, and what was set for nothing."""
    cfg, layout = experiment.model, experiment.layout
    if not cfg.num_states:
        kernel, why = attention.kernel(cfg, layout.platform, cfg.seq_len // layout.parts("act_seq"))
        return f"kernel    {kernel} for attention ({why})"
    ignored = ", ".join(f"model.{name}" for name in experiment.cfg.model.ignored())
    return f"block     {cfg.block.name}, without attention" + (f"; it ignores {ignored}" if ignored else "")
