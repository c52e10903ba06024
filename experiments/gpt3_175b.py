"""GPT-3 175B (Brown et al. 2020, tables 2.1 and D.1): batches of 3.2M tokens, 300 billion in all.

Differs from the paper: attention is dense in every layer instead of every other one, the batch is constant from the
first step and rounded to 1,536 sequences (3.1M tokens), to divide over any usual fleet, and the cosine ends with the
run instead of after 260 billion tokens.

Run:      python -m gptjax.main --config=experiments/gpt3_175b.py --config.data.path=PREPARED_DIR
Hardware: v5p:8x8x8 (python -m gptjax.plan --config=experiments/gpt3_175b.py --topology=v5p:8x8x8)
Expect:   not run here; 3,640 petaflop/s-days by the paper's table D.1
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=50257,
        num_layers=96,
        num_heads=96,
        d_model=12288,
        seq_len=2048,
        dtype="bfloat16",
        remat="full",
    )
    config.data.tokenizer = {"name": "bpe", "vocab_size": 50257}
    config.data.batch_size = 1536
    config.optim.update(peak_lr=6e-5, num_steps=95_400, warmup_steps=119)
    config.train.update(max_sequences_per_device=12, loss_chunks=8)
    config.mesh.update(tensor=4, rules="fsdp_tp")
    config.evaluation.update(every=250, num_windows=2_048)
    config.checkpoint.every = 250
    return config
