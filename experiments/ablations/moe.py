"""Do experts help at equal work? Eight experts of which a token goes through two, against a dense layer; three seeds.

All arms multiply 3 x 128 x 512 weights a token and block: a gated layer of 512, two experts of 256, one of 512, or one
of 256 beside a shared one.

Run:      python -m gptjax.sweep --config=experiments/ablations/moe.py --run --parallel=2
          the same with --report writes runs/moe/report.html
Hardware: any CPU; one to four minutes a run on two cores, where the products of experts are not quick
Expect:   on Shakespeare 2.22 nats a byte dense, 2.42 with a shared expert, 2.46 with two of eight, 2.95 with one
"""

from experiments.ablations import positions
from gptjax.sweep.expand import cross, seeds

MOE = {"model.mlp.name": "moe", "model.mlp.num_experts": 8}
ARMS = [
    {"model.mlp.name": "swiglu"},
    {**MOE, "model.mlp.top_k": 2, "model.mlp.d_expert": 256},
    {**MOE, "model.mlp.top_k": 1, "model.mlp.d_expert": 512},
    {**MOE, "model.mlp.top_k": 1, "model.mlp.d_expert": 256, "model.mlp.num_shared": 1},
]


def get_config():
    config = positions.get_config()
    config.model.use_bias = False
    config.model.d_ff = 512
    config.optim.update(num_steps=150, warmup_steps=15)
    return config


def sweep():
    return cross(ARMS, seeds(3))
