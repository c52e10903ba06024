"""The whole config of an experiment: all options, their ConfigDict form, validation and identity.

The dataclasses are the schema. A ConfigDict is how experiment files and flags write one; `from_config_dict` turns it
back once, and below that line nothing but dataclasses is seen. This file knows every leaf config and builds nothing.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from gptjax import registry
from gptjax.data.config import DataConfig
from gptjax.model.config import ModelConfig
from gptjax.optim.config import OptimConfig
from gptjax.registry import Choice, Choices, choices_field
from gptjax.sample.config import SampleConfig
from gptjax.schema import fields_of, type_problem, without_none
from gptjax.sharding import MeshConfig
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Setting
from gptjax.train.config import CheckpointConfig, EvaluationConfig, ProfileConfig, TrainConfig
from gptjax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that a run depends on."""

    seed: int = 0
    """Where all randomness comes from: initial weights, order of the data, dropout, samples."""
    tasks: Choices = choices_field("gptjax.tasks.table:TASKS", lm=Choice("language_modeling"))
    """What the model is trained and scored on, each task under a name of its own."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig, metadata={"fingerprint": False})
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig, metadata={"fingerprint": False})
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig, metadata={"fingerprint": False})
    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig, metadata={"fingerprint": False})
    profile: ProfileConfig = dataclasses.field(default_factory=ProfileConfig, metadata={"fingerprint": False})


# ---- ConfigDict form


def to_config_dict(cfg: Any) -> ConfigDict:
    """Returns a config as a locked ConfigDict in which every option is visible and typed; a Choice is {name, ...}."""
    return ConfigDict(_writable(cfg), type_safe=True).lock()


def _writable(cfg: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, (field, hint) in fields_of(type(cfg)).items():
        value = getattr(cfg, name)
        if dataclasses.is_dataclass(hint) and not isinstance(value, Choice):
            result[name] = _writable(value)
        elif isinstance(value, Choice):
            result[name] = _writable_choice(field.metadata["table"], value)
        elif hint is Choices:
            result[name] = {key: _writable_choice(field.metadata["table"], choice) for key, choice in value.items()}
        else:
            result[name] = _placeholder(value, hint)
    return result


def _writable_choice(table: str, choice: Choice) -> dict[str, Any]:
    resolved = registry.resolve(table, choice)
    hints = registry.option_types(registry.lookup(table, choice.name))
    return {"name": choice.name, **{key: _placeholder(option, hints[key]) for key, option in resolved.kwargs.items()}}


def _placeholder(value: Any, hint: Any) -> Any:
    kind, optional = without_none(hint)
    if value is None and optional and isinstance(kind, type):
        return config_dict.placeholder(kind)
    return value


def from_config_dict(config: ConfigDict | Mapping[str, Any], source: str = "the config") -> ExperimentConfig:
    """Returns the dataclass form; raises UserError with every unknown key and wrong type at once."""
    problems: list[str] = []
    plain: Mapping[str, Any] = config.to_dict() if isinstance(config, ConfigDict) else config  # type: ignore
    cfg = _read(ExperimentConfig, plain, "", problems)
    if problems:
        raise UserError.join(f"{source} does not fit the schema", problems)
    return cfg


def _read(schema: Any, values: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    fields = fields_of(schema)
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.') or 'the config'}={values!r} must be a group of options")
        return _BAD
    for key in values:
        if key not in fields:
            problems.append(f"there is no option {prefix}{key}; {registry.did_you_mean(key, fields)}")
    read: dict[str, Any] = {}
    for name, (field, hint) in fields.items():
        if name not in values:
            continue
        value, path = values[name], f"{prefix}{name}"
        if hint is Choice:
            read[name] = _read_choice(field.metadata["table"], value, path, problems)
        elif hint is Choices:
            read[name] = _read_choices(field.metadata["table"], value, path, problems)
        elif dataclasses.is_dataclass(hint):
            read[name] = _read(hint, value, f"{path}.", problems)
        else:
            read[name] = _fit(value, hint, path, problems)
    return schema(**{name: value for name, value in read.items() if value is not _BAD})


_BAD = object()


def _fit(value: Any, hint: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, list | tuple):  # a ConfigDict or JSON may hold a list where the schema says tuple
        value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
    problem = type_problem(value, hint)
    if problem is not None:
        problems.append(f"{path}={value!r} {problem}")
        return _BAD
    return float(value) if without_none(hint)[0] is float and value is not None else value


def _read_choices(table: str, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping) or not value:
        problems.append(f"{path}={value!r} must be one or more choices by name, as in {{'mine': {{'name': ...}}}}")
        return _BAD
    read = {key: _read_choice(table, choice, f"{path}.{key}", problems) for key, choice in value.items()}
    for key in read:
        if not re.fullmatch(r"\w+", key):
            problems.append(f"{path}: the name {key!r} is not made of letters, digits and _; choose another")
    return Choices({key: choice for key, choice in read.items() if choice is not _BAD})


def _read_choice(table: str, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        problems.append(f"{path}={value!r} must be a mapping with a name, as in {{'name': ...}}")
        return _BAD
    try:
        factory = registry.lookup(table, value["name"])
        given = {key: option for key, option in value.items() if key != "name"}
        registry.resolve(table, Choice(value["name"], given))
    except UserError as error:
        problems.append(f"{path}: {error}")
        return _BAD
    hints = registry.option_types(factory)
    read = {key: _fit(option, hints[key], f"{path}.{key}", problems) for key, option in given.items()}
    return registry.resolve(table, Choice(value["name"], {k: v for k, v in read.items() if v is not _BAD}))


# ---- validation and identity


def validate(cfg: ExperimentConfig, device_count: int, source: str = "the config") -> None:
    """Raises one UserError that names every setting which is wrong or does not fit the others."""
    problems = own_problems(cfg)
    mesh_problems = [f"mesh.{problem}" for problem in cfg.mesh.validate(device_count)]
    problems += mesh_problems
    if not mesh_problems:
        sizes = cfg.mesh.shape(device_count)
        parts = sizes["replica"] * sizes["fsdp"] * sizes["expert"]
        sizes_of_batches = [
            ("data.batch_size=", cfg.data.batch_size),
            ("evaluation.batch_size=", cfg.evaluation.batch_size),
            *(("data.batch_ramp: a size of ", size) for size, _ in cfg.data.batch_ramp),
        ]
        for name, batch_size in sizes_of_batches:
            if batch_size is not None and batch_size % parts:
                problems.append(
                    f"{name}{batch_size} does not divide over {parts} devices; "
                    f"try {-(-batch_size // parts) * parts}, or another mesh"
                )
        if sizes["context"] > 1 and cfg.model.num_states:
            problems.append(
                f"mesh.context={sizes['context']} splits sequences, which model.block.name={cfg.model.block.name!r} "
                f"reads in order; set mesh.context=1"
            )
        for name, task in cfg.tasks.items():
            num_ahead = dict(task.kwargs).get("num_ahead", 0)
            if num_ahead >= dict(cfg.model.head.kwargs).get("num_tokens", 1):
                problems.append(
                    f"tasks.{name}.num_ahead={num_ahead} is beyond what the head sees; set "
                    f"model.head.name=multi_token and model.head.num_tokens={num_ahead + 1}"
                )
            if num_ahead and sizes["context"] > 1:
                problems.append(f"tasks.{name}.num_ahead={num_ahead} needs whole rows; set mesh.context=1")
        pieces = (2 * sizes["context"] if sizes["context"] > 1 else 1) * cfg.train.loss_chunks
        if cfg.train.loss_chunks > 0 and cfg.model.seq_len % pieces:
            problems.append(
                f"model.seq_len={cfg.model.seq_len} does not divide into {pieces} pieces: train.loss_chunks="
                f"{cfg.train.loss_chunks}, and two for each of mesh.context={sizes['context']} devices"
            )
    if problems:
        raise UserError.join(f"{source} does not fit together", problems)


def own_problems(cfg: ExperimentConfig) -> list[str]:
    """Returns what is wrong with the settings whatever the devices, each as "group.field=value is wrong; do this"."""
    problems: list[str] = []
    if not 0 <= cfg.seed < 2**32:
        problems.append(f"seed={cfg.seed} is not between 0 and {2**32 - 1}")
    for name in ("model", "data", "optim", "train", "evaluation", "checkpoint", "sample", "profile"):
        problems += [f"{name}.{problem}" for problem in getattr(cfg, name).validate()]
    for name, task in build_tasks(cfg.tasks, Setting(name="")).tasks.items():
        problems += [f"tasks.{name}.{problem}" for problem in task.problems()]
    problems += leaks(cfg)
    if cfg.sample.prompts and cfg.model.both_ways:
        problems.append(
            f"sample.prompts={cfg.sample.prompts} are to be continued, and model.attention.name="
            f"{cfg.model.attention.name!r} sees what follows; set sample.prompts=()"
        )
    if cfg.model.lora.rank > 0 and cfg.optim.trained == "all":
        problems.append(
            f"model.lora.rank={cfg.model.lora.rank} adds adapters and optim.trained='all' trains the weights beside "
            f"them too; set optim.trained='adapters', or a pattern of your own"
        )
    if cfg.model.lora.base != "float32" and cfg.checkpoint.init_from is None:
        problems.append(
            f"model.lora.base={cfg.model.lora.base!r} keeps the weights of a model that is there; set "
            f"checkpoint.init_from=WORKDIR"
        )
    if cfg.model.lora.rank == 0 and cfg.optim.trained == "adapters":
        problems.append("optim.trained='adapters' and model.lora.rank=0 adds none; set model.lora.rank=8")
    return problems


def leaks(cfg: ExperimentConfig) -> list[str]:
    """Returns which tasks ask the model for what it sees."""
    tasks = build_tasks(cfg.tasks, Setting(name="")).tasks if cfg.model.both_ways else {}
    return [
        f"tasks.{name} predicts the next token, which model.attention.name={cfg.model.attention.name!r} sees; it "
        f"serves tasks that read: classification, tagging, roles"
        for name, task in tasks.items()
        if task.unembeds
    ]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested mapping as {"optim.peak_lr": ...}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = _listed(value)
    return flat


def _listed(value: Any) -> Any:
    """Turns tuples into lists, as JSON does."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def to_plain(cfg: ExperimentConfig) -> dict[str, Any]:
    """Returns the config as plain dicts and values for JSON, as `from_config_dict` reads them."""
    return _plain(_writable(cfg))


def _plain(value: Any) -> Any:
    if isinstance(value, config_dict.FieldReference):
        return value.get()
    if isinstance(value, Mapping):
        return {name: _plain(member) for name, member in value.items()}
    return value


def fingerprint(cfg: ExperimentConfig) -> dict[str, Any]:
    """Returns the options that make a run what it is, flat; those that say only how it is executed are left out."""
    flat = flatten(to_plain(cfg))
    # Of the files of tasks their contents count, which whoever reads them adds.
    paths = ("train", "valid", "train_target", "valid_target", "label_names")
    files = {f"tasks.{name}.{path}" for name in cfg.tasks for path in paths}
    transient = {*_transient(ExperimentConfig), *files}
    return {path: value for path, value in flat.items() if not any(_under(path, group) for group in transient)}


def _under(path: str, group: str) -> bool:
    return path == group or path.startswith(f"{group}.")


def _transient(schema: Any, prefix: str = "") -> Iterable[str]:
    for name, (field, hint) in fields_of(schema).items():
        if not field.metadata.get("fingerprint", True):
            yield f"{prefix}{name}"
        elif dataclasses.is_dataclass(hint) and hint is not Choice:
            yield from _transient(hint, f"{prefix}{name}.")
