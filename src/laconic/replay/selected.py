"""A selection of calls between a replay and what counts them: the replay carries out every call, and
only the selected ones are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from laconic.memory.ledger import Ledger
from laconic.replay.enclaves import AROUND, NOT_SELECTED, TOUCH
from laconic.replay.events import CallDone, Listener, Program
from laconic.sgx.meter import Meter
from laconic.trace.selection import Selection

_AROUND = frozenset({*AROUND, TOUCH, "other"})


class Selected(Listener):
    """Passes the ends of the selected calls to `listener`, and nothing else. `ledger` counts
    them."""

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


def drop_unselected(
    meters: Mapping[str, Meter], selection: Selection, programs: Sequence[Program]
) -> None:
    """Forget what the enclaves did for calls that are not selected.

    What a library OS does around the calls (load, fork, touched pages) is kept for the selected
    processes. It is dropped if only some calls of a process are selected: it belongs to none of
    them. `programs` are those that a replay has started, by number. O(labels).
    """
    for meter in meters.values():
        kept = {}
        for (number, label), counts in meter.tables.items():
            cause = getattr(label, "owner", label)
            is_around = cause in _AROUND
            if cause == NOT_SELECTED or (is_around and selection.divides_processes):
                continue
            pid, path = programs[number] if 0 <= number < len(programs) else (0, "?")
            if not is_around or selection.includes_process(pid, path):
                kept[number, label] = counts
        meter.tables = kept
