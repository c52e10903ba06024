"""Llama 3 70B (Grattafiori et al. 2024, arXiv 2407.21783, table 3): 15 trillion tokens in contexts of 8,192.

The paper gives the peak learning rate of this size; warm-up and decay are those that it gives for 405B, and so is the
attention within documents. The batch of 8.4M tokens is ours.

Run:      python -m gptjax.main --config=experiments/llama3_70b.py --config.data.path=PREPARED_DIR
Hardware: h100:64x8 (python -m gptjax.plan --config=experiments/llama3_70b.py --topology=h100:64x8)
Expect:   not run here
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=128256,
        num_layers=80,
        num_heads=64,
        num_kv_heads=8,
        d_model=8192,
        d_ff=28672,
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
    config.data.batch_size = 1024
    config.optim.schedule = {"name": "cosine", "final_fraction": 0.01}
    config.optim.update(peak_lr=1.5e-4, num_steps=1_788_000, warmup_steps=8_000)
    config.train.update(max_sequences_per_device=2, loss_chunks=8)
    config.mesh.update(tensor=8, rules="fsdp_tp")
    config.evaluation.update(every=500, num_windows=2_048)
    config.checkpoint.every = 500
    return config
