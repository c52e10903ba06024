"""What the user sees while runs go on: a table that is kept up to date on a terminal, plain lines elsewhere."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.live import Live
from rich.table import Table

from gptjax.train.progress import Terminal, duration, number


class Line(NamedTuple):
    """How far a run is."""

    name: str
    step: int
    num_steps: int
    loss: float | None
    seconds: float


class Board:
    """The runs that go on, below what was said of the others."""

    def __init__(self):
        self._console = Terminal(highlight=False, soft_wrap=True)
        self._live: Live | None = None

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Shows the table while it is entered, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    @property
    def is_live(self) -> bool:
        """Whether there is a table to update."""
        return self._live is not None

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False)

    def update(self, lines: Sequence[Line], rest: str) -> None:
        """Shows how far the runs are, and the rest in words."""
        if self._live is None:
            return
        table = Table(box=None, pad_edge=False, caption=rest, caption_justify="left")
        table.add_column("running", overflow="fold")
        for column in ("step", "loss", "time"):
            table.add_column(column, justify="right", no_wrap=True)
        for line in lines:
            table.add_row(
                line.name,
                f"{line.step}/{line.num_steps}" if line.step else "starting",
                number(line.loss, ".4f"),
                duration(line.seconds),
            )
        self._live.update(table, refresh=True)
