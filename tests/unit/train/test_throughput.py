"""Speeds against a clock that the test moves."""

import pytest

from gptjax.chips import chip_of
from gptjax.train import throughput


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    return now


def test_speeds_are_means_since_the_last_reading(clock):
    meter = throughput.Meter(flops_per_token=2e7, peak=4e9)
    for seconds in (1.0, 2.0, 3.0):
        clock[0] += seconds
        meter.step(50)
    assert meter.read() == {"tokens_per_second": 25.0, "step_seconds": 2.0, "mfu": 0.125}
    clock[0] += 0.5
    meter.step(50)
    assert meter.read()["step_seconds"] == 0.5


def test_pauses_are_left_out(clock):
    meter = throughput.Meter(2e7, None)
    clock[0] += 1.0
    meter.step(50)
    with meter.paused():
        clock[0] += 100.0
    clock[0] += 1.0
    meter.step(50)
    assert meter.read() == {"tokens_per_second": 50.0, "step_seconds": 1.0, "mfu": None}


def test_the_matmul_peak_is_plausible():
    assert 1e8 < throughput.measured_matmul_flops("float32", size=256, repeats=3) < 1e15


@pytest.mark.parametrize(
    ("kind", "chip"),
    [("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("NVIDIA H100 80GB HBM3", "h100"), ("M1", None)],
)
def test_a_chip_is_known_by_what_jax_calls_it(kind, chip):
    found = chip_of(kind)
    assert (found and found.name) == chip
