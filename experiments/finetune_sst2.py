"""Sentiment of film reviews (SST-2, Socher et al. 2013): SmolLM2-135M with adapters and a classifier.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_sst2.py
Hardware: 2 CPU cores
Expect:   87.7 % accuracy on the validation file (86.2 half-way; 88 is the goal); 57 minutes beside another run
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
