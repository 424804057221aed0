"""fork: the checkpoint that a parent sends, and the child that receives its memory.

To Gramine, vfork, or any clone of a process, is a fork.
"""

from __future__ import annotations

from typing import Final

from laconic.libos.gramine import RECEIVED, STORE, VMA_INTERNAL, VMA_TAINTED, Libos, LibosVma
from laconic.memory.flags import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    VM_SHARED,
)
from laconic.memory.mmap import page_align
from laconic.memory.rangemap import RangeMap
from laconic.sgx.pal.gramine import LAZY, RW

#: The size of the store in the parent (CP_INIT_VMA_SIZE in libos_checkpoint.c), in bytes. It is
#: committed, and freed after everything is sent. A further half of this size is bookkept after it,
#: but not allocated.
STORE_SIZE: Final = 64 << 20
#: The sizes of its contents, in bytes: one `struct libos_mem_entry`, one VMA without its entry, and
#: everything that is not memory (handles, the thread, the process), as in the log of a busybox
#: shell.
_ENTRY, _VMA, _OTHER = 48, 112, 28 << 10


def send_checkpoint(parent: Libos, child: Libos) -> None:
    """create_process_and_send_checkpoint, and the child's receive_checkpoint_and_restore.

    The parent commits the whole store, regardless of its contents; with `Switches.store`, only the
    used part. O(n).
    """
    meter = parent.meter
    parent.pal.alloc(STORE, STORE + STORE_SIZE, RW, lazy=parent.switches.store)
    vmas = [(start, end, vma) for start, end, vma in parent.vmas if not vma.flags & VMA_INTERNAL]
    listed = parent.begin_list(len(vmas))
    parent.end_list(listed)
    entries = len(vmas) + sum(count_entries(parent, start, end, vma) for start, end, vma in vmas)
    size = page_align(_OTHER + _ENTRY * entries + _VMA * len(vmas))
    if parent.switches.store:
        parent.pal.fault(STORE, STORE + min(size, STORE_SIZE), RW)
    # The checkpoint's data: one write and one read; the child never frees its copy.
    meter.host_call(2)
    meter.copy(size >> PAGE_SHIFT)
    child.pal.alloc(RECEIVED, RECEIVED + size, RW)
    child.vmas.set(RECEIVED, RECEIVED + size, LibosVma(RW, VMA_INTERNAL))
    for start, end, vma in vmas:
        if is_sent(vma):
            send_memory(parent, child, start, end, vma)
            if vma.file is not None:
                child.mapped.setdefault(vma.file, RangeMap()).set(start, end, True)
        else:
            # RS_FUNC(vma): the file is mapped again.
            child.map_file(start, end, vma)
            if not child.switches.demand:
                meter.counts.untouched_pages -= child.touches.count(start, end)
        child.vmas.set(start, end, vma)
    parent.pal.free(STORE, STORE + STORE_SIZE)
    child.hold_vmas()


def is_sent(vma: LibosVma) -> bool:
    """CP_FUNC(vma): return whether a VMA is sent: anonymous memory, and private mappings of files
    that were ever writable."""
    if vma.file is None:
        return True
    return vma.flags & (VMA_TAINTED | VM_SHARED) == VMA_TAINTED


def sent_range(start: int, end: int, vma: LibosVma) -> tuple[int, int]:
    """Return the part of a VMA that is sent: for a file, only the pages that it has."""
    return start, max(min(end, vma.valid_end), start)


def count_entries(parent: Libos, start: int, end: int, vma: LibosVma) -> int:
    """Return the number of memory entries of one VMA.

    There is one for each committed page of anonymous memory, and one for a file. With
    `Switches.send`, there is one for each committed run.
    """
    if not is_sent(vma):
        return 0
    if vma.file is not None:
        return 1
    committed = parent.pal.committed(start, end)
    if parent.switches.send:
        return len(committed)
    return sum(run_end - run_start for run_start, run_end in committed) // PAGE_SIZE


def send_memory(parent: Libos, child: Libos, start: int, end: int, vma: LibosVma) -> None:
    """send_memory_on_stream, and receive_memory_on_stream in the child.

    Anonymous memory is sent page by page: each page takes a write, an Alloc, a read, and a Protect
    if it is read-only. With `Switches.send`, it is sent in runs. Unreadable memory is made readable
    for the write. O(log n + k).
    """
    meter, pal, prot = parent.meter, parent.pal, vma.prot
    by_page = vma.file is None and not parent.switches.send
    start, end = sent_range(start, end, vma)
    copies = child.switches.copy
    for run_start, run_end in pal.committed(start, end):
        pages = run_end - run_start >> PAGE_SHIFT
        if not prot & PROT_READ:
            pal.protect(run_start, run_end, prot | PROT_READ, by_page)
        meter.host_call(pages if by_page else 1)
        if not prot & PROT_READ:
            pal.protect(run_start, run_end, prot, by_page)
        child.pal.alloc(run_start, run_end, prot if copies else prot | PROT_WRITE, by_page=by_page)
        meter.host_call(pages if by_page else 1)
        meter.copy(pages)
        if not prot & PROT_WRITE and not copies:
            child.pal.protect(run_start, run_end, prot, by_page)
            meter.counts.open_windows += pages
        if not prot & PROT_READ:
            meter.counts.open_windows += pages
        meter.counts.untouched_pages += pages - child.touches.count(run_start, run_end)
    # Gramine's child does not know which pages are uncommitted, and fails on them.
    for run_start, run_end, had in pal.pages.runs(start, end):
        if had is not None and had >= LAZY:
            child.pal.pages.set(run_start, run_end, had)
