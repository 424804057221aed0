"""Writes the corpus of vectors:  python tools/vectors.py [DIRECTORY]

Each program below is a list of memory calls. They are carried out on the bookkeeping, recorded as a
trace, and exported as `laconic export --to vectors` does. Parts of real programs are exported from
the traces in vectors/recorded. DIRECTORY is vectors/ unless another is named.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from errno import EACCES, EINVAL
from pathlib import Path

import laconic.trace
from laconic.analysis.vectors import DEFAULT, record
from laconic.libos.sizes import FileSizes
from laconic.linux.pagemap import FILE_PAGE, was_untouched
from laconic.memory import flags as f
from laconic.memory.calls import OPERATIONS
from laconic.memory.layout import Layout
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import DefaultUpcalls
from laconic.memory.vma import File, Vma
from laconic.report.vectors import write
from laconic.trace.schema import CODES, FAILED, GREW, PLAIN, READABLE, WRITABLE, Row
from laconic.trace.writer import TraceWriter

CORPUS = Path(__file__).parents[1] / "vectors"
PAGE = f.PAGE_SIZE
R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX = R | W, R | X
PRIVATE = f.MAP_PRIVATE | f.MAP_ANONYMOUS
FIXED = PRIVATE | f.MAP_FIXED
MAY = f.VM_MAY_RWX
#: Where programs map at fixed addresses, and where their break, image and stack are.
BASE, HEAP, IMAGE, STACK = 0x10_0000_0000, 0x5000_0000, 0x4000_0000, 0x7FFD_0000_0000
MMAP_BASE = 0x7F00_0000_0000
PROGRAM = File(8, 1, 10, "/bin/program")
SIGCHLD, THREAD = 17, 0x3D0F00
_MASK = (1 << 64) - 1


class Process:
    """One process of a program: every method is a call, or something else that is recorded."""

    def __init__(self, writer: TraceWriter, space: AddressSpace, pid: int) -> None:
        self.writer = writer
        self.space = space
        self.pid = pid
        self.up = _Answers(self)
        #: Touched pages, as /proc/PID/pagemap shows them: 0, or FILE_PAGE for a page of the file.
        self.touched: RangeMap[int] = RangeMap()
        self.sizes = FileSizes()

    def row(self, event: str, *args: int, tid: int = 0, **fields: object) -> None:
        """Append a row to the trace."""
        numbers = [value & _MASK for value in args] + [0] * (6 - len(args))
        time = 1000 * len(self.writer.rows)
        self.writer.rows.append(
            Row(CODES[event], time, self.pid, tid or self.pid, *numbers, **fields)  # type: ignore[arg-type]
        )

    def call(self, name: str, *args: int, file: OpenFile | None = None, refused: int = 0) -> int:
        """Make a memory call; return its result. `refused` is the errno if only a host can tell."""
        six = (*args, *(0,) * (6 - len(args)))
        self.up.file = file
        before = tuple(self.touched)
        self.sizes.note(file)
        outcome = OPERATIONS[name](self.space, tuple(value & _MASK for value in six), self.up)
        result = -refused if refused else outcome.result
        if (outcome.ask and not refused) or outcome.place or outcome.resync:
            raise ValueError(f"only a host can answer {name}{args}")
        self.space.commit(outcome)
        number = 0
        if file is not None:
            mode = READABLE | PLAIN | (WRITABLE if file.writable else 0)
            number = self.writer.file(file.file, file.size, mode, now=(0, self.pid, self.pid))
        state = FAILED if refused else 0
        self.row(name, *args, result=result, state=state, file=number, touched=before)
        if name != "mprotect":
            for change in outcome.changes:
                self.touched.set(change.start, change.end, None)
        return result

    def map(self, start: int, pages: int, prot: int, flags: int = FIXED) -> int:
        """mmap of anonymous memory."""
        return self.call("mmap", start, pages * PAGE, prot, flags, -1, 0)

    def map_file(
        self,
        start: int,
        pages: int,
        prot: int,
        file: OpenFile,
        page: int = 0,
        kind: int = f.MAP_PRIVATE,
    ) -> int:
        """mmap of a file at `start`."""
        return self.call(
            "mmap", start, pages * PAGE, prot, kind | f.MAP_FIXED, 3, page * PAGE, file=file
        )

    def protect(self, start: int, pages: int, prot: int) -> int:
        """mprotect of pages."""
        return self.call("mprotect", start, pages * PAGE, prot)

    def unmap(self, start: int, pages: int) -> int:
        """munmap of pages."""
        return self.call("munmap", start, pages * PAGE)

    def advise(self, start: int, pages: int, advice: int) -> int:
        """madvise of pages."""
        return self.call("madvise", start, pages * PAGE, advice)

    def touch(self, start: int, pages: int) -> None:
        """The program uses those of these pages that it can: it writes them if it may. The next
        call's row shows it."""
        for vma_start, vma_end, vma in self.space.vmas.runs(start, start + pages * PAGE):
            if vma is None or not vma.flags & f.VM_PROT:
                continue
            vma_end = min(vma_end, self.sizes.valid_end(vma))  # SIGBUS past the end of a file
            is_shared = vma.flags & f.VM_MAYSHARE
            is_own = vma.file is None or (vma.flags & W and not is_shared)
            for run_start, run_end, how in list(
                self.touched.runs(vma_start, max(vma_start, vma_end))
            ):
                if how is None or is_own:
                    self.touched.set(run_start, run_end, 0 if is_own else FILE_PAGE)

    def grow(self, pages: int, top: int = STACK) -> None:
        """The stack that ends at `top` grows on a fault."""
        lowest = top
        while (vma := self.space.vmas.get(lowest - 1)) is not None:
            lowest, grown = self.space.vmas.find(lowest - 1)[0], vma
        self.row("maps", 1, GREW)
        self.row("vma", lowest - pages * PAGE, lowest, grown.flags)
        self.space.vmas.set(lowest - pages * PAGE, lowest, grown)
        self.space.held.set(lowest - pages * PAGE, lowest, grown)

    def fork(self, pid: int) -> Process:
        """A child process."""
        self.row("clone", SIGCHLD, result=pid, touched=tuple(self.touched))
        child = Process(self.writer, self.space.fork(), pid)
        child.touched = self.touched.copy()
        child.sizes = self.sizes.copy()
        return child

    def thread(self, tid: int) -> None:
        """A thread begins."""
        self.row("clone3", THREAD, result=tid)

    def exit(self, tid: int = 0) -> None:
        """A thread ends, or the process."""
        self.row("exit", 0, tid=tid, touched=tuple(self.touched))

    def execute(self) -> Process:
        """execve; the new program is the same."""
        self.row("execve", data=b"/bin/program", touched=tuple(self.touched))
        return begin(self.writer, self.pid)


