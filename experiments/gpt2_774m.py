"""GPT-2 774M (Radford et al. 2019) from scratch, with the paper's batch of 512 x 1,024 tokens.

The paper gives no learning rate and no length; both are those of GPT-3 760M (Brown et al. 2020, table 2.1).

Run:      python -m gptjax.main --config=experiments/gpt2_774m.py --config.data.path=PREPARED_DIR
Hardware: h100:1x8 (python -m gptjax.plan --config=experiments/gpt2_774m.py --topology=h100:1x8)
Expect:   not run here; OpenAI's own weights have a loss of 2.67 on OpenWebText (nanoGPT's figure)
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=50257,
        num_layers=36,
        num_heads=20,
        d_model=1280,
        seq_len=1024,
        dtype="bfloat16",
        remat="minimal",
    )
    config.data.tokenizer = {"name": "bpe", "vocab_size": 50257}
    config.data.batch_size = 512
    config.optim.update(peak_lr=2.5e-4, num_steps=572_000, warmup_steps=715)
    config.train.max_sequences_per_device = 16
    config.evaluation.update(every=1_000, num_windows=2_048)
    config.checkpoint.every = 1_000
    return config
