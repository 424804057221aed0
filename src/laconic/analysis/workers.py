"""Carrying out many tasks: by processes of this machine, or by the workers of a Dask cluster.

Both take the same function and yield each result as it arrives. A worker that is killed does not
affect other tasks: its own task is tried again, and given up after several workers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import active_children, get_context, parent_process
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from laconic.analysis import interrupts
from laconic.errors import LaconicError

T = TypeVar("T")
#: The arguments of a task's function, which identify the task.
TaskKey = tuple[str, str]
#: How many workers one task may kill on this machine before it is given up; a scheduler has its own
#: setting.
STRIKES = 3
#: Seconds in which a scheduler must answer, and for which it may be without any worker.
ANSWER, ABSENCE = 5.0, 60.0


class Killed(NamedTuple):
    """A task that was given up: this many workers in a row were killed while carrying it out."""

    workers: int


def on_processes(
    tasks: Sequence[TaskKey], work: Callable[[str, str], T], jobs: int
) -> Generator[tuple[TaskKey, T | Killed], None, None]:
    """Yield `work(*task)` for each task, carried out by `jobs` processes, in the order in which
    they finish.

    `work` is a function that a new process can import. Closing the generator kills the processes.
    Raises LaconicError if no process can be started.
    """
    waiting = deque(tasks)
    strikes: Counter[TaskKey] = Counter()
    lanes: list[_Lane] = []
    idle: list[_Lane] = []
    running: dict[Future[T], tuple[_Lane, TaskKey]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                lane = idle.pop() if idle else _start_lane(lanes)
                running[lane.submit(work, task)] = lane, task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                lane, task = running[future]
                result: T | Killed = Killed(STRIKES)
                try:
                    result = future.result()
                    idle.append(lane)
                except BrokenProcessPool:
                    lane.check_started()
                    lanes.remove(lane)
                    strikes[task] += 1
                del running[future]
                if isinstance(result, Killed) and strikes[task] < STRIKES:
                    waiting.append(task)
                else:
                    yield task, result
    finally:
        for lane in lanes:
            lane.end()


class _Lane:
    # A pool of one process. A pool of many breaks entirely when one of them is killed, and does not
    # report whose task it was; this one loses only its own task.

    def __init__(self) -> None:
        try:
            self.pool = ProcessPoolExecutor(1, get_context("spawn"), _follow_parent)
            self.pid = self.pool.submit(os.getpid)
        except OSError as error:
            raise LaconicError(
                f"a worker process cannot be started, {error.strerror}: see that memory and "
                "/dev/shm are free"
            ) from None

    def submit(self, work: Callable[[str, str], T], task: TaskKey) -> Future[T]:
        try:
            return self.pool.submit(work, *task)
        except BrokenProcessPool as error:  # killed while it was idle
            broken: Future[T] = Future()
            broken.set_exception(error)
            return broken

    def check_started(self) -> None:
        if self.pid.exception() is not None:
            raise LaconicError(
                "a worker process cannot be started, or was killed at once: see that memory is free"
            )

    def end(self) -> None:
        # Kill it at once: the end of its task may be an hour away.
        with suppress(BrokenProcessPool):
            pid = self.pid.result()
            for process in active_children():
                if process.pid == pid:
                    process.kill()
        self.pool.shutdown()


def _start_lane(lanes: list[_Lane]) -> _Lane:
    # Start a lane and add it to `lanes`, which are ended. A Ctrl-C between the two would leave a
    # pool that ends beside the interpreter, and may report an error of its own.
    with interrupts.held():
        lane = _Lane()
        lanes.append(lane)
    return lane


def _follow_parent() -> None:
    # Without this, a worker whose parent was killed would wait for work forever.
    def follow() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def on_cluster(
    tasks: Sequence[TaskKey], work: Callable[[str, str], T], address: str
) -> Generator[tuple[TaskKey, T | Killed], None, None]:
    """As `on_processes`, with the workers of the Dask scheduler at `address`, which may come and
    go.

    Raises LaconicError if Dask distributed is not installed, no scheduler answers within `ANSWER`
    seconds, there is no worker for `ABSENCE` seconds, or the workers do not have Laconic.
    """
    if not tasks:
        return
    client = _client(address)
    try:
        from distributed import KilledWorker

        calls = client.map(_by_name(work), *zip(*tasks, strict=True), pure=False, key=work.__name__)
        futures = dict(zip(calls, tasks, strict=True))
        finished: SimpleQueue[Any] = SimpleQueue()
        for future in futures:
            future.add_done_callback(finished.put)
        while futures:
            future = _next(finished, client, address)
            if future.cancelled():
                raise _gone(address)
            try:
                result: T | Killed = future.result()
            except KilledWorker as error:
                result = Killed(error.allowed_failures + 1)
            except Exception as error:
                why = " ".join(f"{type(error).__name__}: {error}".split())
                raise LaconicError(
                    f"the cluster at {address!r} cannot do the work ({why}): install Laconic, the "
                    "same as here, where its workers run"
                ) from None
            task = futures.pop(future)
            future.release()
            yield task, result
    finally:
        client.close()  # this cancels the remaining tasks


def _by_name(work: Callable[[str, str], T]) -> Callable[[str, str], T]:
    # Dask sends this function as code, not by name: on a worker without Laconic it fails, and does
    # not kill the worker.
    module, name = work.__module__, work.__name__

    def call(path: str, strategy: str) -> Any:
        from importlib import import_module

        return getattr(import_module(module), name)(path, strategy)

    return call


def _gone(address: str) -> LaconicError:
    return LaconicError(f"the scheduler at {address!r} went away: start it again, and then this")


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise LaconicError(
            "--scheduler needs Dask distributed, which is not installed; use pip install "
            "'laconic-mm[cluster]'"
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its output becomes one message
    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own
            thread.submit(lambda: asyncio.run(_greet(address))).result()
        return Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:120] or f"nothing within {ANSWER:.0f} s"
        raise LaconicError(
            f"no Dask scheduler answers at {address!r} ({why}): start one with  dask scheduler  "
            "and give the address that it prints, as in tcp://127.0.0.1:8786"
        ) from None


async def _greet(address: str) -> None:
    # A client waits forever if the listener is not a scheduler, and when it is closed if nothing
    # listens at the address.
    from distributed.comm import connect
    from distributed.security import Security

    async with asyncio.timeout(ANSWER):
        comm = await connect(address, timeout=ANSWER, **Security().get_connection_args("client"))
        comm.abort()


def _next(finished: SimpleQueue[Any], client: Any, address: str) -> Any:
    # Wait for the next finished future, and distinguish a dead cluster from a busy one.
    seen = time.monotonic()
    while True:
        with suppress(Empty):
            return finished.get(timeout=1)
        if client.status == "closed":
            raise _gone(address)
        if client.scheduler_info()["workers"]:
            seen = time.monotonic()
        elif time.monotonic() - seen > ABSENCE:
            raise LaconicError(
                f"the scheduler at {address!r} has had no worker for {ABSENCE:.0f} s: start one "
                f"with  dask worker {address}  and then this again"
            )
