"""Who makes redundant calls: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from laconic.analysis.callers import Caller, Callers
from laconic.analysis.frames import wrappers
from laconic.analysis.schemas import SCHEMAS
from laconic.report.names import filled
from laconic.sgx.meter import Counts
from laconic.stacks.symbolize import Place
from laconic.trace.stacks import NO_STACK, Stacks

#: Places of a stack that a person is shown; --json has all.
_SHOWN = 8


def as_json(found: Callers, stacks: Stacks) -> dict[str, Any]:
    """All callers, each with the stack that most of its redundant calls come from. docs/callers.md
    has the keys."""
    return {
        "schema": SCHEMAS["callers"],
        "source": found.source,
        "by": found.by,
        "inverted": found.inverted,
        "calls": found.calls,
        "redundant": found.redundant,
        "host_calls": found.host_calls,
        "stackless": found.stackless,
        "hidden": dict(sorted(found.hidden.items())),
        "profile": None if found.profile is None else found.profile.name,
        "callers": [_caller(caller, found, stacks) for caller in found.callers],
        "missing_symbols": {module.path: why for module, why in _missing(stacks)},
    }


def _caller(caller: Caller, found: Callers, stacks: Stacks) -> dict[str, Any]:
    cycles = _cycles(caller.wasted, found)
    return {
        "name": caller.name,
        "call": caller.call,
        "module": caller.module,
        "program": caller.program,
        "redundant": caller.redundant,
        "calls": caller.calls if caller.known else None,
        "host_calls": caller.host_calls if caller.known else None,
        "guessed": caller.guessed,
        "share": {
            "redundant": _share(caller.redundant, found.redundant),
            "host_calls": _share(caller.wasted.host_calls, found.total.host_calls),
            "cycles": None if cycles is None else {"low": cycles[1][0], "high": cycles[1][1]},
        },
        "first": caller.event,
        "wasted": caller.wasted.as_dict(),
        "cycles": None
        if cycles is None
        else {"low": round(cycles[0][0]), "high": round(cycles[0][1])},
        "stack": [
            {**place._asdict(), "guessed": guessed}
            for place, guessed in (stacks.places(caller.stack) if caller.stack != NO_STACK else ())
        ],
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _cycles(
    wasted: Counts, found: Callers
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    # The least and the most that some work costs, and its least and largest share of all.
    if found.profile is None:
        return None
    costs, whole = found.profile.cycles(wasted), found.profile.cycles(found.total)
    shares = sorted(_share(cost, all_) for cost, all_ in zip(costs, whole, strict=True))
    return costs, (shares[0], shares[1])


def _missing(stacks: Stacks) -> Iterable[tuple[Any, str]]:
    return sorted(stacks.symbolizer.missing.items())


def as_text(found: Callers, stacks: Stacks, width: int = 80, limit: int = 10) -> str:
    """The worst callers with their stacks; what was hidden, and of which modules there are no
    symbols."""
    share = f" ({100 * found.redundant / found.calls:.1f} %)" if found.calls else ""
    each = "under each function of their stacks" if found.inverted else f"by {found.by}"
    head = f"{found.redundant:,} of {_counted(found.calls, 'memory call')} changed nothing{share}, {each}"
    if found.callers:
        head += ":"
    if not found.redundant:
        head = f"none of {_counted(found.calls, 'memory call')} was redundant"
    lines = filled(head, width)
    for caller in found.callers[:limit]:
        lines += ["", *_lines(caller, found, stacks, width)]
    more = found.callers[limit:]
    if more:
        rest = f"and {len(more):,} more (--limit, --json)"
        if not found.inverted:  # there a call counts more than once
            rest = f"and {sum(caller.redundant for caller in more):,} from {len(more):,} more (--limit, --json)"
        lines += ["", *filled(rest, width)]
    lines += _notes(found, stacks, width, found.callers[:limit])
    return "\n".join(lines) + "\n"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _lines(caller: Caller, found: Callers, stacks: Stacks, width: int) -> Iterator[str]:
    of = f" of {caller.calls:,}" if caller.known else ""
    plural = "call" if (caller.calls if caller.known else caller.redundant) == 1 else "calls"
    yield from filled(
        f"{caller.redundant:,}{of} {caller.call} {plural} from here changed nothing", width
    )
    if found.by == "program" or not caller.stacks:
        yield from filled(caller.name, width, "    ")
    elif found.by == "module" or found.inverted:
        yield from filled(caller.name, width, "    ")
        yield "  most of them:"
    if found.by != "program" and caller.stacks:
        yield from stack_lines(caller.call, caller.stack, stacks, width)
    if found.by != "program":
        yield from filled(f"in {caller.program}", width, "  ")
    yield from filled(_cost(caller, found), width, "  ")


def stack_lines(call: str, stack: int, stacks: Stacks, width: int) -> Iterator[str]:
    """A stack, a frame a line, from the function that makes the call."""
    places = stacks.walk(stack)
    own = places.after(wrappers(call, places))
    shown = own[:_SHOWN]
    for number, (place, guessed) in enumerate(shown):
        yield from filled(describe(place, guessed), width, "    " if number == 0 else "  < ")
    more = own.frames_after(len(shown))
    if more > 1 and stacks.is_cut(stack):
        yield f"  < {more - 1:,} more, and what is beyond them"
    elif more:
        yield f"  < {more:,} more"


def describe(place: Place, guessed: bool = False) -> str:
    """One frame: function, module, line; `?` where it was guessed."""
    where = f" {place.file.rsplit('/', 1)[-1]}:{place.line}" if place.line else ""
    module = f" ({place.module})" if place.known and place.module != place.function else ""
    if place.is_python:  # its file is its module
        module = "" if place.line else module
    return f"{place.function}{module}{where}{' [inlined]' if place.inlined else ''}{' ?' if guessed else ''}"


def _cost(caller: Caller, found: Callers) -> str:
    parts = [f"{100 * _share(caller.redundant, found.redundant):.1f} % of all redundant calls"]
    counts = caller.wasted
    if counts == Counts():
        return parts[0] + ("; nothing in an enclave" if found.total != Counts() else "")
    share = 100 * _share(counts.host_calls, found.total.host_calls)
    parts.append(
        f"in an enclave under every-call {_counted(counts.host_calls, 'host call')} ({share:.1f} % of all), "
        f"{_counted(counts.eaccept + counts.eacceptcopy, 'EACCEPT')}"
    )
    cycles = _cycles(counts, found)
    if cycles is not None:
        (low, high), (least, most) = cycles
        parts[-1] += (
            f", {low:,.0f} to {high:,.0f} cycles ({_range(100 * least, 100 * most)} % of all)"
        )
    return "; ".join(parts)


def _range(low: float, high: float) -> str:
    first, last = f"{low:.1f}", f"{high:.1f}"
    return first if first == last else f"{first} to {last}"


def _notes(found: Callers, stacks: Stacks, width: int, shown: Iterable[Caller]) -> Iterator[str]:
    if found.hidden:
        yield ""
        count = sum(found.hidden.values())
        yield from filled(
            f"hidden: {_counted(count, 'redundant call')} (--no-suppressions shows them)", width
        )
        for reason, number in sorted(found.hidden.items(), key=lambda item: (-item[1], item[0])):
            yield from filled(f"{number:,}: {reason}", width, "  ")
    if found.stackless:
        yield ""
        have = "has" if found.stackless == 1 else "have"
        how = "laconic run -o FILE --stacks redundant" if found.source == "run" else "strace -k"
        if found.source in ("run", "strace"):
            how = f"record with  {how}"
        else:
            how = f"a log of {found.source} shows none; record with  laconic run -o FILE --stacks redundant"
        yield from filled(
            f"{_counted(found.stackless, 'redundant call')} {have} no stack: {how}", width
        )
    if any(caller.guessed for caller in shown):
        yield from filled(
            "? a frame that was found by its frame pointer, for want of call-frame information",
            width,
        )
    yield from missing_lines(stacks, width)


def missing_lines(stacks: Stacks, width: int) -> Iterator[str]:
    """Each module whose symbols could not be read, or a part of them, and why."""
    for module, why in _missing(stacks):
        yield from filled(f"no symbols of {module.path}: {why}", width)
    for module, (what, why) in sorted(stacks.symbolizer.partial.items()):
        yield from filled(f"no {what} of {module.path}: {why}", width)
