"""What only the host can describe of a new mapping, taken over from it."""

from __future__ import annotations

from laconic.memory.change import Outcome
from laconic.memory.flags import VM_HUGETLB
from laconic.memory.space import AddressSpace
from laconic.pal import proc
from laconic.tracer.process import Thread

#: Calls that map, or unmap, what is the host's to describe.
ADOPTED = {"shmat", "map_shadow_stack", "io_setup", "io_destroy"}


def identify(thread: Thread, space: AddressSpace, outcome: Outcome, args: tuple[int, ...]) -> None:
    """Gives what an mmap has just made the file identity, and a device's the flags, that the host shows.

    O(log VMAs); O(VMAs + resident pages) for devices and huge pages.
    """
    wanted = outcome.changes[0].wanted if outcome.changes else None
    if wanted is None:
        return
    start, end = outcome.changes[0].start, outcome.changes[-1].end
    if wanted.flags & VM_HUGETLB:
        # Huge pages are a file of the kernel's own hugetlbfs, with flags of its own (hugetlbfs_file_mmap).
        space.settle(start, end, proc.read_smaps(thread.tid))
        return
    if wanted.file is None:
        return
    fd = args[4] & 0xFFFFFFFF
    anonymous = wanted.file.inode < 0
    file = proc.identify(thread.tid, -1 if anonymous else fd, start, wanted.file)
    if file != wanted.file:
        space.rebind(start, end, file)
    open_file = None if anonymous else thread.open_file(fd)
    if open_file is not None and not open_file.plain:
        # A device decides its mapping's flags itself (vm_flags_set in the driver's mmap).
        space.settle(start, end, proc.read_smaps(thread.tid))


def adopt(thread: Thread, space: AddressSpace, name: str, args: tuple[int, ...], value: int) -> None:
    """Takes over what one of the `ADOPTED` calls has made or removed; `value` is its result. O(VMAs)."""
    if name == "io_destroy":
        start, end, vma = space.vmas.find(args[0])
        if vma is not None:
            space.settle(start, end, proc.read_smaps(thread.tid))
        return
    if name == "io_setup":
        value = int.from_bytes(thread.read(args[1], 8), "little")
    seen = proc.query_vma(thread.tid, value)
    if seen is not None:
        space.settle(seen.start, seen.end, proc.read_smaps(thread.tid))
