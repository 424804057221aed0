"""Lists of random memory calls: the input of tests/faithful/program.c, one operation per line.

    [@WORKER] [=REGISTER] NAME ARGUMENT...

NAME is a system call, with up to six arguments, or one of the operations below. An argument is a
number, or `rN+M` (the result stored in register N, plus M), `b+M` (the first break), `p+M` (an
address in a scratch page), or `*M` (the word at that place of the scratch page). `@N` runs the
operation on worker thread N while all other threads wait.

| operation | what it does |
|---|---|
| `load A N`, `store A N V` | reads or writes one word of each page, up to the first fault |
| `code A` | writes an instruction and calls it |
| `sum A N` | reads the contents of each page by a system call, without a signal |
| `maps` | the process's sizes, smaps and signal counts |
| `limit R N` | sets the soft limit R to N bytes more than are used now; -1: as much as is permitted |
| `timer US`, `spin` | starts or stops a timer whose handler makes memory calls; waits for two of its signals |
| `group S` | sends signal S to the process group |
| `exit_order` | compares pidfd and waitpid |
| `fork`, `vfork`, `spawn`, `thread` … `join` | the lines between run in a new process (`spawn`: CLONE_VM) or thread |
| `par` … `endpar` | the workers run their lines concurrently |
| `exec` | the process executes itself and continues with the next line |
| `process_madvise ADVICE FLAGS A N [A N]` | on the process itself |

Any line may be removed from a list, and what remains is a list: this is what makes failures easy to
shrink.
"""  # noqa: E501

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

PAGE = 4096
HUGE = 2 << 20

#: The arenas, as (address, pages). No call leaves them unless it must fail.
LOW = (0x10000000, 48)
MIDDLE = (0x200000000, 48)
HIGH = (0x7E0000000000, 24)
GROWING = (0x300000000, 1024)
SEALED = (0x500000000, 16)
BIG = (0x4000000000, 4096)
#: Mappings of terabytes: nothing else is mapped in the 64 TiB from here.
VAST = 0x100000000000
TERABYTES = 32 << 40
WORKERS = tuple((0x2100000000 + number * 0x100000000, 16) for number in range(4))

# fmt: off: tables
FILE, READ_ONLY, WRITE_ONLY, PATH_ONLY, MEMORY = range(200, 205)
SEALED_WRITE, SEALED_FUTURE, SEALED_SIZE = range(205, 208)
SECRET, ZERO, HUGE_FILE, DIRECTORY, PIPE, NULL = range(208, 214)
TMPFS, PIDFD, SECOND, ZERO_READ_ONLY, PROC = range(214, 219)
CLOSED = 299
#: Descriptors whose files no mapping and no call can change: threads at the same time must not see
#: each other.
UNCHANGING = (READ_ONLY, READ_ONLY, PATH_ONLY, SEALED_WRITE, ZERO, DIRECTORY, PIPE, CLOSED)
FILES = (
    *(FILE, FILE, FILE, READ_ONLY, WRITE_ONLY, PATH_ONLY, MEMORY, MEMORY, MEMORY),
    *(SEALED_WRITE, SEALED_FUTURE),
    *(SEALED_SIZE, SECRET, SECRET, ZERO, ZERO, HUGE_FILE, DIRECTORY, PIPE, NULL),
    *(TMPFS, TMPFS, PIDFD, SECOND),
    *(ZERO_READ_ONLY, PROC, CLOSED),
)

READ, WRITE, EXEC, GROWSDOWN_PROT, GROWSUP_PROT = 1, 2, 4, 0x01000000, 0x02000000
SHARED, PRIVATE, SHARED_VALIDATE, DROPPABLE = 1, 2, 3, 8
FIXED, ANON, MAP_32BIT, GROWSDOWN = 0x10, 0x20, 0x40, 0x100
DENYWRITE, EXECUTABLE, LOCKED = 0x800, 0x1000, 0x2000
NORESERVE, POPULATE, NONBLOCK, STACK, HUGETLB, SYNC, NOREPLACE = (
    *(0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000),
)
EXTRA = (
    *(NORESERVE, NORESERVE, STACK, LOCKED, LOCKED, POPULATE, POPULATE | NONBLOCK),
    *(GROWSDOWN, SYNC, MAP_32BIT),
    *(DENYWRITE, EXECUTABLE, HUGETLB, HUGETLB | NORESERVE, HUGETLB | 21 << 26),
    *(HUGETLB | 30 << 26, HUGETLB | 13 << 26),
    *(0x4000000, 1 << 31, 1 << 35),
)
PROTECTIONS = (
    *(0, READ, READ, READ | WRITE, READ | WRITE, READ | WRITE, READ | WRITE),
    *(READ | EXEC, 7, WRITE, EXEC),
)

NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED = range(5)
FREE, REMOVE, DONTFORK, DOFORK = range(8, 12)
MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE = range(12, 16)
DONTDUMP, DODUMP, WIPEONFORK, KEEPONFORK = range(16, 20)
COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED, COLLAPSE = range(20, 26)
GUARD_INSTALL, GUARD_REMOVE = 102, 103
#: No FREE (the kernel decides when) and no PAGEOUT (as does reclaim), except where a call cannot
#: succeed.
ADVICE = (
    *(NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, DONTNEED, DONTNEED, REMOVE),
    *(DONTFORK, DOFORK, MERGEABLE),
    *(UNMERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, WIPEONFORK, KEEPONFORK),
    *(COLD, POPULATE_READ),
    *(POPULATE_WRITE, DONTNEED_LOCKED, COLLAPSE, GUARD_INSTALL, GUARD_REMOVE, 5, 99),
    *(FREE, PAGEOUT, 100, 101),
)
RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_AS = 2, 8, 9
NO_LIMIT = (1 << 64) - 1
READ_IMPLIES_EXEC, NO_RANDOMIZE = 0x0400000, 0x0040000
NOBODY = 65534
PR_DUMPABLE, PR_THP_DISABLE, PR_MDWE, PR_MEMORY_MERGE, PR_VMA = 4, 41, 65, 67, 0x53564D41
SIGNALS = {"USR1": 10, "ALRM": 14, "TERM": 15, "WINCH": 28, "POLL": 29, "RTMIN": 34}

#: The memory calls among the operations.
NAMES = (
    *("mmap", "munmap", "mprotect", "pkey_mprotect", "mremap", "madvise"),
    *("process_madvise", "mlock", "mlock2"),
    *("munlock", "mlockall", "munlockall", "msync", "mincore", "brk"),
    *("remap_file_pages", "mseal", "pkey_alloc"),
    *("pkey_free", "shmget", "shmat", "shmdt", "shmctl", "prctl", "mbind"),
    *("io_setup", "io_destroy"),
    *("map_shadow_stack", "personality"),
)
#: All other operations.
OTHER = (
    *("load", "store", "code", "sum", "maps", "limit", "timer", "spin", "group"),
    *("exit_order", "pkru", "fork"),
    *("vfork", "spawn", "thread", "par", "exec", "ftruncate", "fallocate", "pread64"),
    *("pwrite64", "setresuid"),
)
# fmt: on

Range = tuple[int, int]


def show(*words: object) -> str:
    """One line: addresses and large numbers in hexadecimal."""
    return " ".join(
        hex(word) if isinstance(word, int) and word > 9 else str(word) for word in words
    )


