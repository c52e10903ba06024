"""A small model of Python's own source: real text that every machine has, learned in minutes.

Run:      python -m gptjax.main --config=experiments/small.py
          --config.data.path=FILE_OR_GLOB trains on your own text instead
Hardware: any CPU; two cores take about five minutes
Expect:   a validation loss of 3.66 nats a token, 1.70 bits a byte, on the first 256 windows; code-like samples
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(num_layers=4, num_heads=4, d_model=128, seq_len=128, use_bias=False, scan_layers=False)
    config.model.positions = {"name": "rotary"}
    config.model.norm = {"name": "rmsnorm"}
    config.data.tokenizer = {"name": "bpe", "vocab_size": 2048}
    config.data.batch_size = 16
    config.optim.update(peak_lr=4e-3, num_steps=900, warmup_steps=50)
    config.evaluation.update(every=300, num_windows=256)
    config.checkpoint.every = 100
    config.sample.update(prompts=("def ", "class "), temperature=0.8, top_p=0.95, max_tokens=120)
    return config
