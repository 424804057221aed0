"""The contents of a trace that `laconic info` found, as JSON and for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from laconic.analysis.info import Contents
from laconic.analysis.schemas import SCHEMAS
from laconic.report.names import filled
from laconic.report.tables import plain_console

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
    import io

    out = io.StringIO()
    console = plain_console(out, width, soft_wrap=True)
    _head(console, figures)
    _programs(console, figures)
    _calls(console, figures)
    for note in figures["notes"][:SHOWN]:
        _say(console, f"note: {note}")
    if len(figures["notes"]) > SHOWN:
        console.print(f"... and {len(figures['notes']) - SHOWN:,} more notes (--json has them)")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _head(console: Any, figures: Mapping[str, Any]) -> None:
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
        first, *more = filled(text, console.width - 11) or [""]
        console.print(f"{name:<10} {first}")
        for line in more:
            console.print(f"{'':<11}{line.lstrip()}")
    for sentence in figures["missing"]:
        _say(console, f"missing: {sentence}")
    if figures["lost"]["lines_or_calls"]:
        count = figures["lost"]["lines_or_calls"]
        console.print(
            f"missing in all: {count:,} {'line or call' if count == 1 else 'lines or calls'}"
        )
    if figures["unknown"]:
        _say(console, f"what the source cannot know: {', '.join(map(str, figures['unknown']))}")


def _programs(console: Any, figures: Mapping[str, Any]) -> None:
    programs = figures["programs"]
    console.print("\nprograms" if programs else "\nno program's start is in the trace")
    for program in programs[:SHOWN]:
        words = program["argv"]
        times = f" ({program['starts']:,} times; the first)" if program["starts"] > 1 else ""
        line = shlex.join(words) if words else "(arguments not known)"
        if len(line) > SHOWN_WIDTH:
            line = f"{line[:SHOWN_WIDTH]} ... (--json has all)"
        _say(console, f"{program['path']}{times}: {line}", "  ")
    if (more := len(programs) - SHOWN + figures["more_programs"]) > 0:
        console.print(f"  ... and {more:,} more (--json has them)")


def _calls(console: Any, figures: Mapping[str, Any]) -> None:
    from rich.table import Table

    rare = [
        name
        for name in ("unfinished", "no_result")
        if any(line[name] for line in figures["by_call"].values())
    ]
    columns = ["calls", "failed", *rare]
    console.print()
    if not figures["by_call"]:
        console.print("no calls")
        return
    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("call", "total", overflow="fold")
    for column in columns:
        total = sum(line[column] for line in figures["by_call"].values())
        heading = column.replace("_", " ")
        table.add_column(
            heading, f"{total:,}", justify="right", no_wrap=True, min_width=len(f"{total:,}")
        )
    for name, line in sorted(
        figures["by_call"].items(), key=lambda item: (-item[1]["calls"], item[0])
    ):
        table.add_row(name, *(f"{line[column]:,}" for column in columns))
    console.print(table)


def _value(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else str(value)


def _say(console: Any, text: str, indent: str = "") -> None:
    for line in filled(text, console.width, indent):
        console.print(line)
