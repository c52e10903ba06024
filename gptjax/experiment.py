"""A program and the text that it learns from: everything that a run needs before it starts, from its config.

Builds, and describes what it built; runs nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from gptjax import config
from gptjax.config import ExperimentConfig
from gptjax.data import pipeline
from gptjax.data.sources import Corpus, load_corpus
from gptjax.data.tokenizer import Tokenizer
from gptjax.model import accounting, attention
from gptjax.model.config import ModelConfig
from gptjax.program import Program, build_program
from gptjax.sharding import in_words
from gptjax.train.evaluate import evaluate
from gptjax.types import Params, UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Program):
    """A config made into the parts of a run; nothing here changes while it runs."""

    corpus: Corpus

    def train_batches(self, cursor: int) -> Any:
        """Returns the batches from a cursor on."""
        return pipeline.train_batches(
            self.cfg.data, self.corpus, self.model.seq_len, self.cfg.seed, self.batch_sharding, cursor
        )

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
    program = build_program(cfg, sized(cfg.model, corpus.tokenizer), corpus.tokenizer.token_bytes())
    return Experiment(corpus=corpus, **vars(program))


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
    cfg, corpus, layout = experiment.cfg, experiment.corpus, experiment.layout
    num_sequences = sum(pipeline.num_sequences(corpus, experiment.model.seq_len))
    per_device = cfg.data.batch_size // layout.parts("act_batch") // experiment.accumulation
    return [
        f"model     {accounting.num_params(experiment.model):,} parameters, vocabulary {experiment.model.vocab_size:,}",
        *_trained(experiment),
        f"data      {len(corpus.split('train')):,} training and {len(corpus.split('valid')):,} validation tokens; "
        f"an epoch is {num_sequences:,} sequences",
        f"mesh      {in_words(layout.mesh.shape)} ({layout.platform}), rules {cfg.mesh.rules}",
        _mixing(experiment),
        f"batch     {cfg.data.batch_size} sequences of {experiment.model.seq_len} tokens: {experiment.accumulation} x "
        f"{per_device} a device",
        *([f"ramp      {_ramp(cfg.data.batch_ramp)}"] if cfg.data.batch_ramp else []),
        f"run       {cfg.optim.num_steps:,} steps, {experiment.total_tokens:,} tokens, "
        f"{experiment.flops_per_step:.3g} FLOPs a {'full ' if cfg.data.batch_ramp else ''}step",
    ]


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
