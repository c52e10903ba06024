"""The update rules. Each turns gradients into a direction; decay and learning rate, the same for all, come after it.

A rule is a function of `Parts` with options of its own, and returns a transformation of Optax.
"""

import math
from typing import Any, NamedTuple

import jax
import optax
from optax import contrib

from gptjax.optim.curvature import hutchinson
from gptjax.optim.soap import scale_by_soap


class Parts(NamedTuple):
    """What every rule is made of beside its own direction."""

    descent: tuple[optax.GradientTransformation, ...]
    """What follows the direction: decay by group, then the learning rate (and its factors) with the sign."""
    schedule: optax.Schedule
    """The learning rate, for rules that need to know it; `descent` applies it."""
    matrices: Any
    """The matrix that each parameter is, or None, in the parameters' tree (optim/matrices.py)."""


def adamw(parts, *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8, mu_dtype: str | None = None):
    """Adam with decoupled decay (Loshchilov and Hutter 2019, arXiv 1711.05101).

    The first moment is kept in `mu_dtype`, the second in float32: Optax offers no other.
    """
    return optax.chain(optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype), *parts.descent)


def lion(parts, *, b1: float = 0.9, b2: float = 0.99, mu_dtype: str | None = None):
    """The sign of a momentum (Chen et al. 2023, arXiv 2302.06675); peak_lr is a third to a tenth of AdamW's."""
    return optax.chain(optax.scale_by_lion(b1, b2, mu_dtype=mu_dtype), *parts.descent)


def adafactor(
    parts,
    *,
    decay_rate: float = 0.8,
    eps: float = 1e-30,
    clip_rms: float | None = 1.0,
    b1: float | None = None,
    mu_dtype: str | None = None,
    scale_by_parameter: bool = False,
    min_factored_dim: int = 128,
):
    """Second moments as products of row and column means (Shazeer and Stern 2018, arXiv 1804.04235).

    Factored are the two largest dims of a parameter where both have `min_factored_dim`. A `b1` adds momentum. Steps are
    absolute, as in Zhai et al. 2022 (arXiv 2106.04560), unless `scale_by_parameter` makes them relative to each
    parameter's size.
    """
    momentum = None if b1 is None else optax.ema(b1, debias=False, accumulator_dtype=mu_dtype)
    steps = [
        optax.scale_by_factored_rms(decay_rate=decay_rate, epsilon=eps, min_dim_size_to_factor=min_factored_dim),
        None if clip_rms is None else optax.clip_by_block_rms(clip_rms),
        optax.scale_by_param_block_rms() if scale_by_parameter else None,
        momentum,
    ]
    return optax.chain(*(step for step in steps if step is not None), *parts.descent)


def muon(
    parts,
    *,
    beta: float = 0.95,
    num_iterations: int = 5,
    rms: float = 0.2,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    mu_dtype: str | None = None,
):
    """Momentum, made orthogonal for each matrix of the blocks (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    Embeddings, head, norms and biases take Adam's step, with `b1` and `b2`. Matrices are scaled to the root mean square
    `rms`, about Adam's, so that one peak_lr serves both (Liu et al. 2025, arXiv 2502.16982).
    """

    def is_ours(matrix):
        return matrix is not None and matrix.first > 0  # only the blocks are stacked

    def each(function):
        return jax.tree.map(function, parts.matrices, is_leaf=lambda leaf: leaf is None)

    ours = each(lambda matrix: matrix if is_ours(matrix) else optax.MaskedNode())  # as `partition` masks the others

    def dims(updates):
        return jax.tree.map(
            lambda x, matrix: contrib.MuonDimensionNumbers(
                tuple(range(matrix.first, matrix.split)), tuple(range(matrix.split, x.ndim))
            ),
            updates,
            ours,
        )

    def scale(updates, _):
        return jax.tree.map(lambda x, matrix: x * rms * math.sqrt(max(matrix.sides(x.shape))), updates, ours)

    orthogonal = contrib.scale_by_muon(
        beta=beta, ns_steps=num_iterations, mu_dtype=mu_dtype, weight_dimension_numbers=dims
    )
    groups = {
        "muon": optax.chain(orthogonal, optax.stateless(scale)),
        "adam": optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype),
    }
    labels = each(lambda matrix: "muon" if is_ours(matrix) else "adam")
    return optax.chain(optax.partition(groups, labels), *parts.descent)


def soap(
    parts,
    *,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    refresh_every: int = 10,
    max_dim: int = 10_000,
    mu_dtype: str | None = None,
):
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321): optim/soap.py.

    A side of a matrix with more than `max_dim` entries keeps its own basis, as the vocabulary's of head and embedding.
    """
    direction = scale_by_soap(
        parts.matrices, b1=b1, b2=b2, eps=eps, refresh_every=refresh_every, max_dim=max_dim, mu_dtype=mu_dtype
    )
    return optax.chain(direction, *parts.descent)


def sophia(
    parts,
    *,
    b1: float = 0.965,
    b2: float = 0.99,
    eps: float = 1e-8,
    gamma: float = 0.01,
    refresh_every: int = 10,
    mu_dtype: str | None = None,
):
    """Momentum over the Hessian's diagonal, each step clipped to 1 (Liu et al. 2023, arXiv 2305.14342: Sophia-H).

    The diagonal is estimated every `refresh_every` updates, from the first micro-batch. A larger `gamma` clips more
    rarely. peak_lr is between Lion's and AdamW's.
    """
    direction = contrib.sophia(
        learning_rate=-1.0,  # which Optax's sign makes 1: the rate follows, as everywhere
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=0.0,
        gamma=gamma,
        update_interval=refresh_every,
        hessian_diagonal_fn=hutchinson(),
        mu_dtype=mu_dtype,
    )
    return optax.chain(direction, *parts.descent)


def schedule_free(parts, *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8, weight_lr_power: float = 2.0):
    """AdamW with an average of the iterates in place of momentum and schedule (Defazio et al. 2024, arXiv 2405.15682).

    Gradients are taken at a point near the average, and that point is what a run calls its parameters; evaluation and
    samples use the average itself (`optimizer.evaluation_params`).
    """
    base = optax.chain(optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True), *parts.descent)
    return contrib.schedule_free(base, parts.schedule, b1=b1, weight_lr_power=weight_lr_power)


OPTIMIZERS = {
    "adamw": adamw,
    "lion": lion,
    "adafactor": adafactor,
    "muon": muon,
    "soap": soap,
    "sophia": sophia,
    "schedule_free": schedule_free,
}
