"""Which tensors make up one model: a family's declaration with a config filled in, for a file or a model of ours."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from gptjax import model, registry
from gptjax.interop.families import FAMILIES, Family
from gptjax.interop.fields import Fields
from gptjax.interop.pretrained import Pretrained
from gptjax.interop.tensors import Tensor
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice, did_you_mean
from gptjax.types import UserError

_SHOWN = 4
"""Problems of one kind that a message names; of more it gives the number."""


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """A family and the resolved config of one of its models."""

    model_type: str
    cfg: ModelConfig

    @property
    def family(self) -> Family:
        """What is known of all its models."""
        return FAMILIES[self.model_type]

    @functools.cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """The family's tensors that this model has."""
        # Which parameters there are depends on no size: a tiny model is asked, whatever sizes a file claims.
        sizes = dict.fromkeys(("d_model", "d_head", "num_heads", "num_kv_heads", "num_layers", "d_ff", "seq_len"), 2)
        shapes = model.param_shapes(dataclasses.replace(self.cfg, **sizes, vocab_size=2))
        paths = {path for path, _ in by_path(shapes)}
        chosen = tuple(tensor for tensor in self.family.tensors if paths.issuperset(tensor.paths))
        assert paths == {path for tensor in chosen for path in tensor.paths}, self.model_type
        return chosen

    def named(self) -> Iterator[tuple[str, Tensor, int | None]]:
        """Yields each tensor's name in a file, with its number of the layer where it belongs to one."""
        for tensor in self.tensors:
            if "{}" not in tensor.name:
                yield tensor.name, tensor, None
        for layer in range(self.cfg.num_layers):
            for tensor in self.tensors:
                if "{}" in tensor.name:
                    yield tensor.name.format(layer), tensor, layer

    def check(self, pretrained: Pretrained) -> str:
        """Returns what the names of all tensors lack in front; raises UserError where the tensors are not the model's.

        Nothing is read: names and shapes alone are compared.
        """
        names, base = pretrained.names(), self.family.base
        lacking = "" if any(name.startswith(base) for name in names) else base
        per_layer = sum("{}" in tensor.name for tensor in self.tensors)
        if self.cfg.num_layers * per_layer > len(names):
            raise UserError(
                f"{pretrained.source} has {len(names)} tensors, too few for the {self.cfg.num_layers} layers that its "
                f"config names; get it again"
            )
        wanted = {name.removeprefix(lacking): tensor for name, tensor, _ in self.named()}
        free = re.compile(self.family.ignored)
        extra = {name for name in names - wanted.keys() if not free.fullmatch(name) and name != "lm_head.weight"}
        problems = _some("lacks", sorted(wanted.keys() - names))
        problems += _some(f"has, beside those of {self.model_type},", sorted(extra))
        wrong = [
            f"{name} of shape {list(shape)} instead of {list(tensor.shape(self.cfg))}"
            for name, tensor in sorted(wanted.items())
            if name in names and (shape := pretrained.shape(name)) != tensor.shape(self.cfg)
        ]
        problems += _some("has", wrong)
        if problems:
            raise UserError.join(
                f"{pretrained.source} does not fit its config",
                [f"{pretrained.source} {problem}" for problem in problems],
            )
        return lacking


def by_path(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a parameter tree with their paths, as in blocks/mlp/up/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _some(verb: str, things: list[str]) -> list[str]:
    more = len(things) - _SHOWN
    return (
        [f"{verb} {', '.join(thing[:120] for thing in things[:_SHOWN])}{f' and {more} more' if more > 0 else ''}"]
        if things
        else []
    )


def read_config(fields: Mapping[str, Any], source: str) -> Blueprint:
    """Returns the model that a config.json describes; raises UserError where there is none like it here."""
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            f"{source}: model_type={model_type!r:.80} is not supported; {did_you_mean(str(model_type)[:80], FAMILIES)}"
        )
    reader = Fields(fields)
    cfg = FAMILIES[model_type].read(reader)
    if problems := reader.problems or cfg.validate():
        raise UserError.join(f"{source} cannot be held", [f"{source}: {problem}" for problem in problems])
    return Blueprint(model_type, cfg.resolve())


def write_config(cfg: ModelConfig) -> tuple[Blueprint, dict[str, Any]]:
    """Returns blueprint and config.json of the first family that holds a model; raises UserError where none does."""
    cfg = _complete(cfg.resolve())
    found: dict[str, list[str]] = {}
    for model_type, family in FAMILIES.items():
        fields = family.write(cfg)
        reader = Fields(fields)
        theirs = family.read(reader)
        found[model_type] = reader.problems or _obstacles(cfg, theirs, family)
        if not found[model_type]:
            return Blueprint(model_type, theirs.resolve()), {
                "architectures": [family.architecture],
                "model_type": model_type,
                **fields,
            }
    nearest = min(found, key=lambda name: len(found[name]))
    raise UserError(
        f"no family that transformers loads can hold this model; {nearest} is nearest, and has no "
        f"{', '.join(found[nearest])}"
    )


# ---- what a family cannot hold

_FREE = ("dropout", "init_std", "vocab_multiple", "dtype", "remat", "scan_layers", "require_kernel", "classifiers")
"""Options that change nothing in what the parameters mean; classifiers are their tasks', and stay behind."""


def _obstacles(ours: ModelConfig, theirs: ModelConfig, family: Family) -> list[str]:
    """Returns the options that come back as something else when a family has written them down."""
    there = _flat(_complete(theirs.resolve()))
    return [
        f"model.{name}={value!r}"
        for name, value in _flat(ours).items()
        if (name not in there or there[name] != value) and not (name in family.zeros and value is False)
    ]


def _flat(cfg: ModelConfig) -> dict[str, Any]:
    flat: dict[str, Any] = {"attention_scale": cfg.score_scale}
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if isinstance(value, Choice):
            value = registry.resolve(field.metadata["table"], value)
            flat |= {f"{field.name}.{option}": setting for option, setting in value.kwargs.items()}
            flat[f"{field.name}.name"] = value.name
        elif field.name not in (*_FREE, "attention_scale"):
            flat[field.name] = value
    return flat


def _complete(cfg: ModelConfig) -> ModelConfig:
    """Returns the same model with its angles written down in one way."""
    if cfg.positions.name != "rotary":
        return cfg
    options = dict(registry.resolve("gptjax.model.positions:POSITIONS", cfg.positions).kwargs)
    if options["scaling"] in ("none", "linear"):
        options["trained_len"] = None
    elif options["trained_len"] is None:
        options["trained_len"] = int(cfg.seq_len / options["factor"])
    if options["scaling"] == "none":
        options["factor"] = 1.0
    return dataclasses.replace(cfg, positions=Choice("rotary", options))
