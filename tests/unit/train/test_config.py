"""Accumulation is derived from what fits, never from the recipe."""

import pytest

from gptjax.train.config import ProfileConfig, TrainConfig


@pytest.mark.parametrize(
    ("limit", "batch_size", "parts", "expected"),
    [(None, 12, 1, 1), (None, 16, 8, 1), (12, 480, 8, 5), (5, 12, 1, 3), (1, 16, 8, 2), (100, 8, 8, 1)],
)
def test_accumulation_is_the_least_that_fits(limit, batch_size, parts, expected):
    assert TrainConfig(max_sequences_per_device=limit).accumulation(batch_size, parts) == expected


@pytest.mark.parametrize(("steps", "right"), [((), True), ((3,), True), ((3, 5), True), ((5, 3), False), ((0,), False)])
def test_profiled_steps(steps, right):
    assert (not ProfileConfig(steps=steps).validate()) == right
