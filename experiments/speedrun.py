"""One dial: --config.depth=N, from which width, heads, batch, length of the run, learning rate and decay follow.

Each rule names its source. They were found with far larger models, and are carried a long way down here. A run of the
depth costs 120 weights^2 FLOPs: 13 times as much for depth 2 as for 1, 60 times as much for 16 as for 8. Larger ones
want more text and a larger vocabulary than the default's (--config.data.path=...).

Run:      python -m gptjax.main --config=experiments/speedrun.py --config.depth=1
Hardware: any; depth 1 takes two cores two minutes
Expect:   depth 1: a validation loss of 3.59 nats a token, 1.67 bits a byte, on the first 256 windows
"""

import math

from experiments import base

SEQ_LEN, VOCAB_SIZE = 256, 2048
REFERENCE = 12
"""GPT-3's smallest depth, whose weight decay is known: 0.1 (Brown et al. 2020, arXiv 2005.14165, appendix B)."""


def get_config(*, depth: int = 1):
    if depth < 1:
        raise ValueError(f"depth={depth} is less than 1; two cores take 1, a GPU 8")
    steps = num_steps(depth)
    config = base.get_config()
    config.model.update(num_layers=depth, d_model=width(depth), num_heads=depth, seq_len=SEQ_LEN, use_bias=False)
    # What is usual since Llama (arXiv 2302.13971), with squared ReLU (Primer, arXiv 2109.08668) and normed queries and
    # keys (arXiv 2302.05442), which bear a large learning rate.
    config.model.positions = {"name": "rotary"}
    config.model.norm = {"name": "rmsnorm"}
    config.model.mlp = {"name": "relu2"}
    config.model.attention = {"name": "causal", "qk_norm": True}
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


def flops(depth: int) -> float:
    """Returns what the run costs: forward and backward, 6 for each weight and token."""
    return 6 * num_weights(depth) * num_tokens(depth)


def batch_size(depth: int) -> int:
    """Returns the sequences of 0.292 FLOPs^0.3271 tokens (DeepSeek 2024, arXiv 2401.02954, 3.1), as a power of two."""
    return 2 ** round(math.log2(0.292 * flops(depth) ** 0.3271 / SEQ_LEN))


def num_steps(depth: int) -> int:
    """Returns the batches that hold the tokens."""
    return round(num_tokens(depth) / (batch_size(depth) * SEQ_LEN))


def peak_lr(depth: int) -> float:
    """Returns 0.3118 / FLOPs^0.125, of the same law."""
    return round(0.3118 / flops(depth) ** 0.125, 5)


def weight_decay(depth: int) -> float:
    """Returns a decay that forgets as large a part of the run at any size (Wang and Aitchison 2024, arXiv 2405.13698).

    That part is batch / (rate * decay * tokens).
    """

    def forgets(depth):
        return batch_size(depth) / (peak_lr(depth) * num_tokens(depth))

    return round(0.1 * forgets(depth) / forgets(REFERENCE), 4)
