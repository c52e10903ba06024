"""Which update rule, each at three learning rates around what its authors advise; three seeds each.

Run:      python -m gptjax.sweep --config=experiments/ablations/optimizers.py --run --parallel=2
          the same with --report writes runs/optimizers/report.html
Hardware: any CPU; half a minute a run, two at a time on two cores; Sophia one, SOAP two
Expect:   at the best of its rates, in nats a byte of Shakespeare: Muon 1.86, SOAP 1.97, AdamW 2.07, schedule-free 2.08,
          Lion 2.18, Adafactor 2.18, Sophia 2.29
"""

from experiments.ablations import positions
from gptjax.sweep.expand import cross, grid, seeds

RATES = {
    "adamw": [2e-3, 4e-3, 8e-3],
    "lion": [2e-4, 4e-4, 8e-4],
    "adafactor": [2e-3, 4e-3, 8e-3],
    "muon": [2e-3, 4e-3, 8e-3],
    "soap": [2e-3, 4e-3, 8e-3],
    "sophia": [5e-4, 1e-3, 2e-3],
    "schedule_free": [4e-3, 8e-3, 1.6e-2],
}


def get_config():
    config = positions.get_config()
    config.optim.update(num_steps=200, warmup_steps=20)
    return config


def sweep():
    runs = []
    for name, rates in RATES.items():
        schedule = {"optim.schedule.name": ["constant"]} if name == "schedule_free" else {}
        runs += cross(grid({"optim.optimizer.name": [name], "optim.peak_lr": rates, **schedule}), seeds(3))
    return runs
