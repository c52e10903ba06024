"""Iso-FLOP grid: which size of model is best for a budget, and do tiny runs follow a law of parameters and tokens?

Each budget is spent on several widths; depth, heads and number of steps follow from width and budget. Every run has a
whole schedule of its own: a law fitted to losses from the middle of schedules is another one.

Run:      python -m gptjax.sweep --config=experiments/ablations/scaling.py --run
          python -m gptjax.sweep.scaling_law --workdir=runs/scaling
Hardware: any CPU; by the speed of single steps, two idle cores take about a quarter of an hour
Expect:   a valley of losses in each budget, at a wider model for a larger one; not run as a whole yet
"""

from collections.abc import Iterator
from typing import Any

from experiments import base, corpora

BUDGETS = (1.6e11, 4e11, 1e12, 2.5e12)
"""FLOPs of a run, counted as in gptjax/model/accounting.py."""
WIDTHS = (32, 48, 64, 80, 96, 128)
TOKENS_PER_WEIGHT = (0.5, 250)
"""What lies outside is too far from the best size to be worth its time; four or five widths a budget are within."""
SEEDS = (0,)
SEQ_LEN, BATCH_SIZE, VOCAB_SIZE = 64, 16, 288  # 257 bytes, padded to a multiple of 32


def get_config():
    config = base.get_config()
    config.model.update(seq_len=SEQ_LEN, use_bias=False, scan_layers=False, vocab_multiple=32, **shape(64))
    config.model.positions = {"name": "rotary"}
    config.model.norm = {"name": "rmsnorm"}
    config.data.path = corpora.wikitext()
    config.data.tokenizer = {"name": "byte"}
    config.data.batch_size = BATCH_SIZE
    config.optim.update(schedule_for(64, 1e12))
    config.train.log_every = 100
    config.evaluation.update(every=1_000_000, num_windows=2048, batch_size=128)  # at the last step alone
    config.checkpoint.update(every=1_000_000, keep=1)
    config.sample.prompts = ()
    return config


def sweep() -> Iterator[dict[str, Any]]:
    """Yields what each run changes, by dotted path."""
    least, most = TOKENS_PER_WEIGHT
    for budget in BUDGETS:
        for width in WIDTHS:
            steps = schedule_for(width, budget)["num_steps"]
            if not least <= steps * SEQ_LEN * BATCH_SIZE / weights(width) <= most:
                continue
            for seed in SEEDS:
                model = {f"model.{name}": value for name, value in shape(width).items()}
                optim = {f"optim.{name}": value for name, value in schedule_for(width, budget).items()}
                yield {**model, **optim, "seed": seed}


def shape(width: int) -> dict[str, int]:
    """A layer for each 32 of width and no less than two, heads of 16."""
    return {"d_model": width, "num_layers": max(2, width // 32), "num_heads": width // 16}


def weights(width: int) -> int:
    """Weights of all blocks: 4 d^2 in attention and 8 d^2 in the feed-forward layer."""
    return 12 * shape(width)["num_layers"] * width**2


def flops_per_token(width: int) -> int:
    """Weights, the output projection, and every pair of positions in scores and mixing; forward and backward."""
    return 6 * (weights(width) + VOCAB_SIZE * width + 2 * SEQ_LEN * width * shape(width)["num_layers"])


def schedule_for(width: int, budget: float) -> dict[str, Any]:
    """As many steps as the budget pays for; narrower models take larger steps."""
    num_steps = round(budget / (flops_per_token(width) * SEQ_LEN * BATCH_SIZE))
    peak_lr = round(4e-3 * (128 / width) ** 0.5, 5)
    return {"num_steps": num_steps, "warmup_steps": num_steps // 20, "peak_lr": peak_lr}
