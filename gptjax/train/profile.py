"""A trace of some steps for TensorBoard's profiler."""

from pathlib import Path
from typing import Any

import jax

from gptjax.train.config import ProfileConfig


class Profiler:
    """Traces the steps that the config names into a folder; does nothing where it names none."""

    def __init__(self, cfg: ProfileConfig, directory: Path):
        self._steps = range(cfg.steps[0], cfg.steps[-1] + 1) if cfg.steps else range(0)
        self._directory = str(directory)
        self._tracing = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()  # a run may end within the steps to trace

    def before(self, step: int) -> None:
        """Called before a step is dispatched."""
        if step in self._steps and not self._tracing:  # a resumed run may begin in the midst of them
            jax.profiler.start_trace(self._directory)
            self._tracing = True

    def after(self, step: int, result: Any) -> None:
        """Called once a step was dispatched; the trace ends when its result is there."""
        if self._tracing and step == self._steps[-1]:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
