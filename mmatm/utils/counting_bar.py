"""A progress bar for work that is counted, on a terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_DRAWINGS = 0.1


@contextlib.contextmanager
def counting_bar(name: str, done: int, total: int | None, *columns: ProgressColumn) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items just done; on a terminal (standard error) it draws a bar.

    Args:
        name: What is done.
        done: Number of items done before.
        total: Number of all items; None if it is not known.
        columns: What to show between the bar and the time left.
    """
    console = Console(stderr=True)
    if not (sys.stderr.isatty() and console.is_interactive):
        yield lambda count: None
        return
    columns = TextColumn('{task.description}'), BarColumn(), *columns, TimeRemainingColumn()
    # Without a thread, as the other bar.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task(name, total=total, completed=done)
        drawn = 0.0

        def advance(count: int) -> None:
            nonlocal drawn
            progress.advance(task, count)
            if time.monotonic() - drawn > _SECONDS_BETWEEN_DRAWINGS:
                progress.refresh()
                drawn = time.monotonic()

        yield advance
