"""Regressions and improvements between two runs: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from laconic.analysis.baseline import ENCLAVE, Key, KeyTally, RunFigures
from laconic.analysis.callers import (
    AROUND,
    CALLS,
    COST,
    HOST_CALLS,
    REDUNDANT,
    SITE,
    SUPPRESSED,
    CycleSpan,
)
from laconic.analysis.diff import Delta, Difference
from laconic.analysis.schemas import SCHEMAS
from laconic.analysis.suppressions import LOADING
from laconic.report import numbers
from laconic.report.callers import Style, stack_lines
from laconic.report.headline import WORK, Sentence
from laconic.report.names import filled
from laconic.report.numbers import share
from laconic.report.shortnames import short_function, short_module
from laconic.trace.stacks import Stacks
from laconic.trace.words import plural

#: The part of the first run's cost, from 0 to 1, below which two runs cost about the same; and the
#: part below which a site does not stand out.
_ABOUT_THE_SAME = 0.005
#: The sort orders of sites, as text.
_ORDER = {
    COST: "by change of cost in an enclave under {}",
    REDUNDANT: "by change of redundant calls",
    CALLS: "by change of calls",
    HOST_CALLS: "by change of host calls of an enclave under {}",
}


def as_json(found: Difference) -> dict[str, Any]:
    """Return all differences; `calls` and `host_calls` of sites are null if not every stack is
    known."""
    text, more = sentence(found)
    costs = found.enclave is not None
    return {
        "schema": SCHEMAS["diff"],
        "first": found.first,
        "second": found.second,
        "headline": {"text": text, "more": more},
        "sort": found.sort,
        "total": {
            **_changes(found.total, True),
            "hidden": {"was": found.hidden[0], "now": found.hidden[1]},
            **_enclave(found),
        },
        "by_call": None
        if found.by_call is None
        else [_entry(delta, ("call",), True) for delta in found.by_call],
        "sites": None
        if found.sites is None
        else [_entry(delta, Key._fields, found.whole, costs) for delta in found.sites],
        "suppressed": [
            {"reason": delta.key.function, **_changes(delta, True, costs)}
            for delta in found.others
            if delta.kind == SUPPRESSED
        ],
        "around": [
            {"kind": delta.key.function, **_costs(delta)}
            for delta in found.others
            if delta.kind == AROUND
        ],
        "notes": found.notes,
        "missing_symbols": dict(sorted(found.missing.items())),
    }


def _enclave(found: Difference) -> dict[str, Any]:
    # Return the enclave figures of both runs, if they are known.
    if found.enclave is None:
        return {}
    enclave = dict(zip(("strategy", "costs"), found.enclave, strict=True))
    return {"enclave": enclave, **_costs(found.total)}


def _costs(delta: Delta) -> dict[str, Any]:
    return {
        name: {"was": getattr(delta.was, name), "now": getattr(delta.now, name)} for name in ENCLAVE
    }


def _entry(delta: Delta, names: Sequence[str], whole: bool, costs: bool = False) -> dict[str, Any]:
    key = {name: getattr(delta.key, name) for name in names}
    return {**key, **_changes(delta, whole, costs and whole)}


def _changes(delta: Delta, whole: bool, costs: bool = False) -> dict[str, Any]:
    counts = {
        name: {
            "was": getattr(delta.was, name),
            "now": getattr(delta.now, name),
            "change": getattr(delta, name),
        }
        if whole or name == "redundant"
        else None
        for name in ("calls", "redundant", "host_calls")
    }
    return {**counts, **_costs(delta)} if costs else counts


# The headline


def sentence(found: Difference) -> Sentence:
    """Return the most important fact about two runs, and what else matters."""
    total = found.total
    if not total.was.calls and not total.now.calls:
        return Sentence("Neither run made a memory call.")
    if found.is_same:
        return Sentence(f"Nothing changed: {_both(found)}.")
    if found.enclave is None:
        return Sentence(_redundant(total))
    was, now = _span(total.was), _span(total.now)
    if not was.high or not now.high:
        return Sentence(f"The cost in an enclave is {_cost(now)}, and was {_cost(was)} before.")
    changed = total.cycles.middle / was.middle
    before = f"Under {found.enclave[0]} it was {_cost(was)} before."
    ranked = sorted(found.ranked(), key=lambda delta: -abs(delta.cycles.middle))
    least = _ABOUT_THE_SAME * was.middle
    largest = [delta for delta in ranked if abs(delta.cycles.middle) >= least]
    if abs(changed) < _ABOUT_THE_SAME:
        head = f"Both runs cost about the same, {_cost(now)} in an enclave"
    else:
        head = f"The second run costs {_times(changed)}, {_cost(now)} in an enclave"
    if not found.whole:
        return Sentence(f"{head}.", f"{before} Without stacks, the sites that changed are unknown.")
    if not largest:
        return Sentence(f"{head}. No site changed by {share(_ABOUT_THE_SAME, 1)} of it or more.")
    # A site that changed in the same direction as the total explains it; the others are mentioned
    # after it.
    with_it = [delta for delta in largest if delta.cycles.middle * changed > 0] or largest
    first = largest[0] if abs(changed) < _ABOUT_THE_SAME else with_it[0]
    more = [before]
    rest = [delta for delta in largest if delta is not first]
    if rest:
        more.append(f"Next: {_moved(rest[0])}.")
    return Sentence(f"{head}: {_moved(first)}.", " ".join(more))


def _both(found: Difference) -> str:
    tally = found.total.now
    text = f"both runs make {plural(tally.calls, 'call')}"
    if found.enclave is None:
        return f"{text}, {tally.redundant:,} of them redundant"
    return f"{text}, which cost {_cost(_span(tally))} under {found.enclave[0]}"


def _redundant(total: Delta) -> str:
    was, now = total.was.redundant, total.now.redundant
    if was == now:
        return f"Both runs make {plural(now, 'redundant call')}."
    word = "more" if now > was else "fewer"
    return (
        f"The second run makes {abs(now - was):,} redundant calls {word}: {now:,} after {was:,}."
        if abs(now - was) != 1
        else f"The second run makes 1 redundant call {word}: {now:,} after {was:,}."
    )


def _times(changed: float) -> str:
    # Return a change relative to the value before.
    if changed >= 1:
        return f"{numbers.digits(1 + changed)} times as much"
    return f"{share(abs(changed), 1)} {'more' if changed > 0 else 'less'}"


def _moved(delta: Delta) -> str:
    # Return the increase or decrease of the cost of one site, or of other work.
    ends = [abs(end) for end in delta.cycles]
    word = "more" if delta.cycles.middle > 0 else "less"
    text = f"{subject(delta)} costs {numbers.cycles(min(ends), max(ends))} {word}"
    if delta.kind == AROUND:
        return text
    was, now = delta.was.calls, delta.now.calls
    if not now:
        return f"{text} ({plural(was, 'call')} before, none after)"
    if was == now:
        return f"{text} ({plural(was, 'call')} in both)"
    return f"{text} ({plural(was, 'call')} before, {now:,} after)" if was else f"{text} (new)"


def subject(delta: Delta) -> str:
    """Return a site, or other work, as the subject of a sentence."""
    return subject_of(delta.key, delta.kind)


def subject_of(key: Key, kind: str) -> str:
    """As `subject`, for this key and kind (`callers.Caller.kind`)."""
    if kind == AROUND:
        return WORK.get(key.function, key.function)
    if kind == SUPPRESSED:
        return "Loading libraries" if key.function == LOADING else f"What {key.function!r} hides"
    function, module = short_function(key.function), short_module(key.module)
    if not key.function or key.function.startswith(f"{key.module}+"):
        return f"{key.call} from {function or key.program}"
    return f"{key.call} from {function}{f' ({module})' if module else ''}"


def _span(tally: KeyTally) -> CycleSpan:
    return CycleSpan(tally.cycles_low, tally.cycles)


def _cost(span: CycleSpan) -> str:
    return numbers.cycles(*span)


# Text


#: The figures of a run, and its stacks, if they come from a trace.
RunWithStacks = tuple[RunFigures, Stacks | None]
#: The number of frames of a stack that are shown.
_FRAMES = 4


def as_text(
    found: Difference, width: int = 80, limit: int = 10, runs: Sequence[RunWithStacks] = ()
) -> str:
    """Return the headline, the figures of both runs, the calls that differ, and the sites:
    regressions, then improvements. A site's stack is that of the last of `runs` that has one."""
    total = found.total
    lines: list[str] = []
    for text in sentence(found):
        lines += filled(text, width)
    lines += [
        "",
        *filled(f"before: {found.first}", width),
        *filled(f"after:  {found.second}", width),
    ]
    rows = [("", "before", "after", "change"), *(_row(name, total, what) for name, what in _NAMES)]
    if found.enclave is not None:
        rows += _enclave_rows(total, found.enclave[0])
    lines += ["", *_aligned(rows)]
    if any(found.hidden):
        lines += filled(
            f"suppressed: {found.hidden[0]:,} redundant calls in the first, {found.hidden[1]:,} "
            "in the second (--no-suppressions shows them)",
            width,
            "",
        )
    if found.by_call:
        lines += ["", "by call, redundant and host calls:"]
        lines += _by_call(found.by_call, width)
    if found.sites is not None:
        lines += _by_site(found, width, limit, runs)
    for note in found.notes:
        lines += ["", *filled(note, width, "")]
    if found.missing:
        lines.append("")
    for module, why in sorted(found.missing.items()):
        lines += filled(f"no symbols of {module}: {why}", width)
    return "\n".join(lines) + "\n"


