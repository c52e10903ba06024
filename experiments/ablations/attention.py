"""What attention looks at, and what it does with its scores: ten variants with rotary positions, three seeds each.

Run:      python -m gptjax.sweep --config=experiments/ablations/attention.py --run --parallel=2
          the same with --report writes runs/attention/report.html
Hardware: any CPU; about a minute a run on two cores
Expect:   on Shakespeare 1.95 to 1.98 nats a byte, not told apart by three seeds, but for differential: 2.14
"""

from experiments.ablations import positions
from gptjax.sweep.expand import cross, seeds

ARMS = [
    {"model.attention.name": "causal"},
    {"model.num_kv_heads": 2},
    {"model.num_kv_heads": 1},
    {"model.attention.window": 32},
    {"model.attention.name": "alternating", "model.attention.window": 32},
    {"model.attention.name": "gpt3", "model.attention.window": 32},
    {"model.attention.qk_norm": True},
    {"model.attention.soft_cap": 20.0},
    {"model.attention.sink": True},
    {"model.attention.name": "differential"},
]


def get_config():
    return positions.get_config()


def sweep():
    return cross(ARMS, seeds(3))
