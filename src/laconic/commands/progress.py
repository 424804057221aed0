"""The progress of long work: a bar on standard error, after two seconds, if that is a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from laconic.stacks import notice

#: Seconds before the bar is shown; shorter work needs no bar.
PATIENCE = 2.0


@contextmanager
def progress(
    what: str, total: int | None = None, unit: str = ""
) -> Iterator[Callable[[int], None]]:
    """Return a function that receives how much is done of `total` (bytes, or the items that `unit`
    names; None: unknown).

    It may be called after every batch or line: a call costs 0.1 µs, and nothing if there is no
    terminal.

        with progress("reading a.trace", trace.size) as update:
            update(done)
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    began = time.monotonic()
    bar: Any = None

    def update(done: int) -> None:
        nonlocal bar
        if bar is None:
            if time.monotonic() - began < PATIENCE:
                return
            bar = _bar(what, total, unit)
        bar.update(bar.task_ids[0], completed=done)

    try:
        yield update
    finally:
        if bar is not None:
            bar.stop()


@contextmanager
def waiting(what: str, patience: float | None = None) -> Iterator[None]:
    """Show a moving bar and the elapsed time while the block runs, if it takes over `patience`
    seconds, by default two.

    For work without countable steps. Nothing is shown if standard error is not a terminal.
    """
    if not sys.stderr.isatty():
        yield
        return
    bars: list[Any] = []
    lock = threading.Lock()
    over = False

    def show() -> None:
        with lock:
            if not over:
                bars.append(_bar(what, None, "", elapsed=True))

    timer = threading.Timer(PATIENCE if patience is None else max(patience, 0.0), show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            over = True
            for bar in bars:
                bar.stop()


#: A report reads symbols when it first needs them, whatever command makes it.
notice.show = waiting
#: The bar that is on the terminal.
_shown: Any = None


def _bar(what: str, total: int | None, unit: str, elapsed: bool = False) -> Any:
    global _shown
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn]
    if elapsed:
        columns = [TimeElapsedColumn()]
    elif total is None:
        columns = [TextColumn("{task.completed:,.0f} " + unit)]
    else:
        columns = [TaskProgressColumn(), TimeRemainingColumn()]
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bar.add_task(what, total=total)
    # Two bars would overwrite each other, because symbols are read while a trace is replayed.
    if _shown is not None:
        _shown.stop()
    _shown = bar
    bar.start()
    return bar
