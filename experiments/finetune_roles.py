"""Semantic roles (PropBank on the English Web Treebank), given the predicates: a small body pre-trained on novels.

Import:   experiments/novels.py first
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_roles.py
Hardware: 2 CPU cores
Expect:   not run here
"""

from experiments import corpora, novels

BODY = "runs/novels"


def get_config():
    config = novels.get_config()
    config.tasks = {
        "roles": {
            "name": "roles",
            "train": corpora.examples("srl/ewt-propbank-train.conll.gz"),
            "valid": corpora.examples("srl/ewt-propbank-valid.conll.gz"),
        }
    }
    config.checkpoint.init_from = BODY
    config.data.tokenizer = {"name": "saved", "path": BODY}
    config.model.update(seq_len=256, dropout=0.1)
    config.data.batch_size = 16
    config.optim.update(num_steps=4_000, warmup_steps=200, peak_lr=2e-3)
    config.evaluation.update(every=1_000, metric="f1", num_examples=500)
    config.checkpoint.every = 1_000
    return config
