"""System call numbers of the memory calls and the process calls only (x86-64 unless marked
i386)."""

from __future__ import annotations

from typing import Final

MEMORY_CALLS: Final[dict[int, str]] = {
    9: "mmap",
    10: "mprotect",
    11: "munmap",
    12: "brk",
    25: "mremap",
    26: "msync",
    28: "madvise",
    30: "shmat",
    67: "shmdt",
    149: "mlock",
    150: "munlock",
    151: "mlockall",
    152: "munlockall",
    157: "prctl",
    158: "arch_prctl",
    206: "io_setup",
    207: "io_destroy",
    216: "remap_file_pages",
    237: "mbind",
    323: "userfaultfd",
    325: "mlock2",
    329: "pkey_mprotect",
    440: "process_madvise",
    450: "set_mempolicy_home_node",
    453: "map_shadow_stack",
    462: "mseal",
}
NUMBERS: Final[dict[str, int]] = {name: number for number, name in MEMORY_CALLS.items()}

CLONE: Final = 56
FORK: Final = 57
VFORK: Final = 58
EXECVE: Final = 59
PTRACE: Final = 101
PERSONALITY: Final = 135
EXECVEAT: Final = 322
SECCOMP: Final = 317
CLONE3: Final = 435
PROCESS_CALLS: Final[dict[int, str]] = {
    CLONE: "clone",
    FORK: "fork",
    VFORK: "vfork",
    EXECVE: "execve",
    PTRACE: "ptrace",
    PERSONALITY: "personality",
    SECCOMP: "seccomp",
    EXECVEAT: "execveat",
    CLONE3: "clone3",
}

PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_STRICT: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8

#: Waits that fail with EINTR as soon as anything interrupts them, by signal(7): read, write,
#: sendto, recvfrom, sendmsg, recvmsg, accept, connect, accept4, recvmmsg, sendmmsg (of a socket
#: with a timeout), semop, semtimedop, rt_sigtimedwait, io_getevents, io_pgetevents, epoll_wait,
#: epoll_pwait, epoll_pwait2, io_uring_enter. Such a call has done nothing when it returns EINTR.
INTERRUPTIBLE: Final = frozenset(
    {0, 1, 42, 43, 44, 45, 46, 47, 65, 128, 208, 220, 232, 281, 288, 299, 307, 333, 426, 441}
)

#: Calls that are memory calls only for some first arguments: number → those arguments. prctl:
#: PR_SET_SECCOMP (a process call), PR_SET_MM, PR_SET_MDWE, PR_SET_MEMORY_MERGE, PR_SET_VMA.
#: arch_prctl: ARCH_SHSTK_ENABLE and _UNLOCK.
BY_FIRST_ARGUMENT: Final[dict[int, tuple[int, ...]]] = {
    157: (22, 35, 65, 67, 0x53564D41),
    158: (0x5001, 0x5004),
}

#: i386 memory calls that a 64-bit program can make by `int 0x80`: brk, old mmap, munmap, ipc
#: (shmat, shmdt), mprotect, msync, mlock, munlock, mlockall, munlockall, mremap, mmap2, madvise,
#: io_setup, io_destroy, remap_file_pages, mbind, mlock2, pkey_mprotect, shmat, shmdt,
#: process_madvise, mseal.
I386_MEMORY_CALLS: Final = frozenset(
    {
        45,
        90,
        91,
        117,
        125,
        144,
        150,
        151,
        152,
        153,
        163,
        192,
        219,
        245,
        246,
        257,
        274,
        376,
        380,
        397,
        398,
        440,
        462,
    }
)
I386_BRK: Final = 45
#: Numbers that are also those of x86-64 memory calls: `Registers.is_i386` distinguishes them.
I386_ALIKE: Final = I386_MEMORY_CALLS & {*MEMORY_CALLS}
#: The bit that marks a number of the x32 ABI.
X32_BIT: Final = 0x40000000
