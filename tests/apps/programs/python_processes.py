"""multiprocessing with fork and with spawn: pools, queues, shared memory and a process that dies of
a signal."""

import multiprocessing
import os
import signal
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.queues import Queue
from multiprocessing.shared_memory import SharedMemory


def square_sum(count: int) -> int:
    """Return the sum of squares below count, from a list large enough to be mapped."""
    return sum([n * n for n in range(count)])


def fill(name: str, start: int, count: int) -> None:
    """Write count bytes of a shared block."""
    block = SharedMemory(name=name)
    view = memoryview(block.buf or b"")
    view[start : start + count] = bytes((start + n) % 251 for n in range(count))
    view.release()
    block.close()


def answer(queue: "Queue[tuple[str, int]]", word: str) -> None:
    """Put one answer on the queue."""
    queue.put((word, square_sum(len(word) * 1000)))


def die() -> None:
    """End by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def exercise(context: ForkContext | SpawnContext) -> None:
    """Print what every part gave under one start method."""
    with context.Pool(3) as pool:
        print(" pool", sum(pool.map(square_sum, range(2000, 2400, 20))))

    queue: Queue[tuple[str, int]] = context.Queue()
    answering = [
        context.Process(target=answer, args=(queue, word)) for word in ("a", "bcd", "efghi")
    ]
    for process in answering:
        process.start()
    print(" queue", sorted(queue.get() for _ in answering))
    for process in answering:
        process.join()

    block = SharedMemory(create=True, size=65536)
    filling = [context.Process(target=fill, args=(block.name, n * 16384, 16384)) for n in range(4)]
    for process in filling:
        process.start()
    for process in filling:
        process.join()
    print(" shared", sum(block.buf or b""), [process.exitcode for process in filling])
    block.close()
    block.unlink()

    dying = context.Process(target=die)
    dying.start()
    dying.join()
    print(" killed", dying.exitcode)


if __name__ == "__main__":
    for context in (multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")):
        print(type(context).__name__)
        exercise(context)
