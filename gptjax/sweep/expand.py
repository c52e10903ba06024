"""Lists of overrides for ablations: made by small functions, combined by `cross` and by `+`.

A run is a mapping from options to values, {"model.positions.name": "rotary", "seed": 1}. Knows nothing of files or of
processes; experiments/ablations/ imports this file.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gptjax import registry
from gptjax.config import ExperimentConfig
from gptjax.registry import Choice
from gptjax.schema import fields_of
from gptjax.types import UserError

Overrides = Mapping[str, Any]
Draw = Callable[[random.Random], Any]


def grid(options: Mapping[str, Iterable[Any]]) -> list[Overrides]:
    """Returns every combination of the options' values; the last option varies fastest."""
    return cross(*([{path: value} for value in values] for path, values in options.items()))


def pairs(options: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Returns the options' first values together, then their second, and so on; all have the same number of them."""
    lengths = {path: len(values) for path, values in options.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{path} has {length}" for path, length in lengths.items())
        raise UserError(f"pairs() takes the same number of values of each option: {counts}")
    return [dict(zip(options, values, strict=True)) for values in zip(*options.values(), strict=True)]


def draws(count: int, options: Mapping[str, Draw], *, seed: int = 0) -> list[Overrides]:
    """Returns `count` random settings. An option's values depend on the seed and its name, not on the other options."""
    streams = {path: random.Random(f"{seed} {path}") for path in options}  # a text seeds alike in every process
    return [{path: draw(streams[path]) for path, draw in options.items()} for _ in range(count)]


def seeds(count: int, first: int = 0) -> list[Overrides]:
    """Returns `count` seeds in a row, for repetitions of a run."""
    return [{"seed": first + number} for number in range(count)]


def cross(*parts: Iterable[Overrides]) -> list[Overrides]:
    """Returns every combination of one run of each part, merged; the last part varies fastest."""
    return [_merged(combination) for combination in itertools.product(*parts)]


def names(choice: str) -> list[str]:
    """Returns all names that a choice of the config can take, in the order of its table: names("model.positions")."""
    schema: Any = ExperimentConfig
    for name in choice.removesuffix(".name").split("."):
        is_group = dataclasses.is_dataclass(schema) and schema is not Choice
        fields = fields_of(schema) if is_group else {}
        if name not in fields:
            raise UserError(f"names({choice!r}): there is no option {name!r}; {registry.did_you_mean(name, fields)}")
        field, schema = fields[name]
    if schema is not Choice:
        raise UserError(f"names({choice!r}) is no choice out of a table; model.positions is one")
    return list(registry.load(field.metadata["table"]))


def uniform(low: float, high: float) -> Draw:
    """Draws a number between two."""
    return lambda stream: _rounded(stream.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
    """Draws a positive number whose logarithm is uniform: any factor is as likely as the next."""
    if not 0 < low <= high:
        raise UserError(f"log_uniform({low}, {high}): both are positive, and the first is the smaller")
    return lambda stream: _rounded(math.exp(stream.uniform(math.log(low), math.log(high))))


def integers(low: int, high: int) -> Draw:
    """Draws a whole number from `low` to `high`, both included."""
    return lambda stream: stream.randint(low, high)


def one_of(*values: Any) -> Draw:
    """Draws one of the values."""
    return lambda stream: stream.choice(values)


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")  # the name of a run and its command line show the value that it has


def _merged(parts: Sequence[Overrides]) -> Overrides:
    merged: dict[str, Any] = {}
    for part in parts:
        for path, value in part.items():
            if path in merged:
                values = f"{merged[path]!r} and {value!r}"
                raise UserError(f"{path} is set twice in one run, to {values}; parts of cross() share no option")
            merged[path] = value
    return merged