def _enclave_rows(total: Delta, strategy: str) -> Iterator[tuple[str, str, str, str]]:
    was, now = total.was.enclave_host_calls, total.now.enclave_host_calls
    yield "enclave host calls", f"{was:,}", f"{now:,}", signed(now - was)
    unit = numbers.unit([total.was.cycles, total.now.cycles])
    before, after = (numbers.span(*_span(tally), unit) for tally in (total.was, total.now))
    change = numbers.change(*total.cycles, (unit[0], ""))
    yield f"{unit[1]} cycles, {strategy}".strip(), before, after, change


_NAMES = (("calls", "calls"), ("redundant", "redundant"), ("host calls", "host_calls"))


def _row(name: str, delta: Delta, what: str) -> tuple[str, str, str, str]:
    return (
        name,
        f"{getattr(delta.was, what):,}",
        f"{getattr(delta.now, what):,}",
        signed(getattr(delta, what)),
    )


def signed(number: int) -> str:
    """Return a change, with its sign.

    >>> signed(1200), signed(-3), signed(0)
    ('+1,200', '-3', '0')
    """
    return f"{number:+,}" if number else "0"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def _by_call(calls: Iterable[Delta], width: int) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("call", "before", "after", "change", "before", "after", "change")
    ]
    rows += [
        (delta.key.call, *_row("", delta, "redundant")[1:], *_row("", delta, "host_calls")[1:])
        for delta in calls
    ]
    lines = _aligned(rows)
    if max(map(len, lines)) <= width:
        return lines
    # Numbers are never truncated: each has a line of its own if they do not fit next to each other.
    return [
        line
        for row in rows[1:]
        for line in (row[0], f"  {' '.join(row[1:4])}", f"  {' '.join(row[4:])}")
    ]


