"""The changes to Gramine that can be switched on separately, and their effect on its PAL and LibOS.
docs/gramine.md describes them.

Each switch is evaluated at the work that it changes: `extend`, `kinds`, `copy` and `reserve` in the
PAL, the others in the LibOS.
"""

from __future__ import annotations

from typing import NamedTuple


class Switches(NamedTuple):
    """The changes that are on. With none, the model is today's Gramine.

    `store`: the checkpoint store is committed lazily. `send`: a child receives anonymous memory in
    page runs. `equal`: an mprotect skips VMAs that have the protection already (PR #1824). `kinds`:
    the PAL receives the kind of change (issue #1708). `extend`: an extension makes no OCALL.
    `copy`: new pages get their permissions and contents by EACCEPTCOPY. `reserve`: no inaccessible
    page is committed. `demand`: the number of pages committed at the first touch of a page; 0:
    mappings are committed immediately. `zero`: a MAP_FIXED mapping reuses the committed pages in
    its range. `exec`: execve keeps the stack and mappings of the same files. `threads`: a new
    thread gets the LibOS stack of an ended one.
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
        """Return whether no page is ever accessible beyond what the program requested."""
        return all((self.kinds, self.copy, self.reserve, self.demand, self.zero))


#: Today's Gramine.
NO_SWITCHES = Switches()
#: All changes, with as many pages per first touch as Linux maps around a fault of a file.
ALL_SWITCHES = Switches(True, True, True, True, True, True, True, 16, True, True, True)
