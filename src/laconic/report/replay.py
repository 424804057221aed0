"""The summary of a replay: that of a run, and what the trace leaves uncertain."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from laconic.replay import Replayed
from laconic.replay.check import LOST_DATA, MODEL_ERROR, UNKNOWN_START
from laconic.report import compare
from laconic.report import run as summary
from laconic.trace.reader import TraceReader

_CAUSES = (MODEL_ERROR, LOST_DATA, UNKNOWN_START)
#: The maximum number of differences that are shown to people.
_SHOWN = 10


def as_json(trace: TraceReader, replayed: Replayed) -> dict[str, Any]:
    """Return the figures in the form of `laconic run --json`, with `trace` and, if the trace was
    checked, `check`."""
    end = replayed.end
    figures = summary.as_json(
        replayed.ledger,
        trace.about.get("command", []),
        end.get("exit_status"),
        replayed.strategy,
        end.get("verify", {}).get("mode", "off"),
        end.get("seconds", 0.0),
        trace.machine,
    )
    sure = sum(replayed.uncertain.values())
    figures["trace"] = {
        "source": trace.source,
        "events": replayed.events,
        "loss": replayed.loss,
        "unknown": list(dict.fromkeys((*trace.about.get("unknown", ()), *end.get("unknown", ())))),
        "not_followed": replayed.bystanders,
        "uncertain": replayed.uncertain,
        "host_calls_range": [figures["host_calls"] - sure, figures["host_calls"]],
        "elided_range": [figures["elided"], figures["elided"] + sure],
    }
    if replayed.check is not None:
        check = replayed.check
        figures["check"] = {
            "compared": check.compared,
            "differences": {cause: check.counts[cause] for cause in _CAUSES},
            "first": [difference._asdict() for difference in check.differences],
        }
    return figures


def as_text(figures: Mapping[str, Any], width: int = 80) -> str:
    """Return the text for people: the summary, what is uncertain in it and why, the enclaves, and
    the differences."""
    lines = [summary.as_text(figures, width).rstrip("\n")]
    trace = figures["trace"]
    if trace["uncertain"]:
        missing = " and ".join(trace["unknown"]) or "what was there before"
        one = sum(trace["uncertain"].values()) == 1
        lines += textwrap.wrap(
            f"{sum(trace['uncertain'].values()):,} {'host call is' if one else 'host calls are'} "
            f"uncertain, and the ranges rest on {'it' if one else 'them'}: the trace does not "
            f"hold {missing}.",
            width,
        )
    if trace["not_followed"]:
        lines.append(
            f"{trace['not_followed']:,} of the calls (mincore and the like) concern no bookkeeping."
        )
    if "enclave" in figures:
        lines.append(compare.as_text(figures["enclave"], width).rstrip("\n"))
    if "check" in figures:
        lines += _check(figures["check"], trace["source"], width)
    return "\n".join(lines) + "\n"


def _check(check: Mapping[str, Any], source: str, width: int) -> Iterable[str]:
    # The worst first: differences that the model does not explain must precede those that the log
    # leaves uncertain. The replay of a log follows its results, so there are no other differences.
    counts = check["differences"]
    found = ", ".join(f"{cause} {count:,}" for cause, count in counts.items() if count)
    compared = f"{check['compared']:,} result{'' if check['compared'] == 1 else 's'} compared"
    yield f"check: {compared}, {found or 'no difference'}"
    for difference in sorted(
        check["first"], key=lambda difference: _CAUSES.index(difference["cause"])
    )[:_SHOWN]:
        yield (
            f"  event {difference['number']}, process {difference['pid']}, "
            f"{difference['time'] / 1e9:.6f} s: {difference['cause']}"
        )
        replayed = f"; replayed: {difference['replayed']}" if source == "run" else ""
        yield f"    {difference['call']} = {difference['recorded']}{replayed}"
        yield textwrap.fill(
            difference["why"], width, initial_indent="    ", subsequent_indent="    "
        )
    left = sum(counts.values()) - _SHOWN
    if left > 0:
        yield f"  and {left:,} more (--json has the first 100 of each cause)"
