"""Which options of the optimiser are refused, and what is said."""

import pytest

from gptjax.optim.config import OptimConfig
from gptjax.registry import Choice

FREE = {"optimizer": Choice("schedule_free"), "schedule": Choice("constant")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": Choice("cyclic", {"num_cycles": 0})}, "schedule.num_cycles=0 is less than 1"),
        ({"schedule": Choice("inverse_sqrt", {"timescale": 0})}, "schedule.timescale=0 is less than 1"),
        ({"schedule": Choice("cosine", {"final_fraction": 1.5})}, "schedule.final_fraction=1.5 is not between 0 and 1"),
        ({"optimizer": Choice("lion", {"b2": 1.0})}, "optimizer.b2=1.0 is not from 0 to below 1"),
        ({"optimizer": Choice("adamw", {"eps": 0.0})}, "optimizer.eps=0.0 is not positive"),
        ({"optimizer": Choice("adamw", {"mu_dtype": "int8"})}, "optimizer.mu_dtype='int8' is neither"),
        ({"optimizer": Choice("adafactor", {"clip_rms": 0.5})}, "optimizer.clip_rms=0.5 is less than 1"),
        ({"optimizer": Choice("muon", {"num_iterations": 0})}, "optimizer.num_iterations=0 is less than 1"),
        ({"optimizer": Choice("soap", {"refresh_every": 0})}, "optimizer.refresh_every=0 is less than 1"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 is not from 0 to below 1; 0.999 is usual"),
        ({"lr_factors": (("(", 1.0),)}, r"lr_factors: '(' is no regular expression"),
        ({"lr_factors": (("a", -1.0),)}, "lr_factors: the factor -1.0 of 'a' is not 0 or more"),
        ({**FREE, "schedule": Choice("wsd")}, "schedule.name='wsd' does not go with optimizer.name='schedule_free'"),
        ({**FREE, "ema_decay": 0.9}, "ema_decay=0.9 averages what optimizer.name='schedule_free' averages already"),
        ({**FREE, "optimizer": Choice("schedule_free", {"b1": 0.0})}, "optimizer.b1=0 leaves 'schedule_free'"),
    ],
)
def test_a_wrong_option_is_named(options, words):
    (problem,) = OptimConfig(**options).validate()
    assert problem.startswith(words)


def test_none_and_the_ends_of_a_range_are_fine():
    for choice in (Choice("adafactor", {"clip_rms": None, "b1": None}), Choice("adamw", {"b1": 0.0, "mu_dtype": None})):
        assert OptimConfig(optimizer=choice, ema_decay=0.0, lr_factors=((".*", 0.0),)).validate() == []
    assert OptimConfig(**FREE).validate() == []
