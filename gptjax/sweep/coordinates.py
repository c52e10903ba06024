"""How large activations are while models of growing width take their first steps: flat under muP, growing without.

The coordinate check of Yang et al. 2022 (arXiv 2203.03466, appendix D.1). Trains in this process, and keeps nothing.

Shapes: B batch, T position, D model width, N layers, W widths.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import config, model
from gptjax.config import ExperimentConfig
from gptjax.data.sources import Corpus, load_corpus
from gptjax.experiment import build
from gptjax.registry import Choice
from gptjax.train.state import create_state
from gptjax.types import Params, UserError, stream_key


class Coordinates(NamedTuple):
    """Mean absolute values of what the model makes: by name, an array of width x step x layer."""

    widths: Sequence[int]
    sizes: dict[str, np.ndarray]

    def growth(self, name: str) -> np.ndarray:
        """Returns, for each step and layer, the power of the width with which a size grows, by least squares."""
        log_W = np.log(self.widths)
        log_W = log_W - log_W.mean()
        return np.tensordot(log_W, np.log(self.sizes[name]), axes=1) / np.sum(log_W**2)


def measure(cfg: ExperimentConfig, widths: Sequence[int], num_steps: int, source: str) -> Iterator[tuple[int, Any]]:
    """Trains a model of each width for a few steps at the peak learning rate; yields (width, sizes by name).

    `sizes` are arrays of step x layer, the first step before any update. All widths see the same batches. The number of
    heads stays, so that heads widen. Raises UserError where a width does not fit.
    """
    corpus = load_corpus(cfg.data)
    for width in widths:
        yield width, _sizes(at_width(cfg, width, num_steps, source), corpus, num_steps)


def at_width(cfg: ExperimentConfig, width: int, num_steps: int, source: str) -> ExperimentConfig:
    """Returns the experiment with another width, at its peak learning rate from the first step."""
    changed = dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, d_model=width, d_head=None, d_ff=None),
        optim=dataclasses.replace(cfg.optim, num_steps=num_steps, warmup_steps=0, schedule=Choice("constant")),
    )
    config.validate(changed, jax.device_count(), f"{source} of width {width}")
    return changed


def _sizes(cfg: ExperimentConfig, corpus: Corpus, num_steps: int) -> dict[str, np.ndarray]:
    experiment = build(cfg, corpus)
    key = stream_key(cfg.seed, "init", 0)
    state = create_state(experiment.init_params, experiment.tx, key, experiment.abstract)
    batches = experiment.train_batches(0)
    batch = next(batches)
    tokens_BT = batch.tokens_BT[: min(8, len(batch.tokens_BT))]  # the same ones at every step

    @jax.jit
    def sizes(params: Params) -> dict[str, jax.Array]:
        made = model.activations(experiment.model, params, tokens_BT)
        found = {name: jnp.mean(jnp.abs(x_NBTD.astype(jnp.float32)), axis=(1, 2, 3)) for name, x_NBTD in made.items()}
        logits_BTV = model.apply(experiment.model, params, tokens_BT)[0][..., : experiment.model.vocab_size]
        return {**found, "logits": jnp.mean(jnp.abs(logits_BTV))[None]}

    measured = [jax.device_get(sizes(state.params))]
    for _ in range(num_steps):
        state, _ = experiment.train_step(state, batch)
        batch = next(batches)
        measured.append(jax.device_get(sizes(state.params)))
    batches.close()
    return {name: np.stack([each[name] for each in measured]) for name in measured[0]}


def gather(measured: Sequence[tuple[int, dict[str, np.ndarray]]]) -> Coordinates:
    """Returns what was measured at all widths; raises UserError where it is not finite."""
    widths = [width for width, _ in measured]
    sizes = {name: np.stack([each[name] for _, each in measured]) for name in measured[0][1]}
    for name, array in sizes.items():
        if not np.all(np.isfinite(array)):
            width = widths[int(np.argwhere(~np.isfinite(array))[0][0])]
            raise UserError(f"{name} is not finite at width {width}: lower optim.peak_lr")
    return Coordinates(widths, sizes)
