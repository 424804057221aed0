"""The summary of one run, as JSON and for the terminal."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from laconic.ledger import Ledger

#: The version of the JSON's meaning; it rises when a key changes or goes.
SCHEMA = 1


def as_json(
    ledger: Ledger,
    command: Sequence[str],
    exit_status: int,
    strategy: str,
    verify: str,
    seconds: float,
) -> dict[str, Any]:
    """The figures of a run in the form that `--json` writes; docs/json.md says what each key means."""
    return {
        "schema": SCHEMA,
        "command": list(command),
        "exit_status": exit_status,
        "strategy": strategy,
        "host": {"system": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "processes": ledger.processes,
        "asked": ledger.asked,
        "said": ledger.said,
        "elided": ledger.elided,
        "narrowed": sum(line.narrowed for line in ledger.calls.values()),
        "resynced": ledger.resynced,
        "calls": {name: asdict(line) for name, line in sorted(ledger.calls.items())},
        "changes": ledger.changes(),
        "verify": {"mode": verify, "checks": ledger.checks, "mismatches": ledger.mismatches},
        "notes": ledger.notes,
        "seconds": round(seconds, 6),
    }


def as_text(figures: Mapping[str, Any], width: int = 80) -> str:
    """The table that a person reads after a run; numbers are never cut."""
    import io

    from rich.console import Console
    from rich.table import Table

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, highlight=False, emoji=False, markup=False)
    asked, said, elided = figures["asked"], figures["said"], figures["elided"]
    would = "would have heard" if figures["strategy"] == "observe" else "heard"
    share = f" ({100 * elided / asked:.1f} %)" if asked else ""
    plural = "" if figures["processes"] == 1 else "es"
    console.print(
        f"laconic: {asked:,} memory calls in {figures['processes']:,} process{plural}; the host {would} {said:,}; "
        f"{elided:,}{share} needed no host call."
    )
    if asked:
        table = Table(box=None, pad_edge=False, show_footer=True)
        table.add_column("call", "total", overflow="fold")
        for column in ("asked", "said", "elided", "narrowed", "failed"):
            total = sum(line[column] for line in figures["calls"].values())
            table.add_column(column, f"{total:,}", justify="right", no_wrap=True, min_width=len(f"{total:,}"))
        for name, line in sorted(figures["calls"].items(), key=lambda item: (-item[1]["asked"], item[0])):
            table.add_row(name, *(f"{line[c]:,}" for c in ("asked", "said", "elided", "narrowed", "failed")))
        console.print(table)
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in figures["changes"].items() if count)
        console.print(f"page runs changed, by kind: {kinds or 'none'}")
    if figures["resynced"]:
        console.print(
            f"{figures['resynced']:,} calls are not modelled: the host did them and bookkeeping was read anew."
        )
    verify = figures["verify"]
    if verify["mode"] != "off":
        checks = f"{verify['checks']:,} check{'' if verify['checks'] == 1 else 's'}"
        found = f"{verify['mismatches']:,} mismatch{'' if verify['mismatches'] == 1 else 'es'}"
        console.print(f"verify ({verify['mode']}): {checks}, {found}")
    for note in figures["notes"]:
        console.print(f"note: {note}")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
