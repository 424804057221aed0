"""SIGTERM and SIGHUP while a verb has created what only it can remove: temporary files, processes,
semaphores."""

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
    # This is registered before the functions of multiprocessing that remove its semaphores, and
    # therefore called after them.
    if _fatal:
        signal.raise_signal(_fatal[0])


class _Ended(BaseException):
    pass


@contextmanager
def tidied() -> Iterator[None]:
    """If SIGTERM or SIGHUP would end Laconic at once, leave the block first, so that it can clean
    up; the signal ends Laconic afterwards. Signals that are ignored (nohup) or have a handler are
    unchanged, and so are all signals outside the main thread.
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
        signal.signal(number, signal.SIG_DFL)  # in a child before its execve
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
        if came:  # even if a finalizer or an event loop has swallowed the exception
            _fatal.append(came[0])
            raise SystemExit(128 + came[0])
