"""A sweep whose runs are written by hand: what a report reads, without a training step."""

import json
from pathlib import Path

from gptjax import config
from gptjax.sweep.runs import Run, load_runs

ABLATION = """
from experiments import base
from gptjax.sweep.expand import cross, grid, seeds


def get_config():
    config = base.get_config()
    config.optim.update(num_steps=40, warmup_steps=5)
    return config


def sweep():
    return {sweep}
"""
TWO_ARMS = 'cross(grid({"model.norm.name": ["layernorm", "rmsnorm"]}), seeds(3))'


def write_ablation(folder: Path, sweep: str = TWO_ARMS) -> str:
    """Writes an ablation file and returns its path."""
    path = folder / "norms.py"
    path.write_text(ABLATION.format(sweep=sweep))
    return str(path)


def make_runs(folder: Path, sweep: str = TWO_ARMS) -> list[Run]:
    """Returns the runs of an ablation, in folders of runs/."""
    return load_runs(write_ablation(folder, sweep), [], folder / "runs")


def row(step: int, loss: float | None, split: str = "train", step_seconds: float = 0.5) -> dict:
    """Returns a row of metrics, with as many bits a byte as nats a token."""
    return {
        "step": step,
        "split": split,
        "loss": loss,
        "bits_per_byte": loss,
        "tokens_seen": 100 * step,
        "step_seconds": step_seconds,
    }


def write_run(run: Run, final: float | None, until: int = 40, **at_the_end: float) -> None:
    """Writes the folder of a run that has come to a step, where its loss is `final` and its validation says more."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    (run.workdir / "config.json").write_text(json.dumps(config.to_plain(run.cfg)))
    facts = {"num_params": 1000, "tokens_per_step": 100, "flops_per_step": 6e5, "platform": "cpu", "num_devices": 1}
    (run.workdir / "facts.json").write_text(json.dumps(facts))
    rows = [row(step, final if step == until else 5.0 - step / 40) for step in range(10, until + 1, 10)]
    rows += [row(step, final if step == until else 5.0 - step / 40, "valid") for step in range(20, until + 1, 20)]
    rows[-1] |= at_the_end
    (run.workdir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
