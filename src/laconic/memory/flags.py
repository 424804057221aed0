"""The kernel's constants, under the kernel's names (x86-64).

`VM_*` are bits of `vm_flags`; their low three bits are the protection, as in the kernel. The
two-letter codes are those of the `VmFlags:` line in `/proc/PID/smaps` (`show_smap_vma_flags` in
fs/proc/task_mmu.c).
"""

from __future__ import annotations

import functools
import operator
from enum import IntFlag
from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = ~(PAGE_SIZE - 1)
PMD_SIZE: Final = 2 << 20
TASK_SIZE: Final = (1 << 47) - PAGE_SIZE
#: The kernel's rounding of lengths to pages wraps above this.
ADDRESS_MASK: Final = (1 << 64) - 1
#: The highest errno: results from -MAX_ERRNO to -1 are errors, and all others are values
#: (include/linux/err.h).
MAX_ERRNO: Final = 4095

PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4
PROT_SEM: Final = 8
PROT_GROWSDOWN: Final = 0x01000000
PROT_GROWSUP: Final = 0x02000000
PROT_RWX: Final = PROT_READ | PROT_WRITE | PROT_EXEC


class Prot(IntFlag):
    """A protection for display: the low three bits of `vm_flags`.

    >>> Prot(3)
    <Prot.READ|WRITE: 3>
    """

    NONE = 0
    READ = PROT_READ
    WRITE = PROT_WRITE
    EXEC = PROT_EXEC


MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_SHARED_VALIDATE: Final = 0x03
MAP_DROPPABLE: Final = 0x08
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_32BIT: Final = 0x40
MAP_ABOVE4G: Final = 0x80
MAP_GROWSDOWN: Final = 0x0100
MAP_DENYWRITE: Final = 0x0800
MAP_EXECUTABLE: Final = 0x1000
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_NONBLOCK: Final = 0x10000
MAP_STACK: Final = 0x20000
MAP_HUGETLB: Final = 0x40000
MAP_SYNC: Final = 0x80000
MAP_FIXED_NOREPLACE: Final = 0x100000
MAP_UNINITIALIZED: Final = 0x4000000
MAP_HUGE_SHIFT: Final = 26
MAP_HUGE_MASK: Final = 0x3F
#: LEGACY_MAP_MASK (include/linux/mman.h): the flags that MAP_SHARED_VALIDATE accepts from any file.
LEGACY_MAP_MASK: Final = (
    MAP_SHARED
    | MAP_PRIVATE
    | MAP_FIXED
    | MAP_ANONYMOUS
    | MAP_DENYWRITE
    | MAP_EXECUTABLE
    | MAP_UNINITIALIZED
    | MAP_GROWSDOWN
    | MAP_LOCKED
    | MAP_NORESERVE
    | MAP_POPULATE
    | MAP_NONBLOCK
    | MAP_STACK
    | MAP_HUGETLB
    | MAP_32BIT
    | MAP_ABOVE4G
    | MAP_HUGE_MASK << MAP_HUGE_SHIFT
)

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
SHM_REMAP: Final = 0o40000
MREMAP_DONTUNMAP: Final = 4

MS_ASYNC: Final = 1
MS_INVALIDATE: Final = 2
MS_SYNC: Final = 4

MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4
MLOCK_ONFAULT: Final = 1

MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_DONTDUMP: Final = 16
MADV_DODUMP: Final = 17
MADV_WIPEONFORK: Final = 18
MADV_KEEPONFORK: Final = 19
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_DONTNEED_LOCKED: Final = 24
MADV_COLLAPSE: Final = 25
MADV_HWPOISON: Final = 100
MADV_SOFT_OFFLINE: Final = 101
MADV_GUARD_INSTALL: Final = 102
MADV_GUARD_REMOVE: Final = 103

