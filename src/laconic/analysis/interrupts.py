"""Ctrl-C while processes are started: only their parent handles it, and not before they have
started."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any


@contextmanager
def held() -> Iterator[None]:
    """Block SIGINT in the processes that multiprocessing starts in the block. A SIGINT that arrives
    in the meantime is delivered after the block.

    Blocking it in this thread is not enough: another thread, such as a library's, may take it, and
    then Python's handler runs here.
    """
    # Starting the resource tracker unblocks SIGINT (resource_tracker.py), so it is started before
    # SIGINT is blocked. It must outlive the processes after which it cleans up, also if their
    # terminal is closed.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    is_main = threading.current_thread() is threading.main_thread()
    handler: Any = signal.signal(signal.SIGINT, note) if is_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_main:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
