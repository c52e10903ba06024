"""GPT-3 125M (Brown et al. 2020, tables 2.1 and D.1): batches of 0.5M tokens, 300 billion in all.

Differs from the paper: attention is dense in every layer instead of every other one, the batch is constant from the
first step, and the cosine ends with the run instead of after 260 billion tokens.

Run:      python -m gptjax.main --config=experiments/gpt3_125m.py --config.data.path=PREPARED_DIR
Hardware: v5e:4x4 (python -m gptjax.plan --config=experiments/gpt3_125m.py --topology=v5e:4x4)
Expect:   not run here; 2.6 petaflop/s-days by the paper's table D.1
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=50257,
        num_layers=12,
        num_heads=12,
        d_model=768,
        seq_len=2048,
        dtype="bfloat16",
        remat="minimal",
    )
    config.data.tokenizer = {"name": "bpe", "vocab_size": 50257}
    config.data.batch_size = 256
    config.optim.update(peak_lr=6e-4, num_steps=572_000, warmup_steps=715)
    config.train.max_sequences_per_device = 4
    config.evaluation.update(every=1_000, num_windows=2_048)
    config.checkpoint.every = 1_000
    return config
