"""Open sets of variants: explicit tables of factories, and the `Choice` in a config that names one of them.

A table is a plain dict from name to factory. A factory's parameters *with* defaults are the options that a config may
set; those without are supplied by the code that builds. A name with a colon is imported (`experiments.mine:Sink`), so
that an experiment adds a variant without an edit of the core. This file knows nothing of what the tables hold.
"""

import dataclasses
import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gptjax.types import UserError

_FLAX_FIELDS = ("parent", "name")  # every Linen module has them; they are never options


@dataclasses.dataclass(frozen=True)
class Choice:
    """A factory's name in a table and the options that differ from its defaults."""

    name: str
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __hash__(self):
        return hash((self.name, tuple(sorted(self.kwargs.items()))))


def choice_field(table: str, name: str, **kwargs: Any) -> Any:
    """Declares a dataclass field that holds a Choice from `table`, written "package.module:TABLE" and loaded late."""
    return dataclasses.field(default=Choice(name, kwargs), metadata={"table": table})


class Choices(dict[str, Choice]):
    """Several choices out of one table, each under a name that an experiment gives it; never changed once made."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def choices_field(table: str, **choices: Choice) -> Any:
    """Declares a dataclass field that holds Choices from `table`; a file replaces all of them, flags change one."""
    return dataclasses.field(default_factory=lambda: Choices(choices), metadata={"table": table})


def load(reference: str) -> Any:
    """Imports "package.module:attribute"; raises UserError where either is missing."""
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UserError(f"{reference!r} is not of the form package.module:name")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, something that it imports does not: a bug, not a typo
        raise UserError(
            f"{reference!r}: there is no module {error.name!r}; run from the folder that holds it"
        ) from None
    except AttributeError:
        raise UserError(f"{reference!r}: module {module_name!r} has no {attribute!r}") from None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns the tail of an error: the nearest valid names, or all of them where none is near."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(valid)}"


def lookup(table: Mapping[str, Callable] | str, name: str) -> Callable:
    """Returns the factory called `name`; raises UserError with the nearest names for an unknown one."""
    if ":" in name:
        return load(name)
    entries = load(table) if isinstance(table, str) else table
    if name not in entries:
        raise UserError(f"there is no {name!r}; {did_you_mean(name, entries)}")
    return entries[name]


def options(factory: Callable) -> dict[str, Any]:
    """Returns the factory's options and their defaults, in the order of its signature."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is not inspect.Parameter.empty and parameter.name not in _FLAX_FIELDS
    }


def option_types(factory: Callable) -> dict[str, Any]:
    """Returns the declared type of each option (Any where none is declared)."""
    hints = typing.get_type_hints(factory if not inspect.isclass(factory) else factory.__init__)
    if inspect.isclass(factory):
        hints = typing.get_type_hints(factory) | hints
    return {name: hints.get(name, Any) for name in options(factory)}


def resolve(table: Mapping[str, Callable] | str, choice: Choice) -> Choice:
    """Fills in every option that the choice leaves open; raises UserError for an unknown name or option."""
    defaults = options(lookup(table, choice.name))
    for name in choice.kwargs:
        if name not in defaults:
            raise UserError(f"{choice.name!r} has no option {name!r}; {did_you_mean(name, defaults)}")
    return Choice(choice.name, {**defaults, **choice.kwargs})


def build(table: Mapping[str, Callable] | str, choice: Choice, *args: Any, **wired: Any) -> Any:
    """Calls the chosen factory with what the code supplies (`args`, `wired`) and the choice's options."""
    resolved = resolve(table, choice)
    return lookup(table, choice.name)(*args, **wired, **resolved.kwargs)
