"""Does the best learning rate stay where it is when the model widens four times? With muP and without; three seeds.

Run:      python -m gptjax.sweep --config=experiments/ablations/width_lr.py --run --parallel=2
          the same with --report writes runs/width_lr/report.html
          python -m gptjax.sweep.coordinate_check --config=experiments/ablations/width_lr.py
          and again with --config.model.mup_base_width=64
Hardware: any CPU; 75 runs of 10 to 60 seconds, two at a time on two cores: 20 minutes
Expect:   on Shakespeare the best rate is 4e-3 at all widths with muP; without, it falls to 1e-3 at width 256
"""

from experiments.ablations import positions
from gptjax.sweep.expand import cross, grid, seeds


def get_config():
    config = positions.get_config()
    config.model.update(d_model=64, num_heads=2, seq_len=64)
    config.optim.update(num_steps=150, warmup_steps=15)
    return config


def sweep():
    at_base = grid({"model.d_model": [64]})  # the two are one there
    wider = grid({"model.mup_base_width": [None, 64], "model.d_model": [128, 256]})
    rates = {"optim.peak_lr": [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]}
    return cross([*at_base, *wider], grid(rates), seeds(3))
