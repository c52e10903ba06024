"""GPT-3 2.7B (Brown et al. 2020, tables 2.1 and D.1): batches of 1M tokens, 300 billion in all.

Differs from the paper: attention is dense in every layer instead of every other one, the batch is constant from the
first step, and the cosine ends with the run instead of after 260 billion tokens.

Run:      python -m gptjax.main --config=experiments/gpt3_2700m.py --config.data.path=PREPARED_DIR
Hardware: v5e:16x16 (python -m gptjax.plan --config=experiments/gpt3_2700m.py --topology=v5e:16x16)
Expect:   not run here; 55.2 petaflop/s-days by the paper's table D.1
"""

from experiments import base


def get_config():
    config = base.get_config()
    config.model.update(
        vocab_size=50257,
        num_layers=32,
        num_heads=32,
        d_model=2560,
        seq_len=2048,
        dtype="bfloat16",
        remat="full",
    )
    config.data.tokenizer = {"name": "bpe", "vocab_size": 50257}
    config.data.batch_size = 512
    config.optim.update(peak_lr=1.6e-4, num_steps=286_000, warmup_steps=358)
    config.train.update(max_sequences_per_device=2, loss_chunks=8)
    config.evaluation.update(every=1_000, num_windows=2_048)
    config.checkpoint.every = 1_000
    return config
