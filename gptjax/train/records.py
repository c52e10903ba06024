"""The records of a run, written together: metrics.jsonl, TensorBoard and what the user sees."""

from collections.abc import Mapping
from typing import Any

from gptjax.distributed import is_primary
from gptjax.train.metrics import MetricsFile, finite
from gptjax.train.progress import Display
from gptjax.train.workdir import Workdir
from gptjax.train.writer import TensorBoard
from gptjax.types import Metrics


class Records:
    """Rows by step and split; the primary process keeps them, in the others nothing is written."""

    def __init__(self, workdir: Workdir, display: Display, start_step: int, num_steps: int):
        """Opens the records of a run that continues after `start_step`; later rows are cut off."""
        self.directory = workdir.path
        self._display = display
        self._num_steps = num_steps
        if is_primary():
            self._metrics = MetricsFile(workdir.metrics, start_step)
            self._board = TensorBoard(workdir.path, start_step)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        if is_primary():
            self._metrics.close()
            self._board.close()

    def train_row(
        self, step: int, tokens_seen: int, metrics: Metrics, speed: Mapping[str, float | None], norms: Mapping[str, Any]
    ) -> None:
        """Writes the row of a training step; norms and the parts of other metrics go to TensorBoard alone."""
        means = {
            name: finite(float(total) / float(count)) if count else None for name, (total, count) in metrics.items()
        }
        row = {
            "step": step,
            "split": "train",
            "loss": means["loss"],
            "bits_per_byte": means.get("bits_per_byte"),
            "tokens_seen": tokens_seen,
            **speed,
            "learning_rate": means["learning_rate"],
            "grad_norm": means["grad_norm"],
            "batch_checksum": int(metrics["batch_checksum"][0]),
            "skipped_steps": int(metrics["skipped_steps"][0]),
        }
        parts = {name: mean for name, mean in means.items() if "/" in name}  # of one layer, expert or group
        self._write(row, {**parts, **{f"param_norm/{name}": float(norm) for name, norm in norms.items()}})

    def valid_row(self, step: int, tokens_seen: int, means: Mapping[str, float | None]) -> None:
        """Writes the row of an evaluation, with all that was measured: there are few of them."""
        self._write({"step": step, "split": "valid", "tokens_seen": tokens_seen, **means}, {})

    def _write(self, row: Mapping[str, Any], also: Mapping[str, float | None]) -> None:
        if not is_primary():
            return
        self._metrics.write(row)
        numbers = {name: value for name, value in row.items() if name not in ("step", "split", "batch_checksum")}
        scalars = {f"{row['split']}/{name}": value for name, value in {**numbers, **also}.items()}
        self._board.scalars(row["step"], scalars)
        self._board.flush()
        self._display.row(row, self._num_steps)

    def text(self, step: int, name: str, text: str) -> None:
        """Writes a text to TensorBoard."""
        if is_primary():
            self._board.text(step, name, text)

    def sync(self) -> None:
        """Forces everything to disk."""
        if is_primary():
            self._metrics.sync()
