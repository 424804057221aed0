"""The results of a sweep, as JSON and for the terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laconic.analysis.schemas import SCHEMAS
from laconic.analysis.sweep import SweepRow
from laconic.report.run import cell
from laconic.report.tables import between, tables
from laconic.sgx.meter import THINGS
from laconic.trace.words import plural

_SUMS = ("calls", "host_calls", "elided", "narrowed", "failed", "uncertain")
#: The counters of enclaves; the table shows the first two and the cycles.
_ENCLAVES = (
    *dict.fromkeys(("host_calls", "etrack_ipis", *THINGS)),
    "calls",
    "cycles_low",
    "cycles_high",
)
#: The maximum number of traces of one kind that are listed; the query finds the others.
_LISTED = 20


def as_json(
    rows: Sequence[SweepRow], output: str, kept: int, seconds: float, host: str = "linux"
) -> dict[str, Any]:
    """Return the figures of a sweep in the form that `--json` writes."""
    return {
        "schema": SCHEMAS["sweep"],
        "host": host,
        "output": output,
        "traces": len({row["trace"] for row in rows}),
        "rows": len(rows),
        "kept": kept,
        "strategies": _sums(rows, _SUMS if host == "linux" else _ENCLAVES),
        "incomplete": {row["trace"]: row["loss"] for row in rows if row["loss"]},
        "errors": [
            {key: row[key] for key in ("trace", "strategy", "error")}
            for row in rows
            if row["error"]
        ],
        "seconds": round(seconds, 6),
    }


def as_text(figures: Mapping[str, Any], width: int = 80) -> str:
    """Return the summary for people after a sweep: sums, the failed traces with their errors, and
    the next query."""
    kept = f", {figures['kept']:,} of them from an earlier start" if figures["kept"] else ""
    count = f"{plural(figures['traces'], 'trace')}, {plural(figures['rows'], 'row')}"
    lines = [f"laconic: {count} in {figures['output']}{kept}; {figures['seconds']:.1f} s."]
    linux = figures["host"] == "linux"
    found = figures["strategies"].values()
    columns = [
        [
            key.replace("_", " "),
            *(cell(key, sums[key], sums.get("uncertain", 0)) for sums in found),
        ]
        for key in ("traces", *(_SUMS[:-1] if linux else _ENCLAVES[:2]))
    ]
    if not linux:
        cycles = (between(sums["cycles_low"], sums["cycles_high"], ",.0f") for sums in found)
        columns.append(["cycles", *cycles])
    lines += tables("strategy", columns, [(name, None) for name in figures["strategies"]], width)
    if figures["incomplete"]:
        lines.append(
            f"{plural(len(figures['incomplete']), 'trace')} not complete, counted as far as "
            "possible:"
        )
        lines += _listed(f"{trace}: {loss}" for trace, loss in figures["incomplete"].items())
    if figures["errors"]:
        lines.append(f"{plural(len(figures['errors']), 'row')} with an error instead of figures:")
        lines += _listed(_errors(figures["errors"]))
    lines += ["Ask it, in DuckDB:", textwrap.indent(query(figures["output"], linux), "  ")]
    return "\n".join(lines) + "\n"


def query(output: str, linux: bool = True) -> str:
    """Return a first query on the result, in SQL: the figures of each call, or each trace, under
    each strategy."""
    quoted = output.replace("'", "''")
    if not linux:
        return (
            "SELECT trace, strategy, host_calls, etrack_ipis, eaug_faults, peak_epc_pages,\n"
            f"cycles_low, cycles_high FROM '{quoted}' ORDER BY ALL;"
        )
    return (
        "SELECT strategy, name, sum(calls) AS calls, sum(host_calls) AS host_calls,\n"
        "sum(elided) AS elided FROM (SELECT strategy, unnest(by_call, recursive := true)\n"
        f"FROM '{quoted}')\n"
        "GROUP BY ALL ORDER BY ALL;"
    )


def _sums(rows: Iterable[SweepRow], names: Sequence[str]) -> dict[str, Counter[str]]:
    sums: dict[str, Counter[str]] = {}
    for row in rows:
        of_strategy = sums.setdefault(
            row["strategy"], Counter(dict.fromkeys(("traces", *names), 0))
        )
        if row["error"] is None:
            of_strategy.update({"traces": 1, **{name: row[name] for name in names}})
    return dict(sorted(sums.items()))


def _errors(errors: Iterable[SweepRow]) -> Iterable[str]:
    # An unreadable trace is reported once, for any number of strategies.
    strategies: dict[tuple[str, str], list[str]] = {}
    for each in errors:
        strategies.setdefault((each["trace"], each["error"]), []).append(each["strategy"])
    return (
        f"{trace} ({', '.join(names)}): {error}" for (trace, error), names in strategies.items()
    )


def _listed(lines: Iterable[str]) -> list[str]:
    listed = [f"  {line}" for line in lines]
    more = len(listed) - _LISTED
    return [*listed[:_LISTED], f"  and {more:,} more"] if more > 0 else listed
