"""How fast a run is, and against what: tokens per second and model FLOP utilisation (PaLM, arXiv 2204.02311 app. B)."""

import contextlib
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from gptjax.chips import chip_of


def peak_flops(dtype: str) -> float | None:
    """Returns the FLOP/s that all devices can reach together: by table, on CPUs measured; None where unknown."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        # Virtual devices share the cores, so one measurement stands for the whole process.
        return measured_matmul_flops(dtype) * jax.process_count()
    chip = chip_of(device.device_kind)
    return None if chip is None else chip.flops * jax.device_count()


def measured_matmul_flops(dtype: str, size: int = 1024, repeats: int = 8) -> float:
    """Returns the best FLOP/s of `repeats` square matrix products on the first device."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Meter:
    """Means of speed since the last reading, over steps whose results have arrived."""

    def __init__(self, flops_per_token: float, peak: float | None):
        self._flops_per_token = flops_per_token
        self._peak = peak
        self._start = time.perf_counter()
        self._steps = self._tokens = 0

    def step(self, num_tokens: int) -> None:
        """Counts a step that has arrived."""
        self._steps += 1
        self._tokens += num_tokens

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time within: evaluation and checkpoints are not the step's."""
        since = time.perf_counter()
        yield
        self._start += time.perf_counter() - since

    def read(self) -> dict[str, float | None]:
        """Returns tokens_per_second, step_seconds and mfu since the last reading, and starts over."""
        now = time.perf_counter()
        seconds, steps = max(now - self._start, 1e-9), max(self._steps, 1)
        tokens_per_second = self._tokens / seconds
        self._start, self._steps, self._tokens = now, 0, 0
        return {
            "tokens_per_second": tokens_per_second,
            "step_seconds": seconds / steps,
            "mfu": tokens_per_second * self._flops_per_token / self._peak if self._peak else None,
        }
