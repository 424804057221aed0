"""SIGTERM and SIGHUP while a verb has made what nobody else will take away: temporary files,
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
            atexit._run_exitfuncs()  # multiprocessing's: its semaphores go
            signal.raise_signal(came[0])
