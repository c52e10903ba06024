"""Entities of Wikipedia (Wikigold, Balasuriya et al. 2009), four types in the IOB1 scheme: SmolLM2-135M with adapters.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_wikigold.py
Hardware: 2 CPU cores
Expect:   85.8 span F1 on the validation file (82.7 half-way); 34 minutes beside other work
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "wikigold": {
            "name": "tagging",
            "train": corpora.examples("ner/wikigold-train.conll"),
            "valid": corpora.examples("ner/wikigold-valid.conll"),
        }
    }
    config.data.batch_size = 2
    config.optim.update(num_steps=500, top_layers=20)
    config.evaluation.update(every=250, metric="f1")
    config.checkpoint.every = 250
    return config
