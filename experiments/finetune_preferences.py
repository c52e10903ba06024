"""Preferences (DPO, Rafailov et al. 2023): a chat model learns to answer in few words; SmolLM2-135M with adapters.

The pairs in experiments/preferences/ are made up: questions of general knowledge, each with a plain answer, which is
preferred, and the same answer between empty phrases. 63 are learned from; 22 others are scored.

Import:   see smollm2_adapted.py
Run:      python -m gptjax.main --config=experiments/finetune_preferences.py
          (--config.tasks.brevity.loss=ipo is another loss; python -m gptjax.sample --workdir=runs/finetune_preferences
          --chat shows what has become of it)
Hardware: 2 CPU cores
Expect:   all 22 pairs ordered right, loss 0.14, margin of rewards 25; nine minutes on one core
"""

from experiments import smollm2_adapted

PAIRS = "experiments/preferences"


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "brevity": {
            "name": "preference",
            "train": f"{PAIRS}/train.jsonl",
            "valid": f"{PAIRS}/valid.jsonl",
            "loss": "dpo",
        }
    }
    config.data.batch_size = 2
    config.optim.update(num_steps=40, warmup_steps=5, peak_lr=5e-5)
    config.evaluation.update(every=20, metric="accuracy")
    config.checkpoint.every = 20
    return config
