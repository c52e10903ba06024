"""Which norm, and where: before each sub-layer, after it, both, and with or without a mean; three seeds each.

Run:      python -m gptjax.sweep --config=experiments/ablations/norms.py --run --parallel=2
          the same with --report writes runs/norms/report.html
Hardware: any CPU; about 50 seconds a run on two cores
Expect:   not run yet
"""

from experiments.ablations import positions
from gptjax.sweep.expand import cross, grid, seeds


def get_config():
    return positions.get_config()


def sweep():
    norms = {"model.norm.name": ["layernorm", "rmsnorm"], "model.norm_placement": ["pre", "sandwich", "post"]}
    return cross(grid(norms), seeds(3))
