"""laconic maps: the address space of a recorded process at some moment."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING

from laconic.commands.options import whole

if TYPE_CHECKING:
    from laconic.replay.engine import Replay

DESCRIPTION = """\
Prints the address space of a process as bookkeeping has it at some moment of a
trace, in the format of /proc/PID/maps: `diff` compares it with a real one.
"""
EPILOG = """\
examples:
  laconic maps a.trace
  laconic maps a.trace --pid 4711 --at 12.5s
  laconic maps a.trace --program 'redis*'
  laconic maps a.trace --pid 4711 --at 2000 | diff - saved.maps
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `maps`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("trace", metavar="FILE", help="a trace that was recorded or imported")
    parser.add_argument(
        "--pid",
        type=whole("process"),
        metavar="P",
        help="the process; not needed if there is only one",
    )
    parser.add_argument(
        "--program",
        action="append",
        metavar="PATTERN",
        help="the process that runs this program, a path or name (redis*); can be repeated",
    )
    parser.add_argument(
        "--at",
        default="end",
        metavar="WHEN",
        help="before the event of this number, at this time (12.5s: seconds since the trace "
        "began), or end (default): as the process was last",
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Replay up to the moment and print the map."""
    from laconic.commands.progress import progress
    from laconic.commands.traces import open_trace, show, tell_loss
    from laconic.errors import LaconicError
    from laconic.replay.engine import Replay
    from laconic.report.maps import as_text
    from laconic.trace.selection import Selection

    until = _moment(options.at)
    trace = open_trace(options.trace)
    engine = Replay(trace, keep=True)
    with progress(f"replaying {options.trace}", trace.size) as update:
        engine.run(until, update)
    tell_loss(trace, engine.lost.sentences())
    wanted = Selection(
        pids=() if options.pid is None else (options.pid,), programs=tuple(options.program or ())
    )
    found = [
        pid
        for pid in engine.processes
        if wanted.includes_process(pid, engine.programs.get(pid, "?"))
    ]
    if len(found) > 1:
        listed = _processes(engine, found)
        raise LaconicError(f"there are several processes: name one with --pid\n{listed}")
    if not found:
        what = "no process" if options.pid is None else f"no process {options.pid}"
        if wanted.programs:
            what += f" of program {', '.join(wanted.programs)}"
        others = (
            f". There are:\n{_processes(engine, engine.processes)}"
            if engine.processes
            else ": name another moment with --at"
        )
        raise LaconicError(f"there is {what} at {options.at}{others}")
    (pid,) = found
    mm = engine.processes[pid]
    if mm.space is None:
        raise LaconicError(
            f"process {pid} is not followed: a 32-bit program, or one that hides its memory map"
        )
    show(as_text(mm.space))
    return 0


def _processes(engine: Replay, pids: Iterable[int]) -> str:
    return "\n".join(f"  {pid:>7}  {engine.programs.get(pid, '?')}" for pid in sorted(pids))


def _moment(text: str) -> Callable[[int, int], bool] | None:
    from laconic.errors import LaconicError

    if text == "end":
        return None
    try:
        moment = float(text[:-1]) * 1e9 if text.endswith("s") else int(text)
    except ValueError:
        moment = -1
    if not 0 <= moment < inf:
        raise LaconicError(
            f"--at {text!r} is not a moment: give an event's number, seconds as in 12.5s, or end"
        )
    if text.endswith("s"):
        return lambda number, time: time > moment
    return lambda number, time: number >= moment
