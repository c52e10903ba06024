"""Captions of pictures from English into German (Multi30k, Elliott et al. 2016): a small model of them alone.

Captions are short, alike, and few, so that a small model is enough. SmolLM2 with adapters on all layers would cost 72
times as many FLOPs a token (`--mode=check` of finetune_preferences.py and of this).

Run:      GPTJAX_DATA=DIR python -m gptjax.main --config=experiments/finetune_multi30k.py
          (and --mode=evaluate --config.tasks.multi30k.num_beams=4 for beams)
Hardware: 2 CPU cores
Expect:   BLEU 31.1 and chrF 54.8 on the 1,014 validation captions, greedily; 43 minutes beside other work
"""

from experiments import base, corpora


def get_config():
    config = base.get_config()
    config.model.update(num_layers=4, num_heads=4, d_model=128, seq_len=128, use_bias=False, scan_layers=False)
    config.model.positions = {"name": "rotary"}
    config.model.norm = {"name": "rmsnorm"}
    english, german = corpora.examples("mt/multi30k-train.en.gz"), corpora.examples("mt/multi30k-train.de.gz")
    config.data.source = {"name": "mixture", "paths": (english, german)}
    config.data.tokenizer = {"name": "bpe", "vocab_size": 4096}
    config.tasks = {
        "multi30k": {
            "name": "seq2seq",
            "train": english,
            "train_target": german,
            "valid": corpora.examples("mt/multi30k-valid.en.gz"),
            "valid_target": corpora.examples("mt/multi30k-valid.de.gz"),
            "template": "{source}\n",
            "max_tokens": 64,
        }
    }
    config.data.batch_size = 32
    config.optim.update(num_steps=2_000, warmup_steps=200, peak_lr=3e-3)
    config.evaluation.update(every=1_000, metric="bleu", batch_size=64)
    config.checkpoint.every = 1_000
    config.sample.prompts = ()
    return config
