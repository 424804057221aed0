"""A selection of calls, applied between a replay and its listeners: the replay carries out every
call, and only the selected ones are counted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from laconic.memory.ledger import Ledger
from laconic.replay.enclaves import AROUND, NOT_SELECTED, OTHER, TOUCH, Enclaves, Touch
from laconic.replay.events import CallDone, Listener, Program
from laconic.sgx.meter import Counts
from laconic.trace.selection import Selection

_AROUND = frozenset({*AROUND, TOUCH, OTHER})


class Selected(Listener):
    """Passes only the ends of the selected calls to `listener`, and counts them in `ledger`."""

    def __init__(self, listener: Listener, selection: Selection) -> None:
        self._listener = listener
        self._selection = selection
        self.ledger = Ledger()

    def call_done(self, done: CallDone) -> None:
        """Pass the call on if it is selected. O(options)."""
        if done.is_in(self._selection):
            if done.is_finished:
                self.ledger.count(done.name, done.host_calls, done.result, changes=done.changes)
            self._listener.call_done(done)


def drop_unselected(enclaves: Enclaves, selection: Selection, programs: Sequence[Program]) -> None:
    """Remove the enclaves' work for calls that are not selected.

    If `enclaves` count by owner, touches of pages belong to the call that mapped the pages. The
    library OS's work around the calls (load, fork) is kept for the selected processes. It is
    dropped if only some calls of a process are selected, because it belongs to none of them.
    `programs` are those that a replay has started, by number. O(labels).
    """

    def is_kept(number: int, label: Hashable) -> bool:
        cause = getattr(label, "owner", label)
        if cause == NOT_SELECTED:
            return False
        if cause not in _AROUND:
            return True
        pid, path = programs[number] if 0 <= number < len(programs) else (0, "?")
        return not selection.divides_processes and selection.includes_process(pid, path)

    for meter in enclaves.meters.values():
        meter.tables = {key: counts for key, counts in meter.tables.items() if is_kept(*key)}
    for number, pages in enclaves.touched_pages.items():
        enclaves.touched_pages[number] = {
            owner: count for owner, count in pages.items() if is_kept(number, owner)
        }


def join_touches(enclaves: Enclaves) -> None:
    """Count all touches under TOUCH, whichever call mapped the pages. O(labels)."""
    for meter in enclaves.meters.values():
        meter.tables = join_labels(
            meter.tables, lambda label: TOUCH if isinstance(label, Touch) else label
        )


def join_labels(
    tables: Mapping[tuple[int, Hashable], Counts], joined: Callable[[Hashable], Hashable]
) -> dict[tuple[int, Hashable], Counts]:
    """Return the counts of `tables`, by process and `joined(label)`. O(labels)."""
    sums: dict[tuple[int, Hashable], Counts] = {}
    for (number, label), counts in tables.items():
        sums.setdefault((number, joined(label)), Counts()).add(counts)
    return sums
