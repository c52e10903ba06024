"""Classes of questions (TREC, Li and Roth 2002), six coarse ones: SmolLM2-135M with adapters and a classifier.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_trec.py
          (--config.tasks.trec.label=word learns the 50 fine classes)
Hardware: 2 CPU cores
Expect:   95.0 % accuracy on the 500 questions of the validation file; 23 minutes beside other work
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.tasks = {
        "trec": {
            "name": "classification",
            "train": corpora.examples("classification/trec-train.txt"),
            "valid": corpora.examples("classification/trec-valid.txt"),
            "text": ("rest",),
            "label": "class",
            "template": "Question: {text}\nThe answer is a kind of",
        }
    }
    config.model.seq_len, config.data.batch_size = 128, 8
    config.optim.update(num_steps=200, peak_lr=1e-3, top_layers=15)
    config.evaluation.update(every=100, metric="accuracy")
    config.checkpoint.every = 100
    return config
