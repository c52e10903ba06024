"""The fields of a config.json, read strictly: what is wrong is collected, and said all at once."""

from collections.abc import Mapping
from typing import Any, TypeVar

MOST = 1 << 24
"""The largest size of anything: more than any model has, and a refusal rather than a machine out of memory."""

Value = TypeVar("Value")


class Fields:
    """A mapping whose values are asked for by name and kind; a missing or null one is the default."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "", problems: list[str] | None = None):
        self._values, self._prefix = values, prefix
        self.problems = [] if problems is None else problems
        """What was wrong so far, each as "field=value is wrong; this is valid"."""

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def size(self, name: str, default: int | None = None) -> int:
        """Returns a whole number from 1 to MOST; without a default it must be there."""
        value = self._value(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST:
            return value
        self._refuse(name, value, f"a whole number from 1 to {MOST:,}")
        return 1

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a number above 0; without a default it must be there."""
        value = self._value(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30:
            return float(value)
        self._refuse(name, value, "a number above 0")
        return 1.0

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            self._refuse(name, value, "true or false")
        return bool(value)

    def choice(self, name: str, valid: Mapping[str, Value], default: str) -> Value:
        """Returns what one of some words stands for."""
        value = self._value(name, default)
        if isinstance(value, str) and value in valid:
            return valid[value]
        self._refuse(name, value, f"one of {', '.join(valid)}")
        return valid[default]

    def only(self, name: str, *valid: Any, why: str) -> None:
        """Refuses any value but these and none, for a reason."""
        value = self._values.get(name)
        if value is not None and value not in valid:
            self.problems.append(f"{self._prefix}{name}={value!r:.80} is not supported: {why}")

    def known(self, *names: str) -> None:
        """Refuses fields of other names."""
        self.problems += [
            f"{self._prefix}{name} is not supported; valid: {', '.join(names)}"
            for name in self._values.keys() - {*names}
        ]

    def items(self, name: str) -> list[Any]:
        """Returns a list, an empty one where it is missing."""
        value = self._value(name, [])
        if not isinstance(value, list):
            self._refuse(name, value, "a list")
            return []
        return value

    def group(self, name: str) -> "Fields":
        """Returns the fields of a field, none where it is missing."""
        value = self._value(name, {})
        if not isinstance(value, Mapping):
            self._refuse(name, value, "a group of fields")
            value = {}
        return Fields(value, f"{self._prefix}{name}.", self.problems)

    def _value(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        return default if value is None else value

    def _refuse(self, name: str, value: Any, valid: str) -> None:
        if value is None:
            self.problems.append(f"{self._prefix}{name} is missing; it should be {valid}")
        else:
            self.problems.append(f"{self._prefix}{name}={value!r:.80} is not supported; valid: {valid}")
