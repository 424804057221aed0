"""What the sites of a program cost: for people, and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from laconic.analysis.callers import (
    AROUND,
    CALLS,
    COST,
    HOST_CALLS,
    PAGES,
    REDUNDANT,
    SITE,
    SUPPRESSED,
    UNKNOWN,
    Caller,
    Callers,
)
from laconic.analysis.frames import wrappers
from laconic.analysis.headline import Headline
from laconic.analysis.schemas import SCHEMAS
from laconic.analysis.sites import EVERY_CALL, LACONIC
from laconic.analysis.suppressions import LOADING
from laconic.report import numbers
from laconic.report.headline import LOWEST, WORK, ends, loading, no_calls, sentence
from laconic.report.headline import as_json as headline_json
from laconic.report.names import filled
from laconic.report.numbers import share
from laconic.report.shortnames import (
    is_importlib,
    is_interpreted,
    short_function,
    short_line,
    short_module,
)
from laconic.sgx.meter import Counts
from laconic.stacks.symbolize import Place
from laconic.trace.stacks import NO_STACK, Spot, Stacks
from laconic.trace.words import plural

#: The number of frames of a stack that are shown if none of the first `_DEEP` is the program's own.
_SHOWN, _DEEP = 8, 24
#: The minimum number of columns for the name of a site; with fewer it is on a separate line.
_LABEL = 18
#: The sort orders of the lists, as text.
_ORDER = {
    COST: "by cost in an enclave under every-call",
    REDUNDANT: "by redundant calls",
    CALLS: "by calls",
    HOST_CALLS: "by host calls of an enclave under every-call",
    PAGES: "by pages committed in an enclave under every-call",
}


class Style(NamedTuple):
    """How stacks are shown: at most `frames` frames (None: up to the program's own code, and at
    most `most`), and with whole names of functions if `verbose`."""

    frames: int | None = None
    verbose: bool = False
    most: int | None = None


_PLAIN = Style()

# JSON


def as_json(found: Callers, stacks: Stacks, headline: Headline | None = None) -> dict[str, Any]:
    """Return all callers, each with the stack that contributes most to its cost. The keys are in
    docs/appendix/json.md."""
    return {
        "schema": SCHEMAS["callers"],
        "source": found.source,
        "headline": None if headline is None else headline_json(headline),
        "by": found.by,
        "inverted": found.inverted,
        "sort": found.sort,
        "calls": found.calls,
        "redundant": found.redundant,
        "host_calls": found.host_calls,
        "stackless": found.stackless,
        "stackless_redundant": found.stackless_redundant,
        "profile": found.profile.name,
        "sizes_known": found.knows_sizes,
        "cycles": {name: ends(found.total(name)) for name in found.totals},
        "callers": [_caller(one, found, stacks) for one in found.callers if one.kind == SITE],
        "suppressed": [
            {"reason": one.name, "sites": one.sites, **_figures(one, found)}
            for one in sorted(found.suppressed.values(), key=lambda one: one.name)
        ],
        "around": [
            {"kind": one.name, **_costs(one, found)} for one in found.callers if one.kind == AROUND
        ],
        "missing_symbols": {module.path: why for module, why in _missing(stacks)},
    }


def _caller(caller: Caller, found: Callers, stacks: Stacks) -> dict[str, Any]:
    return {
        "name": caller.name,
        "call": caller.call,
        "module": caller.module,
        "program": caller.program,
        "file": caller.file,
        "line": caller.line,
        **_figures(caller, found),
        "suppressed_redundant": caller.quiet or None,
        "guessed": caller.guessed,
        "first": caller.first,
        "first_redundant": None if caller.event < 0 else caller.event,
        "wasted": caller.wasted.as_dict(),
        "wasted_cycles": ends(found.profile.cycles(caller.wasted)),
        "stack": [
            {**place._asdict(), "guessed": guessed}
            for place, guessed in (stacks.places(caller.stack) if caller.stack != NO_STACK else ())
        ],
    }


def _figures(caller: Caller, found: Callers) -> dict[str, Any]:
    return {
        "calls": caller.calls if caller.known else None,
        "redundant": caller.redundant,
        "host_calls": caller.host_calls if caller.known else None,
        **_costs(caller, found),
    }


def _costs(caller: Caller, found: Callers) -> dict[str, Any]:
    total = found.total()
    cost = found.cycles(caller)
    return {
        "share": cost.middle / total.middle if total.middle else 0.0,
        "cycles": {name: ends(found.cycles(caller, name)) for name in found.totals},
        "touch_cycles": {
            name: ends(found.profile.cycles(caller.touches.get(name, Counts())))
            for name in found.totals
        },
        "counts": {name: caller.cost(name).as_dict() for name in found.totals},
        "committed_pages": caller.committed_pages(),
        "touched_pages": caller.touched_pages if found.knows_touched else None,
    }


def _missing(stacks: Stacks) -> Iterable[tuple[Any, str]]:
    return sorted(stacks.symbolizer.missing.items())


# Text


def as_text(
    found: Callers,
    stacks: Stacks,
    width: int = 80,
    limit: int | None = 10,
    headline: Headline | None = None,
    style: Style = _PLAIN,
) -> str:
    """Return the headline, a table of the callers, and their stacks; then what was left out, and
    why."""
    lines = []
    if not found.calls:
        return f"{no_calls(found.is_selection)}\n"
    if headline is not None:
        for text in sentence(headline):
            lines += filled(text, width)
        lines.append("")
    lines += filled(_head(found), width)
    shown = found.callers[:limit]
    if shown:
        lines += ["", *_table(shown, found, width, style)]
    left = found.callers[len(shown) :]
    if left:
        lines += ["", *filled(_rest(left, found), width)]
    for number, caller in enumerate(shown, 1):
        if caller.kind == SITE and caller.stack != NO_STACK and found.by != "program":
            lines += ["", *_stack(number, caller, found, stacks, width, style)]
    lines += _notes(found, stacks, width, shown)
    return "\n".join(lines) + "\n"


def _head(found: Callers) -> str:
    each = "under each function of their stacks" if found.inverted else f"by {found.by}"
    redundant = f"{found.redundant:,} redundant ({share(found.redundant, found.calls)})"
    text = f"{plural(found.calls, 'memory call')}, {redundant}"
    if found.callers:
        text += f"; {each}, sorted {_ORDER[found.sort]}"
    unit = numbers.unit([found.total().high])
    costs = [
        f"{numbers.cycles(*found.total(name), unit)} under {name}"
        for name in (EVERY_CALL, LACONIC)
        if name in found.totals
    ]
    if not costs:
        return f"{text}."
    least = "" if found.knows_touched and found.knows_sizes else "at least "
    return f"{text}. All of it costs {least}{' and '.join(costs)}."


def _rest(left: Sequence[Caller], found: Callers) -> str:
    text = f"and {len(left):,} more (--all, --json)"
    if found.inverted:  # there a call counts more than once
        return text
    if found.sort in (REDUNDANT, CALLS):
        what = "redundant call" if found.sort == REDUNDANT else "call"
        count = sum(one.redundant if found.sort == REDUNDANT else one.calls for one in left)
        return f"{text}: {plural(count, what)}"
    total = found.total().middle
    part = share(sum(found.cycles(caller).middle for caller in left), total)
    return f"{text}: {part} of the cost"


class _SiteColumn(NamedTuple):
    # A column of numbers: its heading, of one or two lines, and its cells.
    head: tuple[str, str]
    cells: list[str]


def _table(shown: Sequence[Caller], found: Callers, width: int, style: Style) -> Iterator[str]:
    numbered = _SiteColumn(("", "#"), [str(number) for number in range(1, len(shown) + 1)])
    left = [numbered, *_columns(shown, found)]
    widths = [max(map(len, (*column.head, *column.cells))) for column in left]
    used = sum(widths) + 2 * len(widths)
    if used > width:
        yield from _blocks(shown, left, found, width, style)
        return
    for line in range(2):
        cells = [column.head[line].rjust(room) for column, room in zip(left, widths, strict=True)]
        last = "  site" if line and width - used >= _LABEL else ""
        yield f"{'  '.join(cells)}{last}".rstrip()
    for row, caller in enumerate(shown):
        cells = [column.cells[row].rjust(room) for column, room in zip(left, widths, strict=True)]
        text = _label(caller, found, style)
        if width - used < _LABEL:
            yield "  ".join(cells)
            yield from filled(text, width, "    ")
            continue
        label = filled(text, width - used)
        yield f"{'  '.join(cells)}  {label[0]}"
        yield from (f"{' ' * used}{line}" for line in label[1:])


def _blocks(
    shown: Sequence[Caller], left: Sequence[_SiteColumn], found: Callers, width: int, style: Style
) -> Iterator[str]:
    # Write one paragraph per caller, because the numbers do not fit in a table.
    for row, caller in enumerate(shown):
        yield from filled(f"{left[0].cells[row]}. {_label(caller, found, style)}", width)
        named = [f"{' '.join(column.head).strip()} {column.cells[row]}" for column in left[1:]]
        yield from filled("; ".join(named), width, "    ")


def _columns(shown: Sequence[Caller], found: Callers) -> Iterator[_SiteColumn]:
    # Return one unit for all costs of the table.
    unit = numbers.unit([found.cycles(caller).high for caller in shown])
    cycles = f"{unit[1]} cycles".strip()
    total = found.total().middle
    for name, head in ((EVERY_CALL, (cycles, "every-call")), (LACONIC, (cycles, "laconic"))):
        if name in found.totals:
            yield _SiteColumn(head, [numbers.span(*found.cycles(one, name), unit) for one in shown])
    if found.sort == HOST_CALLS:
        yield _SiteColumn(("host", "calls"), [f"{one.cost().host_calls:,}" for one in shown])
    elif found.sort == PAGES:
        yield _SiteColumn(
            ("MiB", "committed"), [_mebibytes(one.committed_pages()) for one in shown]
        )
        if found.knows_touched:
            yield _SiteColumn(("MiB", "touched"), [_mebibytes(one.touched_pages) for one in shown])
    else:
        yield _SiteColumn(("", "share"), [share(found.cycles(one).middle, total) for one in shown])
    calls = [f"{one.calls:,}{'' if one.known else '+'}" if one.calls else "" for one in shown]
    yield _SiteColumn(("", "calls"), calls)
    yield _SiteColumn(
        ("", "redundant"), [f"{one.redundant:,}" if one.calls else "" for one in shown]
    )


def _mebibytes(pages: int) -> str:
    return numbers.digits(pages / 256, 2) if pages > 2 or not pages else "<0.01"


def _label(caller: Caller, found: Callers, style: Style) -> str:
    # Return a caller in one line: what it calls, and where that is.
    if caller.kind == AROUND:
        return f"{WORK[caller.name]} (no call)"
    if caller.kind == SUPPRESSED:
        if caller.name == LOADING:
            return f"{loading(len(caller.files))} (ld.so; {plural(caller.sites, 'site')})"
        return f"{caller.name} ({plural(caller.sites, 'site')})"
    if found.by == "program":
        return f"{caller.call} in {caller.program.rsplit('/', 1)[-1]}"
    if found.by == "module" or caller.name == UNKNOWN:
        return f"{caller.call} {caller.name}"
    name = caller.name if style.verbose else short_function(caller.name)
    line = short_line(caller.file, caller.line) if found.by in ("line", "own-line", "stack") else ""
    module = "" if name.startswith(f"{caller.module}+") else short_module(caller.module)
    file = line.rpartition(":")[0]
    if file == module or file.endswith(f"/{module}"):  # Python's lines name the module
        module = ""
    where = ", ".join(part for part in (module, line) if part)
    call = caller.call or "calls of"
    return f"{call} {name}{f' ({where})' if where else ''}"


def _stack(
    number: int, caller: Caller, found: Callers, stacks: Stacks, width: int, style: Style
) -> Iterator[str]:
    many = len(caller.stacks)
    most = f", from {many:,} places; most of it" if many > 1 else ""
    program = caller.program.rsplit("/", 1)[-1]
    yield from filled(f"{number}. {caller.call or 'calls'} in {program}{most}:", width)
    yield from stack_lines(caller.call, caller.stack, stacks, width, caller.program, style)
    about = _about(caller, found.knows_touched)
    if about:
        yield from filled(f"under every-call: {about}", width, "  ")


def _about(caller: Caller, knows_touched: bool) -> str:
    # Return the data that is in no column of the table.
    parts = []
    committed = caller.committed_pages()
    if committed or caller.touched_pages:
        touched = f", {numbers.size(caller.touched_pages)} touched" if knows_touched else ""
        parts.append(f"{numbers.size(committed)} committed{touched}")
    counts = caller.cost()
    if counts.eremove:
        parts.append(f"{numbers.size(counts.eremove)} given back")
    if counts.emodpr:
        parts.append(f"{numbers.size(counts.emodpr)} restricted")
    if counts.host_calls:
        parts.append(plural(counts.host_calls, "host call"))
    return "; ".join(parts)


def stack_lines(
    call: str,
    stack: int,
    stacks: Stacks,
    width: int,
    program: str = "",
    style: Style = _PLAIN,
) -> Iterator[str]:
    """Yield a stack, one frame per line, from the function that makes the call to the program's own
    code.

    Functions of an interpreted program come first; the native frames around them are only counted.
    """
    places = stacks.walk(stack)
    own = places.after(wrappers(call, places))
    if style.frames is None and stacks.is_interpreted(stack):
        interpreted = [spot for spot in own if is_interpreted(spot[0])]
        if interpreted:
            # An import has a dozen frames of importlib between two of the program's own; Python's
            # tracebacks omit them too.
            named = [spot for spot in interpreted if not is_importlib(spot[0])] or interpreted
            most = _SHOWN if style.most is None else style.most
            yield from _frames(named[:most], width, style)
            left = len(named) - most
            if left > 0:
                yield f"  < {left:,} more"
            omitted = []
            native = len(own) - len(interpreted)
            if native and not is_interpreted(own[0][0]):
                first = describe(own[0][0], own[0][1], style.verbose)
                omitted.append(f"{plural(native, 'C frame')}, the innermost {first}")
            if len(named) < len(interpreted):
                omitted.append(f"{plural(len(interpreted) - len(named), 'frame')} of importlib")
            if omitted:
                yield from filled("; ".join(omitted), width, "  ")
            return
    needed = _needed(own, program) if style.frames is None else style.frames
    if style.most is not None and needed > style.most:
        # Show the call, and the program's own code; frames in between are counted.
        half = style.most // 2
        start = max(_first_own(own, needed, program), half)
        yield from _frames(own[:half], width, style)
        if start > half:
            yield f"  < {start - half:,} more"
        needed = min(needed, start + half)
        for spot in own[start:needed]:
            yield from filled(describe(*spot, style.verbose), width, "  < ")
    else:
        yield from _frames(own[:needed], width, style)
    more = own.frames_after(min(needed, len(own)))
    if more > 1 and stacks.is_cut(stack):
        yield f"  < {more - 1:,} more, and what is beyond them"
    elif more:
        yield f"  < {more:,} more"


def _frames(spots: Sequence[Spot], width: int, style: Style) -> Iterator[str]:
    for number, (place, guessed) in enumerate(spots):
        text = describe(place, guessed, style.verbose)
        yield from filled(text, width, "    " if number == 0 else "  < ")


def _first_own(own: Sequence[Spot], needed: int, program: str) -> int:
    # Return where the program's own code starts; 0 if it is not among the first `needed` frames.
    module = program.removesuffix(" (deleted)").rsplit("/", 1)[-1]
    return next((at for at, (place, _) in enumerate(own[:needed]) if place.module == module), 0)


def _needed(own: Sequence[Spot], program: str) -> int:
    # Return as many frames as reach the program's own code, and the frames of it that follow.
    module = program.removesuffix(" (deleted)").rsplit("/", 1)[-1]
    needed = 0
    for number, (place, _) in enumerate(own[:_DEEP], 1):
        if place.module == module:
            needed = number
        elif needed:
            break
        if needed >= _SHOWN:
            break
    return needed or _SHOWN


def describe(place: Place, guessed: bool = False, verbose: bool = False) -> str:
    """Return one frame as text: function, module, line; `?` if it was guessed. The parameters of a
    function are shown if `verbose`."""
    line = short_line(place.file, place.line)
    where = f" {line}" if line else ""
    module = f" ({place.module})" if place.known and place.module != place.function else ""
    if place.is_python and place.line:
        module = ""  # the line names its file
    function = place.function if verbose else short_function(place.function)
    inlined = " [inlined]" if place.inlined else ""
    return f"{function}{module}{where}{inlined}{' ?' if guessed else ''}"


def _notes(found: Callers, stacks: Stacks, width: int, shown: Iterable[Caller]) -> Iterator[str]:
    hidden = found.hidden if found.sort == REDUNDANT else {}
    if found.inverted and found.suppressed and not hidden:
        yield ""
        calls = plural(sum(one.calls for one in found.suppressed.values()), "suppressed call")
        reasons = "; ".join(sorted(found.suppressed))
        text = f"without {calls} ({reasons}): --no-suppressions shows them"
        yield from filled(text, width)
    if hidden:
        yield ""
        count = sum(hidden.values())
        yield from filled(
            f"suppressed: {plural(count, 'redundant call')} (--no-suppressions shows them)", width
        )
        for reason, number in sorted(hidden.items(), key=lambda item: (-item[1], item[0])):
            yield from filled(f"{number:,}: {reason}", width, "  ")
    if found.by == "line" and any(
        one.stack != NO_STACK and stacks.is_interpreted(one.stack) for one in shown
    ):
        yield ""
        yield from filled("the lines of the program's own code: --by own-line", width)
    if found.stackless:
        yield ""
        have = "has" if found.stackless == 1 else "have"
        how = "laconic run -o FILE --stacks all" if found.source == "run" else "strace -k"
        if found.source in ("run", "strace"):
            how = f"record with  {how}"
        else:
            how = (
                f"a log of {found.source} shows none; record with  laconic run -o FILE --stacks all"
            )
        yield from filled(f"{plural(found.stackless, 'call')} {have} no stack: {how}", width)
    if not found.knows_sizes:
        yield ""
        yield from filled(LOWEST, width)
    if any(caller.guessed for caller in shown):
        yield from filled(
            "? a frame that was found by its frame pointer, for want of call-frame information",
            width,
        )
    yield from missing_lines(stacks, width)
    for module in _stripped(stacks, shown) if found.source == "run" else ():
        yield from filled(
            f"no names for some addresses of {module}: it is stripped; its debug package has them "
            "(files below /usr/lib/debug)",
            width,
        )


def _stripped(stacks: Stacks, shown: Iterable[Caller]) -> list[str]:
    # Libraries whose shown frames have only an address, without a reason in the report.
    explained = {os.path.basename(module.path) for module, _ in _missing(stacks)}
    found = {
        place.module
        for caller in shown
        if caller.kind == SITE and caller.stack != NO_STACK
        for place, _ in stacks.walk(caller.stack)[:_SHOWN]
        if place.function.startswith(f"{place.module}+0x")
    }
    return sorted(found - explained)


def missing_lines(stacks: Stacks, width: int) -> Iterator[str]:
    """Yield each module whose symbols, or a part of them, could not be read, and why."""
    for module, why in _missing(stacks):
        yield from filled(f"no symbols of {module.path}: {why}", width)
    for module, (what, why) in sorted(stacks.symbolizer.partial.items()):
        yield from filled(f"no {what} of {module.path}: {why}", width)
