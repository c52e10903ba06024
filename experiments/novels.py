"""A small body to fine-tune: pre-trained on novels, as GPT-1 was; --config.body=lstm makes it an LSTM of equal size.

Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/novels.py
          (and with --config.body=lstm --workdir=runs/novels_lstm)
Hardware: 2 CPU cores
Expect:   4.52 nats a token, 1.80 bits a byte, on held-out pages (LSTM 5.08 and 2.02); 20 minutes, both at once
"""

from experiments import corpora
from experiments.ablations import lstm_vs_transformer


def get_config(*, body: str = "transformer"):
    if body not in lstm_vs_transformer.ARCHITECTURES:
        raise ValueError(f"body={body!r} is unknown; valid: {', '.join(lstm_vs_transformer.ARCHITECTURES)}")
    config = lstm_vs_transformer.get_config()
    config.update_from_flattened_dict(lstm_vs_transformer.ARCHITECTURES[body])
    config.model.seq_len = 128
    config.data.path = corpora.novels()
    config.data.valid_fraction = 0.02
    config.data.tokenizer = {"name": "bpe", "vocab_size": 4096}
    config.data.batch_size = 32
    config.optim.update(num_steps=1_000, warmup_steps=100)
    config.evaluation.update(every=500, num_windows=256, by_position=False)
    config.checkpoint.every = 500
    return config
