"""What got better or worse between two runs: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from laconic.analysis.baseline import ENCLAVE, Key, Tally
from laconic.analysis.diff import Delta, Difference
from laconic.analysis.schemas import SCHEMAS
from laconic.report.names import filled


def as_json(found: Difference) -> dict[str, Any]:
    """All that differs; `calls` and `host_calls` of sites are null where not every stack is known."""
    return {
        "schema": SCHEMAS["diff"],
        "first": found.first,
        "second": found.second,
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
        else [_entry(delta, Key._fields, found.whole) for delta in found.sites],
        "notes": found.notes,
        "missing_symbols": dict(sorted(found.missing.items())),
    }


def _enclave(found: Difference) -> dict[str, Any]:
    # The enclave figures of both runs, if they are known.
    if found.enclave is None:
        return {}
    was, now = found.total.was, found.total.now
    figures = {name: {"was": getattr(was, name), "now": getattr(now, name)} for name in ENCLAVE}
    return {"enclave": dict(zip(("strategy", "costs"), found.enclave, strict=True)), **figures}


def _entry(delta: Delta, names: Sequence[str], whole: bool) -> dict[str, Any]:
    return {**{name: getattr(delta.key, name) for name in names}, **_changes(delta, whole)}


def _changes(delta: Delta, whole: bool) -> dict[str, Any]:
    return {
        name: {
            "was": getattr(delta.was, name),
            "now": getattr(delta.now, name),
            "change": getattr(delta, name),
        }
        if whole or name == "redundant"
        else None
        for name in ("calls", "redundant", "host_calls")
    }


def as_text(found: Difference, width: int = 80, limit: int = 10) -> str:
    """The figures of both, the calls that differ, and the sites: the worse ones, then the better
    ones."""
    total = found.total
    lines = [
        *filled(f"was: {found.first}", width, ""),
        *filled(f"now: {found.second}", width, ""),
        "",
    ]
    rows = [("", "was", "now", "change"), *(_row(name, total, what) for name, what in _NAMES)]
    if found.enclave is not None:
        rows += [
            (name, f"{was:,}", f"{now:,}", signed(now - was))
            for name, was, now in (
                ("enclave host calls", total.was.enclave_host_calls, total.now.enclave_host_calls),
                ("enclave cycles, low", total.was.cycles_low, total.now.cycles_low),
                ("enclave cycles, high", total.was.cycles, total.now.cycles),
            )
        ]
    lines += _aligned(rows)
    if any(found.hidden):
        lines += filled(f"suppressed: {found.hidden[0]:,} redundant calls in the first, {found.hidden[1]:,} in the "
                         "second (--no-suppressions shows them)", width, "")  # fmt: skip
    if found.by_call:
        lines += ["", "by call, redundant and host calls:"]
        lines += _by_call(found.by_call, width)
    if found.sites is not None:
        lines += _by_site(found.sites, found.whole, width, limit)
    same = total.was == total.now and not found.by_call and not found.sites
    if same:
        lines += ["", "no difference"]
    for note in found.notes:
        lines += ["", *filled(note, width, "")]
    if found.missing:
        lines.append("")
    for module, why in sorted(found.missing.items()):
        lines += filled(f"no symbols of {module}: {why}", width)
    return "\n".join(lines) + "\n"


_NAMES = (("calls", "calls"), ("redundant", "redundant"), ("host calls", "host_calls"))


def _row(name: str, delta: Delta, what: str) -> tuple[str, str, str, str]:
    return (
        name,
        f"{getattr(delta.was, what):,}",
        f"{getattr(delta.now, what):,}",
        signed(getattr(delta, what)),
    )


def signed(number: int) -> str:
    """A change, with its sign.

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
    rows: list[tuple[str, ...]] = [("call", "was", "now", "change", "was", "now", "change")]
    rows += [
        (delta.key.call, *_row("", delta, "redundant")[1:], *_row("", delta, "host_calls")[1:])
        for delta in calls
    ]
    lines = _aligned(rows)
    if max(map(len, lines)) <= width:
        return lines
    # Numbers are never cut: a line each where they do not fit beside each other.
    return [
        line
        for row in rows[1:]
        for line in (row[0], f"  {' '.join(row[1:4])}", f"  {' '.join(row[4:])}")
    ]


def _by_site(sites: Sequence[Delta], whole: bool, width: int, limit: int) -> Iterator[str]:
    worse = [delta for delta in sites if delta.worse]
    better = [delta for delta in reversed(sites) if not delta.worse]
    for word, deltas in (("worse", worse), ("better", better)):
        if not deltas:
            continue
        yield ""
        yield f"{word}: {len(deltas):,} site{'' if len(deltas) == 1 else 's'}"
        for delta in deltas[:limit]:
            yield from filled(what_changed(delta, whole), width, "  ")
            yield from filled(place(delta.key), width, "      ")
        if len(deltas) > limit:
            yield f"  and {len(deltas) - limit:,} more (--limit, --json)"


def what_changed(delta: Delta, whole: bool) -> str:
    """The change of one site, in words: what did not change is left out."""
    names = _NAMES[1:2] if not whole else (_NAMES[1], _NAMES[2], _NAMES[0])
    parts = []
    for name, what in names:
        change = getattr(delta, what)
        if change:
            plural = name if name != "host calls" or abs(change) != 1 else "host call"
            parts.append(
                f"{signed(change)} {plural} ({getattr(delta.was, what):,} -> {getattr(delta.now, what):,})"
            )
    new = ", new" if delta.was == Tally() else ", gone" if delta.now == Tally() else ""
    return f"{delta.key.call}: {', '.join(parts)}{new}"


def place(key: Key) -> str:
    """Where a site is, in one line.

    >>> place(Key("mmap", "grow", "libx.so", "prog")), place(Key("mmap", "libx.so+?", "libx.so", "prog"))
    ('grow (libx.so) in prog', 'libx.so+? in prog')
    """
    module = (
        f" ({key.module})" if key.module and not key.function.startswith(f"{key.module}+") else ""
    )
    return f"{key.function or key.call}{module}{f' in {key.program}' if key.program else ''}"
