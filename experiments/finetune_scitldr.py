"""One sentence that says what a paper's abstract says (SciTLDR, arXiv 2004.15011): SmolLM2-135M with adapters.

Import:   see smollm2_adapted.py
Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_scitldr.py
Hardware: 2 CPU cores
Expect:   ROUGE-1 0.392, ROUGE-2 0.172, ROUGE-L 0.320 on 100 validation papers; 38 minutes on one core
"""

from experiments import corpora, smollm2_adapted


def get_config():
    config = smollm2_adapted.get_config()
    config.model.seq_len = 512
    config.tasks = {
        "scitldr": {
            "name": "seq2seq",
            "train": corpora.examples("summarization/scitldr-train.jsonl.gz"),
            "valid": corpora.examples("summarization/scitldr-valid.jsonl.gz"),
            "template": "{source}\nTL;DR:",
            "measures": ("rouge",),
            "max_tokens": 64,
        }
    }
    config.data.batch_size = 2
    config.optim.update(num_steps=80, warmup_steps=8, top_layers=15)
    config.evaluation.update(every=80, metric="loss", num_examples=100, batch_size=16)
    config.checkpoint.every = 80
    return config
