"""Instructions with answers (Dolly 15k and HH-RLHF, a part): SmolLM2-135M with adapters, the loss on the answers.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_dolly.py
Hardware: 2 CPU cores
Expect:   not run here
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.model.seq_len = 512
    config.tasks = {
        "dolly": {
            "name": "chat",
            "train": corpora.examples("instruct/dolly-hhrlhf-train.jsonl.gz"),
            "valid": corpora.examples("instruct/dolly-hhrlhf-valid.jsonl"),
            "cut": True,
            "measures": (),
        }
    }
    config.data.batch_size = 2
    config.optim.update(num_steps=80, warmup_steps=8, peak_lr=2e-4, top_layers=15)
    config.evaluation.update(every=40)
    config.checkpoint.every = 40
    return config
