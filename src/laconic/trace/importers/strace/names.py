"""The names that strace prints for numbers in memory and process calls (x86-64)."""

from __future__ import annotations

import errno
import signal
from typing import Final

from laconic.linux.clone import CLONE_FLAGS, CSIGNAL
from laconic.memory import flags

#: Errors named by strace but by no C library: include/linux/errno.h. The kernel restarts such
#: calls.
RESTARTS: Final = frozenset(
    {b"ERESTARTSYS", b"ERESTARTNOINTR", b"ERESTARTNOHAND", b"ERESTART_RESTARTBLOCK"}
)
ERRNOS: Final[dict[bytes, int]] = {
    name.encode(): number
    for name, number in vars(errno).items()
    if name.startswith("E") and isinstance(number, int)
}
SIGNALS: Final[dict[bytes, int]] = {each.name.encode(): int(each) for each in signal.Signals}
SIGNALS.update({b"SIGIOT": 6, b"SIGPOLL": 29, b"SIGUNUSED": 31, b"SIGRTMIN": 34, b"SIGRT_0": 32})

#: Calls that are memory calls only for certain first arguments, as in `laconic.tracer.syscalls`.
SUBCALLS: Final = {"prctl": (22, 35, 65, 67, 0x53564D41), "arch_prctl": (0x5001, 0x5004)}

O_ACCMODE: Final = 3
O_PATH: Final = 0o10000000
O_CLOEXEC: Final = 0o2000000

