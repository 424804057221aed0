"""The contents of a trace file: the columns, the events by code, and the meaning of every field.

A trace is an Arrow IPC stream: its schema, then record batches (zstd), appended while recording.
One row is one event. A trace contains all information that the bookkeeping received: the calls, the
answers of its upcalls, the host's maps. A replay therefore reaches the same state with the same
code. docs/appendix/trace.md describes the format for readers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from laconic.linux.pagemap import Touched
from laconic.memory.change import new

#: The version of the file's meaning. A reader reads its own version and all older ones. A new
#: column raises it (`Row`, `NUMBERS`).
SCHEMA: Final = 1

#: The maximum number of rows in a batch. Larger batches compress no better and are read no faster.
BATCH: Final = 16384
#: The maximum size of a decompressed batch, in bytes. The numbers of 16,384 rows take 1.4 MB; texts
#: and touched runs (17 bytes each) take the rest. A writer starts another batch at half of it.
LARGEST_BATCH: Final = 1 << 26
#: The maximum number of touched runs in a row; a writer omits the others, and reports that.
MOST_RUNS: Final = 1 << 20

#: Memory calls, by their names in `laconic.memory.calls.OPERATIONS`. `other` is a call that the
#: bookkeeping does not follow (int 0x80, x32); `i386_brk` is such a call that moved the break. An
#: event's code is its position: new names are appended.
MEMORY_EVENTS: Final = (
    "mmap",
    "mprotect",
    "munmap",
    "brk",
    "mremap",
    "madvise",
    "msync",
    "shmat",
    "shmdt",
    "mlock",
    "munlock",
    "mlockall",
    "munlockall",
    "prctl",
    "arch_prctl",
    "io_setup",
    "io_destroy",
    "remap_file_pages",
    "mbind",
    "userfaultfd",
    "mlock2",
    "pkey_mprotect",
    "process_madvise",
    "set_mempolicy_home_node",
    "map_shadow_stack",
    "mseal",
    "other",
    "i386_brk",
    "mincore",
    "get_mempolicy",
    "set_mempolicy",
    "migrate_pages",
    "move_pages",
    "pkey_alloc",
    "pkey_free",
    "process_mrelease",
    "memfd_secret",
)
#: The memory calls that do not affect the bookkeeping: logs contain them, `laconic run` does not
#: record them.
BYSTANDERS: Final = frozenset(MEMORY_EVENTS[MEMORY_EVENTS.index("mincore") :])
#: Process calls. For the clone family, a0 contains the clone flags (fork: 0; vfork: CLONE_VM |
#: CLONE_VFORK), and the result is the new thread's id. For execve and execveat, `data` contains the
#: path; if the call succeeded, a `program` row follows.
PROCESS_EVENTS: Final = (
    "clone",
    "clone3",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "personality",
    "seccomp",
)
#: Events that are not calls:
#: `file`     a file, before the first row that refers to it: a0 major, a1 minor, a2 inode, a3 size
#:            in bytes, a4 `FileMode` bits; `file` is its number, `data` its path.
#: `program`  the process starts a new program here: `data` is JSON (path, argv, bits, layout), a0
#:            start_brk, a1 data_size, a2 1 if READ_IMPLIES_EXEC is set. Its maps follow if they are
#:            known.
#: `maps`     the host's map was read: a0 `vma` rows follow, one for each run that differs from the
#:            held map. a1 is 0 if the next call of this thread requested it; otherwise it is the
#:            part that the bookkeeping took over here, GREW or ADOPTED.
#: `vma`      a0 start, a1 end, a2 vm_flags, a3 base (address of the file's byte 0; 0 for anonymous
#:            memory), a4 pkey, a5 1 for a hole; `file`; `data` its name.
#: `answer`   the answer of an upcall for the next call of this thread: a0 `Answer`, a1 and a2 its
#:            arguments, result or `data` the answer.
#: `begin`    the work of a call starts here, and its row follows later, after other calls:
#:            `call_code` is its event code, `state` 1 if its changes are assumed to be done here.
#: `host_call` a host call that Laconic made for the next call of this thread, if it is not that
#:            call itself: `call_code` is its event code, a0 to a5 its arguments.
#: `process`  a process or thread whose start was not recorded: a0 1 if it shares the memory of
#:            process `result`.
#: `exit`     a thread ends: a0 its wait status, a1 1 if it ended in a fork or clone whose row may
#:            still follow.
#: `lost`     data is missing here: `data` describes it, a0 the number of lines or calls (0:
#:            unknown), a1 1 if this process's address space is not followed from here on. pid 0:
#:            any process.
#: `note`     a message for the user: `data`.
#: `stack`    a stack of the next call of this thread, as the log shows it: `data`, one frame per
#:            line.
#: `end`      the last row of a complete recording. a0 the exit status, `data` JSON.
#: `module`   the module to which the addresses of frames are relative: a0 its number, `data` JSON
#:            (`laconic.stacks.table.Module`).
#: `frames`   stack frames, numbered from a0 on: `data` is `FRAME` of each, one after the other.
#: `site`     the stack of this thread's next call: a0 its number; the first time, `data` contains
#:            the numbers of its frames, innermost first, as 32-bit little-endian.
#: `symbols`  the symbols that `laconic pack` found for a module: a0 its number, `data` JSON.
#: `received` memory that a forked child in Gramine received: a0 start, a1 end, a2 the number of
#:            checkpoint entries in which it was sent (one per page for anonymous memory).
#: `measured` SGX hardware counters (Gramine's sgx.enable_stats): a0 EENTERs, a1 EEXITs, a2 AEXs, a3
#:            synchronous, a4 asynchronous signals; a5 1 for a whole process, 0 for a thread;
#:            `result` its id on the host. pid 0: the process in the trace is unknown.
#: `written`  the process wrote to a file that may be mapped, or truncated it: a0 its size in bytes,
#:            a1 0 if it was truncated to that size, 1 if it was written to and has at least that
#:            size; `file`.
#: `leave`    the recording of this process ends here, and the process continues; one row for all
#:            processes that share memory.
OTHER_EVENTS: Final = (
    "file",
    "program",
    "maps",
    "vma",
    "answer",
    "begin",
    "host_call",
    "process",
    "exit",
    "lost",
    "note",
    "stack",
    "end",
    "module",
    "frames",
    "site",
    "symbols",
    "received",
    "measured",
    "leave",
    "written",
)
#: An entry of `unknown`, a list of what the trace's source does not record: in `about`, and in the
#: JSON of the `end` row.
FILE_SIZES: Final = "sizes of files"
EVENTS: Final = (
    *MEMORY_EVENTS,
    *(f"?{i}" for i in range(len(MEMORY_EVENTS), 64)),
    *PROCESS_EVENTS,
    *OTHER_EVENTS,
)
CODES: Final[dict[str, int]] = {
    name: code for code, name in enumerate(EVENTS) if not name.startswith("?")
}
#: Every code below this is a memory call.
MEMORY_CODES: Final = 64

#: `state` bits. UNFINISHED: the call never returned (the thread ended in it). FAILED: the host
#: refused, or stopped halfway. CHOSEN: the host chose the address. UNFOLLOWED: the call was passed
#: to the host, and the bookkeeping was re-read. NO_RESULT: the log does not show the result.
UNFINISHED, FAILED, CHOSEN, UNFOLLOWED, NO_RESULT = 1, 2, 4, 8, 16

#: `FileMode` bits of a `file` row: the access mode of the descriptor, and the kind of file
#: (`laconic.memory.mmap.OpenFile`). UNKNOWN_IDENTITY: device and inode are unknown, and the path
#: represents them. From bit HUGE_SHIFT on, for a file of hugetlbfs: the binary logarithm of its
#: page size.
READABLE, WRITABLE, PLAIN, NOEXEC, PLACES, UNKNOWN_IDENTITY = 1, 2, 4, 8, 16, 32
HUGE_SHIFT = 8

#: One frame of a `frames` row: the module's number times 4, plus 2 if the address is exact, plus 1
#: if it was guessed (`laconic.stacks.table.Frame`); the address.
FRAME: Final = struct.Struct("<IQ")

#: The part of a `maps` row that was taken over if no call requested it: the growth of stacks, or
#: everything.
GREW, ADOPTED = 1, 2

#: `Answer` codes of an `answer` row.
RESIDENT, DATA_LIMIT, READ, VMA_START, LOCK_LIMIT, BREAK = 1, 2, 3, 4, 5, 6


#: The arguments of a call, as unsigned 64-bit numbers.
Args = tuple[int, int, int, int, int, int]


class Row(NamedTuple):
    """One event of a trace. The fields are the columns of the file, in their order and under their
    names, except that `host_calls` is the column `said`.

    `time` is in nanoseconds since the trace began (for a log: since its first line; 0 if it has no
    times). `a0` to `a5` are the call's arguments as unsigned 64-bit numbers, `result` the program's
    result or a negative errno. `host_calls` is the number of host calls made, and `kinds` is the
    set of `ChangeKind` bits of the changes (both are 0 in an imported trace). `file` is the number
    of the `file` row for the call's descriptor; `shown` is that of the file that the host shows for
    the new mapping, if it is another; 0 for none. `touched` are the touched pages that the call is
    about to change (`laconic.linux.pagemap`).

    A field that a later schema adds comes at the end, with its default value for older traces; its
    type is in `NUMBERS`.
    """

    event: int
    time: int
    pid: int
    tid: int
    a0: int = 0
    a1: int = 0
    a2: int = 0
    a3: int = 0
    a4: int = 0
    a5: int = 0
    result: int = 0
    state: int = 0
    host_calls: int = 0
    kinds: int = 0
    file: int = 0
    shown: int = 0
    data: bytes = b""
    touched: tuple[Touched, ...] = ()

    @property
    def args(self) -> Args:
        """The six arguments, `a0` to `a5`."""
        return self[4:10]

    @property
    def call_code(self) -> int:
        """The event code of the call that a `begin` or `host_call` row belongs to. It is in the
        column of the host calls, which these rows do not need."""
        return self.host_calls


_ZEROS: Final = (0,) * 6
#: The defaults of the fields that later schemas added.
_ADDED: Final = tuple(
    Row._field_defaults[name] for name in Row._fields[Row._fields.index("touched") + 1 :]
)


def make_row(  # noqa: PLR0913 (the columns)
    event: int,
    where: tuple[int, int, int],
    args: Sequence[int],
    result: int = 0,
    state: int = 0,
    *,
    host_calls: int = 0,
    kinds: int = 0,
    file: int = 0,
    shown: int = 0,
    data: bytes = b"",
    touched: tuple[Touched, ...] = (),
    call_code: int = 0,
) -> Row:
    """Make a row. `where` is its time, pid and tid; `args` are the values of `a0`, `a1`, …
    `call_code` is for a `begin` or `host_call` row, which has no `host_calls`."""
    rest = _ZEROS[len(args) :]
    calls = call_code or host_calls
    known = (event, *where, *args, *rest, result, state, calls, kinds, file, shown, data, touched)
    return new(Row, known + _ADDED)


def call_row(  # noqa: PLR0913 (the columns)
    event: int,
    time: int,
    pid: int,
    tid: int,
    a0: int = 0,
    a1: int = 0,
    a2: int = 0,
    a3: int = 0,
    a4: int = 0,
    a5: int = 0,
    *,
    result: int = 0,
    state: int = 0,
    file: int = 0,
) -> Row:
    """Make the row of a call that a log shows in full.

    It takes half the time of `make_row`. An importer makes a row for most lines of a log: with
    `make_row`, the import of an strace log executes 9 % more instructions.
    """
    call = (event, time, pid, tid, a0, a1, a2, a3, a4, a5, result, state, 0, 0, file, 0, b"", ())
    return new(Row, call + _ADDED)


class Number(NamedTuple):
    """A column of plain numbers: its field of `Row`, the typecode of its `array`, its Arrow type,
    and the first schema that has it. The field is named like the column, unless `column_name` is
    given."""

    name: str
    code: str
    arrow: str
    since: int = 1
    column_name: str = ""

    @property
    def column(self) -> str:
        """The name of the column in the file."""
        return self.column_name or self.name


#: The columns of numbers. The others, `data` and `touched`, are in every schema.
NUMBERS: Final = (
    Number("event", "B", "uint8"),
    Number("time", "q", "int64"),
    Number("pid", "i", "int32"),
    Number("tid", "i", "int32"),
    Number("a0", "Q", "uint64"),
    Number("a1", "Q", "uint64"),
    Number("a2", "Q", "uint64"),
    Number("a3", "Q", "uint64"),
    Number("a4", "Q", "uint64"),
    Number("a5", "Q", "uint64"),
    Number("result", "q", "int64"),
    Number("state", "B", "uint8"),
    Number("host_calls", "I", "uint32", column_name="said"),
    Number("kinds", "H", "uint16"),
    Number("file", "I", "uint32"),
    Number("shown", "I", "uint32"),
)
