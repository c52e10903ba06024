"""What happens when the compiler takes its process with it."""

import contextlib
import dataclasses
import os

import pytest

from gptjax.config import ExperimentConfig
from gptjax.plan.worker import CompilerCrashError, Worker
from gptjax.types import UserError


class Fatal:
    """Whoever receives it aborts."""

    def __reduce__(self):
        return os.abort, ()


@pytest.mark.slow
def test_a_crash_costs_one_forecast_and_a_mistake_none():
    cfg = ExperimentConfig()
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, vocab_size=256, num_layers=1, d_model=32))
    with contextlib.closing(Worker("cpu:2", 1, "the test")) as worker:
        with pytest.raises(CompilerCrashError, match="killed"):
            worker.forecast(Fatal())
        with pytest.raises(UserError, match="needs a multiple of 3 devices"):
            worker.forecast(dataclasses.replace(cfg, mesh=dataclasses.replace(cfg.mesh, replica=3)))
        assert worker.forecast(cfg).num_devices == 2
