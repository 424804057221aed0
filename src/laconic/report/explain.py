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
from laconic.report.headline import LOWEST
from laconic.report.names import filled
from laconic.report.picture import picture
from laconic.report.text import plain
from laconic.report.words import called, pages, request, returned
from laconic.trace.stacks import NO_STACK, Spot
from laconic.trace.words import plural

#: The maximum number of changes and host calls that are shown to people; --json has all of them.
_LINES = 8
#: Rows that are not memory calls.
_OTHERS = {
    "file": "a file that later calls refer to",
    "program": "a program that begins in its process",
    "maps": "a read of the host's map",
    "vma": "a run of pages that a read of the host's map showed",
    "answer": "the answer of an upcall, for the next call of its thread",
    "begin": "a call whose work begins here and whose row follows later",
    "host_call": "a host call that was made for the next call of its thread",
    "process": "a process whose beginning was not seen",
    "exit": "the end of a thread",
    "lost": "a place at which something is missing",
    "note": "a note for the user",
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
    "etrack_ipis": ("ETRACK cycle with its IPI", "ETRACK cycles with their IPIs"),
    "eaug_faults": ("EAUG fault", "EAUG faults"),
    "exceptions": ("fault handled in the enclave", "faults handled in the enclave"),
    "pages_zeroed": ("page zeroed", "pages zeroed"),
    "pages_copied": ("page copied", "pages copied"),
    "open_windows": (
        "page briefly accessible beyond the requested permissions",
        "pages briefly accessible beyond the requested permissions",
    ),
}
#: Each EAUG is counted as its fault already; and whether a page stays untouched is known only
#: later.
_SILENT = ("eaug", "untouched_pages")


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return all facts; addresses are numbers, in bytes."""
    number, row, begin, following, _ = explanation.found
    facts: dict[str, Any] = {
        "schema": SCHEMAS["explain"],
        "event": number,
        "name": explanation.name,
        "is_call": explanation.is_call,
        "next_call": following,
        "time": row.time,
        "pid": row.pid,
        "tid": row.tid,
    }
    if not explanation.is_call:
        return {**facts, "is": _other(explanation)}
    return {
        **facts,
        "work_began": begin,
        "program": explanation.program,
        "call": called(explanation.name, row.args),
        "request": request(explanation.name, row.args, explanation.file),
        "result": explanation.answer,
        "why_not": explanation.why_not,
        "stack": [
            {**place._asdict(), "guessed": guessed} for place, guessed in _places(explanation)
        ],
        "runs": [_run(run) for run in explanation.runs],
        "changes": [
            {
                "start": one.start,
                "end": one.end,
                "kinds": _names(one.kind),
                "touched_pages": touched,
                "what": _what(explanation, one, touched),
            }
            for one, touched in zip(explanation.changes, explanation.touched, strict=True)
        ],
        "host_calls": [called(*explanation.host_call)] if explanation.host_call is not None else [],
        "recorded": None
        if explanation.recorded is None
        else {"strategy": explanation.strategy, "host_calls": explanation.recorded},
        "why": _why(explanation),
        "enclave": dict(explanation.counts),
        "sizes_known": explanation.knows_sizes,
        "missing_symbols": {
            module.path: why
            for module, why in sorted(explanation.stacks.symbolizer.missing.items())
        },
        "loss": explanation.loss,
    }


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


def _places(explanation: Explanation) -> tuple[Spot, ...]:
    stacks, stack = explanation.stacks, explanation.stack
    return () if stack == NO_STACK else stacks.places(stack)


def as_text(explanation: Explanation, width: int = 80) -> str:
    """Return the text for people, at most 80 columns wide."""
    width = min(width, 80)
    row = explanation.found.row
    when = f"process {row.pid}, thread {row.tid}, at {row.time / 1e9:.6f} s"
    if not explanation.is_call:
        lines = _filled(
            f"event {explanation.found.number} is not a memory call: {explanation.name}, "
            f"{_other(explanation)}; {when}",
            width,
        )
        return "\n".join([*lines, _next(explanation)]) + "\n"
    result = f" = {returned(explanation.answer)}" if not explanation.why_not else ""
    lines = _filled(
        f"event {explanation.found.number}: {called(explanation.name, row.args)}{result}", width
    )
    lines += _filled(f"in {plain(explanation.program)}, {when}", width)
    if explanation.found.begin is not None:
        lines += _filled(
            f"its work began at event {explanation.found.begin}, and other calls came between",
            width,
        )
    lines += ["", *_stack(explanation, width)]
    lines += [
        "",
        *_filled(f"request: {request(explanation.name, row.args, explanation.file)}", width),
    ]
    if explanation.why_not:
        lines += ["", *_filled(f"not explained further: {explanation.why_not}", width)]
    if explanation.runs:
        lines += ["", *picture(explanation.runs, width)]
    if not explanation.why_not:
        lines += ["", "what differed", *_differed(explanation, width)]
        lines += ["", "host calls", *_host_calls(explanation, width)]
        lines += [
            "",
            "what an SGX2 enclave would do for this call alone",
            *_enclave(explanation, width),
            *([] if explanation.knows_sizes else _filled(LOWEST, width, "  ")),
        ]
    missing = list(missing_lines(explanation.stacks, width))
    lines += ["", *missing] if missing else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _other(explanation: Explanation) -> str:
    return _OTHERS.get(explanation.name, "a process call")


def _next(explanation: Explanation) -> str:
    following = explanation.found.next_call
    return (
        "there is no memory call after it"
        if following is None
        else f"the next memory call is event {following}"
    )


def _stack(explanation: Explanation, width: int) -> Iterator[str]:
    if explanation.stack == NO_STACK:
        yield from _filled(
            "its stack was not taken: record with  laconic run -o FILE --stacks all", width
        )
        return
    yield "called from"
    yield from stack_lines(
        explanation.name, explanation.stack, explanation.stacks, width, explanation.program
    )


def _differed(explanation: Explanation, width: int) -> Iterator[str]:
    for one, touched in list(zip(explanation.changes, explanation.touched, strict=True))[:_LINES]:
        kinds = "|".join(_names(one.kind)).upper()
        yield from _filled(
            f"{_where(one.start, one.end)}: {_what(explanation, one, touched)} ({kinds})",
            width,
            "  ",
        )
    if len(explanation.changes) > _LINES:
        rest = explanation.changes[_LINES:]
        yield (
            f"  {pages(sum(one.end - one.start for one in rest))} in {len(rest):,} more runs "
            "(--json has them)"
        )
    same = [run for run in explanation.runs if run.requested and not run.kind and not run.left_out]
    for run in same[:_LINES]:
        yield from _filled(
            f"{_where(run.start, run.end)}: nothing: {_same(explanation, run)}", width, "  "
        )
    if len(same) > _LINES:
        rest_of = same[_LINES:]
        yield (
            f"  {pages(sum(run.end - run.start for run in rest_of))} in {len(rest_of):,} more "
            "runs: nothing"
        )
    if not explanation.changes and not same:
        yield from _filled(f"nothing: {_nothing(explanation)}", width, "  ")


def _where(start: int, end: int) -> str:
    return f"{pages(end - start)} at {start:x}"


def _what(explanation: Explanation, one: Change, touched: int | None) -> str:
    # Describe a change, kind by kind.
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
        parts.append(f"backed by {_backing(wanted)} instead of {_backing(held)}")
    if kind & c.EXTEND and wanted is not None and held is not None:
        parts.append(f"gains {_letters(wanted.flags & ~held.flags)}")
    if kind & c.RESTRICT and wanted is not None and held is not None:
        parts.append(f"loses {_letters(held.flags & ~wanted.flags)}")
    if kind & c.FLAGS and wanted is not None and held is not None:
        parts.append(_flags(wanted, held))
    if kind & c.ZERO:
        lazily = (
            explanation.name == "madvise" and explanation.found.row.a2 & 0xFFFFFFFF == MADV_FREE
        )
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
        parts.append(f"has protection key {wanted.pkey} instead of {held.pkey}")
    return ", ".join(parts) or "other flags"


def _same(explanation: Explanation, run: Run) -> str:
    # Return why these pages, which the call names, need no change.
    if explanation.answer < 0:
        return f"the call ends with {returned(explanation.answer)[3:]}"
    vma = run.before
    if vma is None:
        return "nothing is mapped here"
    match explanation.name:
        case "mprotect" | "pkey_mprotect":
            return f"{vma.permissions()} already"
        case "mmap" if vma.file is not None:
            return "the same file, the same offset, never written"
        case "mmap":
            return "anonymous and already as requested, never touched"
        case "madvise" if not _sets_flags(explanation.found.row.a2):
            return "never touched, so there are no contents to throw away"
        case "msync":
            return "no shared file's pages, or no waiting was requested"
    return "already as requested"


def _sets_flags(advice: int) -> bool:
    from laconic.memory.madvise import FLAG_ADVICE

    return advice & 0xFFFFFFFF in FLAG_ADVICE


def _nothing(explanation: Explanation) -> str:
    if explanation.answer < 0:
        return f"the call ends with {returned(explanation.answer)[3:]}"
    if explanation.only_host:
        return "only the host knows what it does"
    return (
        "only a question"
        if explanation.name == "brk" and not explanation.found.row.a0
        else "it edits no mapping"
    )


def _host_calls(explanation: Explanation, width: int) -> Iterator[str]:
    if explanation.recorded is None:
        yield from _filled(
            "the trace was imported from a log, so the host executed the call itself; the "
            "bookkeeping would issue:",
            width,
            "  ",
        )
    elif explanation.strategy != "laconic" or explanation.recorded != (
        explanation.host_call is not None
    ):
        made = plural(explanation.recorded, "host call")
        yield from _filled(
            f"{made} when recorded, under {explanation.strategy}; the bookkeeping would issue:",
            width,
            "  ",
        )
    if explanation.host_call is not None:
        yield from _filled(called(*explanation.host_call), width, "  ")
    yield from _filled(_why(explanation), width, "  ")


def _why(explanation: Explanation) -> str:
    if explanation.why_not:
        return ""
    if explanation.host_call is not None:
        if explanation.changes:
            changed = pages(sum(one.end - one.start for one in explanation.changes))
            every = "" if not explanation.only_host else ", and only the host knows how it answers"
            return f"because the bookkeeping of {changed} differs from what the host holds{every}"
        return "because only the host knows how it answers"
    if explanation.answer < 0:
        return "none: the bookkeeping knows the error that the host would return"
    return (
        "none: the host already has this state"
        if explanation.requested
        else "none: the bookkeeping knows the result"
    )


def _enclave(explanation: Explanation, width: int) -> Iterator[str]:
    before = ""
    for name, counts in explanation.counts.items():
        words = _counted(counts)
        if words is None:
            later = any(
                one.kind & (c.MAP | c.EXTEND) and one.wanted and one.wanted.flags & VM_PROT
                for one in explanation.changes
            )
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
    # `first` precedes the first line; the other lines are indented by two columns more than its
    # width.
    lines = filled(text, width, " " * len(first))
    return [first + lines[0][len(first) :], *lines[1:]] if lines else []