#: All names of all kinds; no two kinds share a name.
NUMBERS: Final[dict[bytes, int]] = {
    name.encode(): value
    for name, value in vars(flags).items()
    if isinstance(value, int)
    and name.startswith(("PROT_", "MAP_", "MREMAP_", "MS_", "MCL_", "MLOCK_", "MADV_"))
}
NUMBERS.update(
    {
        b"NULL": 0,
        b"PROT_NONE": 0,
        b"MAP_FILE": 0,
        b"MAP_ANON": flags.MAP_ANONYMOUS,
        b"PROT_MTE": 0x20,
        b"AT_FDCWD": -100,
        b"AT_EMPTY_PATH": 0x1000,
        b"AT_SYMLINK_NOFOLLOW": 0x100,
        b"MADV_DODUMP": 17,
        b"CSIGNAL": CSIGNAL,
        **{name.encode(): bit for name, bit in CLONE_FLAGS.items()},
        b"CLOSE_RANGE_UNSHARE": 2,
        b"CLOSE_RANGE_CLOEXEC": 4,
        # include/uapi/asm-generic/fcntl.h
        b"O_RDONLY": 0,
        b"O_WRONLY": 1,
        b"O_RDWR": 2,
        b"O_ACCMODE": 3,
        b"O_CREAT": 0o100,
        b"O_EXCL": 0o200,
        b"O_NOCTTY": 0o400,
        b"O_TRUNC": 0o1000,
        b"O_APPEND": 0o2000,
        b"O_NONBLOCK": 0o4000,
        b"O_DSYNC": 0o10000,
        b"O_ASYNC": 0o20000,
        b"FASYNC": 0o20000,
        b"O_DIRECT": 0o40000,
        b"O_LARGEFILE": 0o100000,
        b"O_DIRECTORY": 0o200000,
        b"O_NOFOLLOW": 0o400000,
        b"O_NOATIME": 0o1000000,
        b"O_CLOEXEC": O_CLOEXEC,
        b"__O_SYNC": 0o4000000,
        b"O_SYNC": 0o4010000,
        b"O_PATH": O_PATH,
        b"__O_TMPFILE": 0o20000000,
        b"O_TMPFILE": 0o20200000,
        b"FD_CLOEXEC": 1,
        b"F_DUPFD": 0,
        b"F_GETFD": 1,
        b"F_SETFD": 2,
        b"F_DUPFD_CLOEXEC": 1030,
        b"MFD_CLOEXEC": 1,
        b"MFD_ALLOW_SEALING": 2,
        b"MFD_HUGETLB": 4,
        b"MFD_NOEXEC_SEAL": 8,
        b"MFD_EXEC": 16,
        b"SOCK_CLOEXEC": O_CLOEXEC,
        # include/uapi/linux/prctl.h, arch/x86/include/uapi/asm/prctl.h
        b"PR_SET_SECCOMP": 22,
        b"PR_SET_MM": 35,
        b"PR_SET_MDWE": 65,
        b"PR_GET_MDWE": 66,
        b"PR_SET_MEMORY_MERGE": 67,
        b"PR_SET_VMA": 0x53564D41,
        b"PR_SET_VMA_ANON_NAME": 0,
        b"PR_MDWE_REFUSE_EXEC_GAIN": 1,
        b"PR_MDWE_NO_INHERIT": 2,
        b"SECCOMP_MODE_STRICT": 1,
        b"SECCOMP_MODE_FILTER": 2,
        b"SECCOMP_SET_MODE_STRICT": 0,
        b"SECCOMP_SET_MODE_FILTER": 1,
        b"SECCOMP_GET_ACTION_AVAIL": 2,
        b"SECCOMP_GET_NOTIF_SIZES": 3,
        b"SECCOMP_FILTER_FLAG_TSYNC": 1,
        b"SECCOMP_FILTER_FLAG_LOG": 2,
        b"SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
        b"SECCOMP_FILTER_FLAG_NEW_LISTENER": 8,
        b"SECCOMP_FILTER_FLAG_TSYNC_ESRCH": 16,
        b"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
        b"ARCH_SHSTK_ENABLE": 0x5001,
        b"ARCH_SHSTK_DISABLE": 0x5002,
        b"ARCH_SHSTK_LOCK": 0x5003,
        b"ARCH_SHSTK_UNLOCK": 0x5004,
        b"ARCH_SHSTK_SHSTK": 1,
        b"ARCH_SHSTK_WRSS": 2,
        b"SHADOW_STACK_SET_TOKEN": 1,
        # include/uapi/linux/personality.h
        b"PER_LINUX": 0,
        b"PER_LINUX32": 8,
        b"PER_LINUX32_3GB": 0x8000008,
        b"UNAME26": 0x20000,
        b"ADDR_NO_RANDOMIZE": 0x40000,
        b"FDPIC_FUNCPTRS": 0x80000,
        b"MMAP_PAGE_ZERO": 0x100000,
        b"ADDR_COMPAT_LAYOUT": 0x200000,
        b"READ_IMPLIES_EXEC": 0x400000,
        b"ADDR_LIMIT_32BIT": 0x800000,
        b"SHORT_INODE": 0x1000000,
        b"WHOLE_SECONDS": 0x2000000,
        b"STICKY_TIMEOUTS": 0x4000000,
        b"ADDR_LIMIT_3GB": 0x8000000,
        # include/uapi/linux/mempolicy.h, shm.h, userfaultfd.h, mman-common.h
        b"MPOL_DEFAULT": 0,
        b"MPOL_PREFERRED": 1,
        b"MPOL_BIND": 2,
        b"MPOL_INTERLEAVE": 3,
        b"MPOL_LOCAL": 4,
        b"MPOL_PREFERRED_MANY": 5,
        b"MPOL_WEIGHTED_INTERLEAVE": 6,
        b"MPOL_F_STATIC_NODES": 0x8000,
        b"MPOL_F_RELATIVE_NODES": 0x4000,
        b"MPOL_F_NUMA_BALANCING": 0x2000,
        b"MPOL_F_NODE": 1,
        b"MPOL_F_ADDR": 2,
        b"MPOL_F_MEMS_ALLOWED": 4,
        b"MPOL_MF_STRICT": 1,
        b"MPOL_MF_MOVE": 2,
        b"MPOL_MF_MOVE_ALL": 4,
        b"SHM_RDONLY": 0o10000,
        b"SHM_RND": 0o20000,
        b"SHM_REMAP": 0o40000,
        b"SHM_EXEC": 0o100000,
        b"UFFD_USER_MODE_ONLY": 1,
        b"PKEY_DISABLE_ACCESS": 1,
        b"PKEY_DISABLE_WRITE": 2,
    }
)
NUMBERS.update(SIGNALS)
