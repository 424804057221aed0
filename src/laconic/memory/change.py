"""The work for the host: one `Change` for each run of pages on which wanted and held differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntFlag
from typing import NamedTuple

from laconic.memory.flags import PROT_RWX, flag_names
from laconic.memory.rangemap import Range, join_ranges
from laconic.memory.vma import Vma


class ChangeKind(IntFlag):
    """What kind of change a page run needs. A set: RW to RX is EXTEND and RESTRICT. Empty: nothing
    to do."""

    NOTHING = 0
    #: There was nothing; the contents are zero, the file's, or those of `Change.source`.
    MAP = 1
    UNMAP = 2
    #: Flags other than the protection: locks, advice, sharing, name.
    FLAGS = 4
    #: Another backing, and with it other contents.
    FILE = 8
    #: Permissions are added.
    EXTEND = 16
    #: Permissions are taken away.
    RESTRICT = 32
    #: The backing stays, and what was written is thrown away: the contents are zero, or the file's,
    #: again.
    ZERO = 64
    #: A request about residency or write-back (WILLNEED, POPULATE, msync), which no bookkeeping
    #: holds: always a host call.
    ADVISE = 128


# Plain integers: IntFlag's operators cost half a microsecond each, and every memory call of every
# program comes here.
MAP, UNMAP, FLAGS, FILE, EXTEND, RESTRICT, ZERO, ADVISE = (1 << bit for bit in range(8))


def kind_names(kind: int) -> str:
    """The names of a set of kinds, joined by `|`.

    >>> kind_names(EXTEND | RESTRICT)
    'EXTEND|RESTRICT'
    """
    return "|".join(str(single.name) for single in ChangeKind if single & kind) or "NOTHING"


def _signed(sign: str, flags: int) -> str:
    # The VmFlags codes other than permissions, as in " +lo +dd".
    return "".join(f" {sign}{code}" for code in flag_names(flags & ~PROT_RWX).split())


class Change(NamedTuple):
    """One page run `[start, end)` in bytes, and how it differs.

    `kind` is a `ChangeKind` as a plain integer. `source` is the address from which the contents
    come (mremap), or None.
    """

    kind: int
    start: int
    end: int
    wanted: Vma | None
    held: Vma | None
    source: int | None = None

    @property
    def kinds(self) -> ChangeKind:
        """`kind` as a flag set.

        >>> Change(EXTEND | RESTRICT, 0, 4096, None, None).kinds
        <ChangeKind.EXTEND|RESTRICT: 48>
        """
        return ChangeKind(self.kind)

    def __str__(self) -> str:
        """The kinds, the range, and the permissions and `VmFlags` codes before and after.

        >>> read_write, read_only = Vma(0x73), Vma(0x2071)
        >>> print(Change(RESTRICT | FLAGS, 0x7000, 0x9000, read_only, read_write))
        FLAGS|RESTRICT 7000-9000 r--p +lo, was rw-p
        >>> print(Change(UNMAP, 0x7000, 0x9000, None, read_write))
        UNMAP 7000-9000, was rw-p
        """
        text = f"{kind_names(self.kind)} {self.start:x}-{self.end:x}"
        wanted, held = self.wanted, self.held
        if wanted is not None:
            text += f" {wanted.permissions()}"
            if wanted.file is not None:
                text += f" {wanted.file.path or wanted.file.inode}"
        if wanted is not None and held is not None:
            text += _signed("+", wanted.flags & ~held.flags) + _signed(
                "-", held.flags & ~wanted.flags
            )
        if held is not None and (wanted is None or wanted.permissions() != held.permissions()):
            text += f", was {held.permissions()}"
        if self.source is not None:
            text += f", from {self.source:x}"
        return text

    def __repr__(self) -> str:
        return f"<Change {self}>"


class Outcome(NamedTuple):
    """What a memory call comes to: what to tell the host, and then the program.

    `result` is the program's result once the host has confirmed the changes: a value, or a negative
    errno. No changes and `ask` False: there is no host call. `ask` means that the host must
    execute the call as it is, since its answer holds what bookkeeping cannot know (`result` is then a
    prediction). `start` and `end` (bytes) enclose all that the call may have edited. `place`: the
    host chooses the address. `resync`: bookkeeping cannot say what the call will do, and is to be
    read anew from the host afterwards. `then` runs when the host has confirmed.
    """

    result: int
    changes: tuple[Change, ...] = ()
    start: int = 0
    end: int = 0
    ask: bool = False
    place: bool = False
    resync: bool = False
    then: Callable[[], None] | None = None

    def __repr__(self) -> str:
        words = [f"result={self.result if -4096 < self.result < 4096 else hex(self.result)}"]
        words += [word for word in ("ask", "place", "resync") if getattr(self, word)]
        words += [str(change) for change in self.changes]
        return f"<Outcome {'; '.join(words)}>"


NOTHING = Outcome(0)

#: `new(Change, (...))` is `Change(...)` with every field given, at half the price: a NamedTuple's
#: own is Python code.
new = tuple.__new__


def classify(held: Vma | None, wanted: Vma | None) -> int:
    """The kinds of change that lead from `held` to `wanted`; contents are the caller's to judge.
    O(1)."""
    if held is wanted:
        return 0
    if held is None:
        return MAP
    if wanted is None:
        return UNMAP
    had, held_file, held_base, held_name, held_key, held_policy = held
    flags, file, base, name, key, policy = wanted
    kind = 0
    differ = had ^ flags
    if differ & flags & PROT_RWX:
        kind |= EXTEND
    if differ & had & PROT_RWX:
        kind |= RESTRICT
    if differ & ~PROT_RWX or held_name != name or held_key != key or held_policy != policy:
        kind |= FLAGS
    if held_base != base or held_file is not file and held_file != file:
        kind |= FILE
    return kind


def coalesce(changes: Iterable[Change]) -> list[Range]:
    """The page runs of `changes` as `(start, end)`, those that touch joined. The changes must
    ascend. O(k)."""
    return join_ranges((change.start, change.end) for change in changes)
