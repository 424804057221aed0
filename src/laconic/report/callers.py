"""Who makes redundant calls: for people, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from laconic.callers import Caller, Callers, own_frames
from laconic.pal.sgx.meter import Counts
from laconic.stacks.symbolize import Place
from laconic.trace.sites import NO_STACK, Stacks

#: Frames of a stack that a person is shown; --json has all.
_FRAMES = 8


def as_json(found: Callers, stacks: Stacks) -> dict[str, Any]:
    """All callers, each with the stack that most of its redundant calls come from."""
    return {
        "by": found.by,
        "inverted": found.inverted,
        "asked": found.asked,
        "redundant": found.redundant,
        "said": found.said,
        "stackless": found.stackless,
        "hidden": dict(sorted(found.hidden.items())),
        "callers": [_caller(caller, found, stacks) for caller in found.callers],
        "missing_symbols": {module.path: why for module, why in _missing(stacks)},
    }


def _caller(caller: Caller, found: Callers, stacks: Stacks) -> dict[str, Any]:
    return {
        "name": caller.name,
        "call": caller.call,
        "module": caller.module,
        "program": caller.program,
        "redundant": caller.redundant,
        "asked": caller.asked if caller.known else None,
        "said": caller.said if caller.known else None,
        "guessed": caller.guessed,
        "share": {
            "redundant": _share(caller.redundant, found.redundant),
            "host_calls": _share(caller.wasted.host_calls, found.total.host_calls),
        },
        "wasted": caller.wasted.as_dict(),
        "stack": [
            {**place._asdict(), "guessed": guessed}
            for place, guessed in (stacks.places(caller.stack) if caller.stack != NO_STACK else ())
        ],
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _missing(stacks: Stacks) -> Iterable[tuple[Any, str]]:
    return sorted(stacks.symbolizer.missing.items())


def as_text(found: Callers, stacks: Stacks, width: int = 80, limit: int = 10) -> str:
    """The worst callers with their stacks; what was hidden, and of which modules there are no symbols."""
    share = f" ({100 * found.redundant / found.asked:.1f} %)" if found.asked else ""
    each = "under each function of their stacks" if found.inverted else f"by {found.by}"
    lines = [f"{found.redundant:,} of {found.asked:,} memory calls changed nothing{share}, {each}:"]
    for caller in found.callers[:limit]:
        lines += ["", *_lines(caller, found, stacks, width)]
    if not found.redundant:
        lines = [f"none of {found.asked:,} memory calls was redundant"]
    more = found.callers[limit:]
    if more:
        lines += ["", f"and {sum(caller.redundant for caller in more):,} from {len(more):,} more (--limit, --json)"]
    lines += _notes(found, stacks, width)
    return "\n".join(lines) + "\n"


def _lines(caller: Caller, found: Callers, stacks: Stacks, width: int) -> Iterator[str]:
    of = f" of {caller.asked:,}" if caller.known else ""
    plural = "calls" if caller.asked != 1 or not caller.known and caller.redundant != 1 else "call"
    yield f"{caller.redundant:,}{of} {caller.call} {plural} from here changed nothing"
    if found.by == "program" or not caller.stacks:
        yield from _filled(caller.name, width, "    ")
    elif found.by == "module" or found.inverted:
        yield from _filled(caller.name, width, "    ")
        yield "  most of them:"
    if found.by != "program" and caller.stacks:
        yield from stack_lines(caller.call, caller.stack, stacks, width)
    if found.by != "program":
        yield from _filled(f"in {caller.program}", width, "  ")
    yield from _filled(_cost(caller, found), width, "  ")


def stack_lines(call: str, stack: int, stacks: Stacks, width: int) -> Iterator[str]:
    """A stack, a frame a line, from the function that makes the call."""
    frames = own_frames(call, stacks.places(stack))
    for number, (place, guessed) in enumerate(frames[:_FRAMES]):
        yield from _filled(describe(place, guessed), width, "    " if number == 0 else "  < ")
    if len(frames) > _FRAMES:
        yield f"  < {len(frames) - _FRAMES:,} more"


def describe(place: Place, guessed: bool = False) -> str:
    """One frame: function, module, line; `?` where it was guessed."""
    where = f" {place.file.rsplit('/', 1)[-1]}:{place.line}" if place.line else ""
    module = f" ({place.module})" if place.known and place.module != place.function else ""
    return f"{place.function}{module}{where}{' [inlined]' if place.inlined else ''}{' ?' if guessed else ''}"


def _cost(caller: Caller, found: Callers) -> str:
    parts = [f"{100 * _share(caller.redundant, found.redundant):.1f} % of all redundant calls"]
    if found.total.host_calls:
        share = _share(caller.wasted.host_calls, found.total.host_calls)
        parts.append(
            f"in an enclave under every-call {caller.wasted.host_calls:,} host calls ({100 * share:.1f} % of all), "
            f"{_pages(caller.wasted)}"
        )
    return "; ".join(parts)


def _pages(counts: Counts) -> str:
    accepted = counts.eaccept + counts.eacceptcopy
    return f"{accepted:,} EACCEPT{'' if accepted == 1 else 's'}"


def _notes(found: Callers, stacks: Stacks, width: int) -> Iterator[str]:
    if found.hidden:
        yield ""
        yield f"hidden: {sum(found.hidden.values()):,} redundant calls (--no-suppressions shows them)"
        for reason, count in sorted(found.hidden.items(), key=lambda item: (-item[1], item[0])):
            yield from _filled(f"{count:,}: {reason}", width, "  ")
    if found.stackless:
        yield ""
        yield from _filled(
            f"{found.stackless:,} redundant calls have no stack: record with  laconic run -o FILE --stacks redundant",
            width,
            "",
        )
    if any(caller.guessed for caller in found.callers):
        yield "? a frame that was found by its frame pointer, for want of call-frame information"
    yield from missing_lines(stacks, width)


def missing_lines(stacks: Stacks, width: int) -> Iterator[str]:
    """Each module whose symbols could not be read, and why."""
    for module, why in _missing(stacks):
        yield from _filled(f"no symbols of {module.path}: {why}", width, "")


def _filled(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=" " * (len(indent) + 2), break_on_hyphens=False
    )
