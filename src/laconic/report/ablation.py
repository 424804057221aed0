"""What each change to Gramine saves, as JSON and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.analysis.ablation import BASE, LACONIC, Ablation, program_shares
from laconic.analysis.compare import BOUND
from laconic.analysis.schemas import Json
from laconic.report import compare
from laconic.report.names import wrapped
from laconic.report.tables import LabeledRow, between, tables
from laconic.trace.words import plural

#: What each row adds to the row before.
CHANGES = {
    BASE: "Gramine as it is",
    "store": "checkpoint store committed lazily",
    "send": "memory sent to a child in runs of pages",
    "equal": "equal protections skipped (PR #1824)",
    "kinds": "kinds of change (issue #1708)",
    "extend": "extension without an OCALL",
    "copy": "first permission by EACCEPTCOPY",
    "reserve": "nothing inaccessible committed",
    "demand": "demand commit everywhere",
    "zero": "zero in place",
    "exec": "exec that keeps what it can",
    "threads": "per-thread pages reused",
    LACONIC: "the strategy laconic",
    BOUND: "the bound of all strict strategies",
}
SUMS = (
    "host calls and cycles are sums over all traces; in the ratio and in what is saved, each trace "
    "has the same weight"
)
ORDER = (
    "each row has the changes of the rows above it too, and what it saves depends on those; alone "
    "is what the change saves by itself. laconic and the bound are not built on these changes"
)
GUIDE = (
    "where each change belongs in Gramine, its size, and what must hold: docs/gramine.md and "
    "docs/appendix/gramine.md"
)
#: The maximum number of programs that a note names.
_NAMED = 3


def as_json(ablation: Ablation) -> Json:
    """Return the ablation in the form that `--json` writes, described in docs/appendix/json.md."""
    first, profile = ablation.compared[0], ablation.profile
    ranged = any(compared.ranged for compared in ablation.compared)
    limits = {
        compare.limit_note(option, size, compared.model.settings)
        for compared in ablation.compared
        for option, size in sorted(compared.exceeded.items())
    }
    impossible = {
        note for compared in ablation.compared for note in compare.no_start_notes(compared, [BASE])
    }
    verify: Json = {}
    for compared in ablation.compared:
        for name, findings in compared.findings.items():
            if name in verify:
                verify[name]["steps"] += findings.steps
                verify[name]["breaches"] += findings.breaches
                verify[name]["first"] += findings.first
                verify[name]["excepted"] += findings.excepted
            else:
                verify[name] = findings._asdict()
    return {
        "host": "sgx2",
        "calls": sum(compared.calls for compared in ablation.compared),
        "processes": sum(compared.processes for compared in ablation.compared),
        "profile": {
            "name": profile.name,
            "machine": profile.machine,
            "no_source": list(profile.unsourced),
        },
        "ranged": ranged,
        "pte": first.model.pte,
        "verify": verify,
        "ablation": [
            {
                "switch": step.switch,
                "change": CHANGES[step.switch],
                "strategy": step.strategy,
                "share": round(step.share, 6),
                "saved": round(step.saved, 6),
                "alone": None if step.alone is None else round(step.alone, 6),
                "host_calls": {"low": step.host_calls[0], "high": step.host_calls[1]},
                "cycles": {"low": round(step.cycles[0]), "high": round(step.cycles[1])},
                "traces": [_figures(figures) for figures in step.figures],
            }
            for step in ablation.steps
        ],
        "notes": [ORDER]
        + [SUMS] * (len(ablation.compared) > 1)
        + [compare.RANGED] * ranged
        + [compare.UNSIZED] * any(compared.unsized for compared in ablation.compared)
        + _programs(ablation)
        + _loss(ablation)
        + sorted(limits)
        + sorted(impossible),
    }


def _programs(ablation: Ablation) -> list[str]:
    # If there are several programs, name those that the figures describe: a script that starts a
    # program makes more calls than the program.
    shares = program_shares(ablation)
    if len(shares) < 2:
        return []
    named = ", ".join(f"{name} {part:.0%}" for name, part in shares[:_NAMED])
    more = f", {len(shares) - _NAMED:,} more" if len(shares) > _NAMED else ""
    return [
        f"every-call's cycles by program: {named}{more}. --program NAME counts one program only, "
        "without a script that starts it"
    ]


def _loss(ablation: Ablation) -> list[str]:
    # If laconic costs more than all changes, state why: it commits more pages in fewer exceptions.
    all_on, laconic = ablation.steps[-3:-1]
    if _percent(laconic.saved) == _percent(0) or laconic.saved > 0:
        return []
    pages, exceptions = (
        [
            sum(getattr(each.total.high, count) for each in step.figures)
            for step in (laconic, all_on)
        ]
        for count in ("eaug", "exceptions")
    )
    if pages[0] <= pages[1] or exceptions[0] >= exceptions[1]:
        return []
    return [
        f"laconic costs more than all changes here: it commits {pages[0]:,} pages instead of "
        f"{pages[1]:,}, because it commits small mappings at once and larger windows at a touch; "
        f"that saves exceptions ({exceptions[0]:,} instead of {exceptions[1]:,})"
    ]


def _figures(figures: Any) -> Json:
    least, most = ({"peak_epc_pages": figures.peak[end]} for end in (0, 1))
    return compare.span_as_json(figures.total, least, most)


def as_text(figures: Mapping[str, Any], width: int = 80) -> str:
    """Return the table for people."""
    processes, traces = figures["processes"], len(figures["traces"])
    many = plural(processes, "process", "processes")
    if traces > 1:
        many += f" of {traces:,} traces"
    lines = wrapped(
        f"laconic: {figures['calls']:,} memory calls in {many}; what changes to Gramine save", width
    )
    steps, folded = _folded(figures["ablation"])
    rows: list[LabeledRow] = [(step["switch"], step) for step in steps]
    columns = [
        ["host\ncalls", *(_between(step["host_calls"]) for step in steps)],
        ["million cycles", *(_millions(step["cycles"]) for step in steps)],
        ["÷ every-call", *(f"{step['share']:.3f}" for step in steps)],
        ["saved", *("" if step["switch"] == BASE else _percent(step["saved"]) for step in steps)],
        ["alone", *(_percent(step["alone"]) for step in steps)],
    ]
    lines += [*tables("+ switch", columns, rows, width), ""]
    lines += compare.costs_as_text(figures["profile"], width)
    for step in steps[1:-2]:
        lines += wrapped(f"{step['switch']}: {step['change']}", width)
    if folded:
        lines += wrapped(f"no further saving: {', '.join(map(_alone, folded))}", width)
    lines += wrapped(GUIDE, width)
    lines += compare.verify_as_text(figures.get("verify", {}), width)
    for note in figures["notes"]:
        lines += wrapped(f"note: {note}.", width)
    lines += compare.assumed_costs(figures["profile"], width)
    return "\n".join(lines) + "\n"


def _folded(steps: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    # Return the rows that are shown, and the switches after them that save nothing.
    nothing = _percent(0)
    folded = [step for step in steps[1:-2] if _percent(step["saved"]) == nothing]
    return [step for step in steps if step not in folded], folded


def _alone(step: Json) -> str:
    alone = _percent(step["alone"])
    return step["switch"] if alone == _percent(0) else f"{step['switch']} (alone {alone})"


def _percent(part: float | None) -> str:
    # A value that rounds to 0 is shown without a sign.
    return "" if part is None else f"{round(100 * part, 2) + 0:.2f} %"


def _between(ends: Mapping[str, float]) -> str:
    return between(ends["low"], ends["high"])


def _millions(ends: Mapping[str, float]) -> str:
    return between(ends["low"] / 1e6, ends["high"] / 1e6, ",.0f")
