"""SmolLM2 135M (Ben Allal et al. 2025, arXiv 2502.02737): deep and narrow, on 2 trillion tokens.

Shape, length and schedule are the original's. Warm-up, weight decay and batch (in tokens) are those of SmolLM 135M,
since SmolLM2's are not published; contexts have their final 8,192 tokens from the first step.

Run:      python -m gptjax.main --config=experiments/smollm2_135m.py --config.data.path=PREPARED_DIR
Hardware: h100:8x8 (python -m gptjax.plan --config=experiments/smollm2_135m.py --topology=h100:8x8)
Expect:   not run here
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=49152,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        d_model=576,
        d_ff=1536,
        seq_len=8192,
        use_bias=False,
        init_std=576**-0.5,
        dtype="bfloat16",
        remat="minimal",
    )
    config.model.positions = {"name": "rotary", "base": 100_000.0}
    config.model.norm = {"name": "rmsnorm"}
    config.model.mlp = {"name": "swiglu"}
    config.data.tokenizer = {"name": "bpe", "vocab_size": 49152}
    config.data.batch_size = 128
    config.optim.schedule = {"name": "wsd", "decay_fraction": 0.2}
    config.optim.update(peak_lr=3e-3, num_steps=1_907_000, warmup_steps=2_000, weight_decay=0.01)
    config.train.max_sequences_per_device = 2
    config.evaluation.update(every=1_000, num_windows=2_048)
    config.checkpoint.every = 1_000
    return config
