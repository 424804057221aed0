"""The data of a page of two traces, as JSON."""

from __future__ import annotations

from laconic.analysis.pair import Box, Pair, PairRow, Side
from laconic.analysis.schemas import SCHEMAS, Json
from laconic.report import compare
from laconic.report import diff as report
from laconic.report.text import plain


def as_json(pair: Pair) -> Json:
    """Return all data of the page; docs/html.md describes each key. O(sites + boxes)."""
    difference = report.as_json(pair.difference)
    return {
        "schema": SCHEMAS["html-pair"],
        "headline": {key: plain(str(text)) for key, text in difference["headline"].items()},
        "profile": pair.profile.name,
        "before": _side(pair.before),
        "after": _side(pair.after),
        "total": difference["total"],
        "sites": [_row(row) for row in pair.rows],
        "graph": _box(pair.graph),
        "notes": [plain(note) for note in pair.difference.notes],
    }


def _side(side: Side) -> Json:
    command = side.about.get("command") or []
    found = side.sites
    return {
        "trace": plain(side.name),
        "command": [plain(str(word)) for word in command] if isinstance(command, list) else [],
        "source": found.source,
        "events": found.events,
        "processes": found.ledger.processes,
        "loss": [plain(sentence) for sentence in found.loss],
        "strategies": None
        if side.compared is None
        else {
            name: {key: each[key] for key in ("counts", "counts_low", "cycles") if key in each}
            for name, each in compare.as_json(side.compared)["strategies"].items()
        },
    }


def _row(row: PairRow) -> Json:
    today, laconic = row.today, row.laconic
    return {
        "kind": today.kind,
        **{name: plain(text) for name, text in today.key._asdict().items()},
        "lines": [f"{plain(file)}:{line}" if file else "" for file, line in row.lines],
        "calls": [today.was.calls, today.now.calls],
        "redundant": [today.was.redundant, today.now.redundant],
        "host_calls": [today.was.host_calls, today.now.host_calls],
        "every_call": _cycles(row.today.was.cycles_low, today.was.cycles)
        + _cycles(today.now.cycles_low, today.now.cycles),
        "laconic": _cycles(laconic.was.cycles_low, laconic.was.cycles)
        + _cycles(laconic.now.cycles_low, laconic.now.cycles),
    }


def _cycles(low: int, high: int) -> list[int]:
    return [low, high]


def _box(box: Box) -> Json:
    return {
        "name": plain(box.name),
        "module": plain(box.module),
        "before": round(box.before),
        "after": round(box.after),
        "boxes": [_box(each) for each in box.boxes.values()],
    }
