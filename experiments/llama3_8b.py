"""Llama 3 8B (Grattafiori et al. 2024, arXiv 2407.21783, table 3): 15 trillion tokens in contexts of 8,192.

The paper gives the peak learning rate of this size; warm-up and decay are those that it gives for 405B, and so is the
attention within documents. The batch of 4.2M tokens is ours.

Run:      python -m gptjax.main --config=experiments/llama3_8b.py --config.data.path=PREPARED_DIR
Hardware: h100:16x8 (python -m gptjax.plan --config=experiments/llama3_8b.py --topology=h100:16x8)
Expect:   not run here
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=128256,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        d_model=4096,
        d_ff=14336,
        seq_len=8192,
        use_bias=False,
        tie_embeddings=False,
        dtype="bfloat16",
        remat="full",
    )
    config.model.positions = {"name": "rotary", "base": 500_000.0}
    config.model.norm = {"name": "rmsnorm"}
    config.model.mlp = {"name": "swiglu"}
    config.data.tokenizer = {"name": "bpe", "vocab_size": 128256}
    config.data.packing = "documents"
    config.data.batch_size = 512
    config.optim.schedule = {"name": "cosine", "final_fraction": 0.01}
    config.optim.update(peak_lr=3e-4, num_steps=3_576_000, warmup_steps=8_000)
    config.train.update(max_sequences_per_device=1, loss_chunks=8)
    config.evaluation.update(every=1_000, num_windows=2_048)
    config.checkpoint.every = 1_000
    return config