VM_READ: Final = PROT_READ
VM_WRITE: Final = PROT_WRITE
VM_EXEC: Final = PROT_EXEC
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_PFNMAP: Final = 0x400
VM_MAYBE_GUARD: Final = 0x800
VM_LOCKED: Final = 0x2000
VM_IO: Final = 0x4000
VM_SEQ_READ: Final = 0x8000
VM_RAND_READ: Final = 0x10000
VM_DONTCOPY: Final = 0x20000
VM_DONTEXPAND: Final = 0x40000
VM_LOCKONFAULT: Final = 0x80000
VM_LOCKED_MASK: Final = VM_LOCKED | VM_LOCKONFAULT
VM_NORESERVE: Final = 0x200000
VM_HUGETLB: Final = 0x400000
VM_SYNC: Final = 0x800000
VM_WIPEONFORK: Final = 0x2000000
VM_DONTDUMP: Final = 0x4000000
VM_MIXEDMAP: Final = 0x10000000
VM_HUGEPAGE: Final = 0x20000000
VM_NOHUGEPAGE: Final = 0x40000000
VM_MERGEABLE: Final = 0x80000000
VM_SHADOW_STACK: Final = 1 << 37
VM_DROPPABLE: Final = 1 << 40
VM_SEALED: Final = 1 << 42

VM_PROT: Final = PROT_RWX
VM_MAY_RWX: Final = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
VM_SPECIAL: Final = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP
#: The kernel never merges pages of mappings with any of these flags (vma_ksm_compatible in
#: mm/ksm.c).
VM_UNMERGEABLE: Final = VM_SHARED | VM_MAYSHARE | VM_SPECIAL | VM_HUGETLB | VM_DROPPABLE

#: The `VmFlags:` codes that the bookkeeping records. These are omitted, because they do not depend
#: on the program's memory calls alone: `ac` (VM_ACCOUNT: mprotect_fixup keeps it for written
#: pages), `sd` (soft-dirty), `um uw ui` (userfaultfd: an ioctl), `mm` (VM_MIXEDMAP: the driver),
#: `ar mt nl` (architecture, hardware), `gu` (VM_MAYBE_GUARD: sticky, set by MADV_GUARD_INSTALL and
#: merged into neighbors by vma_merge).
VMFLAG_CODES: Final[dict[str, int]] = {
    "rd": VM_READ,
    "wr": VM_WRITE,
    "ex": VM_EXEC,
    "sh": VM_SHARED,
    "mr": VM_MAYREAD,
    "mw": VM_MAYWRITE,
    "me": VM_MAYEXEC,
    "ms": VM_MAYSHARE,
    "gd": VM_GROWSDOWN,
    "pf": VM_PFNMAP,
    "lo": VM_LOCKED,
    "io": VM_IO,
    "sr": VM_SEQ_READ,
    "rr": VM_RAND_READ,
    "dc": VM_DONTCOPY,
    "de": VM_DONTEXPAND,
    "lf": VM_LOCKONFAULT,
    "nr": VM_NORESERVE,
    "ht": VM_HUGETLB,
    "wf": VM_WIPEONFORK,
    "dd": VM_DONTDUMP,
    "hg": VM_HUGEPAGE,
    "nh": VM_NOHUGEPAGE,
    "mg": VM_MERGEABLE,
    "sf": VM_SYNC,
    "ss": VM_SHADOW_STACK,
    "dp": VM_DROPPABLE,
    "sl": VM_SEALED,
}
VM_SHOWN: Final = functools.reduce(operator.or_, VMFLAG_CODES.values())
VMFLAG_BITS: Final[dict[bytes, int]] = {code.encode(): bit for code, bit in VMFLAG_CODES.items()}


def flag_names(flags: int) -> str:
    """Return `vm_flags` as the codes of a `VmFlags:` line.

    >>> flag_names(VM_READ | VM_LOCKED)
    'rd lo'
    """
    return " ".join(code for code, bit in VMFLAG_CODES.items() if flags & bit)
