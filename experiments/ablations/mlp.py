"""Which feed-forward: three activations with two matrices, and two gates with three, at equal parameters; three seeds.

Run:      python -m gptjax.sweep --config=experiments/ablations/mlp.py --run --parallel=2
          the same with --report writes runs/mlp/report.html
Hardware: any CPU; about a minute a run, two at a time on two cores
Expect:   on Shakespeare 1.97 nats a byte with gelu, and 1.91 to 1.93 with each of the others
"""

from experiments.ablations import positions
from gptjax.sweep.expand import cross, pairs, seeds

WIDTHS = {"gelu": 512, "relu": 512, "relu2": 512, "swiglu": 341, "geglu": 341}


def get_config():
    return positions.get_config()


def sweep():
    return cross(pairs({"model.mlp.name": [*WIDTHS], "model.d_ff": [*WIDTHS.values()]}), seeds(3))
