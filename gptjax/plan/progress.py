"""What a planner says while the compiler works: a line with a clock on a terminal, plain lines elsewhere."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def working(task: str) -> Iterator[None]:
    """Shows a task while it is entered; goes to standard error, so that the plan alone is on standard output."""
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        print(f"{task} ...", file=sys.stderr, flush=True)
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(task)
        yield
