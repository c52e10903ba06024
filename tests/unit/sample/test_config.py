"""The rules of sampling: what is accepted, and what is said where something is not."""

import math

import pytest

from gptjax.sample.config import SampleConfig


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"top_k": 1},
        {"top_p": 1.0},
        {"min_p": 0.05, "repetition_penalty": 0.9},
        {"stop": ("a",)},
        {"num_beams": 4, "length_penalty": -0.5},
    ],
)
def test_what_makes_sense_is_accepted(options):
    assert SampleConfig(**options).validate() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"min_p": -1.0}, "min_p=-1.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"length_penalty": math.inf}, "length_penalty=inf"),
        ({"stop": ("x", "")}, "stop"),
    ],
)
def test_what_does_not_is_named(options, words):
    (problem,) = SampleConfig(**options).validate()
    assert problem.startswith(words)


def test_all_problems_come_at_once():
    assert len(SampleConfig(temperature=-1.0, top_k=0, max_tokens=0).validate()) == 3


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, []),
        ({"temperature": 0.5, "top_k": 3}, []),
        ({"num_beams": 4, "length_penalty": 2.0, "max_tokens": 5}, []),
        ({"num_beams": 4, "temperature": 0.5, "min_p": 0.1}, ["temperature", "min_p"]),
        ({"length_penalty": 2.0}, ["length_penalty"]),
    ],
)
def test_rules_without_effect_are_known(options, names):
    assert SampleConfig(**options).ignored() == names
