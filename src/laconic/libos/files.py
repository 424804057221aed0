"""Shared file mappings: writing their contents back, and updating the other mappings of the file.

The enclave cannot map files, so the LibOS writes a mapping's contents back when it is unmapped,
mapped over, or synchronized. Any write then refreshes every mapping of the file.
"""

from __future__ import annotations

from laconic.libos.gramine import Libos, LibosVma, is_flushed
from laconic.memory.flags import PAGE_SHIFT, PROT_READ, PROT_WRITE, TASK_SIZE, VM_SHARED
from laconic.memory.vma import File, Vma


def msync_range(libos: Libos, start: int, end: int) -> None:
    """msync_range (libos_vma.c): write back the shared mappings in `[start, end)`, VMA by VMA.

    Gramine does so before munmap and MAP_FIXED too, even for a read-only mapping if its handle may
    write. O(log n + VMAs).
    """
    if not libos.mapped:
        return
    flushed = [
        (vma_start, vma_end, vma)
        for vma_start, vma_end, vma in libos.vmas.parts(start, end)
        if is_flushed(vma)
    ]
    for vma_start, vma_end, vma in flushed:
        vma_end = min(vma_end, vma.valid_end)
        if vma_start < vma_end:
            _emulated_msync(libos, vma_start, vma_end, vma)


def _emulated_msync(libos: Libos, start: int, end: int, vma: LibosVma) -> None:
    # generic_emulated_msync: make the memory readable if necessary, write it, and restore its
    # protection.
    assert vma.file is not None
    pages = end - start >> PAGE_SHIFT
    closed = not vma.prot & PROT_READ
    if closed:
        libos.pal.protect(start, end, vma.prot | PROT_READ)
        libos.meter.counts.open_windows += pages
    if libos.switches.demand:
        # Uncommitted pages have the file's contents.
        pages = (
            sum(run_end - run_start for run_start, run_end in libos.pal.committed(start, end))
            >> PAGE_SHIFT
        )
    libos.transfer(pages)
    refresh_mappings(libos, vma.file)
    reload_mappings(libos, vma.file)
    if closed:
        libos.pal.protect(start, end, vma.prot)


def file_written(libos: Libos, file: File, size: int, truncated: bool) -> None:
    """refresh_mappings_on_file: update the mappings of a file that the program wrote to, or
    truncated to `size` bytes. O(VMAs)."""
    if file not in libos.mapped:
        return
    found = mappings(libos, file)
    if not found:
        return
    for start, end, vma in found:
        _move_file_end(libos, start, end, vma, size, truncated)
    listed = libos.begin_list(len(found))
    refresh_mappings(libos, file)
    libos.end_list(listed)
    if not truncated:
        reload_mappings(libos, file)


def _move_file_end(
    libos: Libos, start: int, end: int, vma: LibosVma, size: int, truncated: bool
) -> None:
    # vma_update_valid_end. Pages past the end exist only with `Libos.has_tails`.
    mapped = libos.space.vmas.get(start)
    if mapped is None or mapped.file != vma.file:
        return
    file_end = max(mapped.base + size, start)
    if not truncated:
        file_end = max(file_end, vma.file_end)
    moved = vma._replace(file_end=file_end)
    old, new = (min(max(start, one.valid_end), end) for one in (vma, moved))
    if old < new and not libos.has_tails:
        libos.map_file(old, new, moved)
    elif new < old and not libos.has_tails:
        libos.pal.free(new, old)
    libos.vmas.set(start, end, moved)


def refresh_mappings(libos: Libos, file: File) -> None:
    """prot_refresh_vma: Protect all mappings of a file that was written to or truncated, whether or
    not its end moved. O(VMAs)."""
    for start, end, vma in mappings(libos, file):
        valid = min(max(start, vma.valid_end), end)
        if start < valid:
            libos.pal.protect(start, valid, vma.prot)
        if valid < end:
            libos.pal.protect(valid, end, 0)


def reload_mappings(libos: Libos, file: File) -> None:
    """reload_vma: read the shared mappings of a written file again; read-only ones are made
    writable for it. O(VMAs).

    If no page of such a mapping is valid, Gramine ends the process (a Protect of no bytes); here,
    that mapping is skipped.
    """
    for start, end, vma in mappings(libos, file):
        end = min(end, vma.valid_end)
        if start >= end or not vma.flags & VM_SHARED:
            continue
        closed = not vma.prot & PROT_WRITE
        if closed and libos.switches.copy:
            # The pages are released, and committed again with the new contents.
            for run_start, run_end in libos.pal.committed(start, end):
                libos.pal.free(run_start, run_end)
                libos.pal.alloc(run_start, run_end, vma.prot)
            closed = False
        if closed:
            libos.pal.protect(start, end, vma.prot | PROT_WRITE)
            libos.meter.counts.open_windows += end - start >> PAGE_SHIFT
        libos.read_file(start, end, vma.file_end)
        if closed:
            libos.pal.protect(start, end, vma.prot)


def follow_growth(libos: Libos, vma: Vma, end: int) -> None:
    """Handle a touch of the page of `vma` that ends at `end`. O(log n); O(VMAs) if the file has
    grown.

    If the LibOS assumes that the page is past the end of the file, the file was truncated to a
    larger size, which the trace does not show.
    """
    file = vma.file
    touched = libos.vmas.get(end - 1)
    if file is None or touched is None or touched.file != file or end <= touched.valid_end:
        return
    if libos.touches.sizes.is_assumed(file):
        return  # the assumption is wrong; the file has not grown
    known = libos.touches.sizes.valid_end(vma)
    file_end = known if known < TASK_SIZE else end
    file_written(libos, file, max(end, file_end) - vma.base, truncated=True)


def mappings(libos: Libos, file: File) -> list[tuple[int, int, LibosVma]]:
    """Return the VMAs of a file, ascending; ranges that no longer belong to the file are removed.
    O(VMAs)."""
    found = []
    mapped = libos.mapped[file]
    for mapped_start, mapped_end, _ in list(mapped):
        for start, end, vma in list(libos.vmas.runs(mapped_start, mapped_end)):
            if vma is None or vma.file != file:
                mapped.set(start, end, None)
            else:
                found.append((start, end, vma))
    return found
