"""The work for the host: one `Change` for each page run whose wanted and held states differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntFlag
from typing import Final, NamedTuple

from laconic.memory.flags import PROT_RWX, flag_names
from laconic.memory.rangemap import Range, join_ranges, range_text
from laconic.memory.vma import Vma


class ChangeKind(IntFlag):
    """The kinds of change that a page run needs, as a set: RW to RX is EXTEND and RESTRICT."""

    NOTHING = 0
    #: Nothing was mapped. The contents are zero, the file's, or those at `Change.source`.
    MAP = 1
    UNMAP = 2
    #: Attributes other than the protection change: locks, advice, sharing, name.
    FLAGS = 4
    #: The backing changes, and with it the contents.
    FILE = 8
    #: Permissions are added.
    EXTEND = 16
    #: Permissions are removed.
    RESTRICT = 32
    #: The backing stays, but written contents are discarded: they are zero, or the file's, again.
    ZERO = 64
    #: A request about residency or write-back (WILLNEED, POPULATE, msync). The bookkeeping does not
    #: record these, so they always need a host call.
    ADVISE = 128

    def __str__(self) -> str:
        """Return the names of the kinds, joined by `|`; `Change.kind` is the number."""
        return kind_names(int(self))


# Plain integers, because an operator of IntFlag costs half a microsecond, and every memory call
# uses several.
MAP: Final = 1
UNMAP: Final = 2
FLAGS: Final = 4
FILE: Final = 8
EXTEND: Final = 16
RESTRICT: Final = 32
ZERO: Final = 64
ADVISE: Final = 128


def kind_names(kind: int) -> str:
    """Return the names of a set of kinds, joined by `|`.

    >>> kind_names(EXTEND | RESTRICT)
    'EXTEND|RESTRICT'
    """
    return "|".join(str(single.name) for single in ChangeKind if single & kind) or "NOTHING"


def _signed(sign: str, flags: int) -> str:
    # The VmFlags codes other than permissions, as in " +lo +dd".
    return "".join(f" {sign}{code}" for code in flag_names(flags & ~PROT_RWX).split())


class Change(NamedTuple):
    """One page run `[start, end)` in bytes, and how it differs.

    `kind` is a `ChangeKind` as a plain integer. `source` is the address of the pages that mremap
    moves here, or None.
    """

    kind: int
    start: int
    end: int
    wanted: Vma | None
    held: Vma | None
    source: int | None = None

    @property
    def kinds(self) -> ChangeKind:
        """Return `kind` as a flag set.

        >>> Change(EXTEND | RESTRICT, 0, 4096, None, None).kinds
        <ChangeKind.EXTEND|RESTRICT: 48>
        """
        return ChangeKind(self.kind)

    def __str__(self) -> str:
        """Return the kinds, the range, and the permissions and `VmFlags` codes before and after.

        >>> read_write, read_only = Vma(0x73), Vma(0x2071)
        >>> print(Change(RESTRICT | FLAGS, 0x7000, 0x9000, read_only, read_write))
        FLAGS|RESTRICT 7000-9000 r--p +lo, was rw-p
        >>> print(Change(UNMAP, 0x7000, 0x9000, None, read_write))
        UNMAP 7000-9000, was rw-p
        """
        text = f"{kind_names(self.kind)} {range_text(self.start, self.end)}"
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
    """The outcome of a memory call: the work for the host, and the result for the program.

    `result` is the program's result once the host has confirmed the changes: a value, or a negative
    errno. `start` and `end` (bytes) enclose everything that the call may have edited.

    If there are no changes and `ask` is False, no host call is needed. `ask`: the call must be
    passed on unchanged, because the host's answer contains information that the bookkeeping does
    not have; `result` is then a prediction. `place`: the host chooses the address. `resync`: the
    effect of the call is unknown, and the bookkeeping is re-read from the host afterwards. `then`
    runs once the host has confirmed.
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


NOTHING: Final = Outcome(0)

#: `new(Change, (...))` is `Change(...)` with every field given, at half the cost: the constructor
#: of a NamedTuple is Python code.
new: Final = tuple.__new__


def classify(held: Vma | None, wanted: Vma | None) -> int:
    """Return the kinds of change from `held` to `wanted`, except those of contents. O(1)."""
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
    if held_base != base or (held_file is not file and held_file != file):
        kind |= FILE
    return kind


def coalesce(changes: Iterable[Change]) -> list[Range]:
    """Return the page runs of `changes` as `(start, end)`, joined if they touch. O(k).

    The changes must ascend.
    """
    return join_ranges((change.start, change.end) for change in changes)
