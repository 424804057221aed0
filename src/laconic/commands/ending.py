"""SIGTERM and SIGHUP while a verb has made what nothing else will remove: temporary files,
processes, semaphores."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)
#: The signal that ends Laconic.
_fatal: list[int] = []


@atexit.register
def _die() -> None:
    # Registered before the functions of multiprocessing, which remove its semaphores, and so called
    # after them.
    if _fatal:
        signal.raise_signal(_fatal[0])


class _Ended(BaseException):
    pass


@contextmanager
def tidied() -> Iterator[None]:
    """Where SIGTERM or SIGHUP would end Laconic at once, the block is left first, so that it can
    clean up; the signal ends Laconic all the same. What is ignored (nohup) or has a handler stays
    so, and so do all outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = os.getpid()
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == mine:
            came.append(number)
            raise _Ended(number)
        signal.signal(number, signal.SIG_DFL)  # in a child that has not come to its execve
        signal.raise_signal(number)

    changed = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    except _Ended:
        pass
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
        if came:  # also where a finalizer or an event loop has swallowed the exception
            _fatal.append(came[0])
            raise SystemExit(128 + came[0])
