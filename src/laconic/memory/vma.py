"""The attributes of one range of pages: protection, flags, backing. Immutable, without a position.

A `Vma` is a value in a `RangeMap`, which contains the range. The file offset is stored as `base`,
the address at which byte 0 of the file would be (start - offset in bytes, possibly negative). A
split therefore copies a reference, and two neighbors merge exactly if they are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from laconic.memory.flags import (
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_MAY_RWX,
    VM_MAYSHARE,
    VM_PROT,
    VM_SHARED,
    Prot,
    flag_names,
)
from laconic.memory.rangemap import range_text

#: The device, major and minor, of files that a log identifies by their paths; their inodes are
#: negative.
LOG_DEVICE: Final = (0, 2)


@dataclass(frozen=True, slots=True)
class File:
    """The file of a mapping, identified by device and inode as in `/proc/PID/maps`.

    Two opens of one file are one `File`. The path is the one that the file had when it was first
    seen. It is not compared, because a rename or an unlink changes it without any memory call
    (d_path in fs/d_path.c).
    """

    major: int
    minor: int
    inode: int
    path: str = field(default="", compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Let pickle make it again: it cannot set the fields of a frozen class that mypyc has
        compiled."""
        return File, (self.major, self.minor, self.inode, self.path)

    @property
    def device(self) -> str:
        """Return the device as `/proc/PID/maps` prints it."""
        return f"{self.major:02x}:{self.minor:02x}"

    @property
    def is_secret(self) -> bool:
        """Return whether the file is from memfd_secret (mm/secretmem.c)."""
        return self.path.startswith("/secretmem")

    @property
    def in_memory(self) -> bool:
        """Return whether the contents are only in memory (mm/shmem.c).

        True for shared anonymous memory, System V segments and memfd.
        """
        return self.path.startswith(("/dev/zero", "/SYSV", "/memfd:"))

    @property
    def is_on_disk(self) -> bool:
        """Return whether the contents are in a file system, as those of any path in a log are."""
        is_of_log = (self.major, self.minor) == LOG_DEVICE
        return (self.inode > 0 or is_of_log) and not self.in_memory


class Vma(NamedTuple):
    """The attributes of one range.

    `flags` are the kernel's `vm_flags`, with the protection in the low three bits. `base` (bytes)
    is 0 for anonymous memory. `name` is set by prctl(PR_SET_VMA_ANON_NAME), and `policy` (mode and
    node mask) by mbind. `pkey` is the protection key.
    """

    flags: int
    file: File | None = None
    base: int = 0
    name: str | None = None
    pkey: int = 0
    policy: tuple[int, bytes] | None = None

    @property
    def prot(self) -> Prot:
        """Return the protection for display; code compares `flags & VM_PROT`."""
        return Prot(self.flags & VM_PROT)

    @property
    def anonymous(self) -> bool:
        """Return whether this is private memory without a file's contents (vma_is_anonymous).

        Private mappings of /dev/zero count as anonymous.
        """
        if self.file is None:
            return True
        return self.file.path == "/dev/zero" and not self.flags & VM_MAYSHARE

    @property
    def is_from_disk(self) -> bool:
        """Return whether this is a mapping of a file whose contents are in a file system."""
        return self.file is not None and self.file.is_on_disk

    @property
    def is_locked(self) -> bool:
        """Return whether all pages are locked immediately, rather than each on its first touch."""
        return self.flags & VM_LOCKED_MASK == VM_LOCKED

    def with_flags(self, flags: int) -> Vma:
        """Return the same VMA with other flags."""
        return tuple.__new__(Vma, (flags, *self[1:]))  # half the cost of Vma()

    def moved(self, distance: int) -> Vma:
        """Return the VMA of the same contents, `distance` bytes higher."""
        if self.file is None:
            return self
        return Vma(self.flags, self.file, self.base + distance, self.name, self.pkey, self.policy)

    def __repr__(self) -> str:
        """Return the permissions, the other `VmFlags` codes, and the backing.

        >>> Vma(0x2073)
        <Vma rw-p lo>
        >>> Vma(0x71, File(8, 1, 77, "/lib/c.so"), 0x7000)
        <Vma r--p /lib/c.so, byte 0 at 7000>
        """
        codes = flag_names(self.flags & ~(VM_PROT | VM_MAY_RWX | VM_SHARED | VM_MAYSHARE))
        words = [self.permissions(), codes, f"[anon:{self.name}]" if self.name else ""]
        if self.file is not None:
            sign = "-" if self.base < 0 else ""
            words.append(f"{self.file.path or self.file}, byte 0 at {sign}{abs(self.base):x}")
        if self.pkey:
            words.append(f"pkey {self.pkey}")
        if self.policy is not None:
            words.append(f"policy {self.policy[0]}")
        return f"<Vma {' '.join(filter(None, words))}>"

    def permissions(self) -> str:
        """Return the permissions as `/proc/PID/maps` prints them (show_vma_header_prefix).

        >>> Vma(0b101).permissions()
        'r-xp'
        """
        bits = self.flags
        letters = "".join(letter if bits & 1 << i else "-" for i, letter in enumerate("rwx"))
        return letters + ("s" if bits & VM_MAYSHARE else "p")


def describe(start: int, end: int, vma: Vma | None) -> str:
    """Return one line as in `/proc/PID/maps`, followed by the `VmFlags` codes.

    >>> describe(0x1000, 0x3000, None)
    '00001000-00003000 (nothing)'
    """
    where = range_text(start, end, "08x")
    if vma is None:
        return f"{where} (nothing)"
    if vma.file is None:
        backing = f"00000000 00:00 0 {f'[anon:{vma.name}]' if vma.name else ''}"
    else:
        backing = f"{start - vma.base:08x} {vma.file.device} {vma.file.inode} {vma.file.path}"
    return f"{where} {vma.permissions()} {backing.rstrip()} [{flag_names(vma.flags)}]"
