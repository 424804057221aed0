"""The changes to Gramine that can be switched on, each by itself: what its PAL and its LibOS then
do otherwise. docs/gramine.md describes them.

A switch is evaluated where the work is done that it changes: `extend`, `kinds`, `copy` and
`reserve` in the PAL, the others in the LibOS.
"""

from __future__ import annotations

from typing import NamedTuple


class Switches(NamedTuple):
    """Which changes are on; none of them is today's Gramine.

    `store`: the checkpoint store is committed lazily. `send`: a child receives anonymous memory in
    runs of pages. `equal`: an mprotect skips VMAs that have the
    protection (PR #1824). `kinds`: the PAL receives the kind of change (issue #1708). `extend`: an
    extension makes no OCALL. `copy`: new pages get their permissions and contents by EACCEPTCOPY.
    `reserve`: no inaccessible page is committed. `demand`: the number of pages that the first touch
    of a page commits; 0: mappings are committed at once. `zero`: a MAP_FIXED mapping keeps the
    pages that are there. `exec`: execve keeps the stack and mappings of the same files. `threads`:
    the next thread gets the LibOS stack of an ended one.
    """

    store: bool = False
    send: bool = False
    equal: bool = False
    kinds: bool = False
    extend: bool = False
    copy: bool = False
    reserve: bool = False
    demand: int = 0
    zero: bool = False
    exec: bool = False
    threads: bool = False

    @property
    def is_strict(self) -> bool:
        """Whether no page is ever accessible beyond what the program requested."""
        return all((self.kinds, self.copy, self.reserve, self.demand, self.zero))


#: Today's Gramine.
NO_SWITCHES = Switches()
#: All of them, with as many pages at a first touch as Linux maps around a fault of a file.
ALL_SWITCHES = Switches(True, True, True, True, True, True, True, 16, True, True, True)