class _Answers(DefaultUpcalls):
    # What the bookkeeping asks: the file of the call, and which pages are touched.

    def __init__(self, process: Process) -> None:
        super().__init__(process.space)
        self.process = process
        self.file: OpenFile | None = None

    def open_file(self, fd: int) -> OpenFile | None:
        return self.file

    def untouched(self, start: int, end: int) -> bool:
        vma = self.process.space.vmas.get(start)
        return was_untouched(
            self.process.touched.parts(start, end),
            start,
            end,
            vma is not None and vma.file is not None,
        )


def image() -> Iterator[tuple[int, int, Vma]]:
    """What is mapped when a program begins: its four segments, the vDSO and a stack."""
    for page, pages, prot in ((0, 1, R), (1, 2, RX), (3, 1, R), (4, 2, RW)):
        start = IMAGE + page * PAGE
        yield start, start + pages * PAGE, Vma(prot | MAY, PROGRAM, IMAGE)
    vdso = MMAP_BASE + 16 * PAGE
    yield vdso, vdso + 2 * PAGE, Vma(RX | MAY | f.VM_DONTEXPAND)
    yield STACK - 33 * PAGE, STACK, Vma(RW | MAY | f.VM_GROWSDOWN)


def begin(writer: TraceWriter, pid: int = 100) -> Process:
    """A process that begins to run a program."""
    layout = Layout(mmap_base=MMAP_BASE, quiet_below=MMAP_BASE)
    process = Process(writer, AddressSpace(layout, image(), HEAP), pid)
    about = {"path": PROGRAM.path, "argv": ["program"], "bits": 64}
    shown = asdict(layout) | {"refused_advice": []}
    process.row("program", HEAP, PAGE, data=json.dumps(about | {"layout": shown}).encode())
    number = writer.file(PROGRAM, 6 * PAGE, READABLE | PLAIN, now=(0, pid, pid))
    entries = list(image())
    process.row("maps", len(entries), 2)
    for start, end, vma in entries:
        process.row(
            "vma", start, end, vma.flags, vma.base, file=number if vma.file is not None else 0
        )
    return process


