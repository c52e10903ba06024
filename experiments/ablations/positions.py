"""Which way of telling positions apart a small model learns best with: all that the model knows, three seeds each.

Run:      python -m gptjax.sweep --config=experiments/ablations/positions.py --run --parallel=2
          the same with --report writes runs/positions/report.html
Hardware: any CPU; about 45 seconds of processor time a run
Expect:   on Shakespeare 1.97 nats a byte with rotary, 2.06 ALiBi, 2.28 learned and T5's, 2.42 none, 3.34
          sinusoidal, or 2.47 beside embeddings of its size
"""

from experiments import base, corpora
from gptjax.sweep.expand import cross, grid, names, seeds


def get_config():
    config = base.get_config()
    config.model.update(num_layers=2, num_heads=4, d_model=128, seq_len=128, scan_layers=False)
    config.model.positions = {"name": "rotary"}  # what other ablations, which start from this one, go on with
    config.data.path = corpora.shakespeare()
    config.data.tokenizer = {"name": "byte"}
    config.data.batch_size = 16
    config.optim.update(peak_lr=4e-3, num_steps=300, warmup_steps=30)
    config.evaluation.update(every=100, num_windows=256)
    config.checkpoint.every = 100
    config.sample.prompts = ()
    return config


def sweep():
    # Vectors of sines are as large as 1: beside them, tokens are lost unless they are brought from 0.02 to that size.
    scaled = {"model.positions.name": "sinusoidal", "model.embedding_scale": 50.0}
    return cross([*grid({"model.positions.name": names("model.positions")}), scaled], seeds(3))
