"""Semantic roles (PropBank on the English Web Treebank), given the predicates: SmolLM2-135M with adapters.

A part of the training predicates, once.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_roles.py
Hardware: 2 CPU cores
Expect:   not run here
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "roles": {
            "name": "roles",
            "train": corpora.examples("srl/ewt-propbank-train.conll.gz"),
            "valid": corpora.examples("srl/ewt-propbank-valid.conll.gz"),
        }
    }
    config.data.batch_size = 2
    config.optim.update(num_steps=600, top_layers=20)
    config.evaluation.update(every=300, metric="f1", num_examples=500)
    config.checkpoint.every = 300
    return config
