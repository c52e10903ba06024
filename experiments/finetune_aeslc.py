"""Subjects of e-mails (AESLC, arXiv 1906.03497): SmolLM2-135M with adapters.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_aeslc.py
Hardware: 2 CPU cores
Expect:   not run here
"""

from experiments import corpora, finetune_scitldr


def get_config():
    config = finetune_scitldr.get_config()
    config.tasks = {
        "aeslc": {
            "name": "seq2seq",
            "train": corpora.examples("summarization/aeslc-train.jsonl.gz"),
            "valid": corpora.examples("summarization/aeslc-valid.jsonl.gz"),
            "source": ("body",),
            "target": ("subject",),
            "template": "{source}\nSubject:",
            "measures": ("rouge",),
            "max_tokens": 24,
        }
    }
    return config
