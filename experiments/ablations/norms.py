"""Which norm, and where: before each sub-layer, after it, both, and with or without a mean; three seeds each.

Norms after the addition want a smaller learning rate (Xiong et al. 2020, arXiv 2002.04745), and are tried with one too.

Run:      python -m gptjax.sweep --config=experiments/ablations/norms.py --run --parallel=2
          the same with --report writes runs/norms/report.html
Hardware: any CPU; about a minute a run, two at a time on two cores
Expect:   on Shakespeare 1.97 nats a byte before, with or without a mean, 2.17 on both sides, and after the addition
          2.33 at a quarter of the rate, 2.8 to 3.0 at the rate of the others
"""

from experiments.ablations import positions
from gptjax.sweep.expand import cross, grid, seeds


def get_config():
    return positions.get_config()


def sweep():
    norms = grid({"model.norm.name": ["layernorm", "rmsnorm"]})
    arms = cross(norms, grid({"model.norm_placement": ["pre", "sandwich", "post"]}))
    slower = cross(norms, [{"model.norm_placement": "post", "optim.peak_lr": 1e-3}])
    return cross(arms + slower, seeds(3))
