"""Which feed-forward: four activations with two matrices, and two gates with three, at equal parameters; three seeds.

Run:      python -m gptjax.sweep --config=experiments/ablations/mlp.py --run --parallel=2
          the same with --report writes runs/mlp/report.html
Hardware: any CPU; about 50 seconds a run on two cores
Expect:   not run yet
"""

from experiments.ablations import positions
from gptjax.sweep.expand import cross, pairs, seeds

WIDTHS = {"gelu": 512, "relu": 512, "relu2": 512, "swiglu": 341, "geglu": 341}


def get_config():
    config = positions.get_config()
    config.model.positions = {"name": "rotary"}
    return config


def sweep():
    return cross(pairs({"model.mlp.name": [*WIDTHS], "model.d_ff": [*WIDTHS.values()]}), seeds(3))
