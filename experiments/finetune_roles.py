"""Semantic roles (PropBank on the English Web Treebank), given the predicates: SmolLM2's lower 12 blocks with adapters.

In BERT roles are known half-way up already (Tenney et al. 2019, arXiv 1905.05950). 12 of the 30 blocks, all adapted, do
half the work of 30 with 20 adapted; of the 40,390 predicates a third is seen, once.

Import:   see smollm2_adapted.py, then
          python -m gptjax.convert --from=runs/smollm2 --to=runs/smollm2_12 --format=workdir --layers=12
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_roles.py
Hardware: 2 CPU cores
Expect:   40.9 role F1 on 500 predicates of the validation file at step 1,000 (60 is the goal); not run to its end
"""

from experiments import corpora, smollm2_adapted

BODY = "runs/smollm2_12"


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "roles": {
            "name": "roles",
            "train": corpora.examples("srl/ewt-propbank-train.conll.gz"),
            "valid": corpora.examples("srl/ewt-propbank-valid.conll.gz"),
        }
    }
    config.model.num_layers = 12
    config.checkpoint.init_from = BODY
    config.data.tokenizer = {"name": "saved", "path": BODY}
    config.data.batch_size = 2
    config.optim.update(num_steps=2_000, peak_lr=1e-3)
    config.evaluation.update(every=500, metric="f1", num_examples=500)
    config.checkpoint.every = 500
    return config
