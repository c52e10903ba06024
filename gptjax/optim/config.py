"""The options of the optimiser. Knows no jax."""

import dataclasses
import math
import re

from gptjax.registry import Choice, choice_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """One optimiser, one schedule and the groups of parameters that decay or do not."""

    num_steps: int = 1000
    """Length of the run, in optimiser steps."""
    peak_lr: float = 1e-3
    """Learning rate after the warm-up."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    schedule: Choice = choice_field("gptjax.optim.schedules:SCHEDULES", "cosine")
    """The learning rate after the warm-up."""
    optimizer: Choice = choice_field("gptjax.optim.optimizer:OPTIMIZERS", "adamw")
    """The update rule."""
    weight_decay: float = 0.1
    """Decoupled weight decay, times the learning rate."""
    decay: str = r".*/kernel"
    """Regular expression that matches the whole path of each decayed parameter."""
    no_decay: str = r".*/(bias|scale|embedding)"
    """Regular expression that matches the whole path of each undecayed one; every path matches just one of the two."""
    clip_norm: float | None = 1.0
    """Largest global gradient norm; None never clips."""
    max_skipped_steps: int = 10
    """A step whose loss or gradient is not finite is skipped; more than this many in a row end the run."""

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
        for option in ("final_fraction", "decay_fraction"):
            value = dict(self.schedule.kwargs).pop(option, 0)
            if not 0 <= value <= 1:
                problems.append(f"schedule.{option}={value} is not between 0 and 1")
        mu_dtype = dict(self.optimizer.kwargs).get("mu_dtype")
        if mu_dtype not in (None, "float32", "bfloat16"):
            problems.append(f"optimizer.mu_dtype={mu_dtype!r} is neither float32 nor bfloat16; None is float32")
        if self.clip_norm is not None and not self.clip_norm > 0:
            problems.append(f"clip_norm={self.clip_norm} is not positive; 1.0 is usual, None never clips")
        if self.max_skipped_steps < 0:
            problems.append(f"max_skipped_steps={self.max_skipped_steps} is negative; 0 stops at the first")
        for name in ("decay", "no_decay"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                problems.append(f"{name}={getattr(self, name)!r} is no regular expression: {error}")
        return problems
