"""Jinja chat templates as `transformers` runs them, in a sandbox: they come with models of strangers.

A template reaches no files and no attributes of Python's own, and is stopped after so many steps, with texts of a
certain length at most. What a single call makes of such texts is looked at after it has made it.
"""

import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gptjax.types import UserError

MOST_STEPS = 100_000
"""Passes through loops and macros: many times what the longest conversation takes."""
MOST_CHARS = 1 << 24
"""Length of a text, or a list."""

try:
    import jinja2
    from jinja2 import ext, nodes, sandbox
except ImportError:
    raise UserError("chat templates need jinja2; pip install 'gptjax[interop]'") from None


class Template:
    """A template of conversations."""

    def __init__(self, source: str, *, generation: tuple[str, str] = ("", ""), **variables: Any):
        """Compiles a template; raises UserError for what is no Jinja.

        `variables` are names that it knows beside messages, such as eos_token. `generation` stands around what is
        within {% generation %} ... {% endgeneration %}, by which templates say what an assistant wrote.
        """
        self.source = source
        environment = _Environment()
        environment.globals.update(variables, tools=None, documents=None)
        environment.generation = generation
        try:
            self._compiled = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template is no Jinja ({error}); correct it") from None
        except RecursionError:
            raise UserError("the chat template is nested too deeply; simplify it") from None

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """Returns the text of a conversation; raises UserError for whatever goes wrong in the template."""
        environment = self._compiled.environment
        assert isinstance(environment, _Environment)
        environment.steps, parts, num_chars = 0, [], 0
        try:
            for part in self._compiled.generate(messages=messages, add_generation_prompt=add_generation_prompt):
                parts.append(part)
                num_chars += len(part)
                _bounded(num_chars)
        except Exception as error:  # noqa: BLE001 - a template is a program and can raise anything
            what = str(error) or type(error).__name__
            raise UserError(f"the chat template refuses the conversation: {what}; correct one or the other") from None
        return "".join(parts)


def _bounded(length: int) -> None:
    if length > MOST_CHARS:
        raise OverflowError(f"a text or a list is longer than {MOST_CHARS:,}")


def _checked(value: Any) -> Any:
    """Returns the value, unless it is too long."""
    if isinstance(value, (str, list, tuple)):
        _bounded(len(value))
    return value


class _Environment(sandbox.ImmutableSandboxedEnvironment):
    """What transformers gives to templates, and counts of what they do."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])
    generation: tuple[str, str]
    steps: int

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols, _Generation])
        self.filters["tojson"] = _tojson
        self.filters = {name: _short(function) for name, function in self.filters.items()}
        self.globals.update(raise_exception=_refuse, strftime_now=_strftime_now, _step=self._step, _join=_join)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise OverflowError(f"it takes more than {MOST_STEPS:,} steps")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for part in tree.find_all((nodes.For, nodes.Macro)):
            step = nodes.ExprStmt(nodes.Call(nodes.Name("_step", "load"), [], [], None, None))
            part.body.insert(0, step.set_lineno(part.lineno))
        for joined in tree.find_all(nodes.Concat):
            joined.nodes = [nodes.Call(nodes.Name("_join", "load"), joined.nodes, [], None, None)]
        return tree

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as Jinja names them
        """Calls a function or a method with numbers, and for a result, that are not too large."""
        for argument in args:
            if isinstance(argument, int):
                _bounded(argument)
        return _checked(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Computes what does not become too large."""
        sizes = [len(side) if isinstance(side, (str, list, tuple)) else side for side in (left, right)]
        if operator == "+" and isinstance(left, (str, list, tuple)):
            _bounded(sum(sizes) if isinstance(right, type(left)) else 0)
        elif operator == "*" and all(isinstance(size, int) for size in sizes):
            _bounded(sizes[0] * sizes[1])
        elif operator == "**":
            raise OverflowError("powers are not known here")
        elif operator == "%" and isinstance(left, str):
            raise OverflowError("formatting by % is not known here; join texts by ~")
        return super().call_binop(context, operator, left, right)


class _Generation(ext.Extension):
    """{% generation %}: what an assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Any) -> nodes.Node:
        """Reads a block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        environment = self.environment
        assert isinstance(environment, _Environment)
        start, stop = environment.generation
        return f"{start}{caller()}{stop}"


def _short(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a filter whose results are not too long."""
    return functools.wraps(function)(lambda *args, **kwargs: _checked(function(*args, **kwargs)))


def _join(*parts: Any) -> str:
    """What ~ does."""
    texts = [str(part) for part in parts]
    _bounded(sum(map(len, texts)))
    return "".join(texts)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators)
