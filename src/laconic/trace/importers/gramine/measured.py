"""Gramine-SGX's statistics at the end of a process, with `sgx.enable_stats`: the number of enclave
entries and exits.

The lines are those of print_global_sgx_stats in pal/src/host/linux-sgx/host_thread.c:

    ----- Total SGX stats for process 87219 -----
      # of EENTERs:        224
      # of EEXITs:         192
      # of AEXs:           201
      # of sync signals:   32
      # of async signals:  0

Gramine up to 1.0 prints the same for each thread ("SGX stats for thread"). The ids are the host's.
"""

from __future__ import annotations

import re
from typing import Final

_HEAD = re.compile(rb"----- (?:Total )?SGX stats for (process|thread) (\d{1,10}) -----")
_LINE = re.compile(rb"^\s*# of (EENTERs|EEXITs|AEXs|sync signals|async signals): +(\d{1,19})\s*$")
#: The counters in the order of the columns a0 to a4 of a `measured` row.
COUNTERS: Final = (b"EENTERs", b"EEXITs", b"AEXs", b"sync signals", b"async signals")


class Statistics:
    """Collects the lines of such blocks. `blocks` contains the complete ones: the host's id, True
    for a process, and the five counters."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, bool, tuple[int, ...]]] = []
        self._id = -1
        self._process = False
        self._counts: dict[bytes, int] = {}

    @property
    def is_open(self) -> bool:
        """True inside a block."""
        return self._id >= 0

    def begin(self, text: bytes) -> None:
        """Start a block if `text` is the head of one. O(length)."""
        head = _HEAD.search(text)
        if head is not None:
            self._id, self._process = int(head[2]), head[1] == b"process"
            self._counts.clear()

    def line(self, text: bytes) -> bool:
        """Return whether `text` is a line of the current block; if so, read it. O(length)."""
        if not self.is_open:
            return False
        found = _LINE.match(text)
        if found is None:
            return False
        self._counts[found[1]] = int(found[2])
        if len(self._counts) == len(COUNTERS):
            counts = tuple(self._counts[name] for name in COUNTERS)
            self.blocks.append((self._id, self._process, counts))
            self._id = -1
        return True