def a_file(pages: float, inode: int = 77, writable: bool = False) -> OpenFile:
    """A file of so many pages."""
    size = int(pages * PAGE)
    return OpenFile(File(8, 1, inode, f"/data/{inode}"), True, writable, size=size)


# The programs


def issue_1708(p: Process) -> None:
    """Gramine's issue #1708: memory that is RW is made RW again, page by page."""
    pages = 64
    start = p.map(0, pages, RW, PRIVATE)
    for page in range(pages):
        p.protect(start + page * PAGE, 1, RW)
        p.touch(start + page * PAGE, 1)
    p.unmap(start, pages)


def splits_and_merges(p: Process) -> None:
    """One mapping is split by mprotect and munmap, and filled again."""
    p.map(BASE, 16, RW)
    p.touch(BASE, 16)
    p.protect(BASE + 4 * PAGE, 2, R)
    p.protect(BASE + 6 * PAGE, 2, R)
    p.protect(BASE + 8 * PAGE, 4, 0)
    p.protect(BASE + 2 * PAGE, 8, R)
    p.unmap(BASE + 5 * PAGE, 1)
    p.map(BASE + 5 * PAGE, 1, R)
    p.protect(BASE, 16, RW)
    p.map(BASE + 16 * PAGE, 8, RW)
    p.map(BASE - 8 * PAGE, 8, RX)
    p.protect(BASE - 8 * PAGE, 24, R)
    file = a_file(8)
    p.map_file(BASE + 32 * PAGE, 8, R, file)
    p.protect(BASE + 34 * PAGE, 2, RW)
    p.protect(BASE + 34 * PAGE, 2, R)
    p.unmap(BASE + 36 * PAGE, 1)
    p.map_file(BASE + 36 * PAGE, 1, R, file, 4)
    p.unmap(BASE - 8 * PAGE, 64)


def fixed_over_everything(p: Process) -> None:
    """MAP_FIXED over anonymous memory, files, holes, and all of these at once."""
    p.map(BASE, 8, RW)
    p.touch(BASE, 8)
    p.map(BASE, 8, RW)
    p.map(BASE + 2 * PAGE, 2, R)
    p.map(BASE + 3 * PAGE, 4, 0)
    p.map_file(BASE + 6 * PAGE, 4, R, a_file(4))
    p.map_file(BASE + 8 * PAGE, 4, RW, a_file(4, 78))
    p.touch(BASE + 8 * PAGE, 4)
    p.map_file(BASE + 6 * PAGE, 4, R, a_file(4))
    p.map(BASE + 20 * PAGE, 4, RX)
    p.map(BASE - 4 * PAGE, 32, RW)
    p.map(BASE - 4 * PAGE, 32, RW, FIXED | f.MAP_NORESERVE)
    p.map(BASE, 4, R)
    p.unmap(BASE - 8 * PAGE, 64)


def noreserve_dontneed(p: Process) -> None:
    """Lazy memory, parts of which are touched, protected, discarded and unmapped."""
    p.map(BASE, 32, RW, FIXED | f.MAP_NORESERVE)
    p.touch(BASE + 2 * PAGE, 3)
    p.touch(BASE + 8 * PAGE, 1)
    p.protect(BASE, 16, R)
    p.protect(BASE, 16, RW)
    p.advise(BASE, 32, f.MADV_DONTNEED)
    p.touch(BASE + 2 * PAGE, 1)
    p.map(BASE + 64 * PAGE, 8, RW)
    p.touch(BASE + 64 * PAGE, 8)
    p.protect(BASE + 66 * PAGE, 2, R)
    p.advise(BASE + 64 * PAGE, 8, f.MADV_DONTNEED)
    p.advise(BASE + 64 * PAGE, 8, f.MADV_WILLNEED)
    p.unmap(BASE + 2 * PAGE, 4)
    p.unmap(BASE, 128)


