"""Character model on tiny Shakespeare: the smallest run whose samples are fun to read.

Run:      python -m gptjax.main --config=experiments/shakespeare_char.py --config.data.path=tinyshakespeare.txt
Hardware: any CPU; two cores take two to three minutes
Expect:   a loss of 1.78 over the whole validation split (nanoGPT's CPU recipe reports 1.88 on random windows)
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(num_layers=4, num_heads=4, d_model=128, seq_len=64, scan_layers=False)
    config.data.tokenizer = {"name": "char"}
    config.data.batch_size = 12
    config.optim.optimizer = {"name": "adamw", "b2": 0.99}  # few tokens a step: a longer memory
    config.optim.update(peak_lr=3e-3, num_steps=2_000, warmup_steps=100)
    config.evaluation.every = 250
    config.checkpoint.every = 250
    return config
