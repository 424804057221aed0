"""Perf maps: the files in which a runtime records what it has compiled, `/tmp/perf-PID.map`. A line
is `START SIZE NAME`."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left, bisect_right

#: The maximum size of a map that is read (bytes): a runtime that ran for days has written some ten
#: million.
MOST = 1 << 28


class PerfMap:
    """Names of JIT code by address. A later entry replaces earlier ones at its addresses, because
    runtimes reuse memory."""

    def __init__(self, text: bytes) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._names: list[str] = []
        entries = []
        for line in text.splitlines():
            parts = line.split(None, 2)
            if len(parts) < 3:
                continue
            try:
                start, size = int(parts[0], 16), int(parts[1], 16)
            except ValueError:
                continue
            if start >= 0 and size > 0 and start + size <= 1 << 64:
                entries.append((start, start + size, parts[2].decode("utf-8", "backslashreplace")))
        # Entries are mostly in order of address already, and then each is appended.
        for start, end, name in entries:
            self._put(start, end, name)

    def _put(self, start: int, end: int, name: str) -> None:
        # Entries that start before it and overlap it, and those that start within it, are gone.
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self._names[first:last] = [name]

    def __len__(self) -> int:
        return len(self._starts)

    def name(self, address: int) -> str | None:
        """Return the name of the code around an address; None if there is none. O(log n)."""
        place = bisect_right(self._starts, address) - 1
        if place >= 0 and address < self._ends[place]:
            return self._names[place]
        return None


def perf_map_paths(pid: int) -> list[str]:
    """Return where the map of a running process may be: by its own number in its own /tmp, and by
    the number seen here."""
    own = pid
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):
                    own = int(line.split()[-1])
    except OSError:
        pass
    return [f"/proc/{pid}/root/tmp/perf-{own}.map", f"/tmp/perf-{pid}.map"]


def _open(path: str, flags: int) -> int:
    # Any user may create any file under that name: a FIFO must not block the report.
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no regular file", path)
    return fd


def read_perf_map(pid: int, path: str | None = None) -> PerfMap | None:
    """Return the map of a process; None if there is none. O(lines log lines)."""
    for candidate in [path] if path is not None else perf_map_paths(pid):
        try:
            with open(candidate, "rb", opener=_open) as file:
                return PerfMap(file.read(MOST))
        except OSError:
            continue
    return None
