"""One call explained: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from laconic.analysis.explain import Explanation
from laconic.analysis.neighbourhood import Run
from laconic.analysis.schemas import SCHEMAS
from laconic.memory import change as c
from laconic.memory.change import Change, ChangeKind
from laconic.memory.flags import MADV_FREE, VM_PROT, flag_names
from laconic.memory.vma import Vma
from laconic.report.callers import missing_lines, stack_lines
from laconic.report.names import filled
from laconic.report.picture import picture
from laconic.report.text import plain
from laconic.report.words import called, pages, request, returned
from laconic.trace.stacks import NO_STACK
from laconic.trace.words import plural

#: What a person is shown of changes and host calls; --json has all.
_LINES = 8
#: Rows that are no memory calls.
_OTHERS = {
    "file": "a file that later calls refer to",
    "program": "a program that begins in its process",
    "maps": "a look at the host's map",
    "vma": "a run of pages that a look at the host's map showed",
    "answer": "what an upcall answered, for the next call of its thread",
    "begin": "a call whose work begins here and whose row follows later",
    "host_call": "a host call that was made for the next call of its thread",
    "process": "a process whose beginning was not seen",
    "exit": "the end of a thread",
    "lost": "a place at which something is missing",
    "note": "what a person must be told",
    "stack": "the stack of its thread's next call",
    "end": "the end of the recording",
    "module": "a module that frames lie in",
    "frames": "frames of stacks",
    "site": "the stack of its thread's next call",
    "symbols": "the symbols of a module",
}
_THINGS = {
    "host_calls": ("host call", "host calls"),
    "ioctls": ("ioctl", "ioctls"),
    "etrack_ipis": ("tracking cycle with its interrupt", "tracking cycles with their interrupts"),
    "eaug_faults": ("EAUG fault", "EAUG faults"),
    "exceptions": ("fault handled in the enclave", "faults handled in the enclave"),
    "pages_zeroed": ("page zeroed", "pages zeroed"),
    "pages_copied": ("page copied", "pages copied"),
    "open_windows": (
        "page briefly accessible beyond the requested permissions",
        "pages briefly accessible beyond the requested permissions",
    ),
}
#: Each EAUG is counted as its fault already, and whether a page stays untouched shows later.
_SILENT = ("eaug", "untouched_pages")


def as_json(told: Explanation) -> dict[str, Any]:
    """All that was found; addresses are numbers, in bytes."""
    number, row, begin, following, _ = told.found
    facts: dict[str, Any] = {
        "schema": SCHEMAS["explain"],
        "event": number,
        "name": told.name,
        "is_call": told.is_call,
        "next_call": following,
        "time": row.time,
        "pid": row.pid,
        "tid": row.tid,
    }
    if not told.is_call:
        return {**facts, "is": _other(told)}
    return {
        **facts,
        "work_began": begin,
        "program": told.program,
        "call": called(told.name, row.args),
        "request": request(told.name, row.args, told.file),
        "result": told.answer,
        "why_not": told.why_not,
        "stack": [
            {**place._asdict(), "guessed": guessed}
            for place, guessed in (told.stacks.places(told.stack) if told.stack != NO_STACK else ())
        ],
        "runs": [_run(run) for run in told.runs],
        "changes": [
            {"start": one.start, "end": one.end, "kinds": _names(one.kind), "touched_pages": touched,
             "what": _what(told, one, touched)}
            for one, touched in zip(told.changes, told.touched, strict=True)
        ],
        "host_calls": [called(*told.host_call)] if told.host_call is not None else [],
        "recorded": None
        if told.recorded is None
        else {"strategy": told.strategy, "host_calls": told.recorded},
        "why": _why(told),
        "enclave": dict(told.counts),
        "missing_symbols": {module.path: why for module, why in sorted(told.stacks.symbolizer.missing.items())},
        "loss": told.loss,
    }  # fmt: skip


def _run(run: Run) -> dict[str, Any]:
    def side(vma: Vma | None, name: str) -> dict[str, Any] | None:
        if vma is None:
            return None
        offset = None if vma.file is None else run.start - vma.base
        return {
            "permissions": vma.permissions(),
            "name": name,
            "offset": offset,
            "flags": flag_names(vma.flags),
        }

    return {
        "start": run.start,
        "end": run.end,
        "requested": run.requested,
        "kinds": _names(run.kind),
        "left_out": run.left_out,
        "before": side(run.before, run.name_before),
        "after": side(run.after, run.name_after),
    }


def _names(kind: int) -> list[str]:
    return [str(one.name).lower() for one in ChangeKind if one and kind & one]


def as_text(told: Explanation, width: int = 80) -> str:
    """What a person reads, at most 80 columns wide."""
    width = min(width, 80)
    row = told.found.row
    when = f"process {row.pid}, thread {row.tid}, at {row.time / 1e9:.6f} s"
    if not told.is_call:
        lines = _filled(
            f"event {told.found.number} is not a memory call: {told.name}, {_other(told)}; {when}",
            width,
        )
        return "\n".join([*lines, _next(told)]) + "\n"
    result = f" = {returned(told.answer)}" if not told.why_not else ""
    lines = _filled(f"event {told.found.number}: {called(told.name, row.args)}{result}", width)
    lines += _filled(f"in {plain(told.program)}, {when}", width)
    if told.found.begin is not None:
        lines += _filled(
            f"its work began at event {told.found.begin}, and other calls came between", width
        )
    lines += ["", *_stack(told, width)]
    lines += ["", *_filled(f"request: {request(told.name, row.args, told.file)}", width)]
    if told.why_not:
        lines += ["", *_filled(f"not explained further: {told.why_not}", width)]
    if told.runs:
        lines += ["", *picture(told.runs, width)]
    if not told.why_not:
        lines += ["", "what differed", *_differed(told, width)]
        lines += ["", "host calls", *_host_calls(told, width)]
        lines += ["", "what an SGX2 enclave would do for this call alone", *_enclave(told, width)]
    missing = list(missing_lines(told.stacks, width))
    lines += ["", *missing] if missing else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _other(told: Explanation) -> str:
    return _OTHERS.get(told.name, "a process call")


def _next(told: Explanation) -> str:
    following = told.found.next_call
    return (
        "there is no memory call after it"
        if following is None
        else f"the next memory call is event {following}"
    )


def _stack(told: Explanation, width: int) -> Iterator[str]:
    if told.stack == NO_STACK:
        yield from _filled(
            "its stack was not taken: record with  laconic run -o FILE --stacks all", width
        )
        return
    yield "called from"
    yield from stack_lines(told.name, told.stack, told.stacks, width, told.program)


def _differed(told: Explanation, width: int) -> Iterator[str]:
    for one, touched in list(zip(told.changes, told.touched, strict=True))[:_LINES]:
        kinds = "|".join(_names(one.kind)).upper()
        yield from _filled(
            f"{_where(one.start, one.end)}: {_what(told, one, touched)} ({kinds})", width, "  "
        )
    if len(told.changes) > _LINES:
        rest = told.changes[_LINES:]
        yield f"  {pages(sum(one.end - one.start for one in rest))} in {len(rest):,} more runs (--json has them)"
    same = [run for run in told.runs if run.requested and not run.kind and not run.left_out]
    for run in same[:_LINES]:
        yield from _filled(
            f"{_where(run.start, run.end)}: nothing: {_same(told, run)}", width, "  "
        )
    if len(same) > _LINES:
        rest_of = same[_LINES:]
        yield f"  {pages(sum(run.end - run.start for run in rest_of))} in {len(rest_of):,} more runs: nothing"
    if not told.changes and not same:
        yield from _filled(f"nothing: {_nothing(told)}", width, "  ")


def _where(start: int, end: int) -> str:
    return f"{pages(end - start)} at {start:x}"


def _what(told: Explanation, one: Change, touched: int | None) -> str:
    # A change in words, kind by kind.
    kind, _, _, wanted, held, source = one
    parts = []
    if kind & c.MAP and wanted is not None:
        if source is not None:
            parts.append(f"moved here from {source:x} with its contents")
        else:
            parts.append(f"mapped where nothing was; the contents are {_contents(wanted)}")
    if kind & c.UNMAP:
        parts.append("unmapped" + ("" if touched is None else f": {_touched(touched)}"))
    if kind & c.FILE and wanted is not None and held is not None:
        parts.append(f"backed by {_backing(wanted)} in the place of {_backing(held)}")
    if kind & c.EXTEND and wanted is not None and held is not None:
        parts.append(f"gains {_letters(wanted.flags & ~held.flags)}")
    if kind & c.RESTRICT and wanted is not None and held is not None:
        parts.append(f"loses {_letters(held.flags & ~wanted.flags)}")
    if kind & c.FLAGS and wanted is not None and held is not None:
        parts.append(_flags(wanted, held))
    if kind & c.ZERO:
        lazily = told.name == "madvise" and told.found.row.a2 & 0xFFFFFFFF == MADV_FREE
        gone = "may be thrown away from now on" if lazily else "are thrown away"
        parts.append(f"contents {gone}" + ("" if touched is None else f": {_touched(touched)}"))
    if kind & c.ADVISE:
        parts.append("a request about residency or write-back, which no bookkeeping holds")
    return "; ".join(parts)


def _contents(vma: Vma) -> str:
    if vma.file is None:
        return "zeroes"
    return "not known" if vma.file.path == "?" else "the file's"


def _touched(count: int) -> str:
    return plural(count, "touched page") if count else "no page of it was touched"


def _letters(flags: int) -> str:
    return "".join(letter for bit, letter in enumerate("rwx") if flags >> bit & 1)


def _backing(vma: Vma) -> str:
    if vma.file is None:
        return "anonymous memory"
    return (
        plain(vma.file.path.rsplit("/", 1)[-1])
        if vma.file.path != "?"
        else "what the log does not tell"
    )


def _flags(wanted: Vma, held: Vma) -> str:
    gains = flag_names(wanted.flags & ~held.flags & ~VM_PROT)
    loses = flag_names(held.flags & ~wanted.flags & ~VM_PROT)
    parts = [f"gains the VmFlags {gains}"] if gains else []
    parts += [f"loses the VmFlags {loses}"] if loses else []
    if wanted.name != held.name:
        parts.append(
            f"is named {plain(wanted.name)!r}" if wanted.name is not None else "loses its name"
        )
    if wanted.policy != held.policy:
        parts.append("has another memory policy")
    if wanted.pkey != held.pkey:
        parts.append(f"has protection key {wanted.pkey} in the place of {held.pkey}")
    return ", ".join(parts) or "other flags"


def _same(told: Explanation, run: Run) -> str:
    # Why these pages, which the call is about, need no change.
    if told.answer < 0:
        return f"the call ends with {returned(told.answer)[3:]}"
    vma = run.before
    if vma is None:
        return "nothing is mapped here"
    match told.name:
        case "mprotect" | "pkey_mprotect":
            return f"{vma.permissions()} already"
        case "mmap" if vma.file is not None:
            return "the same file, the same offset, never written"
        case "mmap":
            return "anonymous and already as requested, never touched"
        case "madvise" if not _sets_flags(told.found.row.a2):
            return "never touched, so there are no contents to throw away"
        case "msync":
            return "no shared file's pages, or no waiting was requested"
    return "already as requested"


def _sets_flags(advice: int) -> bool:
    from laconic.memory.madvise import FLAG_ADVICE

    return advice & 0xFFFFFFFF in FLAG_ADVICE


def _nothing(told: Explanation) -> str:
    if told.answer < 0:
        return f"the call ends with {returned(told.answer)[3:]}"
    if told.asks:
        return "only the host knows what it does"
    return (
        "only a question" if told.name == "brk" and not told.found.row.a0 else "it edits no mapping"
    )


def _host_calls(told: Explanation, width: int) -> Iterator[str]:
    if told.recorded is None:
        yield from _filled(
            "the trace was imported from a log, so the host executed the call itself; the bookkeeping would issue:",
            width,
            "  ",
        )
    elif told.strategy != "laconic" or told.recorded != (told.host_call is not None):
        made = plural(told.recorded, "host call")
        yield from _filled(
            f"{made} when recorded, under {told.strategy}; the bookkeeping would issue:",
            width,
            "  ",
        )
    if told.host_call is not None:
        yield from _filled(called(*told.host_call), width, "  ")
    yield from _filled(_why(told), width, "  ")


def _why(told: Explanation) -> str:
    if told.why_not:
        return ""
    if told.host_call is not None:
        if told.changes:
            changed = pages(sum(one.end - one.start for one in told.changes))
            every = "" if not told.asks else ", and only the host knows how it answers"
            return f"because the bookkeeping of {changed} differs from what the host holds{every}"
        return "because only the host knows how it answers"
    if told.answer < 0:
        return "none: the bookkeeping knows the error that the host would return"
    return (
        "none: the host already has this state"
        if told.requested
        else "none: the bookkeeping knows the result"
    )


def _enclave(told: Explanation, width: int) -> Iterator[str]:
    before = ""
    for name, counts in told.counts.items():
        words = _counted(counts)
        if words is None:
            later = any(one.kind & (c.MAP | c.EXTEND) and one.wanted and one.wanted.flags & VM_PROT
                        for one in told.changes)  # fmt: skip
            words = "nothing now: pages are committed when they are touched" if later else "nothing"
        yield from _filled("the same" if words == before else words, width, f"  {name:<11} ")
        before = words


def _counted(counts: dict[str, int]) -> str | None:
    found = []
    for thing, count in counts.items():
        if count and thing not in _SILENT:
            one, many = _THINGS.get(thing, (thing.upper(), thing.upper()))
            found.append(f"{count:,} {one if count == 1 else many}")
    return ", ".join(found) or None


def _filled(text: str, width: int, first: str = "") -> list[str]:
    # `first` stands before the first line; the others are indented two columns more than it is
    # wide.
    lines = filled(text, width, " " * len(first))
    return [first + lines[0][len(first) :], *lines[1:]] if lines else []