def _by_site(
    found: Difference, width: int, limit: int, runs: Sequence[RunWithStacks]
) -> Iterator[str]:
    ranked = found.ranked()
    worse = [delta for delta in ranked if delta.is_worse(found.sort)]
    better = [delta for delta in reversed(ranked) if not delta.is_worse(found.sort)]
    strategy = found.enclave[0] if found.enclave else ""
    order = _ORDER[found.sort].format(strategy)
    unit = numbers.unit(abs(end) for delta in ranked for end in delta.cycles)
    for word, deltas in (("worse", worse), ("better", better)):
        if not deltas:
            continue
        yield ""
        yield from filled(f"{word}, {order}: {plural(len(deltas), 'site')}", width)
        for delta in deltas[:limit]:
            text = what_changed(delta, found.whole, unit, found.total.was)
            yield from filled(text, width, "  ")
            if delta.kind == SITE:
                yield from _place_lines(delta.key, runs, width)
        if len(deltas) > limit:
            yield f"  and {len(deltas) - limit:,} more (--limit, --json)"


def _place_lines(key: Key, runs: Sequence[RunWithStacks], width: int) -> Iterator[str]:
    # Return the place of a site: its stack, or its name if it has none.
    for figures, stacks in reversed(runs):
        stack = figures.stacks.get(key)
        if stack is None or stacks is None:
            continue
        style = Style(most=_FRAMES)
        lines = list(stack_lines(key.call, stack, stacks, width - 4, key.program, style))
        yield from filled(f"{lines[0].strip()} in {key.program}", width, "      ")
        yield from (f"    {line}" for line in lines[1:])
        return
    yield from filled(place(key), width, "      ")


def what_changed(
    delta: Delta, whole: bool, unit: numbers.Unit | None = None, before: KeyTally | None = None
) -> str:
    """Return the change of one site, as text: what did not change is left out. `before` is the
    first run's total; the change of the cost is shown as a part of it."""
    names = _NAMES[1:2] if not whole else (_NAMES[1], _NAMES[2], _NAMES[0])
    parts = []
    if any(delta.cycles):
        unit = unit or numbers.unit(map(abs, delta.cycles))
        spans = (numbers.span(*_span(tally), unit) for tally in (delta.was, delta.now))
        part = ""
        if before is not None and before.middle:
            part = f", {share(abs(delta.cycles.middle), before.middle)} of the run before"
        text = f"{numbers.change(*delta.cycles, unit)} cycles ({' -> '.join(spans)}{part})"
        parts.append(text.replace("  ", " "))
    for name, what in names:
        change = getattr(delta, what)
        if change:
            noun = name.removesuffix("s") if abs(change) == 1 else name
            parts.append(
                f"{signed(change)} {noun} ({getattr(delta.was, what):,} -> "
                f"{getattr(delta.now, what):,})"
            )
    new = ", new" if delta.was == KeyTally() else ", gone" if delta.now == KeyTally() else ""
    label = delta.key.call if delta.kind == SITE else subject(delta)
    return f"{label}: {', '.join(parts)}{new}"


def place(key: Key) -> str:
    """Return the place of a site, in one line.

    >>> place(Key("mmap", "grow", "libx.so", "prog"))
    'grow (libx.so) in prog'
    >>> place(Key("mmap", "libx.so+?", "libx.so", "prog"))
    'libx.so+? in prog'
    """
    module = (
        f" ({key.module})" if key.module and not key.function.startswith(f"{key.module}+") else ""
    )
    return f"{key.function or key.call}{module}{f' in {key.program}' if key.program else ''}"
