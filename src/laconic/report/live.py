"""A running program in words: a line a second, and the sentence at its end; and its sums, as
JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from laconic.analysis.live import Model
from laconic.analysis.schemas import SCHEMAS
from laconic.report.diff import place


def line(model: Model, width: int = 80) -> str:
    """One line of what happens now: memory and the worst site where there is room; no number is
    cut."""
    rates, count = model.rates, len(model.processes)
    share = f", {100 * rates.redundant / rates.calls:.1f} % redundant" if rates.calls else ""
    text = f"{model.time:,.1f} s: {rates.calls:,.0f} calls/s, {rates.host_calls:,.0f} host calls/s{share}"
    memory = f"; {size(model.mapped)} in {count:,} process{'' if count == 1 else 'es'}"
    if len(text) + len(memory) <= width:
        text += memory
    sites = [site for site in model.sites() if site.rate and site.named] if rates.redundant else []
    if sites:
        text += shortened(f"; {sites[0].key.call} {place(sites[0].key)}", width - len(text))
    return text


def as_json(model: Model, command: Sequence[str]) -> dict[str, Any]:
    """The sums of a program that has ended, with the keys of `laconic run --json` as far as they
    are known here, and all sites, the most redundant calls first. O(sites log sites)."""
    calls, host_calls, elided, redundant = model.totals
    sites = sorted(model.sites(model.places), key=lambda site: (-site.total, site.key))
    return {
        "schema": SCHEMAS["live"],
        "command": list(command),
        "exit_status": model.status,
        "strategy": "laconic",
        "processes": model.ever,
        "calls": calls,
        "host_calls": host_calls,
        "elided": elided,
        "redundant": redundant,
        "by_call": {
            call: {"calls": line[0], "host_calls": line[1], "elided": line[2], "redundant": line[3]}
            for call, line in sorted(model.by_call.items())
        },
        "hidden": dict(sorted(model.hidden.items())),
        "sites": [{**site.key._asdict(), "redundant": site.total} for site in sites],
        "missing_symbols": {
            module.path: why for module, why in sorted(model.stacks.symbolizer.missing.items())
        },
        "notes": model.notes,
        "seconds": model.time,
    }


def ending(model: Model, width: int = 80) -> str:
    """What there was in all, when the program has ended, and what a person must be told."""
    calls, host_calls, elided, _ = model.totals
    share = f" ({100 * elided / calls:.1f} %)" if calls else ""
    plural = "" if model.ever == 1 else "es"
    ending = "" if host_calls == 1 else "s"
    text = (
        f"laconic: {calls:,} memory calls in {model.ever:,} process{plural}: "
        f"{host_calls:,} host call{ending}, {elided:,} elided{share}."
    )
    hidden = sum(model.hidden.values())
    if hidden:
        redundant = f"{hidden:,} redundant call{' is' if hidden == 1 else 's are'}"
        text += f" {redundant} suppressed (--no-suppressions shows where)."
    return "".join(
        f"{textwrap.fill(part, width)}\n"
        for part in (text, *(f"note: {note}" for note in model.notes))
    )


def shortened(text: str, room: int) -> str:
    """A name that fits in `room` columns; "" where there is none to speak of.

    >>> shortened("mprotect grow (libgrow.so)", 16), shortened("mprotect grow", 16), shortened("mprotect", 4)
    ('mprotect grow (…', 'mprotect grow', '')
    """
    if len(text) <= room:
        return text
    return f"{text[: room - 1]}…" if room >= 8 else ""


def size(count: int) -> str:
    """Bytes for people, in powers of 1024.

    >>> size(0), size(4096), size(5 << 30), size(3 << 42)
    ('0 B', '4.0 KiB', '5.0 GiB', '12.0 TiB')
    """
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{count} B" if units[0] == "B" else f"{amount:,.1f} {units[0]}"
