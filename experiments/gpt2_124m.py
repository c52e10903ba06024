"""GPT-2 124M (Radford et al. 2019) from scratch, with the batch and schedule of nanoGPT's reproduction.

A batch is 491,520 tokens.

Run:      python -m gptjax.main --config=experiments/gpt2_124m.py --config.data.path=PREPARED_DIR
          (python -m gptjax.prepare --input=... --output=PREPARED_DIR --tokenizer=GPT2_FOLDER)
Hardware: h100:1x8 (python -m gptjax.plan --config=experiments/gpt2_124m.py --topology=h100:1x8)
Expect:   a validation loss of about 2.85 on OpenWebText after 600,000 steps (nanoGPT's figure; not run here)
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=50257,
        num_layers=12,
        num_heads=12,
        d_model=768,
        seq_len=1024,
        vocab_multiple=128,
        dtype="bfloat16",
        remat="dots",
    )
    config.data.tokenizer = {"name": "bpe", "vocab_size": 50257}
    config.data.batch_size = 480
    config.optim.update(peak_lr=6e-4, num_steps=600_000, warmup_steps=2_000)
    config.train.max_sequences_per_device = 12
    config.evaluation.update(every=1_000, num_windows=2_048)
    config.checkpoint.every = 1_000
    return config
