"""One dial: --config.depth=N, from which width, heads, batch, length of the run, learning rates and decay follow.

The rules carry what is known of a model of 12 layers to other sizes; each names its source. Two cores take depth 2,
a GPU 8, eight of them 20, with more text and a larger vocabulary than the default's (--config.data.path=...).

Run:      python -m gptjax.main --config=experiments/speedrun.py --config.depth=2
Hardware: any; depth 2 takes two cores about ten minutes, and every doubling of the depth about fifty times that
Expect:   not run yet
"""

import math

from experiments import base

SEQ_LEN, VOCAB_SIZE = 256, 2048
REFERENCE = 12
"""The depth at which the following is known."""
BATCH_TOKENS = 2**19
"""GPT-3's batch at 12 layers of 768 channels (Brown et al. 2020, arXiv 2005.14165, table 2.1)."""
PEAK_LR = 1.8e-3
"""Three times GPT-3's at that size: what AdamW takes with a short run (github.com/KellerJordan/modded-nanogpt)."""
WEIGHT_DECAY = 0.1
"""GPT-3's (appendix B)."""


def get_config(*, depth: int = 2):
    if depth < 1:
        raise ValueError(f"depth={depth} is less than 1; two cores take 2, a GPU 8")
    steps = num_steps(depth)
    config = base.get_config()
    config.model.update(num_layers=depth, d_model=width(depth), num_heads=depth, seq_len=SEQ_LEN, use_bias=False)
    # What is usual since Llama (arXiv 2302.13971), with squared ReLU (Primer, arXiv 2109.08668) and normed queries and
    # keys (arXiv 2302.05442), which bear a large learning rate.
    config.model.positions = {"name": "rotary"}
    config.model.norm = {"name": "rmsnorm"}
    config.model.mlp = {"name": "relu2"}
    config.model.attention = {"name": "causal", "qk_norm": True}
    # Matrices of a model m times as wide take 1/m of the learning rate (Yang et al. 2022, arXiv 2203.03466).
    config.model.mup_base_width = width(REFERENCE)
    config.data.tokenizer = {"name": "bpe", "vocab_size": VOCAB_SIZE}
    config.data.batch_size = batch_size(depth)
    config.train.max_sequences_per_device = 32
    config.optim.update(num_steps=steps, warmup_steps=steps // 20, peak_lr=peak_lr(depth))
    config.optim.weight_decay = weight_decay(depth)
    # A linear fall over the last fifth does as well as a cosine (Hägele et al. 2024, arXiv 2405.18392).
    config.optim.schedule = {"name": "wsd", "decay_fraction": 0.2}
    config.evaluation.update(every=max(1, steps // 4), num_windows=256, batch_size=32)
    config.checkpoint.every = max(1, steps // 4)
    config.sample.update(prompts=("def ", "class "), temperature=0.8, top_p=0.95, max_tokens=120)
    return config


def width(depth: int) -> int:
    """Returns 64 channels a layer: GPT-2's and GPT-3's smallest shape, kept at all sizes by nanochat. A head has 64."""
    return 64 * depth


def num_weights(depth: int) -> int:
    """Returns the weights of products: 4 d^2 in attention and 8 d^2 in the feed-forward of a block, and the head."""
    return 12 * depth * width(depth) ** 2 + VOCAB_SIZE * width(depth)


def num_tokens(depth: int) -> int:
    """Returns 20 tokens a weight, where compute is best spent (Hoffmann et al. 2022, arXiv 2203.15556)."""
    return 20 * num_weights(depth)


def batch_size(depth: int) -> int:
    """Returns sequences in proportion to tokens^0.383 (Bergsma et al. 2025, arXiv 2505.13738), as a power of two."""
    tokens = BATCH_TOKENS * (num_tokens(depth) / num_tokens(REFERENCE)) ** 0.383
    return 2 ** round(math.log2(tokens / SEQ_LEN))


def num_steps(depth: int) -> int:
    """Returns the batches that hold the tokens."""
    return round(num_tokens(depth) / (batch_size(depth) * SEQ_LEN))


def peak_lr(depth: int) -> float:
    """Returns a rate in proportion to the square root of the batch, as Adam takes (Malladi et al. 2022, 2205.10287)."""
    return round(PEAK_LR * math.sqrt(batch_size(depth) * SEQ_LEN / BATCH_TOKENS), 6)


def weight_decay(depth: int) -> float:
    """Returns a decay that forgets as large a part of the run at any size (Wang and Aitchison 2024, arXiv 2405.13698).

    That part is batch / (rate * decay * tokens), with the rate of the matrices, which muP divides by the width.
    """
    share = batch_size(depth) * SEQ_LEN / BATCH_TOKENS * num_tokens(REFERENCE) / num_tokens(depth)
    rate = peak_lr(depth) / PEAK_LR * width(REFERENCE) / width(depth)
    return round(WEIGHT_DECAY * share / rate, 4)
