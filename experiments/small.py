"""A small model of Python's own source: real text that every machine has, learned in minutes.

Run:      python -m gptjax.main --config=experiments/small.py
          --config.data.path=FILE_OR_GLOB trains on your own text instead
Hardware: any CPU; two cores take about five minutes
Expect:   to be measured
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(num_layers=4, num_heads=4, d_model=192, seq_len=128, use_bias=False)
    config.model.positions = {"name": "rotary"}
    config.model.norm = {"name": "rmsnorm"}
    config.data.tokenizer = {"name": "bpe", "vocab_size": 2048}
    config.data.batch_size = 32
    config.optim.update(peak_lr=3e-3, num_steps=1500, warmup_steps=100)
    config.evaluation.update(every=250, num_windows=512)
    config.checkpoint.every = 250
    return config
