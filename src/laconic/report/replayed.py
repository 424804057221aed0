"""The summary of a replay: that of a run, and what the trace leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laconic.replay import Replayed
from laconic.replay.check import LOST_DATA, MODEL_ERROR, UNKNOWN_START
from laconic.report import summary
from laconic.trace.reader import Trace

_CAUSES = (MODEL_ERROR, LOST_DATA, UNKNOWN_START)
#: Differences that are shown to a person.
_SHOWN = 10


def as_json(trace: Trace, replayed: Replayed) -> dict[str, Any]:
    """The figures in the form of `laconic run --json`, with `trace` and, where it was checked, `check` beside them."""
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
        "unknown": trace.about.get("unknown", []),
        "not_followed": replayed.bystanders,
        "uncertain": replayed.uncertain,
        "said_range": [figures["said"] - sure, figures["said"]],
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
    """What a person reads: the summary, what is uncertain in it and why, and the differences."""
    lines = [summary.as_text(figures, width)]
    trace = figures["trace"]
    if trace["uncertain"]:
        lines.append(
            f"{sum(trace['uncertain'].values()):,} host calls are uncertain, and the ranges rest on them: the trace "
            f"does not\nhold {' and '.join(trace['unknown']) or 'what was there before'}.\n"
        )
    if trace["not_followed"]:
        lines.append(f"{trace['not_followed']:,} calls (mincore and the like) concern no bookkeeping.\n")
    if "check" in figures:
        lines.append(_check(figures["check"]))
    return "".join(lines)


def _check(check: Mapping[str, Any]) -> str:
    counts = check["differences"]
    found = ", ".join(f"{cause} {count:,}" for cause, count in counts.items() if count)
    lines = [f"check: {check['compared']:,} results compared, {found or 'no difference'}\n"]
    for difference in check["first"][:_SHOWN]:
        lines.append(
            f"  event {difference['number']:,}, process {difference['pid']}, {difference['time'] / 1e9:.6f} s: "
            f"{difference['cause']}\n    {difference['call']} = {difference['recorded']}; replayed: "
            f"{difference['replayed']}\n    {difference['why']}\n"
        )
    left = sum(counts.values()) - _SHOWN
    if left > 0:
        lines.append(f"  and {left:,} more\n")
    return "".join(lines)
