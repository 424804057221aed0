"""Comparison with `/proc/PID/maps`, which shows less of a VMA than the bookkeeping holds.

The file shows the range, the protection, private or shared, and the file with its offset. It is far
cheaper to read than smaps, and PROCMAP_QUERY reads any part of it. The other attributes (locks,
advice, seals) are in smaps alone, which can be read only from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from laconic.linux.proc import HostVma, MapsFile
from laconic.memory.flags import TASK_SIZE, VM_MAYSHARE, VM_PROT, VM_SHARED
from laconic.memory.rangemap import RangeMap
from laconic.memory.vma import Vma

_SHOWN = VM_PROT | VM_MAYSHARE


def is_private_zero(vma: Vma) -> bool:
    """Return whether a VMA is a mapping of /dev/zero that is private to its process.

    It is anonymous memory with a file (mmap_zero_private_success in drivers/char/mem.c). If mremap
    moves it before it was touched, its offset becomes its address (copy_vma in mm/vma.c). A shared
    mapping of a descriptor opened read-only is one too: do_mmap clears VM_SHARED for it.
    """
    return vma.file is not None and vma.file.path == "/dev/zero" and not vma.flags & VM_SHARED


def agrees(maps: MapsFile, space_vmas: RangeMap[Vma], start: int, end: int) -> bool:
    """Return whether the file agrees with a map in `[start, end)` and in the VMAs around it.

    The host's VMAs that contain or touch the range are compared whole. Complexity: O(k log n).
    Raises OSError if the address space is gone.
    """
    position = around_start = max(start - 1, 0)
    around_end = min(end + 1, TASK_SIZE)
    for host in maps.vmas(around_start, around_end):
        if host.start > position and not _is_hole(space_vmas, position, host.start):
            return False
        position = host.end
        for _, _, vma in space_vmas.runs(host.start, host.end):
            if vma is None or not _looks_like(host, vma):
                return False
    return position >= around_end or _is_hole(space_vmas, position, around_end)


def shown_in(
    maps: MapsFile, start: int, end: int, candidates: Sequence[RangeMap[Vma]]
) -> RangeMap[Vma] | None:
    """Return the host's map within `[start, end)`, composed from candidate maps.

    Each page run takes the VMA of the candidate that looks as the host shows the run. Returns None
    if there is no such candidate, or two that differ in attributes that the file does not show.
    Raises OSError if the address space is gone.
    """
    composed: RangeMap[Vma] = RangeMap()
    for host in maps.vmas(start, end):
        for run_start, run_end, vmas in _together(
            candidates, max(host.start, start), min(host.end, end)
        ):
            alike = [vma for vma in vmas if vma is not None and _looks_like(host, vma)]
            if not alike or any(vma != alike[0] for vma in alike[1:]):
                return None
            composed.set(run_start, run_end, alike[0])
    return composed


def _is_hole(vmas: RangeMap[Vma], start: int, end: int) -> bool:
    return all(vma is None for _, _, vma in vmas.runs(start, end))


def _looks_like(host: HostVma, vma: Vma) -> bool:
    flags, file, base = host.flags, host.file, host.start - host.offset
    if vma.flags & _SHOWN != flags or vma.file != file:
        return False
    return file is None or vma.base == base or is_private_zero(vma)


def _together(
    maps: Sequence[RangeMap[Vma]], start: int, end: int
) -> Iterator[tuple[int, int, list[Vma | None]]]:
    # The runs of `[start, end)` within which no map changes, with the value of each map.
    while start < end:
        runs = [vmas.find(start) for vmas in maps]
        run_end = min(end, *(run[1] for run in runs))
        yield start, run_end, [run[2] for run in runs]
        start = run_end
