"""Under muP activations keep their size when a model widens; in the usual parametrisation they grow."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.sweep.coordinate_check import main, table
from gptjax.sweep.coordinate_plot import draw
from gptjax.sweep.coordinates import Coordinates, gather, measure
from gptjax.types import UserError
from tests import experiments

WIDTHS = (32, 128)


@pytest.fixture(scope="module")
def at_base(tmp_path_factory):
    """Gives (base width) -> what is measured with it; None is without muP."""
    text = tmp_path_factory.mktemp("text") / "numbers.txt"
    text.write_text("".join(f"{i} times {i} is {i * i}.\n" for i in range(3000)))
    cfg = experiments.load("tiny")
    cfg = dataclasses.replace(
        cfg,
        data=dataclasses.replace(cfg.data, path=str(text), batch_size=8),
        model=dataclasses.replace(cfg.model, num_layers=2, num_heads=2, seq_len=32, init_std=0.08),
        optim=dataclasses.replace(cfg.optim, peak_lr=0.02),
    )

    @functools.cache
    def at(base):
        changed = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, mup_base_width=base))
        return gather(list(measure(changed, WIDTHS, 4, "the test")))

    return at


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["mlp_output", "stream", "logits"],
)
def test_under_mup_sizes_stay(at_base, name):
    """After four updates, by the power of the width, in every layer."""
    assert np.all(np.abs(at_base(32).growth(name)[-1]) < 0.3), at_base(32).growth(name)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_output", "stream", "logits"])
def test_without_they_grow(at_base, name):
    """The same model at the same learning rate: so the check can fail."""
    assert np.all(at_base(None).growth(name)[-1] > 0.5), at_base(None).growth(name)[-1]


def test_growth_is_the_power_of_the_width():
    sizes_W11 = 3 * np.array(WIDTHS)[:, None, None] ** 0.5
    assert Coordinates(WIDTHS, {"x": sizes_W11}).growth("x") == pytest.approx(0.5)
    assert table(Coordinates(WIDTHS, {"x": sizes_W11}))[-1].endswith("width^0.50")


def test_sizes_within_a_decade_have_numbers_beside_them():
    sizes = np.linspace(1.5, 2.9, 3)[:, None, None] * np.ones((3, 2, 1))
    assert r"2\times10^{0}" in draw(Coordinates([64, 128, 256], {"logits": sizes, "stream": sizes}))


@pytest.mark.parametrize("flag", ["--widths=64,128", "--widths=064,64,128", "--widths=²,64,128", "--svg={folder}"])
def test_a_wrong_flag_is_said_before_a_width_is_trained(flag, tmp_path):
    with pytest.raises(UserError, match=r"no list of three widths|is a folder"):
        main(["--config=experiments/tiny.py", flag.format(folder=tmp_path)])


def test_what_is_not_finite_is_named():
    with pytest.raises(UserError, match=r"x is not finite at width 64: lower optim\.peak_lr"):
        gather([(32, {"x": np.ones((2, 1))}), (64, {"x": np.full((2, 1), np.inf)})])


def test_learning_rates_follow_the_width():
    """Matrices inside the blocks learn four times slower at four times the width; all else as fast."""
    cfg = ModelConfig(vocab_size=32, d_model=64, num_heads=2, mup_base_width=16, mlp=Choice("moe"))
    for path, factor in jax.tree_util.tree_leaves_with_path(model.lr_factors(cfg)):
        label = jax.tree_util.keystr(path, simple=True, separator="/")
        is_matrix = label.startswith("blocks/") and label.endswith("/kernel")
        assert factor == (0.25 if is_matrix else 1), label
