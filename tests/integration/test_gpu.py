"""On a GPU: what a CPU learns, and the same each time. `GPTJAX_TEST_PLATFORMS=cuda pytest -m gpu` runs these."""

import signal

import numpy as np
import pytest

from tests.integration.command_line import SHORT, facts, rows, wait_until
from tests.integration.test_resume import assert_equal_to_the_bit

pytestmark = pytest.mark.gpu
GPU = {"JAX_PLATFORMS": "cuda", "XLA_FLAGS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def test_a_run_learns_what_it_learns_on_a_cpu(command_line, text, finished, tmp_path):
    """Products of float32 are rounded to 11 bits there, so losses drift apart as steps go by."""
    command_line.train(tmp_path / "run", f"--config.data.path={text}", *SHORT, **GPU)
    there, here = ([row["loss"] for row in rows(workdir)] for workdir in (tmp_path / "run", finished))
    np.testing.assert_allclose(there[:10], here[:10], rtol=2e-3)
    np.testing.assert_allclose(there, here, rtol=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_interrupted_run_ends_as_another_to_the_bit(command_line, text, tmp_path, dtype):
    """With plain attention, and with cuDNN's."""
    options = (f"--config.data.path={text}", f"--config.model.dtype={dtype}", *SHORT)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = command_line.train(whole, *options, **GPU).stdout
    assert ("cudnn" in said) == (dtype == "bfloat16"), said
    process = command_line.start("main", "--config=experiments/tiny.py", f"--workdir={cut}", *options, **GPU)
    wait_until(lambda: (cut / "metrics.jsonl").exists() and len(rows(cut)) >= 12, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert "resumed from step" in command_line.train(cut, *options, **GPU).stdout
    assert facts(cut) == facts(whole)
    assert_equal_to_the_bit(cut, whole, 40)
