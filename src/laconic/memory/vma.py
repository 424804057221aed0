"""What a program requested for one range of pages: protection, flags, backing. Immutable, and free
of its position.

A `Vma` is a value in a `RangeMap`, which knows the range. The file offset is kept as `base`, the
address at which byte 0 of the file would lie (begin - offset, in bytes; it may be negative), so
that a split copies a reference and two neighbours merge exactly when they are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

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


@dataclass(frozen=True, slots=True)
class File:
    """A file behind a mapping, identified as `/proc/PID/maps` does: device and inode.

    Two opens of one file are one `File`. The path is what the file was called when it was first
    seen and takes no part in comparisons: a rename or an unlink changes it behind everyone's back
    (d_path in fs/d_path.c).
    """

    major: int
    minor: int
    inode: int
    path: str = field(default="", compare=False)

    @property
    def device(self) -> str:
        """The device as `/proc/PID/maps` prints it."""
        return f"{self.major:02x}:{self.minor:02x}"

    @property
    def is_secret(self) -> bool:
        """True for memfd_secret's memory (mm/secretmem.c)."""
        return self.path.startswith("/secretmem")

    @property
    def in_memory(self) -> bool:
        """True where only memory has the contents: shared anonymous memory, System V segments,
        memfd (mm/shmem.c)."""
        return self.path.startswith(("/dev/zero", "/SYSV", "/memfd:"))

    @property
    def is_on_disk(self) -> bool:
        """True where a file system has the contents."""
        return self.inode > 0 and not self.in_memory


class Vma(NamedTuple):
    """One range's attributes. `flags` are the kernel's `vm_flags`, the protection in the low three
    bits.

    `name` is what prctl(PR_SET_VMA_ANON_NAME) gave, `policy` what mbind gave (mode, node mask),
    `pkey` the protection key. `base` (bytes) is 0 for anonymous memory.
    """

    flags: int
    file: File | None = None
    base: int = 0
    name: str | None = None
    pkey: int = 0
    policy: tuple[int, bytes] | None = None

    @property
    def prot(self) -> Prot:
        """The protection, for people; code compares `flags & VM_PROT`."""
        return Prot(self.flags & VM_PROT)

    @property
    def anonymous(self) -> bool:
        """True for private memory without a file's contents (vma_is_anonymous), /dev/zero's
        included."""
        if self.file is None:
            return True
        return self.file.path == "/dev/zero" and not self.flags & VM_MAYSHARE

    @property
    def is_locked(self) -> bool:
        """True if its pages are locked at once, and not each at its first touch."""
        return self.flags & VM_LOCKED_MASK == VM_LOCKED

    def with_flags(self, flags: int) -> Vma:
        """The same but for `vm_flags`."""
        return tuple.__new__(Vma, (flags, *self[1:]))  # half the price of Vma()

    def moved(self, distance: int) -> Vma:
        """The same contents, `distance` bytes higher: a file's base moves along, anonymous memory
        has none."""
        if self.file is None:
            return self
        return Vma(self.flags, self.file, self.base + distance, self.name, self.pkey, self.policy)

    def __repr__(self) -> str:
        """The permissions, the other `VmFlags` codes, and the backing.

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
        """As `/proc/PID/maps` prints them (show_vma_header_prefix in fs/proc/task_mmu.c).

        >>> Vma(0b101).permissions()
        'r-xp'
        """
        bits = self.flags
        letters = "".join(letter if bits & 1 << i else "-" for i, letter in enumerate("rwx"))
        return letters + ("s" if bits & VM_MAYSHARE else "p")


def describe(start: int, end: int, vma: Vma | None) -> str:
    """One line for people, in the form of `/proc/PID/maps` with the `VmFlags` codes after it.

    >>> describe(0x1000, 0x3000, None)
    '00001000-00003000 (nothing)'
    """
    where = f"{start:08x}-{end:08x}"
    if vma is None:
        return f"{where} (nothing)"
    if vma.file is None:
        backing = f"00000000 00:00 0 {f'[anon:{vma.name}]' if vma.name else ''}"
    else:
        backing = f"{start - vma.base:08x} {vma.file.device} {vma.file.inode} {vma.file.path}"
    return f"{where} {vma.permissions()} {backing.rstrip()} [{flag_names(vma.flags)}]"
