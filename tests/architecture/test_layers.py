"""The one-way order of the packages and the walls around libraries, read from the imports of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "gptjax").rglob("*.py"))

# What each part may import of gptjax, beside itself. `config` below a package is its leaf config.
BASE = {"types", "registry"}
MAY_IMPORT = {
    "types": set(),
    "registry": {"types"},
    "schema": set(),
    "cache": set(),
    "distributed": {"types", "cache"},
    "sharding": BASE,
    "zigzag": set(),
    "chips": set(),
    "manual": {"types", "sharding"},
    "model": {*BASE, "sharding", "manual", "zigzag"},
    "optim": BASE,
    "data": {*BASE, "cache", "sharding", "distributed"},
    "tasks": {*BASE, "data", "sample"},  # of sample the rules alone, which know no model
    "interop": {*BASE, "sharding", "model", "data", "train", "config"},
    "sample": {*BASE, "sharding", "model", "data"},
    "train": {
        *BASE,
        "chips",
        "sharding",
        "manual",
        "zigzag",
        "distributed",
        "model",
        "optim",
        "data",
        "tasks",
        "sample",
    },
    "config": {*BASE, "schema", "sharding", "model", "optim", "data", "tasks", "sample", "train"},
    "flags": BASE,
    "overrides": {*BASE, "schema", "config"},
    "experiment_file": {*BASE, "schema", "train", "config", "overrides"},
    "program": {*BASE, "sharding", "model", "optim", "tasks", "train", "config"},
    "experiment": {*BASE, "sharding", "model", "data", "tasks", "train", "config", "program"},
    "plan": {
        *BASE,
        "chips",
        "sharding",
        "model",
        "data",
        "tasks",
        "config",
        "program",
        "flags",
        "overrides",
        "experiment_file",
    },
    "evaluation": {*BASE, "data", "sample", "tasks", "train", "experiment"},
    "inference": {*BASE, "model", "data", "train", "config", "experiment"},
    "run": {*BASE, "evaluation", "distributed", "model", "data", "sample", "train", "config", "experiment"},
    "main": {"config", "flags", "overrides", "experiment_file", "distributed", "run"},
    "prepare": {*BASE, "data", "flags"},
    "lm_eval": {*BASE, "model", "sample", "train", "distributed", "flags", "inference"},
    "convert": {*BASE, "model", "data", "interop", "distributed", "flags", "inference"},
    "sweep": {*BASE, "config", "train", "flags", "overrides", "experiment_file"},
    "sweep.expand": {*BASE, "schema", "config"},
    "sweep.law": set(),
    "sweep.scaling_runs": {*BASE, "data", "model", "train", "config", "experiment"},
    "sweep.scaling_page": set(),
    "sweep.scaling_law": {"types", "train", "flags"},
    "sweep.coordinates": {*BASE, "model", "data", "train", "config", "experiment"},
    "sweep.coordinate_check": {*BASE, "config", "flags", "overrides", "experiment_file", "distributed"},
    "sample.__main__": {*BASE, "sample", "data", "distributed", "flags", "inference"},
}
# Libraries that only these files may import.
WALLS = {
    "flax": ("gptjax/model/",),
    "orbax": ("gptjax/train/checkpoint.py",),
    "grain": ("gptjax/data/",),
    "tensorboard": ("gptjax/train/writer.py",),
    "ml_collections": ("gptjax/config.py", "gptjax/overrides.py", "gptjax/experiment_file.py"),
    "matplotlib": ("gptjax/sweep/",),
    "qwix": ("gptjax/model/quantised.py",),
    "sacrebleu": ("gptjax/tasks/text_scores.py",),
    "rouge_score": ("gptjax/tasks/text_scores.py",),
    "sklearn": (),
    "seqeval": (),
    "lm_eval": ("gptjax/lm_eval/",),
    "huggingface_hub": ("gptjax/interop/source.py",),
    "gguf": ("gptjax/interop/gguf_file.py",),
    "jinja2": ("gptjax/data/",),
    "tokenizers": ("gptjax/data/", "gptjax/interop/"),
    "transformers": (),
    "torch": (),
    "tensorflow": (),
    "clu": (),
}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "deprecated"}


def imports(path: Path) -> list[str]:
    """Returns the dotted names that a file imports, at any depth: `from gptjax.x import y` gives gptjax.x.y."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part_of(path: Path) -> str:
    """Returns the entry of MAY_IMPORT that a file falls under."""
    parts = path.relative_to(ROOT / "gptjax").with_suffix("").parts
    return ".".join(parts) if ".".join(parts) in MAY_IMPORT else parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_order_and_the_walls(path):
    """Each file imports only what lies below it, and libraries only where they belong."""
    part, name = part_of(path), str(path.relative_to(ROOT))
    for imported in imports(path):
        top, *rest = imported.split(".")
        if top == "gptjax" and rest and part != "__init__":
            assert rest[0] in {part.split(".")[0], *MAY_IMPORT[part]}, f"{name} must not import {imported}"
        if top in WALLS:
            assert any(name.startswith(allowed) for allowed in WALLS[top]), f"{name} must not import {top}"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda path: path.name)
def test_experiments_import_the_config_and_the_base_only(path):
    """An experiment is base plus differences; an ablation says beside it which runs to make of it."""
    allowed = (
        "gptjax.config",
        "gptjax.types",
        "experiments",
        *(["gptjax.sweep.expand"] if path.parent.name == "ablations" else []),
    )
    for imported in imports(path):
        assert not imported.startswith("gptjax") or imported.startswith(allowed), imported


def test_leaf_configs_import_no_framework():
    """Flags are parsed and experiments are read without jax, flax or grain."""
    for path in (ROOT / "gptjax").rglob("*/config.py"):
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & {"jax", "flax", "grain", "optax", "orbax"}, path


def test_formats_and_scores_need_no_framework():
    """Files of predictions are scored without jax."""
    data = [ROOT / f"gptjax/data/{name}.py" for name in ("text", "lines", "rows", "records", "conll", "propbank")]
    names = ("spans", "perplexity_scores", "scores", "label_scores", "span_scores", "text_scores")
    scores = [ROOT / f"gptjax/tasks/{name}.py" for name in names]
    for path in (*data, *scores):
        assert not {name.split(".")[0] for name in imports(path)} & {"jax", "flax", "grain", "optax"}, path


def test_names_say_what_a_file_holds():
    """No file is called after nothing in particular."""
    assert not [path for path in FILES if path.stem in BANNED_NAMES]


def test_there_is_one_training_loop():
    """Only run.py calls a train step."""
    calls = [
        (path, node.func)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    assert {path.name for path, function in calls if ast.unparse(function).startswith("train_step")} == {"run.py"}


def test_no_hidden_options():
    """Configs are read by attribute, so that every option stands in the schema."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                owner = ast.unparse(node.func.value)
                assert not owner.endswith(("cfg", "config")), f"{path}: {ast.unparse(node)}"
