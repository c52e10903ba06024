"""The one-dial experiment: what its rules give at sizes that are known."""

import pytest

from experiments import speedrun
from gptjax.experiment_file import open_experiment
from tests import experiments

FILE = open_experiment(str(experiments.FOLDER / "speedrun.py"))


def test_at_twelve_layers_it_is_the_smallest_gpt3():
    """GPT-3's shape and decay; its batch was twice as large, its rate a third (arXiv 2005.14165, table 2.1)."""
    cfg = FILE.read([("depth", "12")])
    assert (cfg.model.d_model, cfg.model.num_heads, cfg.optim.weight_decay) == (768, 12, 0.1)
    assert 2**17 <= cfg.data.batch_size * cfg.model.seq_len <= 2**19
    assert 6e-4 <= cfg.optim.peak_lr <= 2e-3


def test_everything_follows_the_depth():
    """Deeper is wider, longer, with larger batches and a smaller rate; tokens are twenty a weight, to a batch."""
    for depth in (1, 2, 3, 4, 8, 16):
        cfg, deeper = (FILE.read([("depth", str(d))]) for d in (depth, 2 * depth))
        assert deeper.model.d_model == 2 * cfg.model.d_model
        assert deeper.data.batch_size >= cfg.data.batch_size
        assert deeper.optim.num_steps > cfg.optim.num_steps
        assert deeper.optim.peak_lr < cfg.optim.peak_lr
        tokens = cfg.optim.num_steps * cfg.data.batch_size * cfg.model.seq_len
        assert tokens == pytest.approx(20 * speedrun.num_weights(depth), abs=cfg.data.batch_size * cfg.model.seq_len)


def test_a_run_forgets_as_large_a_part_of_itself_at_any_depth():
    """Batch / (rate * decay * tokens), to the rounding of the batch's power of two, which both know."""
    parts = []
    for depth in (1, 4, 12, 20):
        cfg = FILE.read([("depth", str(depth))])
        share = cfg.data.batch_size * cfg.model.seq_len / speedrun.num_tokens(depth)
        parts.append(share / (cfg.optim.peak_lr * cfg.optim.weight_decay))
    assert max(parts) == pytest.approx(min(parts), rel=0.01)
