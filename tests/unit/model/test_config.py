"""The model's shape: derived dimensions, problems told with their cure, and a schema that costs no jax."""

import pathlib
import subprocess
import sys

import pytest

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice

ROOT = pathlib.Path(__file__).parents[3]


def test_resolve_writes_out_what_was_left_open():
    cfg = ModelConfig(d_model=96, num_heads=6).resolve()
    assert (cfg.num_kv_heads, cfg.d_head, cfg.d_ff) == (6, 16, 384)
    assert cfg.resolve() == cfg


def test_resolve_keeps_what_was_chosen():
    cfg = ModelConfig(d_model=96, num_heads=6, num_kv_heads=2, d_head=10, d_ff=7, qkv_bias=False)
    assert cfg.resolve() == cfg


@pytest.mark.parametrize(
    ("vocab_size", "multiple", "padded"), [(128, 128, 128), (129, 128, 256), (1, 128, 128), (50_257, 1, 50_257)]
)
def test_the_vocabulary_is_padded_upwards_and_only_where_it_must(vocab_size, multiple, padded):
    assert ModelConfig(vocab_size=vocab_size, vocab_multiple=multiple).padded_vocab_size == padded


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        *(
            ({name: value}, f"{name}={value} is less than 1; choose a positive number")
            for name in ("d_model", "num_layers", "num_heads", "seq_len", "vocab_multiple")
            for value in (0, -3)
        ),
        *(
            ({name: value}, f"{name}={value} is less than 1; choose a positive number or None")
            for name in ("vocab_size", "num_kv_heads", "d_head", "d_ff")
            for value in (0, -3)
        ),
        (
            {"d_model": 12, "num_heads": 5},
            "num_heads=5 does not divide d_model=12; try 4 or 6 or 3, or set d_head",
        ),
        (
            {"d_model": 96, "num_heads": 6, "num_kv_heads": 4},
            "num_kv_heads=4 does not divide num_heads=6; try one of 1, 2, 3, 6",
        ),
        (
            {"num_heads": 4, "num_kv_heads": 8},
            "num_kv_heads=8 does not divide num_heads=4; try one of 1, 2, 4",
        ),
        ({"dropout": 1.0}, "dropout=1.0 is not a probability below 1; 0.1 is usual"),
        ({"dropout": -0.1}, "dropout=-0.1 is not a probability below 1; 0.1 is usual"),
        ({"init_std": 0.0}, "init_std=0.0 is not positive; 0.02 is GPT-2's"),
        ({"init_std": float("nan")}, "init_std=nan is not positive; 0.02 is GPT-2's"),
        (
            {"attention": Choice("causal", {"window": 0})},
            "attention.window=0 is not positive; leave it out for the default",
        ),
        (
            {"norm": Choice("rmsnorm", {"epsilon": -1.0})},
            "norm.epsilon=-1.0 is not positive; leave it out for the default",
        ),
        (
            {"block": Choice("lstm", {"d_hidden": 0})},
            "block.d_hidden=0 is not positive; leave it out for the default",
        ),
        (
            {"positions": Choice("rotary", {"base": 0.0})},
            "positions.base=0.0 is not positive; leave it out for the default",
        ),
        (
            {"d_model": 12, "num_heads": 4, "positions": Choice("rotary")},
            "positions.name='rotary' turns pairs of channels and 3 of d_head=3 are not pairs; change d_head or "
            "positions.fraction",
        ),
        (
            {"positions": Choice("rotary", {"scaling": "yarm"})},
            "positions.scaling='yarm' is unknown; valid: none, linear, ntk, yarn, yarn_by_index, llama3",
        ),
        (
            {"d_model": 24, "attention": Choice("differential")},
            "attention.name='differential' halves pairs of channels and d_head=6 is no multiple of 4",
        ),
        (
            {"attention": Choice("bidirectional"), "positions": Choice("alibi")},
            "positions.name='alibi' does not tell what follows from what came before, which "
            "attention.name='bidirectional' sees both of; set positions.name=rotary",
        ),
        (
            {"attention": Choice("alternating", {"pattern": "LX"})},
            "attention.pattern='LX' is not made of L (local) and G (global), as in LLLG",
        ),
        (
            {"mlp": Choice("moe", {"num_experts": 2, "top_k": 4})},
            "mlp.top_k=4 is more than mlp.num_experts=2",
        ),
        ({"logit_scale": 0.0}, "logit_scale=0.0 is not positive; leave it out for the default"),
        ({"mup_base_width": 0}, "mup_base_width=0 is less than 1; choose a positive number or None"),
        ({"remat": "some"}, "remat='some' is unknown; valid: none, dots, minimal, offload, full"),
        ({"require_kernel": "flash"}, "require_kernel='flash' is unknown; valid: xla, splash, cudnn, or None"),
        ({"dtype": "float16"}, "dtype='float16' is unknown; valid: float32, bfloat16"),
        ({"norm_placement": "both"}, "norm_placement='both' is unknown; valid: pre, post, sandwich"),
    ],
)
def test_a_problem_is_told_alone_and_with_its_cure(changes, problem):
    assert ModelConfig(**changes).validate() == [problem]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"d_model": 0, "num_layers": 0, "d_ff": 0}, ["d_model", "num_layers", "d_ff"]),
        (
            {"d_model": 10, "num_heads": 4, "num_kv_heads": 3, "dropout": 2.0, "init_std": -1.0, "dtype": "int8"},
            ["num_heads", "num_kv_heads", "dropout", "init_std", "dtype"],
        ),
    ],
)
def test_all_problems_are_told_at_once(changes, fields):
    assert [problem.split("=")[0] for problem in ModelConfig(**changes).validate()] == fields


@pytest.mark.parametrize(
    "changes",
    [{}, {"d_model": 100, "num_heads": 7, "d_head": 16}, {"num_kv_heads": 1}, {"dropout": 0.0}, {"dropout": 0.99}],
    ids=str,
)
def test_what_fits_together_is_let_through(changes):
    """A width of head that is set frees the number of heads from dividing the model's width."""
    assert ModelConfig(**changes).validate() == []


def test_reading_the_schema_loads_no_jax():
    code = "import sys, gptjax.model.config; print({'jax', 'flax'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_the_package_finds_each_of_its_names_late():
    for name in model.__all__:
        assert getattr(model, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'unembedd'"):
        model.unembedd  # noqa: B018
