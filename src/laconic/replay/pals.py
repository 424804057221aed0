"""A PAL attached to a replay: it receives every change of a trace, as if it were the traced
program's host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from laconic.errors import LaconicError
from laconic.memory.change import MAP, UNMAP, Change
from laconic.memory.pal import Pal, refusal_errno
from laconic.replay.events import CallDone, Listener
from laconic.replay.thread import Mm
from laconic.trace.schema import Row


class Refusal(NamedTuple):
    """A change that a PAL refused in a replay.

    `process` is the number of the program (`Mm.number`), `errno` the PAL's.
    """

    process: int
    change: Change
    errno: int


class PalFeed(Listener):
    """Passes every change of a replay to a PAL, in the order of the trace.

    `pal_for` is called once for each address space, and returns its PAL. The PAL receives a MAP for
    each initial VMA of the address space (the image of a program, or the copy that fork makes), the
    changes of its calls, the growth of its stacks, and at its end an UNMAP for each remaining VMA.
    The VMA contains its locks and other flags.

    The traced program received its host's results long ago, so a PAL cannot change the replay:
    pages whose MAP it refused are unmapped like all others. `refusals` lists the changes that it
    refused. O(changes), and O(VMAs) for each address space.
    """

    def __init__(self, pal_for: Callable[[Mm], Pal]) -> None:
        self.pal_for = pal_for
        self.refusals: list[Refusal] = []
        self._pals: dict[Mm, Pal] = {}

    def started(self, mm: Mm) -> None:
        """Map the image of a program."""
        self._map_all(mm)

    def forked(self, parent: Mm, child: Mm) -> None:
        """Map the child's copy."""
        self._map_all(child)

    def call_done(self, done: CallDone) -> None:
        """Apply the changes of a call."""
        self._apply(done.thread.mm, done.changes)

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """Apply the changes of a call that has not ended yet."""
        self._apply(mm, changes)

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        """Map the pages that the recorded host mapped without a call."""
        self._apply(mm, changes)

    def ended(self, mm: Mm) -> None:
        """Unmap everything that is left."""
        if mm.space is not None:
            self._apply(
                mm, [Change(UNMAP, start, end, None, vma) for start, end, vma in mm.space.held]
            )
        self._pals.pop(mm, None)

    def _map_all(self, mm: Mm) -> None:
        pal = self.pal_for(mm)
        check_pal(pal, f"the result of pal_for for process {mm.pid}")
        self._pals[mm] = pal
        assert mm.space is not None
        self._apply(mm, [Change(MAP, start, end, vma, None) for start, end, vma in mm.space.held])

    def _apply(self, mm: Mm, changes: Iterable[Change]) -> None:
        pal = self._pals.get(mm)
        if pal is None:
            return  # the maps are not known yet; `started` follows
        for change in changes:
            try:
                pal.apply(change)
            except OSError as error:
                errno = refusal_errno(error)
                if not errno:
                    raise
                self.refusals.append(Refusal(mm.number, change, errno))


def check_pal(pal: object, what: str) -> None:
    """Raise LaconicError if `pal` is not an object with the method `apply`; the message calls it
    `what`."""
    if isinstance(pal, type):
        raise LaconicError(f"{what} is the class {pal.__name__}: pass an object of the class")
    if not callable(getattr(pal, "apply", None)):
        raise LaconicError(f"{what} is {pal!r}, which has no method apply: pass a PAL")
