"""Emerging entities of social media (WNUT-17, Derczynski et al. 2017), six types: SmolLM2-135M with adapters.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_wnut17.py
Hardware: 2 CPU cores
Expect:   59.0 span F1 on the validation file (54.2 half-way); an hour on one of the two cores
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "wnut17": {
            "name": "tagging",
            "train": corpora.examples("ner/wnut17-train.conll.gz"),
            "valid": corpora.examples("ner/wnut17-valid.conll"),
        }
    }
    config.data.batch_size = 2
    config.optim.update(num_steps=600, top_layers=20)
    config.evaluation.update(every=300, metric="f1")
    config.checkpoint.every = 300
    return config
