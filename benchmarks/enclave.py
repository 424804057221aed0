"""Real programs in the modelled enclave, under each strategy and the bound: the tables of
docs/enclave.md and docs/appendix/enclave.md."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from benchmarks.machine import RUN, compiled, table
from benchmarks.traces import ROOT, count_calls, record
from laconic.analysis.compare import BOUND, Compared, Model, compare
from laconic.libos.settings import Settings
from laconic.replay.enclaves import FORK
from laconic.sgx.costs import DEFAULT, load, shipped
from laconic.sgx.meter import THINGS
from laconic.strategies import NAMES
from laconic.trace.numbers import ends_text, low_to_high
from laconic.trace.schema import MEMORY_EVENTS

#: Workloads of tests/apps.
PROGRAMS = (
    "python3-numpy", "redis", "node", "java-g1", "java-serial", "postgresql", "nginx", "gcc",
    "per-page",
)  # fmt: skip
PER_PAGE = ROOT / "tests" / "apps" / "programs" / "per_page.c"
#: laconic's cost may be this many times the bound's; what is over it the page explains.
MOST = 1.25
_HEAD = [
    "program", "strategy", "host calls", "ioctls", "ETRACK+IPI", "EACCEPT, EACCEPTCOPY",
    "EAUG faults", "exceptions",
    "peak EPC pages",
]  # fmt: skip
_SUMMARY = [
    "program", "host calls, every-call", "laconic", "bound", "peak EPC pages, every-call",
    "laconic",
    "cycles, laconic ÷ every-call", "laconic ÷ bound",
]  # fmt: skip


def _counted(program: str, compared: Compared) -> list[list[str]]:
    rows = []
    for name, figures in compared.strategies.items():
        counts = figures.total.low
        accepted = counts.eaccept + counts.eacceptcopy
        values = (
            counts.host_calls, counts.ioctls, counts.etrack_ipis, accepted, counts.eaug_faults,
            counts.exceptions,
            figures.peak[0],
        )  # fmt: skip
        rows.append([program, name, *(f"{value:,}" for value in values)])
    return rows


def _span(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return "-"
    return low_to_high(*pair, ".2f")


def _summary(program: str, compared: Compared) -> list[str]:
    # The row of one program in the table that docs/enclave.md shows itself.
    every_call, laconic, bound = (
        compared.strategies[name] for name in ("every-call", "laconic", BOUND)
    )
    host_calls = [figures.total.low.host_calls for figures in (every_call, laconic, bound)]
    peaks = [figures.peak[0] for figures in (every_call, laconic)]
    ratios = [laconic.ratio(every_call), laconic.ratio(bound)]
    counts = [f"{count:,}" for count in host_calls + peaks]
    return [program, *counts, *map(_span, ratios)]


def _worse(program: str, compared: Compared) -> list[list[str]]:
    # What laconic does more of than every-call, other than the pages that it zeroes.
    ours, theirs = (compared.strategies[name].total.low for name in ("laconic", "every-call"))
    return [
        [program, thing, f"{getattr(theirs, thing):,}", f"{getattr(ours, thing):,}"]
        for thing in THINGS
        if thing != "pages_zeroed" and getattr(ours, thing) > getattr(theirs, thing)
    ]


def _why(compared: Compared) -> list[list[str]]:
    # What every-call does, call by call; the dearest first.
    calls = [
        (name, span.low, span.cycles)
        for name, span in compared.strategies["every-call"].by_call.items()
    ]
    calls.sort(key=lambda one: -one[2][1])
    return [
        [
            name, f"{counts.host_calls:,}", f"{counts.etrack_ipis:,}", f"{counts.eaug_faults:,}",
            f"{counts.eaccept + counts.eacceptcopy:,}", low_to_high(low / 1e6, high / 1e6),
        ]
        for name, counts, (low, high) in calls if high >= 1e6
    ]  # fmt: skip


def _outside(program: str, compared: Compared) -> list[str]:
    # The system calls that the model leaves out, each of which is one host call at least, beside
    # what the memory calls cost under every-call.
    others = sum(calls for name, calls in count_calls(program).items() if name not in MEMORY_EVENTS)
    each = load(DEFAULT).figures["host_calls"]
    cycles = compared.strategies["every-call"].total.cycles
    ends = ((others * each.low, cycles[0]), (others * each.high, cycles[1]))
    spans = [
        ends_text(_millions(low), _millions(high), " to ") for low, high in zip(*ends, strict=True)
    ]
    shares = [100 * mine / whole for mine, whole in ends]
    return [program, f"{others:,}", *spans, " to ".join(f"{share:.2g} %" for share in shares)]


def _millions(cycles: float) -> str:
    millions = cycles / 1e6
    return f"{millions:,.0f}" if millions >= 10 else f"{millions:.2g}"


def _example() -> tuple[str, str]:
    # The worked example: why the program is slow; the same program, as it was and as it could be.
    rows = []
    why: list[list[str]] = []
    with (
        compiled(PER_PAGE.read_text(encoding="ascii")) as program,
        tempfile.TemporaryDirectory() as directory,
    ):
        for when in ("each", "once", "never"):
            path = str(Path(directory) / f"{when}.trace")
            command = [*RUN, "-o", path, "--", program, "4000", when]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            compared = compare(path, [*NAMES, BOUND], load(DEFAULT), jobs=None)
            why = why or _why(compared)
            for name in ("every-call", "skip-equal", "laconic", BOUND):
                figures = compared.strategies[name]
                counts = figures.total.low
                low, high = figures.total.cycles
                rows.append([
                    f"per_page 4000 {when}", name, f"{compared.calls:,}", f"{counts.host_calls:,}",
                    f"{counts.etrack_ipis:,}", low_to_high(low / 1e6, high / 1e6),
                ])  # fmt: skip
    head = ["host calls", "ETRACK+IPI", "EAUG faults", "EACCEPT, EACCEPTCOPY", "million cycles"]
    return table(["call", *head], why), table(
        ["program", "strategy", "memory calls", *head[:2], head[-1]], rows
    )


#: Stacks that a manifest may state, in bytes.
_STACKS = {"256K": 256 << 10, "8M": 8 << 20}


def _stacks(program: str, path: Path) -> list[str] | None:
    # The host calls of all forks under every-call, with each size of the stack; None if the program
    # does not fork.
    cells = []
    for size in _STACKS.values():
        model = Model(settings=Settings(stack_size=size))
        compared = compare(str(path), ["every-call"], load(DEFAULT), jobs=None, model=model)
        by_call = compared.strategies["every-call"].by_call
        if FORK not in by_call:
            return None
        counts = by_call[FORK].low
        cells += [f"{counts.host_calls:,}", f"{counts.etrack_ipis:,}"]
    return [program, f"{by_call[FORK].low.ecreate:,}", *cells]


#: What laconic does no more of than every-call: each stands for the same work.
_NO_WORSE = {
    "host calls": ("host_calls",), "ioctls": ("ioctls",), "ETRACK cycles": ("etrack_ipis",),
    "EACCEPT and EACCEPTCOPY": ("eaccept", "eacceptcopy"),
    "EAUG faults and exceptions": ("eaug_faults", "exceptions"),
    "released pages": ("emodt",), "copied pages": ("pages_copied",),
    "untouched pages": ("untouched_pages",),
}  # fmt: skip


def _no_worse(program: str, compared: Compared) -> list[tuple[str, str, float, float]]:
    ours, theirs = (compared.strategies[name].total.low for name in ("laconic", "every-call"))
    found = []
    for what, things in _NO_WORSE.items():
        most = sum(getattr(theirs, thing) for thing in things)
        if most:
            ratio = sum(getattr(ours, thing) for thing in things) / most
            found.append((f"{what}, laconic / every-call", program, ratio, 1.0))
    return found


def worst(targets: list[tuple[str, str, float, float]]) -> list[tuple[str, float, float]]:
    """Return each target where it is missed most, or met least."""
    worst: dict[str, tuple[str, float, float]] = {}
    for what, where, ratio, most in targets:
        if what not in worst or ratio > worst[what][1]:
            worst[what] = (where, ratio, most)
    return [
        (f"{what}: most in {where}", ratio, most) for what, (where, ratio, most) in worst.items()
    ]


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The sections of the pages, and what must hold."""
    names = [*NAMES, BOUND]
    counted: list[list[str]] = []
    costs: list[list[str]] = []
    worse: list[list[str]] = []
    stacks: list[list[str]] = []
    summary: list[list[str]] = []
    outside: list[list[str]] = []
    targets = []
    with tempfile.TemporaryDirectory() as directory:
        for program, path in record(PROGRAMS, Path(directory)).items():
            forks = _stacks(program, path)
            if forks is not None:
                stacks.append(forks)
            for profile in shipped():
                compared = compare(str(path), names, load(profile), jobs=None)
                if profile == DEFAULT:
                    counted += _counted(program, compared)
                    worse += _worse(program, compared)
                    summary.append(_summary(program, compared))
                    outside.append(_outside(program, compared))
                    targets += _no_worse(program, compared)
                all_figures = compared.strategies
                ratios = {name: all_figures[name].ratio(all_figures[BOUND]) for name in NAMES}
                against = all_figures["laconic"].ratio(all_figures["every-call"])
                costs.append([program, profile, *map(_span, ratios.values()), _span(against)])
                ours = ratios["laconic"]
                if ours is not None:
                    targets.append(
                        ("cycles, laconic / bound", f"{program}, {profile}", ours[1], MOST)
                    )
                if against is not None:
                    targets.append(
                        ("cycles, laconic / every-call", f"{program}, {profile}", against[1], 1.0)
                    )
    why, example = _example()
    head = [
        "program",
        "cost profile",
        *(f"{name} / bound" for name in NAMES),
        "laconic / every-call",
    ]
    return {
        "enclave-summary": table(_SUMMARY, summary),
        "enclave-counts": table(_HEAD, counted),
        "enclave-costs": table(head, costs),
        "enclave-stacks": table(
            ["program", "forks"]
            + [f"{what}, {size}" for size in _STACKS for what in ("host calls", "ETRACK+IPI")],
            stacks,
        ),
        "enclave-why": why,
        "enclave-example": example,
        "enclave-outside": table(
            ["program", "other calls", "million cycles", "memory calls under every-call", "share"],
            outside,
        ),
        "enclave-worse": table(["program", "counter", "every-call", "laconic"], worse),
    }, worst(targets)
