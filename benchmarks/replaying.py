"""A replay of whole traces, reading included, beside a sortedcontainers map that is told the same
rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from gc import collect
from pathlib import Path
from random import Random
from time import process_time_ns

from benchmarks.builds import COMPILED, PURE, measured
from benchmarks.machine import table
from benchmarks.operations import MIXES, MMAP_BASE, RW, Recorder, space_of
from benchmarks.rivals import Sorted
from laconic.memory.flags import PAGE_SIZE, VM_MAY_RWX, VM_PROT
from laconic.memory.mmap import page_align
from laconic.memory.vma import Vma
from laconic.replay.engine import Replay
from laconic.trace.reader import TraceReader
from laconic.trace.schema import ADOPTED, CODES, MEMORY_CODES, PLAIN, READABLE, Row
from laconic.trace.writer import TraceWriter

#: VMAs to begin with, and rounds, of which the least time counts.
COUNT, ROUNDS = 50, 9
PROTECTED = 256


def one_block(call: Recorder, random: Random) -> None:
    """One block of 64 KiB, mapped and unmapped again and again."""
    for _ in range(3_000):
        call("munmap", call.map(16 * PAGE_SIZE), 16 * PAGE_SIZE)


def protection(call: Recorder, random: Random) -> None:
    """Single pages of 1 MiB are made inaccessible or RW at random, which half of them are
    already."""
    start = call.map(PROTECTED * PAGE_SIZE)
    for _ in range(6_000):
        call(
            "mprotect",
            start + random.randrange(PROTECTED) * PAGE_SIZE,
            PAGE_SIZE,
            random.choice((0, RW)),
        )


TRACES: dict[str, Callable[[Recorder, Random], None]] = {
    "protection of single pages": protection, "one block, mapped and unmapped": one_block, **MIXES
}  # fmt: skip
#: How much of the peer's time a mix may take. The peer has one map, chooses no address, checks and
#: counts nothing.
MOST = {
    "protection of single pages": 1.0, "one block, mapped and unmapped": 1.6, "allocator": 2.0,
    "arenas": 1.2,
    "program starts": 2.1, "the break": 2.1,
}  # fmt: skip


#: The same for the compiled build.
MOST_COMPILED = 0.8


class Kept(Recorder):
    """A recorder that keeps the results too."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.results: list[int] = []

    def __call__(self, name: str, *args: int) -> int:
        self.results.append(super().__call__(name, *args))
        return self.results[-1]


def write(path: str, mix: Callable[[Recorder, Random], None]) -> int:
    """Writes the trace of a mix as `laconic run` does; returns how many calls there are."""
    recorder = Kept(COUNT)
    space = space_of(COUNT)
    space.layout.quiet_below = MMAP_BASE  # as the first mapping shows it
    layout = json.dumps(
        {"bits": 64, "layout": asdict(space.layout) | {"refused_advice": []}}
    ).encode()
    writer = TraceWriter(path, "run", force=True)
    writer.describe(strategy="laconic", command=["benchmark"])
    writer.rows += [
        Row(
            CODES["file"],
            0,
            1,
            1,
            a0=8,
            a1=1,
            a2=fd,
            a4=READABLE | PLAIN,
            file=fd + 1,
            data=b"/lib",
        )
        for fd in range(32)
    ]
    writer.rows.append(Row(CODES["program"], 0, 1, 1, a0=space.start_brk, data=layout))
    writer.rows.append(Row(CODES["maps"], 0, 1, 1, a0=space.vmas.count, a1=ADOPTED))
    writer.rows += [
        Row(CODES["vma"], 0, 1, 1, a0=start, a1=end, a2=vma.flags) for start, end, vma in space.vmas
    ]
    mix(recorder, Random(1))
    for number, ((name, args, changes), result) in enumerate(
        zip(recorder.steps, recorder.results, strict=True)
    ):
        file = args[4] + 1 if name == "mmap" and args[4] < 32 else 0
        touched = ((args[0], args[0] + PAGE_SIZE, 1),) if name == "munmap" else ()
        kinds = 0
        for change in changes:
            kinds |= change.kind
        host_calls = int(bool(changes))
        a0, a1, a2, a3, a4, a5 = args
        row = Row(
            CODES[name],
            number * 20_000,
            1,
            1,
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            result=result,
            host_calls=host_calls,
            kinds=kinds,
            file=file,
            touched=touched,
        )
        writer.rows.append(row)
    writer.rows.append(Row(CODES["end"], 0, 0, 0, data=b"{}"))
    writer.close()
    return len(recorder.steps)


def _replay(trace: TraceReader) -> None:
    Replay(trace).run()


def _tell(trace: TraceReader) -> None:
    # The least that anybody could do with the rows: a map is told what the calls say, and what they
    # came to.
    peer = Sorted(space_of(COUNT).vmas)
    top = space_of(COUNT).start_brk
    for row in trace.rows():
        code, result = row.event, row.result
        if code >= MEMORY_CODES:
            continue
        name, start, length = trace.names[code], row.a0, page_align(row.a1)
        if name == "mmap":
            peer.set(result, result + length, Vma(VM_MAY_RWX | row.a2))
        elif name == "munmap":
            peer.clear(start, start + length)
        elif name == "mprotect":
            peer.protect(start, start + length, _protection(row.a2))
        elif name == "brk":
            if result > top:
                peer.set(top, result, Vma(VM_MAY_RWX | RW))
            elif result < top:
                peer.clear(result, top)
            top = result


def _protection(prot: int) -> Callable[[Vma], Vma]:
    return lambda vma: vma.with_flags(vma.flags & ~VM_PROT | prot)


def _read(trace: TraceReader) -> None:
    for _ in trace.rows():
        pass


def measure(mix: str) -> tuple[int, list[int]]:
    """How many calls a mix has, and the ns that a replay, the peer, and reading alone take for all
    of them."""
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "mix.trace")
        calls = write(path, TRACES[mix])
        trace = TraceReader(path)
        best = [1 << 62] * 3
        for _ in range(ROUNDS):
            for index, what in enumerate((_replay, _tell, _read)):
                collect()
                began = process_time_ns()
                what(trace)
                best[index] = min(best[index], process_time_ns() - began)
    return calls, best


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    rows, targets = [], []
    for mix in TRACES:
        builds = measured(measure, mix)
        calls, (ours, peers, read) = builds[PURE]
        _, (fast, others, _) = builds[COMPILED]
        microseconds = [f"{time / calls / 1000:.2f}" for time in (ours, read, peers)]
        ratios = [f"{ours / peers:.2f}", f"{fast / others:.2f}"]
        rows.append([mix, f"{calls * 10**9 / ours:,.0f}", *microseconds, *ratios])
        targets.append((f"replay ÷ sortedcontainers, {mix}", ours / peers, MOST[mix]))
        targets.append((f"compiled replay ÷ sortedcontainers, {mix}", fast / others, MOST_COMPILED))
    head = ["trace", "calls per second", "µs per call", "reading alone", "baseline"]
    return {"replaying": table([*head, "÷ baseline", "compiled ÷ baseline"], rows)}, targets
