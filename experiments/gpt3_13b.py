"""GPT-3 13B (Brown et al. 2020, tables 2.1 and D.1): batches of 2M tokens, 300 billion in all.

Differs from the paper: attention is dense in every layer instead of every other one, the batch is constant from the
first step, and the cosine ends with the run instead of after 260 billion tokens.
The paper's row does not add up: its width of 5,140 is not 40 heads of 128. A width of 5,120 is, and gives the
12,850M parameters of its table D.1.

Run:      python -m gptjax.main --config=experiments/gpt3_13b.py --config.data.path=PREPARED_DIR
Hardware: h100:32x8 (python -m gptjax.plan --config=experiments/gpt3_13b.py --topology=h100:32x8)
Expect:   not run here; 268 petaflop/s-days by the paper's table D.1
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=50257,
        num_layers=40,
        num_heads=40,
        d_model=5120,
        seq_len=2048,
        dtype="bfloat16",
        remat="full",
    )
    config.data.tokenizer = {"name": "bpe", "vocab_size": 50257}
    config.data.batch_size = 1024
    config.optim.update(peak_lr=1e-4, num_steps=143_000, warmup_steps=179)
    config.train.update(max_sequences_per_device=2, loss_chunks=8)
    config.evaluation.update(every=500, num_windows=2_048)
    config.checkpoint.every = 500
    return config
