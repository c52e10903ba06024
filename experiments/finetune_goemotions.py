"""Emotions of comments (GoEmotions, arXiv 2005.00547), any number of 28 at once: SmolLM2-135M with adapters.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_goemotions.py
Hardware: 2 CPU cores
Expect:   macro F1 0.009 after these 100 steps, 22 minutes on one core: far too few (LOG.md); it wants several epochs
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "goemotions": {
            "name": "classification",
            "train": corpora.examples("sentiment/goemotions-train.tsv.gz"),
            "valid": corpora.examples("sentiment/goemotions-valid.tsv.gz"),
            "text": ("0",),
            "label": "1",
            "separator": ",",
            "label_names": corpora.examples("sentiment/goemotions-labels.txt"),
        }
    }
    config.model.seq_len, config.data.batch_size = 128, 8
    config.optim.update(num_steps=100, warmup_steps=10, top_layers=15)
    config.evaluation.update(every=50, metric="macro_f1", num_examples=2_000)
    config.checkpoint.every = 50
    return config
