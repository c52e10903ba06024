"""The smallest run that still learns: for tests, and for a first look at what a run leaves behind.

Run:      python -m gptjax.main --config=experiments/tiny.py
Hardware: any CPU; seconds
Expect:   a loss that falls from 5.5 to about 3 nats per byte of the standard library's source
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(num_layers=2, num_heads=4, d_model=128, seq_len=64)
    config.data.tokenizer = {"name": "byte"}
    config.data.batch_size = 32
    config.optim.update(peak_lr=3e-3, num_steps=100, warmup_steps=10)
    config.train.log_every = 1
    config.evaluation.update(every=50, num_windows=256)
    config.checkpoint.every = 10
    return config
