"""Makes memory calls from all kinds of Python code. Each call is an madvise of as many pages as its
number; the program prints the stack that Python itself shows at the call, as JSON."""

import asyncio
import ctypes
import json
import os
import sys
import threading
import traceback

LIBC = ctypes.CDLL(None)
BASE = 1 << 40
shown = []


def call(number):
    stack = [
        (getattr(frame.f_code, "co_qualname", frame.f_code.co_name), frame.f_code.co_filename, line)
        for frame, line in traceback.walk_stack(sys._getframe())
    ]
    stack[0] = (*stack[0][:2], call.__code__.co_firstlineno + 7)  # the line of madvise
    shown.append((number, stack))
    LIBC.madvise(ctypes.c_void_p(BASE), ctypes.c_size_t(4096 * number), 0)


class Shape:
    call(1)

    def area(self):
        return [call(2) for _ in range(1)]

    @property
    def side(self):
        return call(3)

    def __getattr__(self, name):
        return (
            1,
            call(4),
        )

    def __lt__(self, other):
        call(5)
        return True


def outer():
    kept = 6

    def inner():
        nonlocal kept
        call(kept)

    inner()


def generator(number):
    yield call(number)
    yield from delegated(number + 1)


def delegated(number):
    call(number)
    yield


def recurse(depth, number):
    if depth:
        return recurse(depth - 1, number) or None
    return call(number)


async def coroutine(number):
    await asyncio.sleep(0)
    call(number)


async def gathered():
    await asyncio.gather(coroutine(20), coroutine(21))


def handled():
    try:
        raise ValueError
    except ValueError:
        call(30)
    finally:
        call(31)
    with memoryview(b"x"):
        call(32)


def fresh(number):
    # Code objects that are freed at once, and whose address the next one takes.
    text = "\n" * (number % 3) + f"def made_{number}():\n    call({number})\nmade_{number}()"
    exec(compile(text, f"<cell {number}>", "exec"), {"call": call})


Shape().area()
assert not Shape().side
assert Shape().absent
sorted([Shape(), Shape()])
outer()
list(generator(10))
sorted((12, 13), key=lambda number: call(number) or number)
recurse(5, 14)
recurse(200, 15)
asyncio.run(gathered())
handled()
for number in range(40, 60):
    fresh(number)
threads = [
    threading.Thread(target=recurse, args=(3, 60 + number), name=str(number)) for number in range(3)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if not os.fork():
    shown.clear()
    recurse(2, 70)
    print(json.dumps(shown), flush=True)
    os._exit(0)
os.wait()
print(json.dumps(shown))
