"""Semantic roles (PropBank on the English Web Treebank), given the predicates: SmolLM2's lowest 6 blocks, both ways.

A role depends on words on both sides of it, so the blocks themselves are trained, to see both; adapters on 12 blocks,
with the words twice, had 40.9 after the predicates that give these 54.8 (LOG.md). In BERT the lower half knows roles
already (Tenney et al. 2019, arXiv 1905.05950).

Import:   see smollm2_adapted.py, then
          python -m gptjax.convert --from=runs/smollm2 --to=runs/smollm2_6 --format=workdir --layers=6
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_roles.py
Hardware: 2 CPU cores
Expect:   70.3 role F1 on 500 predicates of the validation file (61.4 at step 1,000); one epoch, 73 minutes on one core
"""

from experiments import corpora, smollm2_adapted

BODY = "runs/smollm2_6"


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "roles": {
            "name": "roles",
            "train": corpora.examples("srl/ewt-propbank-train.conll.gz"),
            "valid": corpora.examples("srl/ewt-propbank-valid.conll.gz"),
            "twice": False,
        }
    }
    config.model.num_layers = 6
    config.model.attention = {"name": "bidirectional"}
    config.model.lora.rank = 0
    config.checkpoint.init_from = BODY
    config.data.tokenizer = {"name": "saved", "path": BODY}
    config.data.batch_size = 2
    config.optim.update(trained="all", top_layers=6, num_steps=2_500)  # all blocks, and no embedding
    config.evaluation.update(every=500, metric="f1", num_examples=500)
    config.checkpoint.every = 500
    return config