def past_the_end(p: Process) -> None:
    """File mappings that reach past the end of the file."""
    file = a_file(2.5)
    p.map_file(BASE, 6, R, file)
    p.map_file(BASE + 8 * PAGE, 6, RW, file)
    p.map_file(BASE + 16 * PAGE, 4, R, file, 2)
    p.protect(BASE, 6, RW)
    p.protect(BASE + 4 * PAGE, 2, R)
    p.touch(BASE + 8 * PAGE, 3)
    p.unmap(BASE + 10 * PAGE, 2)
    p.unmap(BASE, 32)


def shared_files(p: Process) -> None:
    """MAP_SHARED of files, and of anonymous memory."""
    file = a_file(4, writable=True)
    p.map_file(BASE, 4, RW, file, 0, f.MAP_SHARED)
    p.touch(BASE, 4)
    p.map_file(BASE + 8 * PAGE, 4, R, file, 0, f.MAP_SHARED)
    p.map_file(BASE + 16 * PAGE, 4, R, a_file(4, 78), 0, f.MAP_SHARED)
    p.call("msync", BASE, 4 * PAGE, f.MS_SYNC)
    p.protect(BASE, 2, R)
    p.map(BASE + 24 * PAGE, 4, RW, f.MAP_SHARED | f.MAP_ANONYMOUS | f.MAP_FIXED)
    p.touch(BASE + 24 * PAGE, 2)
    p.unmap(BASE + 8 * PAGE, 4)
    p.unmap(BASE, 4)
    p.unmap(BASE + 16 * PAGE, 16)


def heap(p: Process) -> None:
    """brk grows, shrinks, and stays."""
    p.call("brk", 0)
    p.call("brk", HEAP + 4 * PAGE)
    p.touch(HEAP, 4)
    p.call("brk", HEAP + 4 * PAGE)
    p.call("brk", HEAP + 8 * PAGE + 100)
    p.touch(HEAP + 4 * PAGE, 2)
    p.call("brk", HEAP + 8 * PAGE + 200)
    p.call("brk", HEAP + 3 * PAGE)
    p.call("brk", HEAP + 12 * PAGE)
    p.protect(HEAP + 4 * PAGE, 2, R)
    p.call("brk", HEAP)


def growing_stacks(p: Process) -> None:
    """The stack grows; a mapping with MAP_GROWSDOWN is made and protected."""
    p.touch(STACK - 4 * PAGE, 4)
    p.map(BASE, 1, RW)
    p.grow(2)
    p.touch(STACK - 35 * PAGE, 2)
    p.unmap(BASE, 1)
    p.grow(8)
    p.map(BASE, 8, RW, FIXED | f.MAP_GROWSDOWN | f.MAP_STACK)
    p.protect(BASE, 1, 0)
    p.call("mprotect", BASE + 5 * PAGE, 2 * PAGE, R | f.PROT_GROWSDOWN)
    p.unmap(BASE, 8)


def threads(p: Process) -> None:
    """Two threads begin; one ends, and another takes its place."""
    for number in range(2):
        stack = p.map(0, 16, 0, PRIVATE | f.MAP_STACK)
        p.protect(stack + PAGE, 15, RW)
        p.thread(101 + number)
        p.touch(stack + 14 * PAGE, 2)
    p.map(BASE, 4, RW)
    p.exit(101)
    p.thread(103)
    p.unmap(BASE, 4)
    p.exit(102)
    p.exit(103)


def fork(p: Process) -> None:
    """A child with a copy of the memory, which both change; then it executes the program anew."""
    p.map(BASE, 8, RW)
    p.touch(BASE, 4)
    p.protect(BASE + 2 * PAGE, 1, R)
    p.map_file(BASE + 16 * PAGE, 4, RW, a_file(4))
    p.touch(BASE + 16 * PAGE, 1)
    p.map(BASE + 32 * PAGE, 8, RW, FIXED | f.MAP_NORESERVE)
    p.touch(BASE + 33 * PAGE, 1)
    child = p.fork(200)
    child.protect(BASE, 8, R)
    p.unmap(BASE, 2)
    child.unmap(BASE + 16 * PAGE, 4)
    child = child.execute()
    child.map(BASE, 4, RW)
    child.exit()
    p.unmap(BASE, 64)


