"""Ctrl-C while processes are started: it is for their parent alone, which receives it when they are
there."""

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
    """What multiprocessing starts in the block has SIGINT blocked, and a SIGINT meanwhile comes
    when the block is over.

    To block it in this thread is not enough: another, as a library may have, takes it, and Python's
    handler runs here.
    """
    # Its start unblocks SIGINT (resource_tracker.py), so it is started before that is blocked. It
    # outlives whom it tidies up after, also where their terminal is closed.
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
