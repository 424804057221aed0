"""The summary of one run, as JSON and for the terminal."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from laconic.analysis.schemas import SCHEMAS
from laconic.memory.ledger import Ledger
from laconic.report.numbers import low_to_high
from laconic.report.tables import tally
from laconic.trace.words import plural


def as_json(
    ledger: Ledger,
    command: Sequence[str],
    exit_status: int | None,
    strategy: str,
    verify: str,
    seconds: float,
    host: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the figures of a run in the form that `--json` writes, described in
    docs/appendix/json.md.

    `host` is the machine that it ran on, or None for this one.
    """
    system = os.uname()
    host = host or {
        "system": system.sysname,
        "release": system.release,
        "machine": system.machine,
    }
    return {
        "schema": SCHEMAS["run"],
        "command": list(command),
        "exit_status": exit_status,
        "strategy": strategy,
        "host": {key: host.get(key) for key in ("system", "release", "machine")},
        "processes": ledger.processes,
        "calls": ledger.calls,
        "host_calls": ledger.host_calls,
        "elided": ledger.elided,
        "redundant": ledger.redundant,
        "narrowed": sum(line.narrowed for line in ledger.by_call.values()),
        "resynced": ledger.resynced,
        "unmodeled": dict(sorted(ledger.unmodeled.items())),
        "by_call": {name: asdict(line) for name, line in sorted(ledger.by_call.items())},
        "changes": ledger.changes(),
        "verify": {"mode": verify, "checks": ledger.checks, "mismatches": ledger.mismatches},
        "notes": ledger.notes,
        "seconds": round(seconds, 6),
    }


_COLUMNS = ("calls", "host_calls", "elided", "narrowed", "failed")


def cell(column: str, count: int, uncertain: int) -> str:
    """Return a count as text; `uncertain` calls may have been elided or not."""
    if column == "host_calls":
        return low_to_high(count - uncertain, count)
    return low_to_high(count, count + uncertain) if column == "elided" else f"{count:,}"


def _changed(changes: Mapping[str, int]) -> str:
    # A no-break space keeps a kind and its count on one line.
    kinds = ", ".join(f"{kind}\xa0{count:,}" for kind, count in changes.items() if count)
    return f"page runs changed, by kind: {kinds or 'none'}"


def _unmodeled(calls: Mapping[str, int]) -> str:
    total = sum(calls.values())
    names = ", ".join(f"{count:,} {name}" for name, count in calls.items())
    if total == 1:
        return (
            f"1 call is not modelled ({names}): the host executed it, and the bookkeeping was read "
            "again (resynced)"
        )
    return (
        f"{total:,} calls are not modelled ({names}): the host executed them, and the bookkeeping "
        "was read again (resynced)"
    )


def as_text(figures: Mapping[str, Any], width: int = 80) -> str:
    """Return the table for people after a run; numbers are never truncated."""
    calls, host_calls, elided = figures["calls"], figures["host_calls"], figures["elided"]
    trace = figures.get("trace", {})
    uncertain = trace.get("uncertain", {})
    open_ = sum(uncertain.values())
    # The program that a log describes made every host call.
    imagined = figures["strategy"] == "observe" or trace.get("source", "run") != "run"
    would = " would have been made" if imagined else ""
    share = (
        f" ({low_to_high(100 * elided / calls, 100 * (elided + open_) / calls, '.1f')} %)"
        if calls
        else ""
    )
    processes = plural(figures["processes"], "process", "processes")
    ending = "" if host_calls == 1 else "s"
    lines = _wrapped(
        f"laconic: {plural(calls, 'memory call')} in {processes}: "
        f"{low_to_high(host_calls - open_, host_calls)} host call{ending}{would}, "
        f"{low_to_high(elided, elided + open_)} elided{share}",
        width,
    )
    if calls:
        lines += _table(figures["by_call"], uncertain, width)
        lines += _wrapped(_changed(figures["changes"]), width)
    if figures["resynced"]:
        lines += _wrapped(_unmodeled(figures["unmodeled"]), width)
    verify = figures["verify"]
    if verify["mode"] != "off":
        checks = plural(verify["checks"], "check")
        found = plural(verify["mismatches"], "mismatch", "mismatches")
        lines += _wrapped(f"verify ({verify['mode']}): {checks}, {found}", width)
    for note in figures["notes"]:
        lines += _wrapped(f"note: {note}", width)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _wrapped(text: str, width: int) -> list[str]:
    # The lines of a note stay lines, and a long path stays whole. A no-break space keeps what it
    # joins on one line.
    wrapped: list[str] = []
    for line in text.splitlines():
        wrapped += textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [
            ""
        ]
    return [line.replace("\xa0", " ") for line in wrapped]


def _table(
    by_call: Mapping[str, Mapping[str, int]], uncertain: Mapping[str, int], width: int
) -> list[str]:
    # One row for each call, the most frequent first, and the totals.
    by_count = sorted(by_call.items(), key=lambda item: (-item[1]["calls"], item[0]))
    total = {column: sum(line[column] for line in by_call.values()) for column in _COLUMNS}
    rows = [["memory call", *(column.replace("_", " ") for column in _COLUMNS)]]
    for name, line in by_count:
        rows.append([name, *(cell(c, line[c], uncertain.get(name, 0)) for c in _COLUMNS)])
    rows.append(["total", *(cell(c, total[c], sum(uncertain.values())) for c in _COLUMNS)])
    return tally(rows, width)
