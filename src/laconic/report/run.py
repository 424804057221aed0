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
from laconic.report.tables import plain_console
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


def _changed(changes: Mapping[str, int], width: int) -> str:
    # A kind and its count stay on one line: textwrap does not break at a no-break space.
    kinds = ", ".join(f"{kind}\xa0{count:,}" for kind, count in changes.items() if count)
    return textwrap.fill(f"page runs changed, by kind: {kinds or 'none'}", width).replace(
        "\xa0", " "
    )


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
    import io

    from rich.table import Table

    out = io.StringIO()
    console = plain_console(out, width)
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
    console.print(
        f"laconic: {calls:,} memory calls in {processes}: "
        f"{low_to_high(host_calls - open_, host_calls)} host call{ending}{would}, "
        f"{low_to_high(elided, elided + open_)} elided{share}"
    )
    if calls:
        table = Table(box=None, pad_edge=False, show_footer=True)
        table.add_column("memory call", "total", overflow="fold")
        for column in _COLUMNS:
            total = cell(column, sum(line[column] for line in figures["by_call"].values()), open_)
            heading = column.replace("_", " ")
            table.add_column(heading, total, justify="right", no_wrap=True, min_width=len(total))
        for name, line in sorted(
            figures["by_call"].items(), key=lambda item: (-item[1]["calls"], item[0])
        ):
            table.add_row(name, *(cell(c, line[c], uncertain.get(name, 0)) for c in _COLUMNS))
        console.print(table)
        console.print(_changed(figures["changes"], width))
    if figures["resynced"]:
        console.print(textwrap.fill(_unmodeled(figures["unmodeled"]), width))
    verify = figures["verify"]
    if verify["mode"] != "off":
        checks = plural(verify["checks"], "check")
        found = plural(verify["mismatches"], "mismatch", "mismatches")
        console.print(f"verify ({verify['mode']}): {checks}, {found}")
    for note in figures["notes"]:
        console.print(f"note: {note}")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
