"""The contents of a trace that `laconic info` found, as JSON and for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from laconic.analysis.info import Contents
from laconic.analysis.schemas import SCHEMAS
from laconic.report.names import filled
from laconic.report.tables import tally
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.trace.reader import TraceReader

#: The number of programs and notes that the text shows, and how much of a program's arguments; the
#: JSON has all that were kept.
SHOWN, SHOWN_WIDTH = 10, 100


def as_json(trace: TraceReader, contents: Contents, missing: Sequence[str]) -> dict[str, Any]:
    """Return the figures in the form that `info --json` writes; `missing` are sentences on what the
    trace lacks."""
    calls = contents.calls
    return {
        "schema": SCHEMAS["info"],
        "trace": trace.path,
        "bytes": trace.size,
        "bytes_per_call": round(trace.size / calls, 3) if calls else None,
        "made": {
            "source": trace.source,
            "laconic": trace.version,
            "trace_schema": trace.schema,
            "machine": trace.machine,
            "redacted": trace.redacted,
            "about": trace.about,
        },
        "complete": not missing,
        "missing": list(missing),
        "lost": {"places": contents.lost.places, "lines_or_calls": contents.lost.missing},
        "unknown": list(
            dict.fromkeys((*trace.about.get("unknown", ()), *contents.report.get("unknown", ())))
        ),
        "events": contents.events,
        "seconds": {"from": contents.began / 1e9, "until": contents.ended / 1e9},
        "processes": contents.processes,
        "threads": contents.threads,
        "exits": contents.exits,
        "files": contents.files,
        "touched_pages": contents.touched_pages,
        "status": contents.status,
        "by_call": {name: asdict(line) for name, line in sorted(contents.by_call.items())},
        "calls": calls,
        "programs": [asdict(program) for program in contents.programs],
        "more_programs": contents.more_programs,
        "notes": contents.notes,
        "report": contents.report,
    }


def as_text(figures: Mapping[str, Any], width: int = 80) -> str:
    """Return the same for people; numbers are never truncated."""
    lines = [*_head(figures, width), "", *_programs(figures, width), "", *_calls(figures, width)]
    for note in figures["notes"][:SHOWN]:
        lines += filled(f"note: {note}", width)
    if len(figures["notes"]) > SHOWN:
        lines.append(f"... and {len(figures['notes']) - SHOWN:,} more notes (--json has them)")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _head(figures: Mapping[str, Any], width: int) -> Iterator[str]:
    made, machine = figures["made"], figures["made"]["machine"]
    how = f"imported from {made['source']}"
    if made["source"] == "run":
        how = f"recorded by laconic {'attach' if 'attached_to' in made['about'] else 'run'}"
    each = figures["bytes_per_call"]
    span = figures["seconds"]
    touched = figures["touched_pages"]
    threads = f"{figures['threads']:,} thread{'' if figures['threads'] == 1 else 's'}"
    lines = {
        "trace": figures["trace"],
        "made": f"{how}, Laconic {made['laconic']}, trace schema {made['trace_schema']}"
        + (", redacted" if made["redacted"] else ""),
        "machine": " ".join(str(machine.get(key, "?")) for key in ("system", "release", "machine"))
        + ("" if made["source"] == "run" else ", which imported it"),
        "size": f"{figures['bytes']:,} bytes"
        + (f", {each:,.1f} a call" if each is not None else ""),
        "events": f"{figures['events']:,}, of which {figures['calls']:,} memory and process calls",
        "time": f"{span['until'] - span['from']:,.6f} seconds, from {span['from']:,.6f} to "
        f"{span['until']:,.6f}",
        "processes": f"{figures['processes']:,}, with {threads}, "
        f"of which {figures['exits']:,} ended",
        "files": f"{figures['files']:,} (a file counts again if its size or its opening differs)",
        "touched": "not known"
        if touched is None
        else f"{touched:,} pages, each time they were looked at",
        "complete": "yes" if figures["complete"] else "no",
    }
    if options := {
        key: value for key, value in made["about"].items() if value and key != "unknown"
    }:
        about = (f"{key.replace('_', ' ')} {_value(value)}" for key, value in options.items())
        lines["about"] = ", ".join(about)
    for name, text in lines.items():
        first, *more = filled(text, width - 11) or [""]
        yield f"{name:<10} {first}"
        for line in more:
            yield f"{'':<11}{line.lstrip()}"
    for sentence in figures["missing"]:
        yield from filled(f"missing: {sentence}", width)
    if figures["lost"]["lines_or_calls"]:
        count = figures["lost"]["lines_or_calls"]
        yield f"missing in all: {plural(count, 'line or call', 'lines or calls')}"
    if figures["unknown"]:
        unknown = ", ".join(map(str, figures["unknown"]))
        yield from filled(f"what the source cannot know: {unknown}", width)


def _programs(figures: Mapping[str, Any], width: int) -> Iterator[str]:
    programs = figures["programs"]
    yield "programs" if programs else "no program's start is in the trace"
    for program in programs[:SHOWN]:
        words = program["argv"]
        times = f" ({program['starts']:,} times; the first)" if program["starts"] > 1 else ""
        line = shlex.join(words) if words else "(arguments not known)"
        if len(line) > SHOWN_WIDTH:
            line = f"{line[:SHOWN_WIDTH]} ... (--json has all)"
        yield from filled(f"{program['path']}{times}: {line}", width, "  ")
    if (more := len(programs) - SHOWN + figures["more_programs"]) > 0:
        yield f"  ... and {more:,} more (--json has them)"


def _calls(figures: Mapping[str, Any], width: int) -> list[str]:
    if not figures["by_call"]:
        return ["no calls"]
    rare = [
        name
        for name in ("unfinished", "no_result")
        if any(line[name] for line in figures["by_call"].values())
    ]
    columns = ["calls", "failed", *rare]
    by_count = sorted(figures["by_call"].items(), key=lambda item: (-item[1]["calls"], item[0]))
    rows = [["call", *(column.replace("_", " ") for column in columns)]]
    rows += [[name, *(f"{line[column]:,}" for column in columns)] for name, line in by_count]
    totals = [sum(line[column] for _, line in by_count) for column in columns]
    rows.append(["total", *(f"{total:,}" for total in totals)])
    return tally(rows, width)


def _value(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else str(value)