def failing_calls(p: Process) -> None:
    """Calls that fail: on holes, with bad arguments, without permission."""
    p.map(BASE, 4, RW)
    p.map(BASE + 6 * PAGE, 2, RW)
    p.protect(BASE, 8, R)
    p.protect(BASE + 4 * PAGE, 1, R)
    p.call("mprotect", BASE + 1, PAGE, R)
    p.call("munmap", BASE + 1, PAGE)
    p.call("munmap", BASE, 0)
    p.map(BASE, 0, RW)
    p.call("mmap", BASE, 4 * PAGE, RW, f.MAP_PRIVATE | f.MAP_FIXED, 9, 0)
    p.call("mmap", BASE, 4 * PAGE, RW, FIXED & ~f.MAP_FIXED | f.MAP_FIXED_NOREPLACE, -1, 0)
    shared = f.MAP_SHARED | f.MAP_FIXED
    p.call("mmap", BASE, 4 * PAGE, RW, shared, 3, 0, file=a_file(4), refused=EACCES)
    p.map_file(BASE + 16 * PAGE, 2, R, a_file(4), 0, f.MAP_SHARED)
    p.protect(BASE + 16 * PAGE, 2, RW)
    p.advise(BASE, 8, f.MADV_DONTNEED)
    p.call("madvise", BASE, 4 * PAGE, 77, refused=EINVAL)
    p.unmap(BASE, 32)


def random_program(seed: int) -> Callable[[Process], None]:
    """Random calls on a window of 48 pages."""

    def run(p: Process) -> None:
        """Random calls on 48 pages."""
        choose = random.Random(seed)
        files = [a_file(4.5), a_file(8, 78), a_file(1, 79)]
        for _ in range(60):
            pages = 1 + choose.randrange(12)
            start = BASE + choose.randrange(48 - pages) * PAGE
            prot = (RW, RW, R, RX, 0)[choose.randrange(5)]
            action = choose.randrange(12)
            if action < 3:
                p.map(
                    start, pages, prot, FIXED | (f.MAP_NORESERVE if choose.randrange(4) == 0 else 0)
                )
            elif action < 4:
                p.map_file(start, pages, prot, files[choose.randrange(3)], choose.randrange(3))
            elif action < 8:
                p.protect(start, pages, prot)
            elif action < 10:
                p.unmap(start, pages)
            elif action < 11:
                p.advise(start, pages, f.MADV_DONTNEED)
            else:
                p.call("brk", HEAP + choose.randrange(16) * PAGE)
            if choose.randrange(2):
                p.touch(BASE + choose.randrange(40) * PAGE, 1 + choose.randrange(8))

    return run


PROGRAMS: dict[str, Callable[[Process], None]] = {
    "issue-1708": issue_1708,
    "splits-and-merges": splits_and_merges,
    "fixed-over-everything": fixed_over_everything,
    "noreserve-dontneed": noreserve_dontneed,
    "past-the-end": past_the_end,
    "shared-files": shared_files,
    "brk": heap,
    "growing-stacks": growing_stacks,
    "threads": threads,
    "fork": fork,
    "failing-calls": failing_calls,
    **{f"random-{seed}": random_program(seed) for seed in range(10)},
}
#: Parts of real programs: the trace, and the time up to which it is exported, in nanoseconds.
RECORDED = CORPUS / "recorded"


def vectors() -> Iterator[tuple[str, str]]:
    """The name and the text of each file of the corpus."""
    with tempfile.TemporaryDirectory() as directory:
        for name, program in PROGRAMS.items():
            path = f"{directory}/{name}.trace"
            writer = TraceWriter(path, "run")
            process = begin(writer)
            program(process)
            process.exit()
            process.row("end", data=b"{}")
            writer.close()
            about = " ".join((program.__doc__ or "").split())
            yield name, _export(path, about)
    for recorded in sorted(RECORDED.glob("*.trace")):
        yield (
            recorded.stem,
            _export(str(recorded), "Recorded from a real program; paths are hashes."),
        )


def _export(path: str, about: str) -> str:
    output = io.BytesIO()
    emit = write(output)
    emit(about)
    record(laconic.trace.open(path), DEFAULT, emit)
    return output.getvalue().decode()


def main(words: Iterable[str]) -> None:
    """Write the corpus."""
    directory = Path(next(iter(words), CORPUS))
    directory.mkdir(exist_ok=True)
    for name, text in vectors():
        path = directory / f"{name}.vectors.gz"
        # Without a time and a name, equal text gives an equal file.
        with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
            file.write(text.encode())
        print(f"{path}: {text.count(chr(10) + 'event '):,} events, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
