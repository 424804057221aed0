"""A running program as text: one line per second, and the sentence at its end; and its sums, as
JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from laconic.analysis.callers import AROUND, SITE, SUPPRESSED
from laconic.analysis.live import LiveCost, LiveModel, LiveSite
from laconic.analysis.schemas import SCHEMAS
from laconic.analysis.sites import EVERY_CALL, LACONIC
from laconic.report import numbers
from laconic.report.diff import place
from laconic.report.headline import WORK, ends
from laconic.report.shortnames import short_function, short_module
from laconic.trace.words import plural

#: Seconds that costs may be late before the delay is shown.
_LATE = 3.0


def line(model: LiveModel, width: int = 80) -> str:
    """Return one line on the current activity: with memory and the worst site if there is room;
    numbers are never truncated."""
    rates, count = model.rates, len(model.processes)
    share = f", {100 * rates.redundant / rates.calls:.1f} % redundant" if rates.calls else ""
    text = (
        f"{model.time:,.1f} s: {rates.calls:,.0f} calls/s, {rates.host_calls:,.0f} host "
        f"calls/s{share}"
    )
    memory = f"; {size(model.mapped)} in {plural(count, 'process', 'processes')}"
    if len(text) + len(memory) <= width:
        text += memory
    sites = [site for site in model.sites() if site.rate and site.named] if rates.redundant else []
    if sites:
        worst = max(sites, key=lambda site: site.rate)
        text += shortened(f"; {worst.key.call} {place(worst.key)}", width - len(text))
    return text


def label(site: LiveSite) -> str:
    """Return a site in one line, as `laconic callers` names it, but without the program."""
    key = site.key
    if site.kind == AROUND:
        return f"{WORK[key.function]} (no call)"
    if site.kind == SUPPRESSED:
        return f"{key.function} (suppressed)"
    name = short_function(key.function)
    module = "" if name.startswith(f"{key.module}+") else short_module(key.module)
    return f"{key.call} {name}{f' ({module})' if module else ''}"


def cost(model: LiveModel) -> str:
    """Return what the program has cost in an enclave so far, in one line; "" if that is unknown."""
    total = model.cost
    if not total.high and not model.costs_stopped:
        return ""
    unit = numbers.unit([total.high])
    text = (
        f"in an enclave {numbers.cycles(total.low, total.high, unit)} under every-call, "
        f"{numbers.cycles(total.left_low, total.left_high, unit)} under laconic"
    )
    if model.costs_stopped:
        return f"{text}, up to {model.costs_time:,.1f} s: {model.costs_stopped}"
    late = model.time - model.costs_time
    return f"{text}, up to {model.costs_time:,.1f} s" if late > _LATE and model.behind else text


def as_json(model: LiveModel, command: Sequence[str]) -> dict[str, Any]:
    """Return the sums of a program that has ended, with those keys of `laconic run --json` that are
    known here, and all sites, the most expensive first. O(sites log sites)."""
    calls, host_calls, elided, redundant = model.totals
    sites = model.sites(model.places)
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
        "cycles": _cycles(model.cost),
        "cycles_stopped": model.costs_stopped or None,
        "sites": [
            {
                **site.key._asdict(),
                "calls": site.calls,
                "redundant": site.total,
                "cycles": _cycles(site.cost),
            }
            for site in sites
            if site.kind == SITE
        ],
        "suppressed": [
            {"reason": site.key.function, "calls": site.calls, "cycles": _cycles(site.cost)}
            for site in sites
            if site.kind == SUPPRESSED
        ],
        "around": [
            {"kind": site.key.function, "cycles": _cycles(site.cost)}
            for site in sites
            if site.kind == AROUND
        ],
        "missing_symbols": {
            module.path: why for module, why in sorted(model.stacks.symbolizer.missing.items())
        },
        "notes": model.notes,
        "seconds": model.time,
    }


def _cycles(of: LiveCost) -> dict[str, dict[str, int]]:
    return {
        EVERY_CALL: ends((of.low, of.high)),
        LACONIC: ends((of.left_low, of.left_high)),
    }


def ending(model: LiveModel, width: int = 80) -> str:
    """Return the totals when the program has ended, and the notes for the user."""
    calls, host_calls, elided, _ = model.totals
    share = f" ({100 * elided / calls:.1f} %)" if calls else ""
    processes = plural(model.ever, "process", "processes")
    text = (
        f"laconic: {calls:,} memory calls in {processes}: "
        f"{plural(host_calls, 'host call')}, {elided:,} elided{share}."
    )
    hidden = sum(model.hidden.values())
    if hidden:
        redundant = f"{hidden:,} redundant call{' is' if hidden == 1 else 's are'}"
        text += f" {redundant} suppressed (--no-suppressions shows where)."
    total = cost(model)
    enclave = [f"{total[0].upper()}{total[1:]}."] if total else []
    return "".join(
        f"{textwrap.fill(part, width)}\n"
        for part in (text, *enclave, *(f"note: {note}" for note in model.notes))
    )


def shortened(text: str, room: int) -> str:
    """Return a name that fits in `room` columns; "" if too little of it would be left.

    >>> shortened("mprotect grow (libgrow.so)", 16), shortened("mprotect grow", 16)
    ('mprotect grow (…', 'mprotect grow')
    >>> shortened("mprotect", 4)
    ''
    """
    if len(text) <= room:
        return text
    return f"{text[: room - 1]}…" if room >= 8 else ""


def size(count: int) -> str:
    """Return bytes for people, in powers of 1024.

    >>> size(0), size(4096), size(5 << 30), size(3 << 42)
    ('0 B', '4.0 KiB', '5.0 GiB', '12.0 TiB')
    """
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{count} B" if units[0] == "B" else f"{amount:,.1f} {units[0]}"
