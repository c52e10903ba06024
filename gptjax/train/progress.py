"""What the user sees: a progress bar on a terminal, plain lines elsewhere, and the same lines in log.txt."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from gptjax.train.workdir import writing


class Terminal(Console):
    """Standard output; work goes on when whoever read it has left."""

    def on_broken_pipe(self) -> None:
        """Lets everything that follows go nowhere."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display:
    """Speaks for one process; a silent one (not the primary) says nothing and writes nothing."""

    def __init__(self, log: Path | None, *, silent: bool = False):
        """Opens log.txt to append to, where one is given."""
        self._silent = silent
        self._console = Terminal(quiet=silent, highlight=False, soft_wrap=True)
        self._log = None
        if log is not None and not silent:
            with writing(log):
                self._log = open(log, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        self._progress: Progress | None = None
        self._task = None

    def say(self, text: str) -> None:
        """Prints a line and logs it."""
        self._console.print(text, markup=False)
        self._write(text)

    def warn(self, text: str) -> None:
        """Prints a warning and logs it."""
        self._console.print(f"warning: {text}", markup=False, style="yellow")
        self._write(f"warning: {text}")

    @contextlib.contextmanager
    def progress(self, step: int, num_steps: int) -> Iterator[None]:
        """Shows a bar while it is entered, on a terminal."""
        if self._silent or not self._console.is_terminal:
            yield
            return
        columns = [
            TextColumn("[bold]step"),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(num_steps)) + 1)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
        ]
        with Progress(*columns, console=self._console, speed_estimate_period=120, expand=True) as progress:
            self._progress = progress
            self._task = progress.add_task("step", total=num_steps, completed=step, status="")
            yield
        self._progress = self._task = None

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step)

    def row(self, row: Mapping, num_steps: int) -> None:
        """Shows a row of metrics: on the bar, or as a line; evaluations are always a line."""
        text = describe(row)
        if self._progress is not None and self._task is not None and row["split"] == "train":
            self._progress.update(self._task, status=text)
            self._write(f"step {row['step']}/{num_steps}  {text}")
        else:
            left = ""
            if row["split"] == "train":
                left = f"  {duration((num_steps - row['step']) * row['step_seconds'])} left"
            self.say(f"step {row['step']}/{num_steps}  {row['split']}  {text}{left}")

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _write(self, text: str) -> None:
        if self._log is not None:
            with writing(Path(self._log.name)):
                self._log.write(text + "\n")
                self._log.flush()


def describe(row: Mapping) -> str:
    """Returns a row of metrics as a few words."""
    words = [f"loss {number(row['loss'], '.4f')}"]
    if row.get("bits_per_byte") is not None:
        words.append(f"{row['bits_per_byte']:.3f} bits/byte")
    if row["split"] == "train":
        words.append(f"{number(row['tokens_per_second'], ',.0f')} tokens/s")
        words.append(f"MFU {number(row['mfu'], '.1%')}")
    else:  # what a task measures besides
        others = row.keys() - {"step", "split", "tokens_seen", "loss", "bits_per_byte"}
        words += [f"{name} {number(row[name], '.4f')}" for name in row if name in others and "position" not in name]
    return "  ".join(words)


def number(value: float | None, form: str) -> str:
    """Formats a number, or a dash where it is not known."""
    return "-" if value is None else format(value, form)


def duration(seconds: float) -> str:
    """Formats seconds as 1:02:03, or 2:03 under an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
