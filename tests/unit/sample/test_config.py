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
        ({"stop": ("x", "")}, "stop"),
    ],
)
def test_what_does_not_is_named(options, words):
    (problem,) = SampleConfig(**options).validate()
    assert problem.startswith(words)


def test_all_problems_come_at_once():
    assert len(SampleConfig(temperature=-1.0, top_k=0, max_tokens=0).validate()) == 3
