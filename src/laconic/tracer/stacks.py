"""Call sites: the stacks of stopped threads, as rows of the trace.

Every module, frame and stack is written once, and is referred to by number from then on. Names are
looked up at report time.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from laconic.memory.change import Change
from laconic.memory.flags import PROT_EXEC
from laconic.stacks.modules import Modules
from laconic.stacks.table import FILE, PYTHON
from laconic.stacks.unwind import Space
from laconic.trace.schema import CODES, FRAME, Row

if TYPE_CHECKING:
    from laconic.trace.writer import Rows
    from laconic.tracer.process import TracedMm, TracedThread

#: Which calls' stacks are recorded: those of redundant calls, of all calls, or of none.
REDUNDANT, ALL, NONE = "redundant", "all", "none"
#: Address spaces whose rules are kept. A program that forks and executes leaves one behind each
#: time.
_SPACES = 64


@mypyc_attr(allow_interpreted_subclasses=True)
class StackCapture:
    """Captures stacks and appends their rows. `which` is REDUNDANT or ALL; `began` is as in
    `Recorder`."""

    def __init__(self, writer: Rows, which: str) -> None:
        self.all = which == ALL
        self._writer = writer
        self._rows = writer.rows
        self._modules = Modules(keep=not writer.redacts)
        self._spaces: dict[TracedMm, Space] = {}
        self._known: set[int] = set()
        self._frames = self._written = 0
        self.began = 0

    def take(self, thread: TracedThread, words: Sequence[int], redundant: bool) -> None:
        """Append the stack of a thread that has stopped for a call; `words` are its registers.
        `redundant`: the call changes nothing. O(frames)."""
        space = self._spaces.get(thread.mm)
        # Among processes that share memory (vfork), the one whose map was read may run another
        # program by now.
        if space is None or space.pid != thread.tgid:
            space = self._add(thread)
        frames = space.walk(thread.tid, words)
        tables = self._modules.tables
        number = tables.stacks.number(frames)
        data = b""
        if number not in self._known:
            self._known.add(number)
            self._tell()
            data = struct.pack(f"<{len(frames)}I", *frames)
        self._row("site", thread.tgid, thread.tid, number, data)

    def _add(self, thread: TracedThread) -> Space:
        if len(self._spaces) >= _SPACES:
            for mm in [mm for mm in self._spaces if not mm.threads] or list(self._spaces):
                del self._spaces[mm]
        space = self._spaces[thread.mm] = Space(thread.tgid, self._modules, python=True)
        return space

    def _tell(self) -> None:
        # Append the modules and frames that are new.
        tables = self._modules.tables
        for number in range(self._written, len(tables.modules)):
            module = tables.modules[number]
            about = module._asdict()
            if self._writer.redacts and module.kind in (FILE, PYTHON):
                about["path"] = self._writer.hidden_path(module.path).decode("utf-8", "replace")
                if module.name:
                    about["name"] = self._writer.hidden(module.name).decode("utf-8", "replace")
            self._row("module", 0, 0, number, json.dumps(about).encode())
        self._written = len(tables.modules)
        count = len(tables.frames)
        if count > self._frames:
            packed = b"".join(
                FRAME.pack(frame.module << 2 | frame.exact << 1 | frame.guessed, frame.address)
                for frame in (tables.frames[number] for number in range(self._frames, count))
            )
            self._row("frames", 0, 0, self._frames, packed)
            self._frames = count

    def _row(self, event: str, pid: int, tid: int, number: int, data: bytes) -> None:
        now = time.monotonic_ns() - self.began
        self._rows.append(Row(CODES[event], now, pid, tid, a0=number, data=data))

    def changed(self, mm: TracedMm, changes: Iterable[Change], unknown: bool) -> None:
        """Note that a call changed this address space, perhaps its executable memory; `unknown`:
        perhaps more than `changes`. O(changes)."""
        space = self._spaces.get(mm)
        if space is None:
            return
        if unknown:
            space.invalidate()
            return
        stale = replaced = False
        for _, _, _, wanted, held, _ in changes:
            if held is not None and held.flags & PROT_EXEC:
                stale = True
                replaced |= held.file is not None and (wanted is None or wanted.file != held.file)
            elif wanted is not None and wanted.flags & PROT_EXEC:
                stale = True
        if stale:
            space.invalidate(replaced)

    def name_vanished(self) -> None:
        """Append the names of the frames of files that no longer exist, such as a program that was
        built in a temporary directory and deleted. Call this once, at the end of the run. O(frames
        of these files), plus reading their symbols."""
        kept = self._modules.kept
        for number, descriptor in kept.items():
            try:
                self._name(number, descriptor)
            finally:
                os.close(descriptor)
        kept.clear()

    def _name(self, number: int, descriptor: int) -> None:
        from laconic.stacks.symbolize import Symbolizer, changed
        from laconic.trace.packing import symbols_row

        module = self._modules.tables.modules[number]
        if not changed(module):
            return
        # The file is read through the descriptor, but shown by its name.
        symbolizer = Symbolizer()
        opened = module._replace(path=f"/proc/self/fd/{descriptor}")
        short = os.path.basename(module.path)
        places = {
            frame: [place._replace(module=short) for place in symbolizer.places(opened, frame)]
            for frame in self._modules.tables.frames
            if frame.module == number
        }
        known = {frame: found for frame, found in places.items() if found[-1].known}
        if known:
            self._rows.append(symbols_row(number, known, time.monotonic_ns() - self.began))

    def forget(self, mm: TracedMm) -> None:
        """Forget an address space that is gone. O(1)."""
        self._spaces.pop(mm, None)
