"""Chrome's JSON trace events, which the Perfetto UI opens (ui.perfetto.dev, chrome://tracing).

The programs of a process are slices on its first thread. Its calls are instants on their threads,
with all known facts as arguments. The calls and host calls are counters. Times are in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from laconic.trace.exporters.columns import COLUMNS, Flat, flat_rows

if TYPE_CHECKING:
    from laconic.trace import Trace
    from laconic.trace.exporters import Exported, ExportPart

#: Bytes written by default: an amount that the UI loads within seconds.
LIMIT = 100_000_000
#: Bytes reserved for the metadata, and for the last slice and counter of each process.
_RESERVE, _RESERVE_EACH = 4096, 256
#: The minimum distance between values of a counter, in nanoseconds of the trace: more values are
#: not visible.
_COUNTER_STEP = 1_000_000
_NAMES = tuple(COLUMNS)
_EVENT = tuple(
    _NAMES.index(name)
    for name in ("time_ns", "pid", "tid", "call", "path", "result", "host_calls", "program", "text")
)
_TIME = _NAMES.index("time_ns")
_ARGUMENTS = frozenset(name for name in _NAMES if name.startswith("arg"))
#: Columns that an event contains in another form, or that its arguments would repeat.
_LEFT_OUT = frozenset({"event", "time_ns", "pid", "tid", "call", "program"})


def write(trace: Trace, output: BinaryIO, part: ExportPart) -> Exported:
    """Write one JSON object. If `part.limit` bytes are too few for the trace, it is truncated in
    time, and the file reports that."""
    from laconic.trace.exporters import Exported

    limit = LIMIT if part.limit is None else part.limit
    written = Exported()
    events = _Events(trace.source == "run")
    size = output.write(b'{"displayTimeUnit":"ns","traceEvents":[\n')
    cut: int | None = None
    for rows in flat_rows(trace, part.window, part.analysis, part.selection):
        part.update(trace.position)
        for row in rows if cut is None else ():
            lines = [_line(event) for event in events.of(row)]
            size += sum(map(len, lines))
            if size + events.reserve() > limit:
                cut = row[_TIME]
                break
            written.rows += 1
            output.writelines(lines)
    about = {
        "laconic": trace.version,
        "source": trace.source,
        "machine": trace.machine,
        "loss": trace.loss or "none",
    }
    if cut is not None:
        sentence = (
            f"cut {cut / 1e9:.6f} seconds after the trace began, at the limit of {limit:,} bytes: "
            "what is later is not in this file"
        )
        written.notes.append(
            f"{sentence}; see more with --limit BYTES, or another part with --between START END"
        )
        output.write(_line(_instant(f"Laconic: {sentence}", cut, 0, 0, {}) | {"s": "g"}))
        about["cut"] = sentence
    output.writelines(_line(event) for event in events.rest())
    # The last event is not followed by a comma.
    output.write(
        b'{"ph":"M","name":"process_name","pid":0,"tid":0,"ts":0,"args":{"name":"Laconic"}}\n'
    )
    output.write(b'],"otherData":' + json.dumps(about).encode() + b"}\n")
    return written


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b",\n"


def _instant(name: str, time: int, pid: int, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "i",
        "s": "t",
        "name": name,
        "ts": time / 1000,
        "pid": pid,
        "tid": tid,
        "args": args,
    }


class _Events:
    # Converts flat rows to events; keeps the threads that it has named, the open slices, and the
    # counters.

    def __init__(self, recorded: bool) -> None:
        self._recorded = recorded
        self._threads: set[tuple[int, int]] = set()
        self._open: set[int] = set()
        self._counts: dict[int, list[int]] = {}  # pid → calls, host_calls, time of the last counter
        self._last = 0

    def of(self, row: Flat) -> Iterator[dict[str, Any]]:
        time, pid, tid, call, path, result, host_calls, program, text = (
            row[place] for place in _EVENT
        )
        self._last = max(self._last, time)
        if call != "program" and (pid, tid) not in self._threads and pid:
            yield from self._appear(time, pid, tid, program)
        match call:
            case "program":
                yield from self._close(pid, time)
                yield from self._name(pid, tid, path)
                yield from self._begin(time, pid, path, json.loads(text))
            case "exit":
                yield _instant("exit", time, pid, tid, {"status": result})
                if tid == pid:
                    yield from self._close(pid, time)
                    yield from self._finish(pid, time)
                self._threads.discard((pid, tid))
            case "lost" | "note" | "end" | "process":
                yield _instant(call, time, pid, tid, {"text": text or result}) | {"s": "p"}
            case _:
                yield _instant(call, time, pid, tid, _arguments(row))
                yield from self._count(time, pid, host_calls or 0)

    def rest(self) -> Iterator[dict[str, Any]]:
        for pid in sorted(self._open | self._counts.keys()):
            yield from self._close(pid, self._last)
            yield from self._finish(pid, self._last)

    def reserve(self) -> int:
        return _RESERVE + _RESERVE_EACH * (len(self._open) + len(self._counts))

    def _appear(
        self, time: int, pid: int, tid: int, program: str | None
    ) -> Iterator[dict[str, Any]]:
        # A thread without an event so far: a forked or new one, or one from before the window.
        yield from self._name(pid, tid, program or f"process {pid}")
        if program is not None and pid not in self._open and tid == pid:
            yield from self._begin(time, pid, program, {})

    def _name(self, pid: int, tid: int, program: str) -> Iterator[dict[str, Any]]:
        self._threads.add((pid, tid))
        args = {"name": program.rsplit("/", 1)[-1]}
        if tid == pid:
            yield {"ph": "M", "name": "process_name", "pid": pid, "tid": tid, "ts": 0, "args": args}
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "ts": 0, "args": args}

    def _begin(
        self, time: int, pid: int, program: str, about: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        self._open.add(pid)
        yield {"ph": "B", "name": program, "ts": time / 1000, "pid": pid, "tid": pid, "args": about}

    def _close(self, pid: int, time: int) -> Iterator[dict[str, Any]]:
        if pid in self._open:
            self._open.discard(pid)
            yield {"ph": "E", "ts": time / 1000, "pid": pid, "tid": pid}

    def _count(self, time: int, pid: int, host_calls: int) -> Iterator[dict[str, Any]]:
        counts = self._counts.setdefault(pid, [0, 0, -_COUNTER_STEP])
        counts[0] += 1
        counts[1] += host_calls
        if time - counts[2] >= _COUNTER_STEP:
            counts[2] = time
            yield self._counter(pid, time)

    def _finish(self, pid: int, time: int) -> Iterator[dict[str, Any]]:
        if pid in self._counts:
            yield self._counter(pid, time)
            del self._counts[pid]

    def _counter(self, pid: int, time: int) -> dict[str, Any]:
        calls, host_calls, _ = self._counts[pid]
        args = {"calls": calls, "host_calls": host_calls} if self._recorded else {"calls": calls}
        return {"ph": "C", "name": "calls", "ts": time / 1000, "pid": pid, "tid": pid, "args": args}


def _arguments(row: Flat) -> dict[str, Any]:
    # The known facts about a call; its registers only if no column interprets them. Addresses are
    # hexadecimal.
    fields = zip(_NAMES, row, strict=True)
    args = {name: value for name, value in fields if value is not None and name not in _LEFT_OUT}
    for name in sorted(_ARGUMENTS & args.keys()):
        number = args.pop(name)
        if "address" not in args:
            args[name] = f"{number:#x}"
    if "address" in args:
        args["address"] = f"{args['address']:#x}"
    if args.get("result", 0) > 1 << 32:
        args["result"] = f"{args['result']:#x}"
    return args
