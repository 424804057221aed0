"""execve: the process continues in the same enclave, with another program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from laconic.libos.gramine import VMA_INTERNAL, VMA_TAINTED, Libos
from laconic.libos.heap import reset_brk
from laconic.libos.loader import is_vdso, stack_bottom
from laconic.memory.flags import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_RWX,
    PROT_WRITE,
    VM_GROWSDOWN,
)
from laconic.memory.rangemap import TOP
from laconic.memory.space import Entry
from laconic.memory.vma import Vma
from laconic.sgx.pal.gramine import RW


class Kept(NamedTuple):
    """A mapping of the old program that the new program has at `target`. If it is the stack, its
    pages are zeroed."""

    start: int
    end: int
    target: int
    is_stack: bool = False


def free_program(libos: Libos, kept: Iterable[Kept] = ()) -> None:
    """libos_syscall_execve_rtld: free the old program's memory, with one Free for each VMA.
    O(VMAs × kept).

    Shared file mappings are not written back. The new stack is allocated before anything is freed,
    so it counts for the peak unless the old one is `kept`.
    """
    meter = libos.meter
    kept = list(kept)
    if not any(mapping.is_stack for mapping in kept):
        stack = libos.settings.stack_size + PAGE_SIZE >> PAGE_SHIFT
        meter.peak_epc_pages = max(meter.peak_epc_pages, meter.epc_pages + stack)
    reset_brk(libos)
    vmas = [(start, end) for start, end, vma in libos.vmas if not vma.flags & VMA_INTERNAL]
    listed = libos.begin_list(len(vmas))
    for start, end in vmas:
        if any(mapping.start <= start and end <= mapping.end for mapping in kept):
            continue
        libos.pal.free(start, end)
        libos.vmas.set(start, end, None)
    libos.end_list(listed)
    libos.mapped.clear()


def find_kept(libos: Libos, image: Iterable[Entry]) -> list[Kept]:
    """Return the old program's mappings that the new one has with the same size; `image` are the
    new one's mappings.

    They are the stack with its guard page, parts of files that were never writable, and the vDSO.

    Their touched pages are counted as untouched, so this is called only once. O(VMAs).
    """
    old = dict(_names(libos, libos.space.vmas))
    kept: list[Kept] = []
    for name, (target, target_end) in _names(libos, image):
        start, end = old.pop(name, (0, 0))
        is_stack = name == _STACK
        if end - start != target_end - target or not _is_unchanged(libos, start, end, is_stack):
            continue
        kept.append(Kept(start, end, target, is_stack))
        # Pages that the old program has touched are untouched for the new one.
        for run_start, run_end in libos.pal.committed(start, end):
            libos.meter.counts.untouched_pages += libos.touches.count(run_start, run_end)
    return kept


def keep(successor: Libos, kept: list[Kept]) -> None:
    """Give the new program the kept memory before it is loaded. O(n).

    In Gramine, the new program's memory would stay at the old program's addresses; here it has the
    addresses of the trace.
    """
    pal, vmas = successor.pal, successor.vmas
    held = [(mapping, pal.pages.parts(*mapping[:2]), vmas.parts(*mapping[:2])) for mapping in kept]
    for mapping in kept:
        pal.pages.set(mapping.start, mapping.end, None)
        vmas.set(mapping.start, mapping.end, None)
    successor.meter.place([mapping[:3] for mapping in kept])
    for mapping, pages, parts in held:
        by = mapping.target - mapping.start
        for start, end, had in pages:
            pal.pages.set(start + by, end + by, had)
        for start, end, vma in parts:
            file_end = vma.file_end if vma.file_end == TOP else vma.file_end + by
            vmas.set(start + by, end + by, vma._replace(file_end=file_end))
        if mapping.is_stack:
            pal.zero(mapping.target + PAGE_SIZE, mapping.end + by)
        successor.kept.add(mapping.target)


#: The names of the stack and the vDSO in `_names`.
_STACK, _VDSO = "stack", "vdso"


def _names(libos: Libos, entries: Iterable[Entry]) -> Iterable[tuple[object, tuple[int, int]]]:
    # Yield the mappings that two programs can have in common, with their ranges.
    for start, end, vma in entries:
        if vma.flags & VM_GROWSDOWN:
            yield _STACK, (stack_bottom(libos, start, end) - PAGE_SIZE, end)
        elif is_vdso(vma):
            yield _VDSO, (start, start + PAGE_SIZE)
        elif vma.is_from_disk and not vma.flags & PROT_WRITE:
            yield _part(start, end, vma), (start, end)


def _part(start: int, end: int, vma: Vma) -> tuple[object, ...]:
    # The part of a file that is mapped, and how.
    return vma.file, start - vma.base, end - start, vma.flags & PROT_RWX


def _is_unchanged(libos: Libos, start: int, end: int, is_stack: bool) -> bool:
    # True if the range is still completely mapped, with a stack that is writable above its guard
    # page, or with a file mapping that was never writable.
    vmas = [vma for _, _, vma in libos.vmas.runs(start, end)]
    if is_stack:
        return [vma and vma.prot for vma in vmas] == [0, RW]
    return all(vma is not None and not vma.flags & VMA_TAINTED for vma in vmas)
