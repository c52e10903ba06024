"""What a preparation says while it works: a bar on a terminal, now and then a plain line elsewhere."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator

_SECONDS_BETWEEN_LINES = 10


class Console:
    """Speaks for one process; a silent one says nothing."""

    def __init__(self, *, silent: bool = False):
        self._silent = silent

    def say(self, text: str) -> None:
        """Prints a line."""
        if not self._silent:
            with contextlib.suppress(BrokenPipeError):  # the work goes on when its reader has left
                print(text, flush=True)

    def warn(self, text: str) -> None:
        """Prints a warning."""
        if not self._silent:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self, task: str, total: int | None) -> Iterator[Callable[[int], object]]:
        """Shows how a task advances through its bytes (None: unknown); gives the function to tell of an advance."""
        if not self._silent and sys.stdout.isatty():
            with _bar(task, total) as advance:
                yield advance
            return
        done, spoken = 0, time.monotonic()

        def count(num_bytes: int) -> None:
            nonlocal done, spoken
            done += num_bytes
            if time.monotonic() - spoken > _SECONDS_BETWEEN_LINES:
                spoken = time.monotonic()
                self.say(f"{task}: {size(done)}{'' if total is None else f' of {size(total)}'}")

        yield count


@contextlib.contextmanager
def _bar(task: str, total: int | None) -> Iterator[Callable[[int], object]]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(), TimeRemainingColumn()]
    with Progress(*columns, transient=True, expand=True) as bar:
        shown = bar.add_task(task, total=total)
        yield functools.partial(bar.advance, shown)


def size(num_bytes: int) -> str:
    """Formats a number of bytes."""
    value, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"
