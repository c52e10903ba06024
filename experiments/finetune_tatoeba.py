"""Short sentences from English into German (Tatoeba), with all their translations: the small model of Multi30k.

Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_tatoeba.py
Hardware: 2 CPU cores
Expect:   BLEU 44.3 and chrF 59.0 on 500 validation sentences, greedily; 34 minutes on one core beside other work
"""

from experiments import corpora, finetune_multi30k


def get_config():
    config = finetune_multi30k.get_config()
    config.data.source = {"name": "text"}
    config.data.path = corpora.examples("mt/tatoeba-en-de-train.tsv.gz")
    config.tasks = {
        "tatoeba": {
            "name": "seq2seq",
            "train": config.data.path,
            "valid": corpora.examples("mt/tatoeba-en-de-valid.tsv"),
            "source": ("0",),
            "target": ("1",),
            "template": "{source}\n",
            "max_tokens": 64,
        }
    }
    config.optim.num_steps = 1_000
    config.evaluation.update(every=500, num_examples=500)
    config.checkpoint.every = 500
    return config
