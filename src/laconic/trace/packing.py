"""A trace that contains the symbols of its own frames, so that other machines show the same
names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from laconic.errors import LaconicError
from laconic.stacks.symbolize import Place, Symbolizer
from laconic.stacks.table import CUT, JIT, PYTHON, Frame, Module
from laconic.trace.reader import TraceReader
from laconic.trace.schema import BATCH, CODES, EVENTS, Row
from laconic.trace.stacks import frames_of, module_of
from laconic.trace.writer import TraceWriter, remove

_MODULE, _FRAMES, _STACK, _SYMBOLS, _END = (
    CODES[name] for name in ("module", "frames", "stack", "symbols", "end")
)


@dataclass(slots=True)
class Packed:
    """The results of packing. `frames` counts the frames of all modules, and `named` those whose
    function is known. `added` are the modules that got a row now; `already` counts those that had
    one. `missing` states why a module has no symbols, and `partial` which of its symbols are
    missing, and why. `texts` counts the stacks recorded as text."""

    frames: int = 0
    named: int = 0
    added: list[Module] = field(default_factory=list)
    already: int = 0
    missing: list[tuple[Module, str]] = field(default_factory=list)
    partial: dict[Module, tuple[str, str]] = field(default_factory=dict)
    texts: int = 0
    rows: list[Row] = field(default_factory=list)


def symbols_of(
    trace: TraceReader,
    symbolizer: Symbolizer | None = None,
    progress: Callable[[int], None] | None = None,
) -> Packed:
    """Read a trace to its end, and make its missing `symbols` rows. O(events + frames), plus
    reading the modules.

    A module without any result gets no row, so that a machine which has the module can still name
    its frames. JIT memory always gets a row, because a perf map of the same process id on another
    machine is another program's. Raises LaconicError.
    """
    if trace.redacted:
        raise LaconicError(
            f"{trace.path!r} is redacted: its modules have no names, and symbols would tell them"
        )
    modules: dict[int, Module] = {}
    frames: dict[int, list[Frame]] = {}
    known: set[int] = set()
    packed = Packed()
    time = 0
    for batch in trace.batches():
        for row in batch:
            code = row.event
            if code == _MODULE:
                modules[row.a0] = module_of(row)
            elif code == _FRAMES:
                for frame in frames_of(row):
                    frames.setdefault(frame.module, []).append(frame)
            elif code == _SYMBOLS:
                known.add(row.a0)
            elif code == _STACK:
                packed.texts += 1
        time = batch[-1].time
        if progress is not None:
            progress(trace.position)
    symbolizer = symbolizer or Symbolizer()
    for number in sorted(frames.keys() & modules.keys()):
        module = modules[number]
        if module.kind in (CUT, PYTHON):
            continue
        packed.frames += len(frames[number])
        if number in known:
            packed.already += 1
        else:
            _pack(packed, number, module, frames[number], symbolizer, time)
    packed.missing.sort()
    packed.partial = symbolizer.partial
    return packed


def _pack(
    packed: Packed,
    number: int,
    module: Module,
    frames: list[Frame],
    symbolizer: Symbolizer,
    time: int,
) -> None:
    places = {frame: symbolizer.places(module, frame) for frame in frames}
    named = sum(found[-1].known for found in places.values())
    packed.named += named
    if not named:
        none = (
            "its process left no perf map"
            if module.kind == JIT
            else "it has no symbols for these addresses"
        )
        packed.missing.append((module, symbolizer.missing.get(module, none)))
    if named or module.kind == JIT:
        packed.rows.append(symbols_row(number, places, time))
        packed.added.append(module)


def symbols_row(number: int, places: Mapping[Frame, Sequence[Place]], time: int) -> Row:
    """Return the row with the names of frames of the module `number`. O(frames)."""
    found = {frame.key: [list(place) for place in found] for frame, found in places.items()}
    data = json.dumps({"places": found}, separators=(",", ":")).encode("utf-8", "surrogateescape")
    return Row(_SYMBOLS, time, 0, 0, a0=number, data=data)


def write(
    trace: TraceReader,
    packed: Packed,
    path: str,
    *,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the trace to `path`, with the rows of `packed` before its last row; all others are
    unchanged. O(events).

    If the trace is damaged, the readable part is written, and a `lost` row states what is missing.
    Raises LaconicError if the file cannot be created. Raises OSError if it cannot be written
    completely, and removes it.
    """
    writer = _Copy(trace, path, force)
    try:
        for rows in _rows(trace, packed):
            writer.rows.extend(rows)
            if len(writer.rows) >= BATCH:
                writer.flush()
            if writer.failure is not None:
                break
            if progress is not None:
                progress(trace.position)
        writer.close()
        if writer.failure is not None:
            raise writer.failure
    except BaseException:
        writer.close()
        remove(path)
        raise


def _rows(trace: TraceReader, packed: Packed) -> Iterator[list[Row]]:
    held: list[Row] = []
    time = 0
    for batch in trace.batches():
        yield held
        held = batch
        time = batch[-1].time
    end = [held.pop()] if held and held[-1].event == _END else []
    yield held
    if trace.loss and "damaged" in trace.loss:
        # The copy itself is complete, so it must record what is missing.
        text = f"before it was packed, {trace.loss}"
        yield [Row(CODES["lost"], time, 0, 0, data=text.encode())]
    yield packed.rows
    yield end


class _Copy(TraceWriter):
    # A writer that copies the trace's description of the recording.

    def __init__(self, trace: TraceReader, path: str, force: bool) -> None:
        super().__init__(path, trace.source, trace.about, force=force)
        # A code never changes its meaning: if one of the two releases does not know it, the other
        # one does.
        names = list(trace.names)
        names[: len(EVENTS)] = [
            ours if theirs.startswith("?") else theirs
            for ours, theirs in zip(EVENTS, trace.names, strict=False)
        ]
        while names[-1].startswith("?"):
            names.pop()
        self._metadata |= {
            "laconic": trace.version,
            "events": json.dumps(names),
            "machine": json.dumps(trace.machine),
        }
