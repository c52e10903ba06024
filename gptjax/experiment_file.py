"""Files of experiments: Python that returns a config, and may have dials, from which it derives several options.

A dial is a parameter of get_config(), as in `def get_config(*, depth: int = 4)`; --config.depth=8 turns it. A value
that does not suit is a ValueError there, whose words the user reads.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from gptjax import overrides, registry
from gptjax.config import ExperimentConfig, from_config_dict, to_config_dict
from gptjax.schema import fields_of
from gptjax.train.workdir import Workdir
from gptjax.types import UserError

Changes = Sequence[tuple[str, str]]
"""Options, or dials, and what they are set to, as flags give them."""


@dataclasses.dataclass(frozen=True)
class ExperimentFile:
    """A file that was run, and holds get_config()."""

    path: str
    module: types.ModuleType

    def read(self, changes: Changes = ()) -> ExperimentConfig:
        """Returns the config with dials turned first and options changed after.

        Raises UserError where a change or the config does not fit.
        """
        dials = _dials(self.module.get_config, self.path)
        turned = {name: overrides.parse(text, dials[name], name) for name, text in changes if name in dials}
        options = [(name, text) for name, text in changes if name not in dials]
        known = [*dials, *fields_of(ExperimentConfig)]
        for name, _ in options:
            if dials and "." not in name and name not in known:
                near = registry.did_you_mean(name, known)
                raise UserError(f"{self.path} has no dial and no option --config.{name}; {near}")
        try:
            with _mistakes_in(self.path):
                config = self.module.get_config(**turned)
        except ValueError as error:
            if isinstance(error, UserError) or not turned:
                raise
            raise UserError(f"{self.path}: {error}") from error
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"{self.path}: get_config() returns {config!r}; it must return the config, see experiments/small.py"
            )
        overrides.apply(config, options)
        return from_config_dict(config, self.path)

    def sweep(self) -> list[Any]:
        """Returns what sweep() gives, in its order; raises UserError where the file has none."""
        if not hasattr(self.module, "sweep"):
            raise UserError(f"{self.path} has no sweep(); see experiments/ablations/positions.py")
        with _mistakes_in(self.path):
            return list(self.module.sweep())


def open_experiment(path: str) -> ExperimentFile:
    """Runs the file of an experiment, or reads a workdir's config.json; a mistake is a UserError with its line."""
    with _mistakes_in(path):
        module = _resolved(path) if Path(path).name == "config.json" else _module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(); see experiments/small.py")
    return ExperimentFile(path, module)


def _dials(get_config: Callable, path: str) -> dict[str, Any]:
    """Returns the types of the dials; that of a dial which declares none is its default's."""
    for parameter in inspect.signature(get_config).parameters.values():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and parameter.default is parameter.empty:
            raise UserError(f"{path}: the dial {parameter.name!r} of get_config() has no default; give it one")
    declared, defaults = registry.option_types(get_config), registry.options(get_config)
    return {
        name: type(defaults[name]) if kind is Any and defaults[name] is not None else kind
        for name, kind in declared.items()
    }


def _resolved(path: str) -> types.ModuleType:
    """Returns an experiment that is what a config.json says."""
    module = types.ModuleType(f"experiment file {path}")
    cfg = from_config_dict(Workdir(Path(path).parent).read_config(), path)
    module.get_config = lambda: to_config_dict(cfg)  # type: ignore[attr-defined]
    return module


def _module(path: str) -> types.ModuleType:
    file = Path(path)
    if file.suffix != ".py":
        raise UserError(
            f"{path!r} is no Python file; --config takes an experiment such as experiments/small.py, or a workdir's "
            f"config.json"
        )
    if not file.is_file():
        near = difflib.get_close_matches(path, [str(p) for p in file.parent.rglob("*.py")], n=1)
        cure = f"did you mean {near[0]}?" if near else "run from the folder that holds experiments/"
        raise UserError(f"there is no experiment file {path!r}; {cure}")
    spec = importlib.util.spec_from_file_location(f"experiment file {file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look there for what their annotations name
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _mistakes_in(path: str) -> Iterator[None]:
    try:
        yield
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except (AttributeError, KeyError, TypeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not frames[-1].filename.startswith(ml_collections.__path__[0]):
            raise  # a bug in the file, not a wrong option: its traceback helps
        line = next(frame.lineno for frame in reversed(frames) if frame.filename == str(Path(path).absolute()))
        reason = str(error).split("\n")[0]
        unknown = re.search(r'Key "(\w+)" does not exist', reason)
        if unknown is not None:
            names = {name.split(".")[-1] for name in overrides.all_paths()}
            reason = f"there is no option {unknown[1]!r}; {registry.did_you_mean(unknown[1], names)}"
        raise UserError(f"{path}:{line}: {reason}") from None
