"""Captions of pictures from English into German (Multi30k, Elliott et al. 2016): SmolLM2-135M with adapters.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_multi30k.py
          (and --mode=evaluate --config.tasks.multi30k.num_beams=4 --config.evaluation.num_examples=None for all 1,014)
Hardware: 2 CPU cores
Expect:   not run here
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "multi30k": {
            "name": "seq2seq",
            "train": corpora.examples("mt/multi30k-train.en.gz"),
            "train_target": corpora.examples("mt/multi30k-train.de.gz"),
            "valid": corpora.examples("mt/multi30k-valid.en.gz"),
            "valid_target": corpora.examples("mt/multi30k-valid.de.gz"),
            "template": "English: {source}\nGerman:",
            "max_tokens": 96,
        }
    }
    config.optim.num_steps = 1_200
    config.evaluation.update(every=600, metric="loss", num_examples=100, batch_size=64)
    config.checkpoint.every = 600
    return config
