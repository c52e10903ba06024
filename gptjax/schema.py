"""Dataclasses as a schema: which fields there are, what each may hold, and how a type is said in words."""

import dataclasses
import types
import typing
from typing import Any


def fields_of(schema: Any) -> dict[str, tuple[dataclasses.Field, Any]]:
    """Returns each field of a dataclass with its type."""
    hints = typing.get_type_hints(schema)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(schema)}


def without_none(hint: Any) -> tuple[Any, bool]:
    """Splits `int | None` into (int, True); other types come back with False."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        return (members[0] if len(members) == 1 else Any), len(members) < len(typing.get_args(hint))
    return hint, False


def type_problem(value: Any, hint: Any) -> str | None:
    """Says in words what a value should have been, or None where it fits its declared type."""
    kind, optional = without_none(hint)
    if value is None:
        return None if optional or kind is Any else f"must be {type_name(kind)}"
    if kind is Any:
        return None
    if typing.get_origin(kind) is tuple:
        wrong = (
            not isinstance(value, tuple)
            or len(value) != len(items := item_types(kind, len(value)))
            or any(map(type_problem, value, items))
        )
        return f"must be {type_name(kind)}" if wrong else None
    accepted = (int, float) if kind is float else kind
    wrong = not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool)
    return f"must be {type_name(kind)}{' or None' if optional else ''}" if wrong else None


def item_types(kind: Any, length: int) -> tuple[Any, ...]:
    """Returns the types of a tuple's items; `length` is that of a tuple which may have any."""
    items = typing.get_args(kind)
    return items[:1] * length if items[-1] is Ellipsis else items


def type_name(kind: Any) -> str:
    """Returns a type in words."""
    if typing.get_origin(kind) is tuple:
        item, *others = typing.get_args(kind)
        if others != [Ellipsis]:
            return f"({', '.join(map(type_name, (item, *others)))})"
        if typing.get_origin(item) is tuple:
            return f"({type_name(item)}, ...)"
        return f"{type_name(item).removeprefix('a ')}s between commas"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    return names.get(kind, str(kind))
