"""Sentiment of film reviews (SST-2, Socher et al. 2013): SmolLM2-135M with adapters and a classifier.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_sst2.py
Hardware: 2 CPU cores
Expect:   88.4 % accuracy on the validation file at step 300, the best, and 88.0 at the end; 70 minutes on one core
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "sst2": {
            "name": "classification",
            "train": corpora.examples("sentiment/sst2-train.tsv.gz"),
            "valid": corpora.examples("sentiment/sst2-valid.tsv"),
            "text": ("0",),
            "label": "1",
            "template": "Review: {text}\nSentiment:",
        }
    }
    config.model.seq_len, config.data.batch_size = 128, 8
    config.optim.update(num_steps=450, top_layers=15)
    config.evaluation.update(every=150, metric="accuracy")
    config.checkpoint.every = 150
    return config
