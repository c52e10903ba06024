"""GPT-2 1558M (Radford et al. 2019) from scratch, with the paper's batch of 512 x 1,024 tokens.

The paper gives no learning rate and no length; both are those of GPT-3 1.3B (Brown et al. 2020, table 2.1).
Twenty-five heads divide over no usual tensor axis: fsdp alone.

Run:      python -m gptjax.main --config=experiments/gpt2_1558m.py --config.data.path=PREPARED_DIR
Hardware: h100:2x8 (python -m gptjax.plan --config=experiments/gpt2_1558m.py --topology=h100:2x8)
Expect:   not run here; OpenAI's own weights have a loss of 2.54 on OpenWebText (nanoGPT's figure)
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=50257,
        num_layers=48,
        num_heads=25,
        d_model=1600,
        seq_len=1024,
        dtype="bfloat16",
        remat="minimal",
    )
    config.data.tokenizer = {"name": "bpe", "vocab_size": 50257}
    config.data.batch_size = 512
    config.optim.update(peak_lr=2e-4, num_steps=572_000, warmup_steps=715)
    config.train.max_sequences_per_device = 8
    config.evaluation.update(every=1_000, num_windows=2_048)
    config.checkpoint.every = 1_000
    return config
