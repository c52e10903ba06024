"""Learning rates as functions of the number of updates so far: a linear warm-up, then one of SCHEDULES."""

import itertools

import jax.numpy as jnp
import optax


def cosine(peak_lr, steps, *, final_fraction: float = 0.1):
    """Half a cosine down to final_fraction of the peak (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    return optax.cosine_decay_schedule(peak_lr, steps, alpha=final_fraction)


def wsd(peak_lr, steps, *, decay_fraction: float = 0.2, final_fraction: float = 0.0):
    """Stays at the peak, then falls linearly over the last decay_fraction of the steps (MiniCPM, arXiv 2404.06395)."""
    decay_steps = max(1, round(decay_fraction * steps))
    stable_steps = max(0, steps - decay_steps)
    fall = optax.linear_schedule(peak_lr, final_fraction * peak_lr, decay_steps)
    return optax.join_schedules([optax.constant_schedule(peak_lr), fall], [stable_steps])


def linear(peak_lr, steps, *, final_fraction: float = 0.0):
    """A straight line down to final_fraction of the peak."""
    return optax.linear_schedule(peak_lr, final_fraction * peak_lr, steps)


def constant(peak_lr, steps):
    """The peak throughout."""
    return optax.constant_schedule(peak_lr)


def inverse_sqrt(peak_lr, steps, *, timescale: int = 1000):
    """peak * sqrt(timescale / (timescale + step)), whatever the length of the run (Zhai et al. 2022, arXiv 2106.04560).

    With timescale = warmup_steps it is the Transformer's own (Vaswani et al. 2017, arXiv 1706.03762).
    """
    return lambda count: peak_lr * jnp.sqrt(timescale / (timescale + jnp.maximum(count, 0)))


def cyclic(peak_lr, steps, *, num_cycles: int = 4, final_fraction: float = 0.1):
    """Cosines one after the other, each from the peak: warm restarts (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    bounds = [round(steps * cycle / num_cycles) for cycle in range(num_cycles + 1)]
    lengths = [max(1, stop - start) for start, stop in itertools.pairwise(bounds)]
    cycles = [cosine(peak_lr, length, final_fraction=final_fraction) for length in lengths]
    return optax.join_schedules(cycles, bounds[1:-1])


SCHEDULES = {
    "cosine": cosine,
    "wsd": wsd,
    "linear": linear,
    "constant": constant,
    "inverse_sqrt": inverse_sqrt,
    "cyclic": cyclic,
}


def with_warmup(after, peak_lr: float, warmup_steps: int) -> optax.Schedule:
    """Puts a linear warm-up before a schedule; the first update already moves, by peak / (warmup_steps + 1)."""
    if warmup_steps == 0:
        return after
    rise = optax.linear_schedule(peak_lr / (warmup_steps + 1), peak_lr, warmup_steps)
    return optax.join_schedules([rise, after], [warmup_steps])
