"""`--config.a.b=value` for every option of the schema.

ml_collections' own flags apply one at a time and cannot give a Choice the options of a new name; here all are
collected first. Every mistake is one line with the nearest valid names.
"""

import ast
import dataclasses
import difflib
import typing
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from gptjax import registry
from gptjax.config import ExperimentConfig
from gptjax.registry import Choice, Choices
from gptjax.schema import fields_of, item_types, type_name, without_none
from gptjax.types import UserError

PREFIX = "--config."


def split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Separates `--config.a.b=v` (or `--config.a.b v`) from the other arguments."""
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith(PREFIX):
            rest.append(argument)
            continue
        path, equals, text = argument.removeprefix(PREFIX).partition("=")
        if not equals:
            text = next(arguments, "--")
            if text.startswith("--"):
                raise UserError(f"{PREFIX}{path} has no value; write {PREFIX}{path}=VALUE")
        overrides.append((path, text))
    return rest, overrides


def apply(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
    """Sets dotted paths of a ConfigDict to values written as text; raises UserError with every problem at once.

    Names of Choices are set first, each with its new factory's defaults, so that the order of the flags is free.
    """
    problems: list[str] = []
    for path, text in sorted(overrides, key=lambda override: not override[0].endswith(".name")):
        try:
            _override(config, path, text)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError.join("the flags do not fit", problems)


def _override(config: ConfigDict, path: str, text: str) -> None:
    *parents, leaf = path.split(".")
    schema: Any = ExperimentConfig
    node = config
    for depth, name in enumerate(parents):
        field, hint = _known(schema, name, path, ".".join(parents[:depth]))
        if hint is Choice:
            if depth != len(parents) - 1:
                raise UserError(f"there is no option {path}: {'.'.join(parents[: depth + 1])} holds no groups")
            _override_choice(node, name, field.metadata["table"], leaf, path, text)
            return
        if hint is Choices:
            choices, (chosen, *rest) = node[name], (*parents[depth + 1 :], leaf)
            if chosen not in choices:
                raise UserError(f"there is no --config.{path}; {registry.did_you_mean(chosen, choices)}")
            if len(rest) != 1:
                raise UserError(f"--config.{name}.{chosen} is a choice; set --config.{name}.{chosen}.name")
            _override_choice(choices, chosen, field.metadata["table"], leaf, path, text)
            return
        if not dataclasses.is_dataclass(hint):
            raise UserError(f"there is no option {path}: {'.'.join(parents[: depth + 1])} is a value")
        schema, node = hint, node[name]
    _, hint = _known(schema, leaf, path, ".".join(parents))
    if hint is Choices:
        some = f"--config.{path}.{next(iter(node[leaf]))}.name"
        raise UserError(f"--config.{path} holds choices; set an option of one, such as {some}")
    if hint is Choice:
        raise UserError(f"--config.{path} is a choice; set --config.{path}.name={text}")
    if dataclasses.is_dataclass(hint):
        names = ", ".join(f"--config.{path}.{name}" for name in list(fields_of(hint))[:3])
        raise UserError(f"--config.{path} is a group; set one of its options, such as {names}")
    _assign(node, leaf, parse(text, hint, path))


def _known(schema: Any, name: str, path: str, parent: str) -> tuple[dataclasses.Field, Any]:
    fields = fields_of(schema)
    if name in fields:
        return fields[name]
    here = f"{parent}." if parent else ""
    elsewhere = [other for other in all_paths() if other.split(".")[-1] == path.split(".")[-1]]
    near = elsewhere or difflib.get_close_matches(path, all_paths(), n=1, cutoff=0.7)
    hint = f"did you mean --config.{near[0]}?" if near else registry.did_you_mean(name, fields)
    raise UserError(f"there is no option --config.{here}{name}; {hint}")


def _override_choice(node: ConfigDict, name: str, table: str, leaf: str, path: str, text: str) -> None:
    if leaf == "name":
        try:
            defaults = registry.options(registry.lookup(table, text))
        except UserError as error:
            raise UserError(f"--config.{path}: {error}") from None
        if text != node[name]["name"]:
            _assign(node, name, ConfigDict({"name": text, **defaults}))
        return
    chosen = node[name]["name"]
    hints = registry.option_types(registry.lookup(table, chosen))
    if leaf not in hints:
        raise UserError(f"--config.{path}: {chosen!r} has no option {leaf!r}; {registry.did_you_mean(leaf, hints)}")
    changed = ConfigDict(node[name].to_dict())
    with changed.unlocked(), changed.ignore_type():
        changed[leaf] = parse(text, hints[leaf], path)
    _assign(node, name, changed)


def _assign(node: ConfigDict, name: str, value: Any) -> None:
    with node.unlocked(), node.ignore_type():  # the value was parsed by the schema's own type
        node[name] = value


def parse(text: str, hint: Any, path: str) -> Any:
    """Reads a flag's text as its declared type; raises UserError naming what was expected."""
    kind, optional = without_none(hint)
    if text in ("None", "none") and optional:
        return None
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            if text.startswith(("[", "(")):  # as Python writes it, for texts that hold commas
                parts = [str(part) for part in ast.literal_eval(text)]
            else:
                parts = text.split(",") if text else []
            items = item_types(kind, len(parts))
            return tuple(parse(part, item, path) for part, item in zip(parts, items, strict=True))
        return text if kind in (str, Any) else kind(text)
    except (ValueError, KeyError, SyntaxError, TypeError):
        expected = type_name(kind) + (" or None" if optional else "")
        raise UserError(f"--config.{path}={text} must be {expected}") from None


def all_paths(schema: Any = ExperimentConfig, prefix: str = "") -> list[str]:
    """Returns the dotted path of every option of the schema; of a Choice, its name's."""
    paths: list[str] = []
    for name, (_, hint) in fields_of(schema).items():
        if hint is Choice:
            paths.append(f"{prefix}{name}.name")
        elif dataclasses.is_dataclass(hint):
            paths.extend(all_paths(hint, f"{prefix}{name}."))
        else:
            paths.append(f"{prefix}{name}")
    return paths
