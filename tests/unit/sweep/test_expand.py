"""Lists of overrides: their order, their composition, and mistakes in them."""

import math
import random

import pytest

from gptjax.model.positions import POSITIONS
from gptjax.sweep.expand import cross, draws, grid, integers, log_uniform, names, one_of, pairs, seeds, uniform
from gptjax.types import UserError


def test_a_grid_has_every_combination_with_the_last_option_fastest():
    assert grid({"a": [1, 2], "b": "xy"}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_pairs_go_together_and_are_all_there():
    assert pairs({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(UserError, match="a has 2, b has 1"):
        pairs({"a": [1, 2], "b": [3]})


def test_parts_are_crossed_in_order_and_an_option_is_set_once():
    assert cross(pairs({"a": [1, 2]}), seeds(2)) == [{"a": a, "seed": seed} for a in (1, 2) for seed in (0, 1)]
    assert cross() == [{}]
    with pytest.raises(UserError, match=r"seed is set twice in one run, to 0 and 1"):
        cross(seeds(1), seeds(1, first=1))


def test_draws_repeat_and_an_option_more_changes_none_of_the_others():
    rate = {"optim.peak_lr": log_uniform(1e-4, 1e-2)}
    first = draws(8, rate, seed=3)
    assert first == draws(8, rate, seed=3)
    assert first != draws(8, rate, seed=4)
    more = draws(8, {"model.dropout": uniform(0, 0.5), **rate}, seed=3)
    assert [run["optim.peak_lr"] for run in more] == [run["optim.peak_lr"] for run in first]
    assert len({run["optim.peak_lr"] for run in first}) == 8


def test_draws_stay_within_their_bounds_and_fill_them():
    stream = random.Random(0)
    logs = [math.log10(log_uniform(1e-4, 1e-1)(stream)) for _ in range(3000)]
    assert all(-4 <= log <= -1 for log in logs)
    for low in (-4, -3, -2):  # a factor of ten is as likely as the next
        assert sum(low <= log < low + 1 for log in logs) == pytest.approx(1000, rel=0.1)
    assert {integers(1, 3)(stream) for _ in range(100)} == {1, 2, 3}
    assert {one_of("a", "b")(stream) for _ in range(100)} == {"a", "b"}
    with pytest.raises(UserError, match="log_uniform"):
        log_uniform(0, 1)


def test_names_are_those_of_the_table():
    assert names("model.positions") == names("model.positions.name") == list(POSITIONS)


@pytest.mark.parametrize(
    ("choice", "words"),
    [("model.position", "did you mean positions?"), ("model.d_model", "no choice"), ("model", "no choice")],
)
def test_names_of_what_is_no_choice(choice, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        names(choice)
