"""Entities of Wikipedia (Wikigold, Balasuriya et al. 2009), four types in the IOB1 scheme: SmolLM2-135M with adapters.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_wikigold.py
Hardware: 2 CPU cores
Expect:   not run here
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
    config.optim.update(num_steps=260, top_layers=20)
    config.evaluation.update(every=130, metric="f1")
    config.checkpoint.every = 130
    return config
