"""A comparison of strategies, as JSON and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from laconic.analysis.advise.advice import shown_size
from laconic.analysis.compare import BOUND, Compared, Direct, Figures, Span
from laconic.analysis.schemas import Json
from laconic.libos.direct import SystemCalls
from laconic.libos.settings import BRK_SIZE, STACK_SIZE, Settings
from laconic.memory.flags import PAGE_SHIFT
from laconic.memory.ledger import CallCount, Ledger
from laconic.replay import Replayed
from laconic.replay.enclaves import AROUND
from laconic.report import measured
from laconic.report.names import wrapped
from laconic.report.tables import LabeledRow, between, tables
from laconic.sgx.meter import ANY_MACHINE
from laconic.trace.words import plural

#: A column: its heading, and the counts whose sum it shows.
Column = tuple[str, tuple[str, ...]]
_SGX2: tuple[Column, ...] = (
    ("host\ncalls", ("host_calls",)),
    ("ioctls", ("ioctls",)),
    ("ETRACK\n+IPI", ("etrack_ipis",)),
    ("EAUG\nfaults", ("eaug_faults",)),
    ("excep-\ntions", ("exceptions",)),
    ("EACCEPT\n+COPY", ("eaccept", "eacceptcopy")),
)
_PEAK: Column = ("peak EPC\npages", ("peak_epc_pages",))
_LINUX: tuple[Column, ...] = (
    ("host\ncalls", ("host_calls",)),
    ("elided", ("elided",)),
    ("narrowed", ("narrowed",)),
)
_DIRECT: tuple[Column, ...] = (
    ("host\ncalls", ("host_calls",)),
    ("for\ncalls", ("host_calls_of_calls",)),
    ("mmap", ("mmap",)),
    ("munmap", ("munmap",)),
    ("mprotect", ("mprotect",)),
)
#: By host: where programs run, and the columns of its tables.
_WHERE = {
    "sgx2": "each program in an SGX2 enclave",
    "linux": "on Linux",
    "gramine": "in gramine-direct",
}
_COLUMNS = {"sgx2": _SGX2, "linux": _LINUX, "gramine": _DIRECT}
#: The maximum number of processes or calls that a table shows; the JSON has all of them.
_SHOWN = 20
RANGED = (
    "the trace does not say which pages were touched (a log never does for certain): each figure "
    "is a range, from no page touched to every page touched while it was accessible"
)
#: The note on a log without the sizes of the files that the program mapped.
UNSIZED = (
    "the log does not have the sizes of all mapped files: each count that depends on them is a "
    "range, from files that cover their mappings to files that end within or before them. Import "
    "a Gramine log again with --root DIR to read the sizes; laconic run records them"
)
#: The note on a selection that divides processes.
SELECTED = (
    "of the selection, the calls and the first touches of the pages that they mapped count; load, "
    "exec, fork and threads do not. edmm-tuned commits memory at load, so its figures are too low"
)
#: The note on a manifest without EDMM.
NO_EDMM = (
    "the manifest does not set sgx.edmm_enable = true, so Gramine adds all pages of the enclave "
    "before the program starts: these figures are those with EDMM"
)
FLOOR = "the bound is a floor, no strategy; it has counts for either end of the cost profile"
RULES = (
    "on Linux classify says what laconic says; skip-equal is every-call without the mprotects of "
    "equal protection"
)

DIRECT = (
    "host calls are the mmap, munmap and mprotect calls of Gramine's Linux PAL; those that are not "
    "for calls are for load, fork, exec and threads"
)


# JSON


def as_json(compared: Compared, epc_pages: int | None = None) -> Json:
    """Return the enclaves' figures in the form that `--json` writes, described in
    docs/appendix/json.md.

    `epc_pages`: the size of an EPC with which the peaks are compared.
    """
    found, profile = compared.strategies, compared.profile
    notes = [RANGED] * compared.ranged + [UNSIZED] * compared.unsized
    if compared.unseen:
        notes.append(f"{compared.unseen:,} pages could not be looked at, and count as untouched")
    notes += [
        limit_note(option, size, compared.model.settings)
        for option, size in sorted(compared.exceeded.items())
    ]
    notes += no_start_notes(compared, found)
    over = [
        name for name, each in found.items() if epc_pages is not None and each.peak[1] > epc_pages
    ]
    return {
        "host": "sgx2",
        "calls": compared.calls,
        "processes": compared.processes,
        "profile": {
            "name": profile.name,
            "machine": profile.machine,
            "no_source": list(profile.unsourced),
        },
        "epc": None if epc_pages is None else {"pages": epc_pages, "overflows": over},
        "ranged": compared.ranged,
        "pte": compared.model.pte,
        "verify": {name: findings._asdict() for name, findings in compared.findings.items()},
        "not_verified": _not_verified(compared),
        "strategies": {name: _strategy(each, found) for name, each in found.items()},
        "programs": [
            {**program._asdict(), "strategies": _parts(found, lambda each: each.programs, number)}
            for number, program in enumerate(compared.programs)
        ],
        "by_call": {
            call: _parts(found, lambda each: each.by_call, call)
            for call in dict.fromkeys(call for each in found.values() for call in each.by_call)
        },
        "measured": measured.as_json(compared),
        "notes": notes,
    }


def _not_verified(compared: Compared) -> list[str]:
    # Return the strategies that --verify leaves out. The bound is not a strategy, and has no
    # enclave.
    if not compared.model.verify:
        return []
    known = {*compared.findings, BOUND}
    return [name for name in compared.strategies if name not in known]


def limit_note(option: str, size: int, settings: Settings) -> str:
    """Return the note that a program needed `size` bytes of a resource that a manifest's option
    limits to less."""
    limit, consequence = {
        BRK_SIZE: (settings.brk_size, "brk fails beyond it, and malloc maps memory instead"),
        STACK_SIZE: (settings.stack_size, "the stack cannot grow beyond it"),
    }[option]
    return (
        f"a program needed {size >> 10:,} KiB, and {option} is {limit >> 10:,} KiB (--manifest "
        f"FILE reads it). In Gramine {consequence}. The model serves the program anyway: the "
        "figures of every-call and skip-equal are those of a manifest that is large enough"
    )


def no_start_notes(compared: Compared, names: Iterable[str]) -> list[str]:
    """Return a note on those strategies of `names` that commit at least as much EPC at once as no
    machine has, whichever pages were touched; no note if there are none."""
    peaks = {name: compared.strategies[name].peak[0] << PAGE_SHIFT for name in names}
    # The bound is not a strategy.
    sizes = [
        f"{name} ({shown_size(peak)})"
        for name, peak in peaks.items()
        if peak >= ANY_MACHINE and name != BOUND
    ]
    if not sizes:
        return []
    return [
        f"a program cannot start, or cannot run to its end, under {', '.join(sizes)}: no machine "
        "has so much EPC. These figures are those of an EPC that is large enough; laconic advise "
        "names the mapping that is too large"
    ]


def _strategy(figures: Figures, found: Mapping[str, Figures]) -> Json:
    least, most = (
        {"peak_epc_pages": figures.peak[end], "epc_pages": figures.left[end]} for end in (0, 1)
    )
    entry = span_as_json(figures.total, least, most)
    ratios = {
        base.replace("-", "_"): figures.ratio(found[base])
        for base in ("every-call", BOUND)
        if base in found
    }
    entry["ratio"] = {base: ratio and round(ratio[1], 6) for base, ratio in ratios.items()}
    entry["ratio_low"] = {base: ratio and round(ratio[0], 6) for base, ratio in ratios.items()}
    return entry


def span_as_json(span: Span, least: Mapping[str, int], most: Mapping[str, int]) -> Json:
    """Return the counts and cycles of a span; `least` and `most` are added to its counts."""
    low, high = {**span.low.as_dict(), **least}, {**span.high.as_dict(), **most}
    ends = {"counts": high} if low == high else {"counts": high, "counts_low": low}
    return {**ends, "cycles": {"low": round(span.cycles[0]), "high": round(span.cycles[1])}}


def _parts(
    found: Mapping[str, Figures], spans: Callable[[Figures], Mapping[Any, Span]], key: object
) -> Json:
    return {
        name: span_as_json(spans(each)[key], {}, {})
        for name, each in found.items()
        if key in spans(each)
    }


def hosts_as_json(replays: Mapping[str, Replayed]) -> Json:
    """Return the host calls that Linux would execute under each strategy, in the form that `--json`
    writes."""
    ledgers = {name: (each.ledger, each.uncertain) for name, each in replays.items()}
    base = ledgers["every-call"][0].host_calls
    strategies: Json = {}
    for name, (ledger, uncertain) in ledgers.items():
        entry: Json = _counts(ledger.by_call.values(), sum(uncertain.values()))
        strategies[name] = entry
        low = ledger.host_calls - sum(uncertain.values())
        entry["ratio"] = (
            {"every_call": round(ledger.host_calls / base, 6)} if base else {"every_call": None}
        )
        entry["ratio_low"] = {"every_call": round(low / base, 6)} if base else {"every_call": None}
    first: Ledger = next(iter(ledgers.values()))[0]
    open_ = any(uncertain for _, uncertain in ledgers.values())
    return {
        "host": "linux",
        "calls": first.calls,
        "processes": first.processes,
        "ranged": open_,
        "strategies": strategies,
        "by_call": {
            call: {
                name: _counts([ledger.by_call[call]], uncertain.get(call, 0))
                for name, (ledger, uncertain) in ledgers.items()
            }
            for call in sorted(first.by_call)
        },
        "notes": [RULES]
        + ["the trace does not hold all that was there before: figures are ranges"] * open_,
    }


def direct_as_json(compared: Direct) -> Json:
    """Return the system calls of gramine-direct under each strategy, in the form that `--json`
    writes."""
    found = {
        name: (compared.least[name], compared.strategies[name]) for name in compared.strategies
    }
    strategies: Json = {}
    for name, ends in found.items():
        pairs = [
            (_calls(calls)["host_calls"], _calls(base)["host_calls"])
            for calls, base in zip(ends, found["every-call"], strict=True)
        ]
        ratios = [round(ours / theirs, 6) for ours, theirs in pairs if theirs]
        strategies[name] = {
            **_direct_counts(*ends),
            "ratio": {"every_call": max(ratios, default=None)},
            "ratio_low": {"every_call": min(ratios, default=None)},
        }
    names = sorted({call for calls in compared.strategies.values() for call in calls})
    by_call = {
        name: {
            rule: _direct_counts({name: least[name]}, {name: most[name]})
            for rule, (least, most) in found.items()
            if name in most and most[name].system_calls
        }
        for name in names
    }
    return {
        "host": "gramine",
        "calls": compared.calls,
        "processes": compared.processes,
        "ranged": any("counts_low" in entry for entry in strategies.values()),
        "strategies": strategies,
        "by_call": {name: rules for name, rules in by_call.items() if rules},
        "notes": [DIRECT] + [UNSIZED] * compared.unsized,
    }


def _direct_counts(least: Mapping[str, SystemCalls], most: Mapping[str, SystemCalls]) -> Json:
    low, high = _calls(least), _calls(most)
    return {"counts": high} if low == high else {"counts": high, "counts_low": low}


def _calls(calls: Mapping[str, SystemCalls]) -> Json:
    total = SystemCalls()
    for counts in calls.values():
        total.add_calls(counts)
    own = sum(counts.system_calls for name, counts in calls.items() if name not in AROUND)
    return {
        "host_calls": total.system_calls,
        "host_calls_of_calls": own,
        "mmap": total.mmap,
        "munmap": total.munmap,
        "mprotect": total.mprotect,
    }


def _counts(lines: Iterable[CallCount], uncertain: int) -> Json:
    counts = {"host_calls": 0, "elided": 0, "narrowed": 0}
    for line in lines:
        counts["host_calls"] += line.host_calls
        counts["elided"] += line.elided
        counts["narrowed"] += line.narrowed
    if not uncertain:
        return {"counts": counts}
    low = {**counts, "host_calls": counts["host_calls"] - uncertain}
    return {"counts": {**counts, "elided": counts["elided"] + uncertain}, "counts_low": low}


# Text


def as_text(figures: Mapping[str, Any], width: int = 80, by: str | None = None) -> str:
    """Return the tables for people; numbers are never truncated. `by`: `program` or `call` adds the
    tables by program or by call."""
    sgx2 = figures["host"] == "sgx2"
    where = _WHERE[figures["host"]]
    processes = figures["processes"]
    many = plural(processes, "process", "processes")
    head = f"laconic: {plural(figures['calls'], 'memory call')} in {many}, {where}"
    lines = wrapped(head, width)
    rows: list[LabeledRow] = list(figures["strategies"].items())
    peak = [_PEAK] if sgx2 else []
    columns = [_counted(column, rows) for column in (*_COLUMNS[figures["host"]], *peak)]
    if sgx2:
        lines += [
            *tables("strategy", columns, rows, width),
            "",
            *costs_as_text(figures["profile"], width),
        ]
        columns = [_cycles(rows)]
    bases = [
        base
        for base in ("every_call", "bound")
        if any(base in each["ratio"] for _, each in rows if each)
    ]
    lines += tables("strategy", [*columns, *(_ratio(base, rows) for base in bases)], rows, width)
    if figures.get("measured"):
        lines += measured.as_text(figures["measured"], width)
    if by is not None:
        lines += _by(figures, by, width)
    if figures.get("epc"):
        lines += ["", *wrapped(_epc(figures), width)]
    lines += verify_as_text(figures.get("verify", {}), width, figures.get("not_verified", ()))
    notes = [*figures["notes"], *([FLOOR] if BOUND in figures["strategies"] else [])]
    for note in notes:
        lines += wrapped(f"note: {note}.", width)
    if sgx2:
        lines += assumed_costs(figures["profile"], width)
    return "\n".join(lines) + "\n"


def verify_as_text(
    verify: Mapping[str, Any], width: int, not_verified: Sequence[str] = ()
) -> list[str]:
    """Return lines that report what `--verify` found, and the strategies that it does not check."""
    lines = [""] if verify or not_verified else []
    for name, findings in verify.items():
        text = (
            f"verify: {name}, {findings['steps']:,} steps, {findings['breaches']:,} breaches of "
            "the law Strict"
        )
        if findings["excepted"]:
            windows = "window" if findings["excepted"] == 1 else "windows"
            text += f", {findings['excepted']:,} excepted {windows} (mremap of unreadable pages)"
        lines += wrapped(text, width)
        for breach in findings["first"]:
            lines += wrapped(f"  {breach}", width)
    if not_verified:
        lines += wrapped(f"not checked: {', '.join(not_verified)} (not strict)", width)
    return lines


def costs_as_text(profile: Mapping[str, Any], width: int) -> list[str]:
    """Return lines that name the cost profile."""
    return wrapped(
        f"estimated cycles by the profile {profile['name']} ({profile['machine']})", width
    )


def assumed_costs(profile: Mapping[str, Any], width: int) -> list[str]:
    """Return lines with the number of costs of the profile that have no source."""
    assumed = len(profile["no_source"])
    if not assumed:
        return []
    verb = "is an assumption" if assumed == 1 else "are assumptions"
    return wrapped(f"note: {plural(assumed, 'cost')} of the profile {verb} (--json).", width)


def _by(figures: Mapping[str, Any], by: str, width: int) -> list[str]:
    if by == "call":
        groups = list(figures["by_call"].items())
    else:
        groups = [
            (f"{each['pid']} {each['path'].rpartition('/')[2]}", each["strategies"])
            for each in figures["programs"]
        ]
    groups.sort(key=lambda group: -max((_weight(each) for each in group[1].values()), default=0))
    rows: list[LabeledRow] = []
    for label, strategies in groups[:_SHOWN]:
        rows += [(label, None), *((f"  {name}", each) for name, each in strategies.items())]
    sgx2 = figures["host"] == "sgx2"
    columns = [_counted(column, rows) for column in _COLUMNS[figures["host"]]]
    lines = ["", f"by {by}, most expensive first", *tables(by, columns, rows, width)]
    if sgx2:
        lines += ["", *tables(by, [_cycles(rows)], rows, width)]
    more = len(groups) - _SHOWN
    return [*lines, f"and {more:,} more (--json has all)"] if more > 0 else lines


def _weight(each: Mapping[str, Any]) -> int:
    return int(each["cycles"]["high"] if "cycles" in each else each["counts"]["host_calls"])


def _epc(figures: Mapping[str, Any]) -> str:
    pages, over = figures["epc"]["pages"], figures["epc"]["overflows"]
    size = f"an EPC of {pages:,} pages ({pages / 256:,.1f} MiB)"
    if not over:
        return f"{size} holds the peak of every strategy."
    peaks = (
        f"{name} ({figures['strategies'][name]['counts']['peak_epc_pages']:,})" for name in over
    )
    return (
        f"{size} would overflow under {', '.join(peaks)}. Swapping is not modelled: the counts are "
        "those of an EPC that is large enough."
    )


# Tables


def _cells(
    head: str, rows: Iterable[LabeledRow], cell: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    return [head, *("" if each is None else cell(each) for _, each in rows)]


def _counted(column: Column, rows: Iterable[LabeledRow]) -> list[str]:
    head, names = column

    def cell(each: Mapping[str, Any]) -> str:
        counts = each["counts"]
        low = each.get("counts_low", counts)
        return between(sum(low[name] for name in names), sum(counts[name] for name in names))

    return _cells(head, rows, cell)


def _cycles(rows: Iterable[LabeledRow]) -> list[str]:
    return _cells(
        "cycles", rows, lambda each: between(each["cycles"]["low"], each["cycles"]["high"])
    )


def _ratio(base: str, rows: Iterable[LabeledRow]) -> list[str]:
    def cell(each: Mapping[str, Any]) -> str:
        low, high = each["ratio_low"].get(base), each["ratio"].get(base)
        return "–" if high is None else between(low, high, ",.2f")

    return _cells("÷ " + base.replace("_", "-"), rows, cell)
