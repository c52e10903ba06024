"""Does pre-training pay? Table 5 of GPT-1 (Radford et al. 2018) in the small: each part left out in turn; three seeds.

Arms: pre-trained on novels and fine-tuned with the auxiliary next-token loss of weight 0.5; without pre-training;
without the auxiliary loss; an LSTM of equal size, pre-trained alike. The claim: leaving out pre-training costs most
(59.9 points on average for 74.7), the LSTM less (69.1); the auxiliary loss helps on the larger data sets alone.

Run:      experiments/novels.py first, as both bodies; then
          GPTJAX_DATA=DIR python -m gptjax.sweep --config=experiments/ablations/pretraining_pays.py --run --report
          and with --config.task=trec --workdir=runs/pretraining_pays_trec
          python -m gptjax.main --config=experiments/ablations/pretraining_pays.py is its first run
Hardware: 2 CPU cores
Expect:   SST-2, 12 runs in 24 minutes, two at a time: 76.7 % accuracy pre-trained, 75.9 without, 76.9 without the
          auxiliary loss, 62.0 LSTM; differences of a point are within the noise of seeds, the loss does tell.
          TREC, in 12 minutes: 74.7, 78.7, 77.6, 44.8: novels do not help so small a model with questions (LOG.md)
"""

from experiments import finetune_sst2, finetune_trec, novels
from experiments.ablations import lstm_vs_transformer
from gptjax.sweep.expand import cross, seeds

TASKS = {"sst2": finetune_sst2, "trec": finetune_trec}
THREE_EPOCHS = {"sst2": 600, "trec": 210}
BODY, LSTM = "runs/novels", "runs/novels_lstm"


def get_config(*, task: str = "sst2"):
    if task not in TASKS:
        raise ValueError(f"task={task!r} is unknown; valid: {', '.join(TASKS)}")
    config = novels.get_config()
    config.tasks = {"target": TASKS[task].get_config().tasks[task]}
    config.data.tokenizer = {"name": "saved", "path": BODY}
    config.data.batch_size = 8
    config.model.dropout = 0.1
    config.optim.update(num_steps=THREE_EPOCHS[task], warmup_steps=20, peak_lr=1e-3)
    config.optim.schedule = {"name": "linear", "final_fraction": 0.0}
    config.evaluation.update(every=THREE_EPOCHS[task], metric="accuracy")
    config.checkpoint.every = THREE_EPOCHS[task]
    return config


def sweep():
    start, auxiliary = "checkpoint.init_from", "tasks.target.lm_weight"
    arms = [
        {start: BODY, auxiliary: 0.5},
        {start: None, auxiliary: 0.5},
        {start: BODY, auxiliary: 0.0},
        {start: LSTM, auxiliary: 0.5, **lstm_vs_transformer.ARCHITECTURES["lstm"]},
    ]
    return cross(arms, seeds(3))
