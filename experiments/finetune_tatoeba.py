"""Short sentences from English into German (Tatoeba), with all their translations: SmolLM2-135M with adapters.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_tatoeba.py
Hardware: 2 CPU cores
Expect:   not run here
"""

from experiments import corpora, finetune_multi30k


def get_config():
    config = finetune_multi30k.get_config()
    config.tasks = {
        "tatoeba": {
            "name": "seq2seq",
            "train": corpora.examples("mt/tatoeba-en-de-train.tsv.gz"),
            "valid": corpora.examples("mt/tatoeba-en-de-valid.tsv"),
            "source": ("0",),
            "target": ("1",),
            "template": "English: {source}\nGerman:",
            "max_tokens": 64,
        }
    }
    return config
