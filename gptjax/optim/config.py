"""The options of the optimiser. Knows no jax."""

import dataclasses
import math
import re

from gptjax.registry import Choice, choice_field

TRAINED = {
    "all": r".*",
    "adapters": r".*/lora_[ab]/kernel|classifiers/.*",
    "classifiers": r"classifiers/.*",
}
"""Names for what is commonly trained: everything, LoRA's adapters with the classifiers, or these on a frozen body."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """What is trained, by one optimiser and one schedule, and the groups of parameters that decay or do not."""

    num_steps: int = 1000
    """Length of the run, in optimiser steps."""
    peak_lr: float = 1e-3
    """Learning rate after the warm-up."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    schedule: Choice = choice_field("gptjax.optim.schedules:SCHEDULES", "cosine")
    """The learning rate after the warm-up."""
    optimizer: Choice = choice_field("gptjax.optim.rules:OPTIMIZERS", "adamw")
    """The update rule."""
    weight_decay: float = 0.1
    """Decoupled weight decay, times the learning rate."""
    decay: str = r".*/kernel"
    """Regular expression that matches the whole path of each decayed parameter."""
    no_decay: str = r".*/(bias|scale|embedding)"
    """Regular expression that matches the whole path of each undecayed one; every path matches just one of the two."""
    trained: str = "all"
    """What is trained: all, adapters, classifiers, or a regular expression over whole paths. The rest is frozen."""
    top_layers: int | None = None
    """Of the blocks, only so many at the top are trained, and no embedding; None is no limit."""
    layer_decay: float = 1.0
    """Factor on the learning rate for each layer on the way down: 1 above the blocks, the least for embeddings."""
    lr_factors: tuple[tuple[str, float], ...] = ()
    """Factors on the learning rate, decay included, where a whole path matches: '((".*/bias", 0.5),)'. All multiply."""
    ema_decay: float | None = None
    """Evaluation and samples use an exponential average of the parameters with this decay a step; None keeps none."""
    clip_norm: float | None = 1.0
    """Largest global gradient norm; None never clips."""
    max_skipped_steps: int = 10
    """A step whose loss or gradient is not finite is skipped; more than this many in a row end the run."""

    @property
    def trained_pattern(self) -> str:
        """The regular expression over whole paths that `trained` is or stands for."""
        return TRAINED.get(self.trained, self.trained)

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this"."""
        problems = []
        if self.num_steps < 1:
            problems.append(f"num_steps={self.num_steps} is less than 1; choose the number of optimiser steps")
        if not 0 < self.peak_lr < math.inf:
            problems.append(f"peak_lr={self.peak_lr} is not positive; 3e-4 is usual")
        if not 0 <= self.warmup_steps <= self.num_steps:
            problems.append(f"warmup_steps={self.warmup_steps} is not between 0 and num_steps={self.num_steps}")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay={self.weight_decay} is not 0 or more; 0.1 is usual, 0.0 is none")
        for name in ("schedule", "optimizer"):
            for option, value in getattr(self, name).kwargs.items():
                if option in _OPTIONS and value is not None and not _OPTIONS[option][0](value):
                    problems.append(f"{name}.{option}={value!r} {_OPTIONS[option][1]}")
        for pattern, factor in self.lr_factors:
            problems += [f"lr_factors: {problem}" for problem in _regex_problems(pattern)]
            if not 0 <= factor < math.inf:
                problems.append(f"lr_factors: the factor {factor} of {pattern!r} is not 0 or more; 0.0 freezes")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            problems.append(f"ema_decay={self.ema_decay} is not from 0 to below 1; 0.999 is usual, None keeps none")
        if self.optimizer.name == "schedule_free":
            if self.schedule.name != "constant":
                problems.append(
                    f"schedule.name={self.schedule.name!r} does not go with optimizer.name='schedule_free', which "
                    f"averages instead; set schedule.name='constant'"
                )
            if self.ema_decay is not None:
                problems.append(
                    f"ema_decay={self.ema_decay} averages what optimizer.name='schedule_free' averages already; "
                    f"set it to None"
                )
            if dict(self.optimizer.kwargs).get("b1") == 0:
                problems.append("optimizer.b1=0 leaves 'schedule_free' without an average; 0.9 is usual")
        if self.clip_norm is not None and not self.clip_norm > 0:
            problems.append(f"clip_norm={self.clip_norm} is not positive; 1.0 is usual, None never clips")
        if self.max_skipped_steps < 0:
            problems.append(f"max_skipped_steps={self.max_skipped_steps} is negative; 0 stops at the first")
        if self.top_layers is not None and self.top_layers < 1:
            problems.append(f"top_layers={self.top_layers} is less than 1; None trains all layers")
        if not 0 < self.layer_decay <= 1:
            problems.append(f"layer_decay={self.layer_decay} is not above 0 and at most 1; 0.8 is usual, 1.0 is none")
        for name in ("decay", "no_decay", "trained"):
            problems += [f"{name}={problem}" for problem in _regex_problems(getattr(self, name))]
        return problems


def _regex_problems(pattern: str) -> list[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        return [f"{pattern!r} is no regular expression: {error}"]
    return []


_FRACTION = (lambda value: 0 <= value <= 1, "is not between 0 and 1")
_DECAY = (lambda value: 0 <= value < 1, "is not from 0 to below 1")
_POSITIVE = (lambda value: 0 < value < math.inf, "is not positive")
_COUNT = (lambda value: value >= 1, "is less than 1")

_OPTIONS = {
    # of schedules
    "final_fraction": _FRACTION,
    "decay_fraction": _FRACTION,
    "timescale": _COUNT,
    "num_cycles": _COUNT,
    # of update rules
    "b1": _DECAY,
    "b2": _DECAY,
    "beta": _DECAY,
    "decay_rate": _DECAY,
    "eps": _POSITIVE,
    "rms": _POSITIVE,
    "clip_rms": _COUNT,
    "num_iterations": _COUNT,
    "gamma": _POSITIVE,
    "refresh_every": _COUNT,
    "max_dim": _COUNT,
    "min_factored_dim": _COUNT,
    "weight_lr_power": (lambda value: 0 <= value < math.inf, "is not 0 or more"),
    "mu_dtype": (
        lambda value: value in ("float32", "bfloat16"),
        "is neither float32 nor bfloat16; None is float32",
    ),
}
"""What an option of that name must be, in any of the two tables, and the words where it is not; None is always fine."""
