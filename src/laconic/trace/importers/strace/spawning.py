"""The process calls of a log: clone and its family, execve, personality, seccomp; and the ends of
threads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

from laconic.linux.clone import (
    CLONE_FILES,
    CLONE_FS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
)
from laconic.trace.importers.strace.arguments import bare, number, split, strings, unquote
from laconic.trace.importers.strace.processes import StraceThread
from laconic.trace.importers.strace.state import LogState
from laconic.trace.schema import CODES, NO_RESULT, UNFINISHED, Row, make_row

FAMILY = ("clone", "clone3", "fork", "vfork")
#: The assumed flags of a clone whose flags the log does not show: those of pthread_create.
_USUAL = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
_TRANSLATED = re.compile(rb"/\* (\d{1,9}) in strace's PID NS \*/")
_FLAGS = re.compile(rb"flags=([^,}\]]+)")


class Spawning:
    """Writes the rows of process calls, and maintains the tree of threads. `abandon` writes the
    row of a thread's call that never returned; its second argument is the state of that row."""

    def __init__(self, log: LogState, abandon: Callable[[StraceThread, int], None]) -> None:
        self.log = log
        self._abandon = abandon

    def call(
        self,
        name: str,
        thread: StraceThread,
        time: int,
        args: list[bytes],
        result: int,
        state: int,
        rest: bytes,
    ) -> None:
        """Write the rows of a process call. Raises ValueError if its arguments are unrecognized."""
        if name in FAMILY:
            match = _TRANSLATED.search(rest)
            self.clone(name, thread, time, args, int(match[1]) if match else result, state)
        elif name in ("execve", "execveat"):
            self._execve(name, thread, time, args, result, state)
        else:
            self._other(name, thread, time, args, result, state)

    def clone(
        self, name: str, thread: StraceThread, time: int, args: list[bytes], result: int, state: int
    ) -> None:
        """Write the row of a clone, and add the new thread if there is one."""
        flags = self._clone_flags(name, args)
        if result >= 1 << 31:
            raise ValueError(result)
        log = self.log
        where = (time, thread.pid, thread.tid)
        log.order.rows.append(Row(CODES[name], *where, a0=flags, result=result, state=state))
        if result > 0 and not state & (NO_RESULT | UNFINISHED):
            process = thread.process
            if (
                flags & CLONE_VM
                and not flags & CLONE_VFORK
                and log.disorder
                and not process.disordered
            ):
                process.disordered = True
                log.lost(0, log.disorder, where)
            child = thread.clone(result, flags)
            log.threads[child.key] = child
            log.report.processes += child.process is not process
            log.report.threads += 1

    def _clone_flags(self, name: str, args: list[bytes]) -> int:
        if name == "fork":
            return 0
        if name == "vfork":
            return CLONE_VM | CLONE_VFORK
        for argument in args:
            match = _FLAGS.search(argument)
            if match:
                return number(match[1])
        if name == "clone" and args:
            return number(args[0])
        self.log.doubt("what some clone3 calls shared: their flags are not in the log")
        return _USUAL

    def _execve(
        self, name: str, thread: StraceThread, time: int, args: list[bytes], result: int, state: int
    ) -> None:
        log = self.log
        path = unquote(args[1 if name == "execveat" else 0]) or b""
        shown = os.fsdecode(path)
        where = (time, thread.pid, thread.tid)
        row = Row(
            CODES[name], *where, result=result, state=state, data=log.writer.hidden_path(shown)
        )
        log.order.rows.append(row)
        if result or state & (NO_RESULT | UNFINISHED):
            return
        log.known(thread)
        for other in (*thread.execute(thread.pid), thread):
            for key in (other.key, b""):  # while it was alone, a thread had the empty key
                if log.threads.get(key) is other:
                    del log.threads[key]
        log.threads[thread.key] = thread
        argv = (
            strings(args[2 if name == "execveat" else 1])
            if len(args) > 1 + (name == "execveat")
            else []
        )
        self._program(thread, time, shown, argv, 64)

    def _program(
        self, thread: StraceThread, time: int, path: str, argv: list[bytes], bits: int
    ) -> None:
        log = self.log
        hide = log.writer.hidden
        if log.redact:
            argv = []
        about = {
            "path": os.fsdecode(hide(path)),
            "argv": [os.fsdecode(word) for word in argv],
            "bits": bits,
        }
        thread.process.path = path
        data = json.dumps(about).encode()
        log.order.rows.append(Row(CODES["program"], time, thread.pid, thread.pid, data=data))

    def _other(
        self, name: str, thread: StraceThread, time: int, args: list[bytes], result: int, state: int
    ) -> None:
        values = [0, 0, 0]
        for place, argument in enumerate(args[:3]):
            try:
                values[place] = number(argument)
            except ValueError:
                if not bare(argument).startswith((b"{", b"[", b'"')):
                    raise
        self.log.order.rows.append(
            make_row(CODES[name], (time, thread.pid, thread.tid), values, result, state)
        )

    # Events before a call returns, or without a call

    def born(self, parent: StraceThread, tid: int, time: int) -> None:
        """Handle the first appearance of the child `tid` of a clone in progress."""
        pending = parent.pending
        assert pending is not None
        parts = split(pending.text + b")")
        args = parts[0] if parts else []
        pending.born = tid
        self.clone(pending.name.decode(), parent, time, args, tid, 0)

    def ended(self, thread: StraceThread, time: int, status: int) -> None:
        """Handle the end of a thread."""
        log = self.log
        self._abandon(thread, UNFINISHED)
        log.order.rows.append(Row(CODES["exit"], time, thread.pid, thread.tid, a0=status))
        log.threads.pop(thread.key, None)
        thread.end()

    def mode(self, thread: StraceThread, time: int, narrow: bool) -> None:
        """Handle a switch of the process to 32-bit code, or back to 64-bit code."""
        process = thread.process
        if process.narrow == narrow:
            return
        process.narrow = narrow
        if narrow:
            self._program(thread, time, process.path, [], 32)
            text = "a process runs in 32-bit mode: its memory calls are not followed"
            self.log.note(text, (time, thread.pid, thread.tid))
