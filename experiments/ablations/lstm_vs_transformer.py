"""Does attention make better use of a long context than a state? Figure 7 of Kaplan et al. (2020), in the small.

Transformer, LSTM and GRU with equal parameters outside the embeddings (0.79 million, to 2 %), equal tokens and equal
optimiser; three seeds each. Their claim (arXiv 2001.08361): LSTMs do as well on the first tokens of a context and fall
behind later, which `loss_by_position/1` ... `/256` of the last validation row shows.

Run:      python -m gptjax.sweep --config=experiments/ablations/lstm_vs_transformer.py --run
          python -m gptjax.main --config=experiments/ablations/lstm_vs_transformer.py is its first run
Hardware: any CPU; two minutes a run, two at a time on two cores
Expect:   on WikiText 1.77 nats a byte GRU, 1.93 transformer, 2.17 LSTM; the loss stops falling at 16, 32 and 4 bytes
"""

import itertools

from experiments import base, corpora

# Without norms, an embedding of standard deviation 0.02 leaves little to the second layer: after 100 steps an LSTM was
# at 3.22 nats a byte instead of 2.82.
RECURRENT = {"model.num_layers": 2, "model.init_std": 0.1}
# Rotary positions, since 300 steps are too few for a table of them to be learned: with one the loss was 2.41.
TRANSFORMER = {"model.num_layers": 4, "model.positions.name": "rotary"}
ARCHITECTURES = {
    "transformer": {"model.block.name": "transformer", "model.d_model": 128, **TRANSFORMER},
    "lstm": {"model.block.name": "lstm", "model.d_model": 222, **RECURRENT},
    "gru": {"model.block.name": "gru", "model.d_model": 256, **RECURRENT},
}
SEEDS = (0, 1, 2)


def get_config():
    config = base.get_config()
    config.model.update(num_layers=4, d_model=128, seq_len=256, scan_layers=False)
    config.data.path = corpora.wikitext()
    config.data.tokenizer = {"name": "byte"}
    config.data.batch_size = 16
    config.optim.update(peak_lr=3e-3, num_steps=300, warmup_steps=30)
    config.evaluation.update(every=300, num_windows=512, by_position=True)
    config.checkpoint.every = 300
    return config


def sweep():
    for architecture, seed in itertools.product(ARCHITECTURES.values(), SEEDS):
        yield {**architecture, "seed": seed}