class Writer:
    """Writes one list; the seed decides everything."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        #: The bytes behind the addresses in the registers.
        self.known: dict[int, int] = {}
        self.depth = 0
        self.is_limited = False
        self.is_timed = False
        #: Set while lines for one worker are written: the arena that is the worker's own.
        self.own: Range | None = None
        self.worker = ""

    # -- Places

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 cases."""
        return self.random.randrange(100) < percent

    def say(self, *words: object) -> None:
        """Appends one line."""
        self.lines.append(self.worker + show(*words))

    def arena(self) -> Range:
        """One of the arenas in which nearly all calls are made."""
        if self.own is not None:
            return self.own
        return self.random.choice((LOW, LOW, LOW, MIDDLE, MIDDLE, HIGH))

    def pages(self) -> int:
        """A small number of pages; most often very small."""
        return self.random.choice((1, 1, 1, 2, 2, 3, 4, 6, 9, 16))

    def place(self) -> Range:
        """A range in an arena, in bytes and aligned."""
        start, size = self.arena()
        pages = min(self.pages(), size)
        first = self.random.randrange(size - pages + 1)
        return start + first * PAGE, pages * PAGE

    def spot(self, spoil: int = 6) -> tuple[str, str]:
        """An address and a length as words; in some cases in a register, unaligned, or out of
        bounds."""
        if self.known and self.own is None and self.chance(15):
            register = self.random.choice(sorted(self.known))
            size = self.known[register] // PAGE
            first = self.random.randrange(size)
            return f"r{register}+{first * PAGE:#x}", show(
                self.random.randint(1, size - first) * PAGE
            )
        address, length = self.place()
        if self.chance(spoil):
            address += self.random.choice((1, 8, 0x800, 0xFFF))
            # One page less, so that an unaligned range stays in its arena.
            length = max(length - PAGE, 1)
        elif self.chance(spoil):
            length = self.random.choice((0, 1, length - 1, NO_LIMIT, NO_LIMIT - PAGE, 1 << 63))
        return show(address), show(length)

    # -- Calls

    def mmap(self) -> None:
        """Any mapping: all flags, all kinds of files."""
        flags = self.random.choice(
            (PRIVATE,) * 6 + (SHARED,) * 5 + (SHARED_VALIDATE, SHARED_VALIDATE, DROPPABLE, 0, 4)
        )
        descriptor, offset = NO_LIMIT, 0
        if self.chance(55):
            flags |= ANON
            if self.chance(10):
                offset = self.random.choice((1, PAGE, 3 * PAGE, 1 << 63))
        else:
            descriptor = self.random.choice(FILES if self.own is None else UNCHANGING)
            offset = self.random.choice((0, 0, 0, 1, 2, 3, 5, 6, 8)) * PAGE
            if self.chance(4):
                offset = self.random.choice(
                    (1, 0x800, NO_LIMIT - PAGE + 1, 1 << 63, (1 << 63) - PAGE)
                )
        while self.chance(25):
            flags |= self.random.choice(EXTRA)
        prot = self.random.choice(PROTECTIONS)
        if self.chance(4):
            prot |= self.random.choice((8, 0x10, GROWSDOWN_PROT, GROWSUP_PROT, 1 << 31, 1 << 33))
        address, length = self.place()
        if flags & HUGETLB and self.own is None and self.chance(60):
            address, length = (
                BIG[0] + HUGE * self.random.randrange(4),
                HUGE * self.random.randint(1, 2),
            )
        target = ""
        kind = self.random.randrange(100) if self.own is None else 0
        if kind < 60:
            flags |= FIXED
        elif kind < 70:
            flags |= NOREPLACE | self.random.choice((0, FIXED))
        elif kind < 80:
            # The hint decides nothing if it is taken: the result then stays unused.
            address += self.random.choice((0, 0, 1, 0x800))
        else:
            address = 0
            register = self.random.randrange(8)
            target = f"={register}"
            self.known[register] = length
        if flags & (FIXED | NOREPLACE):
            if self.chance(4):
                address += self.random.choice((1, 0x800))
                length = max(length - PAGE, 1)
            if self.chance(3):
                address = self.random.choice(
                    (0xFFFFFFFFFFFFF000, 1 << 47, (1 << 47) - PAGE, 1 << 63)
                )
            elif self.chance(2):
                length = self.random.choice((0, NO_LIMIT, 1 << 63, 1 << 48))
        words = ("mmap", address, length, prot, flags, descriptor, offset)
        self.say(*([target] if target else []), *words)

    def munmap(self) -> None:
        """Any munmap."""
        self.say("munmap", *self.spot())

    def mprotect(self) -> None:
        """mprotect and pkey_mprotect."""
        prot = self.random.choice(PROTECTIONS)
        if self.chance(8):
            prot |= self.random.choice(
                (8, 0x10, GROWSDOWN_PROT, GROWSDOWN_PROT, GROWSUP_PROT, 3 << 24)
            )
        if self.chance(15) and self.own is None:
            self.say(
                "pkey_mprotect",
                *self.spot(),
                prot,
                self.random.choice((0, 1, 1, 2, 3, 15, 16, NO_LIMIT)),
            )
        else:
            self.say("mprotect", *self.spot(), prot)

    def mremap(self) -> None:
        """mremap in every form. What it moves away from a register is never longer than before."""
        address, length = self.spot(3)
        if (length.startswith("0x8") and len(length) > 12) or len(length) > 17:
            length = "0x1000"
        bytes_now = int(length, 0)
        sizes = (
            bytes_now,
            bytes_now,
            self.pages() * PAGE,
            bytes_now + PAGE,
            max(bytes_now - PAGE, 1),
        )
        size = self.random.choice(sizes)
        if self.chance(3):
            size = self.random.choice((0, TERABYTES, NO_LIMIT, 1 << 48))
        flags = self.random.choice((0, 1, 1, 3, 3, 3, 5, 5, 7, 2, 4, 8))
        if self.chance(4):
            length = "0"
        if not flags & 2:
            # What the kernel places stays unused, and so does what grew behind a register's end.
            if flags & 1 and self.own is not None:
                flags ^= 1
            self.say("mremap", address, length, size, flags)
            return
        target, room = self.place()
        self.say(
            "mremap", address, length, min(size, room) if self.chance(85) else size, flags, target
        )

    def madvise(self) -> None:
        """madvise with every advice, and process_madvise."""
        advice = self.random.choice(ADVICE)
        if advice in (FREE, PAGEOUT, 100, 101):
            # Only where it is refused: otherwise the kernel decides when the pages go.
            self.say("madvise", VAST, PAGE, advice)
            return
        address, length = self.spot()
        if length.startswith("0x") and len(length) > 12 and not length.startswith("0xfff"):
            length = "0x1000"
        if self.chance(12) and self.own is None:
            more = self.spot(0) if self.chance(50) else ()
            advice = self.random.choice((advice, COLD, WILLNEED, DONTNEED, COLLAPSE, GUARD_INSTALL))
            self.say(
                "process_madvise", advice, self.random.choice((0, 0, 0, 1)), address, length, *more
            )
        else:
            self.say("madvise", address, length, advice)

    def lock(self) -> None:
        """The mlock family."""
        if self.own is not None:
            return
        name = self.random.choice(("mlock", "mlock", "mlock2", "munlock", "munlock"))
        flags = [self.random.choice((0, 1, 1, 2))] if name == "mlock2" else []
        self.say(name, *self.spot(), *flags)

    def lock_all(self) -> None:
        """mlockall and munlockall; what is to come is unlocked again soon."""
        self.say("mlockall", self.random.choice((1, 2, 3, 5, 7, 6, 4, 0, 8)))
        for _ in range(self.random.randrange(6)):
            self.call()
        self.say("munlockall")

    def msync(self) -> None:
        """msync with every flag."""
        self.say("msync", *self.spot(), self.random.choice((0, 1, 2, 4, 4, 6, 5, 8)))

    def mincore(self) -> None:
        """mincore over a range of an arena."""
        self.say("mincore", *self.spot())

    def brk(self) -> None:
        """The break, up to a megabyte above its first place."""
        more = self.random.choice(
            (0, 1, PAGE, 0x1800, 2 * PAGE, 9 * PAGE, 64 * PAGE, 256 * PAGE, 1 << 40)
        )
        self.say("brk", f"b+{more:#x}")
        if self.chance(50):
            pages = self.random.randint(1, 4)
            address = f"b+{self.random.randrange(16) * PAGE:#x}"
            self.use(address, show(pages * PAGE))

    def remap_file_pages(self) -> None:
        """remap_file_pages, which the kernel emulates by an mmap."""
        address, length = self.spot()
        if len(length) > 10:
            length = "0x1000"
        self.say(
            "remap_file_pages",
            address,
            length,
            self.random.choice((0, 0, 0, 1)),
            self.random.randrange(6),
            0,
        )

    def seal(self) -> None:
        """mseal, and calls on what is sealed; in an arena of its own, because nothing undoes it."""
        first, size = SEALED
        address = first + self.random.randrange(size) * PAGE
        length = self.random.randint(1, 3) * PAGE
        self.say(
            "mmap",
            address,
            length,
            self.random.choice((1, 3, 0)),
            PRIVATE | ANON | FIXED,
            NO_LIMIT,
            0,
        )
        if self.chance(60):
            self.say("store", address, length, self.random.randrange(1 << 16))
        if self.chance(50):
            self.say("mseal", address, length, self.random.choice((0, 0, 0, 0, 1)))
        for _ in range(3):
            address = first + self.random.randrange(size) * PAGE
            length = self.random.randint(1, 6) * PAGE
            name = self.random.choice(("munmap", "mprotect", "mremap", "madvise", "mmap", "mseal"))
            rest = {
                "munmap": (),
                "mprotect": (self.random.choice((0, 1, 3)),),
                "mremap": (length + PAGE, self.random.choice((0, 1, 3)), self.place()[0]),
                "madvise": (self.random.choice((DONTNEED, DONTFORK, NORMAL, POPULATE_WRITE)),),
                "mmap": (3, PRIVATE | ANON | FIXED, NO_LIMIT, 0),
                "mseal": (self.random.choice((0, 1)),),
            }[name]
            if name == "mseal" and self.chance(70):
                continue
            self.say(name, address, length, *rest)
        self.say("sum", first, size * PAGE)

    def keys(self) -> None:
        """Protection keys: allocated, freed, denied."""
        choice = self.random.randrange(4)
        if choice == 0:
            self.say(
                "pkey_alloc", self.random.choice((0, 0, 1)), self.random.choice((0, 0, 1, 2, 4))
            )
        elif choice == 1:
            self.say("pkey_free", self.random.choice((1, 2, 3, 14, 16, NO_LIMIT)))
        elif choice == 2:
            self.say("pkru", self.random.choice((0, 4, 8, 0x10, 0x20, 0x55555554)))
        else:
            key = self.random.choice((1, 1, 2, 3))
            self.say("pkey_mprotect", *self.spot(), self.random.choice(PROTECTIONS), key)

    def attach(self) -> None:
        """System V shared memory. The first segment of the namespace has the number 0."""
        register = self.random.randrange(8, 12)
        choice = self.random.randrange(5)
        if choice == 0:
            mode = self.random.choice((0o1600, 0o1600, 0o1600, 0o1400, 0o5600))
            self.say(f"={register}", "shmget", 0, self.random.choice((1, 4, 4, 7)) * PAGE, mode)
        elif choice == 1:
            self.say("shmctl", f"r{register}+0", 0, 0)
        elif choice == 2:
            self.say("shmdt", self.place()[0])
        else:
            flags = self.random.choice(
                (0, 0, 0o10000, 0o20000, 0o40000, 0o40000, 0o100000, 0o50000)
            )
            address = self.place()[0] + self.random.choice((0, 0, 0, 8))
            self.say("shmat", f"r{register}+0", address, flags)
            if self.chance(40):
                self.say("shmdt", address)

    def attach_zero(self) -> None:
        """Attaches and detaches a new segment."""
        address = self.place()[0]
        self.say("=8", "shmget", 0, 4 * PAGE, 0o1600)
        self.say("shmat", "r8+0", address, 0o40000)
        self.call()
        self.say("shmdt", address)
        self.say("sum", address, 4 * PAGE)

    def control(self) -> None:
        """The prctls that concern memory, and READ_IMPLIES_EXEC."""
        choice = self.random.randrange(6)
        if choice == 0:
            name = self.random.choice(("p+64", "p+128", "0"))
            self.say("prctl", PR_VMA, 0, *self.spot(), name)
        elif choice == 1:
            self.say("prctl", PR_MEMORY_MERGE, self.random.choice((0, 1, 0, 2)), 0, 0, 0)
        elif choice == 2:
            self.say("prctl", PR_THP_DISABLE, self.random.choice((0, 0, 1)), 0, 0, 0)
        elif choice == 3:
            self.say(
                "prctl",
                self.random.choice((PR_MDWE + 1, PR_MEMORY_MERGE + 1, PR_THP_DISABLE + 1)),
                0,
                0,
                0,
                0,
            )
        elif choice == 4:
            self.say("prctl", PR_MDWE, self.random.choice((2, 4, 0)), 0, 0, 0)
        else:
            self.say("personality", NO_RANDOMIZE | READ_IMPLIES_EXEC)
            self.call()
            self.call()
            self.say("personality", NO_RANDOMIZE)

    def policy(self) -> None:
        """mbind on node 0."""
        self.say(
            "mbind",
            *self.spot(),
            self.random.choice((0, 1, 2, 3, 4, 9)),
            self.random.choice(("p+0", "0")),
            2,
            0,
        )

    def resize(self) -> None:
        """A file shrinks or grows, or gets a hole."""
        descriptor = self.random.choice((FILE, MEMORY, SEALED_SIZE, TMPFS))
        if self.chance(70):
            self.say(
                "ftruncate",
                descriptor,
                self.random.choice((0, 1, PAGE, 0x1800, 4 * PAGE, 8 * PAGE, 9 * PAGE)),
            )
        else:
            self.say("fallocate", descriptor, 3, self.random.randrange(6) * PAGE, PAGE)

    def use(self, address: str, length: str) -> None:
        """Reads, writes or executes a place."""
        kind = self.random.randrange(10)
        if kind < 5:
            self.say("store", address, length, self.random.randrange(1 << 16))
        elif kind < 9:
            self.say("load", address, length)
        elif self.own is None:
            self.say("code", address)

    def access(self) -> None:
        """Reads, writes or executes, or lets the kernel do so."""
        address, length = self.spot(0)
        if self.chance(85):
            self.use(address, length)
        elif self.chance(50) or self.own is not None:
            # Not from /dev/zero, whose reads end early when a signal comes (read_iter_zero).
            self.say("pread64", READ_ONLY, address, length, self.random.randrange(4) * PAGE)
        else:
            self.say(
                "pwrite64",
                self.random.choice((FILE, MEMORY)),
                address,
                length,
                self.random.randrange(4) * PAGE,
            )

    def place_rings(self) -> None:
        """Mappings that other calls make: an aio ring, a shadow stack."""
        if self.chance(50):
            self.say("io_setup", self.random.choice((1, 64, 500)), "p+192")
            self.say("io_destroy", "*192")
        else:
            self.say("map_shadow_stack", self.random.choice((0, HIGH[0])), 4 * PAGE, 0)

    # -- Scenes: several calls that are of interest together

    def grow(self) -> None:
        """A MAP_GROWSDOWN mapping that grows, and what then becomes of the pages that grew."""
        first, size = GROWING
        flags = (
            PRIVATE | ANON | GROWSDOWN | FIXED | self.random.choice((0, 0, 0, LOCKED, NORESERVE))
        )
        start = first + self.random.choice((300, 600, 700)) * PAGE
        if self.chance(70):
            self.say("munmap", first, size * PAGE)
        size = self.random.randint(1, 3) * PAGE
        self.say("mmap", start, size, self.random.choice((3, 3, 3, 1, 7)), flags, NO_LIMIT, 0)
        for _ in range(self.random.randint(2, 7)):
            below = start - self.random.choice((1, 1, 2, 3, 8, 200, 255, 256, 257, 290)) * PAGE
            choice = self.random.randrange(9)
            length = self.random.choice((1, 1, 2, 3, 9)) * PAGE
            if choice < 3:
                self.say("store", below, PAGE, 7)
            elif choice == 3:
                self.say("munmap", self.random.choice((start, below)), length)
            elif choice == 4:
                prot = self.random.choice((1, 3, 0, 3 | GROWSDOWN_PROT, 1 | GROWSDOWN_PROT))
                self.say("mprotect", self.random.choice((start, below)), length, prot)
            elif choice == 5:
                self.say("mremap", start, length, length, 3, self.place()[0])
            elif choice == 6:
                self.say("mmap", below, length, 3, PRIVATE | ANON | FIXED, NO_LIMIT, 0)
            elif choice == 7:
                self.say(
                    "madvise",
                    below,
                    length,
                    self.random.choice((DONTNEED, DONTFORK, POPULATE_WRITE, DONTDUMP)),
                )
            else:
                self.say(self.random.choice(("mlock", "munlock", "mincore", "load")), below, length)
        self.say("sum", start - 12 * PAGE, 16 * PAGE)

    def refill(self) -> None:
        """Maps most of an arena again, so that not all calls meet holes."""
        start, size = self.arena()
        first = self.random.randrange(size // 4)
        flags = self.random.choice((PRIVATE, PRIVATE, PRIVATE, SHARED)) | ANON | FIXED
        self.say("mmap", start + first * PAGE, (size - first) * PAGE, 3, flags, NO_LIMIT, 0)
        if self.chance(50):
            self.say(
                "store", start + first * PAGE, (size - first) * PAGE, self.random.randrange(1 << 16)
            )

    def fail_for_memory(self) -> None:
        """Calls on existing mappings that fail because they want terabytes."""
        at = VAST + self.random.randrange(4) * PAGE
        self.say("mmap", at, PAGE, 3, PRIVATE | ANON | FIXED, NO_LIMIT, 0)
        self.say("store", at, PAGE, 9)
        for _ in range(self.random.randint(1, 4)):
            choice = self.random.randrange(5)
            if choice == 0:
                extra = self.random.choice((0, LOCKED, POPULATE, STACK))
                self.say("mmap", VAST, TERABYTES, 3, PRIVATE | ANON | FIXED | extra, NO_LIMIT, 0)
            elif choice == 1:
                self.say("mmap", 0, TERABYTES, 3, PRIVATE | ANON, NO_LIMIT, 0)
            elif choice == 2:
                self.say(
                    "mmap", VAST + 16 * PAGE, TERABYTES, 0, PRIVATE | ANON | FIXED, NO_LIMIT, 0
                )
                self.say("mprotect", VAST, TERABYTES, self.random.choice((3, 2)))
            elif choice == 3:
                self.say("mremap", at, PAGE, TERABYTES, self.random.choice((0, 1)))
            else:
                self.say("mlock", at, TERABYTES)
        self.say("sum", VAST, 8 * PAGE)
        self.say("maps")
        self.say("munmap", VAST, TERABYTES * 2)

    def limits(self) -> None:
        """A limit that makes some of the next calls fail."""
        which = self.random.choice((RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_MEMLOCK))
        self.is_limited = True
        self.say(
            "limit",
            which,
            self.random.choice((0, 1, 2, 4, 7, 16)) * PAGE + self.random.choice((0, 0, 1)),
        )
        for _ in range(self.random.randint(2, 8)):
            if which == RLIMIT_MEMLOCK and self.chance(60):
                self.lock()
            elif which == RLIMIT_MEMLOCK and self.chance(30):
                self.say("mlockall", self.random.choice((1, 2, 3)))
            else:
                self.call()
        self.say("limit", which, NO_LIMIT)
        if which == RLIMIT_MEMLOCK:
            self.say("munlockall")
        self.is_limited = False

    def block(self) -> None:
        """A process or a thread, and what it does."""
        if self.depth > 1:
            return
        kind = self.random.choice(("fork", "fork", "fork", "vfork", "spawn", "thread"))
        self.depth += 1
        before = dict(self.known)
        self.say(kind)
        if kind == "fork" and self.chance(20):
            self.say("prctl", PR_MDWE, self.random.choice((1, 3, 3, 2, 5)), 0, 0, 0)
            if self.chance(60):
                self.say("fork")
                self.say("mmap", self.place()[0], PAGE, 7, PRIVATE | ANON | FIXED, NO_LIMIT, 0)
                self.say("mprotect", *self.place(), 5)
                self.say("join")
        # A child that shares the memory, and executes itself, lets its parent go on.
        executes = kind in ("fork", "vfork") and self.chance(30)
        for _ in range(self.random.randint(1, 10)):
            self.step()
        if executes:
            shared, self.known = self.known, {}
            self.say("exec")
            for _ in range(self.random.randint(1, 8)):
                self.step()
            self.known = shared
        if kind == "fork":
            # The registers of the child were its own.
            self.known = before
        if kind == "fork" or self.chance(30):
            self.say("maps")
        self.say("join")
        self.depth -= 1

    def parallel(self) -> None:
        """Threads at the same time, each in an arena of its own."""
        if self.is_limited or self.depth:
            return
        self.say("par")
        for number in self.random.sample(range(4), self.random.randint(2, 3)):
            self.own = WORKERS[number]
            self.worker = f"@{number} "
            for _ in range(self.random.randint(3, 12)):
                self.random.choice(
                    (self.mmap, self.munmap, self.mprotect, self.madvise, self.access, self.mincore)
                )()
            self.say("sum", self.own[0], self.own[1] * PAGE)
        self.own = None
        self.worker = ""
        self.say("endpar")

    def by_worker(self) -> None:
        """A call by another thread."""
        if self.worker:
            return
        self.worker = f"@{self.random.randrange(4)} "
        self.random.choice(
            (self.mmap, self.munmap, self.mprotect, self.madvise, self.access, self.lock)
        )()
        self.worker = ""

    def timing(self) -> None:
        """The timer: started, waited for, or stopped."""
        if self.depth:
            return
        if self.is_timed and self.chance(50):
            self.say("spin")
        else:
            self.is_timed = not self.is_timed
            self.say("timer", 1500 if self.is_timed else 0)

    def signals(self) -> None:
        """A signal to the process group."""
        names = [name for name in SIGNALS if name != "ALRM" or not self.is_timed]
        self.say("group", SIGNALS[self.random.choice(names)])

    def big(self) -> None:
        """Mappings of 2 MiB and more, which the kernel aligns."""
        size = self.random.choice((HUGE, HUGE, HUGE + PAGE, 2 * HUGE))
        register = self.random.randrange(12, 16)
        kind, descriptor = self.random.choice(
            (
                (PRIVATE | ANON, NO_LIMIT),
                (SHARED | ANON, NO_LIMIT),
                (PRIVATE, FILE),
                (SHARED, MEMORY),
                (SHARED, TMPFS),
            )
        )
        self.say(f"={register}", "mmap", 0, size, self.random.choice((1, 3)), kind, descriptor, 0)
        self.say("load", f"r{register}+0", 3 * PAGE)
        self.say(f"={register}", "mremap", f"r{register}+0", size, size * 2, 1)
        self.say("load", f"r{register}+0", 3 * PAGE)
        if self.chance(60):
            self.say("munmap", f"r{register}+0", size * 2)

    # -- Lists

    def call(self) -> None:
        """One memory call, or an access."""
        kinds: tuple[tuple[int, Callable[[], None]], ...] = (
            (24, self.mmap),
            (6, self.munmap),
            (14, self.mprotect),
            (8, self.mremap),
            (12, self.madvise),
            (6, self.lock),
            (3, self.msync),
            (4, self.mincore),
            (3, self.brk),
            (2, self.remap_file_pages),
            (3, self.keys),
            (5, self.attach),
            (2, self.control),
            (1, self.policy),
            (2, self.resize),
            (22, self.access),
            (1, self.place_rings),
        )
        self.random.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]()

    def step(self) -> None:
        """A call or a scene, and now and then a look at the contents."""
        if self.chance(86):
            self.call()
        else:
            scenes: tuple[Callable[[], None], ...] = (
                *(
                    self.grow,
                    self.grow,
                    self.fail_for_memory,
                    self.limits,
                    self.limits,
                    self.block,
                    self.block,
                ),
                *(
                    self.parallel,
                    self.by_worker,
                    self.by_worker,
                    self.by_worker,
                    self.timing,
                    self.signals,
                    self.big,
                ),
                *(
                    self.lock_all,
                    self.attach_zero,
                    self.seal,
                    self.refill,
                    self.refill,
                    self.refill,
                    self.refill,
                ),
            )
            self.random.choice(scenes)()
        if self.chance(8):
            start, size = self.arena()
            self.say("sum", start, size * PAGE)
        if self.chance(4):
            self.say("maps")
        if self.chance(1) and self.chance(30):
            self.say("exit_order")


def write_list(seed: int, count: int = 500) -> list[str]:
    """The list of about `count` operations that a seed stands for. Every second list runs
    unprivileged."""
    writer = Writer(seed)
    if seed % 2:
        writer.say("setgroups", 0, 0)
        writer.say("setresgid", NOBODY, NOBODY, NOBODY)
        writer.say("setresuid", NOBODY, NOBODY, NOBODY)
        writer.say("prctl", PR_DUMPABLE, 1, 0, 0, 0)
    for _ in range(4):
        writer.refill()
    while len(writer.lines) < count:
        writer.step()
    writer.say("maps")
    return writer.lines


def name_of(line: str) -> str:
    """The operation that a line of a list names, or nothing."""
    words = (word for word in line.partition("#")[0].split() if word[0] not in "@=")
    return next(words, "")


def count_calls(calls: Sequence[str]) -> int:
    """How many of a list's lines are memory calls."""
    return sum(name_of(line) in NAMES for line in calls)
