"""A run that averages its parameters is evaluated, sampled and continued by the average, by everybody."""

import re

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from gptjax import inference
from tests.integration.command_line import rows

FLAGS = {
    "ema": ("--config.optim.ema_decay=0.9",),
    "schedule_free": ("--config.optim.optimizer.name=schedule_free", "--config.optim.schedule.name=constant"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ema", pytest.param("schedule_free", marks=pytest.mark.slow)])
def test_the_average_is_what_is_evaluated_and_loaded(command_line, entry_point, text, tmp_path, name):
    length = ("--config.optim.num_steps=12", "--config.optim.warmup_steps=2", "--config.evaluation.every=6")
    small = ("--config.model.d_model=32", "--config.data.batch_size=16", "--config.evaluation.num_windows=16")
    flags = (f"--config.data.path={text}", *length, *small, *FLAGS[name])
    command_line.train(tmp_path / "run", *flags)
    losses = {row["step"]: row["loss"] for row in rows(tmp_path / "run", "valid")}

    again = entry_point("main", "--config=experiments/tiny.py", f"--workdir={tmp_path}/run", "--mode=evaluate", *flags)
    assert float(re.search(r"loss (\d+\.\d+)", again.stdout)[1]) == pytest.approx(losses[12], abs=2e-5)

    loaded = inference.load(str(tmp_path / "run")).params
    items = tmp_path / "run" / "checkpoints" / "12"
    average, last = (ocp.PyTreeCheckpointer().restore(items / item) for item in ("evaluation_params", "params"))
    jax.tree.map(np.testing.assert_array_equal, loaded, average)
    assert not np.allclose(average["tokens"]["embedding"], last["tokens"]["embedding"], atol=1e-4)
