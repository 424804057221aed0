"""The counts of one run, in a form in which two runs can be compared: in total, by call, and by
site.

They come from a trace, or from the JSON of `run`, `replay`, `callers`, `check` or `check
--write-baseline`. A site is identified by what stays the same when a program is rebuilt or starts
at other addresses: call, function, module and program.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from laconic.analysis.callers import REDUNDANT, UNKNOWN
from laconic.analysis.frames import StackPlaces, own_frames
from laconic.analysis.schemas import SCHEMAS
from laconic.analysis.sites import EVERY_CALL, Sites
from laconic.analysis.suppressions import Suppression, matching
from laconic.errors import LaconicError
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Counts
from laconic.stacks.symbolize import Place
from laconic.trace.stacks import NO_STACK

#: The enclave figures of a `KeyTally`.
ENCLAVE = ("enclave_host_calls", "cycles_low", "cycles")
_ADDRESS = re.compile(r"\+0x[0-9a-f]+\Z")
_GONE = " (deleted)"


class Key(NamedTuple):
    """A site, the same in every run: names without directories. `function` is `module+?` if it has
    no symbol, and "" if only the call is known."""

    call: str
    function: str = ""
    module: str = ""
    program: str = ""


@dataclass(slots=True)
class KeyTally:
    """The counts of a run, call or site: `calls` memory calls, of which `redundant` changed
    nothing; `host_calls` for the others. Their enclave made `enclave_host_calls`, and spent from
    `cycles_low` to `cycles`."""

    calls: int = 0
    redundant: int = 0
    host_calls: int = 0
    enclave_host_calls: int = 0
    cycles_low: int = 0
    cycles: int = 0

    @property
    def middle(self) -> float:
        """The middle of the range of cycles, for uses that need one number."""
        return (self.cycles_low + self.cycles) / 2

    def add(self, calls: int, redundant: int, host_calls: int) -> None:
        """Add to these figures."""
        self.calls += calls
        self.redundant += redundant
        self.host_calls += host_calls

    def include(self, other: KeyTally) -> None:
        """Add another tally's figures. O(1)."""
        self.add(other.calls, other.redundant, other.host_calls)
        self.enclave_host_calls += other.enclave_host_calls
        self.cycles_low += other.cycles_low
        self.cycles += other.cycles

    def add_enclave(self, counts: Counts, profile: CostProfile) -> None:
        """Add what an enclave did. O(1)."""
        low, high = profile.cycles(counts)
        self.enclave_host_calls += counts.host_calls
        self.cycles_low += round(low)
        self.cycles += round(high)


class EnclaveBasis(NamedTuple):
    """The enclave to which the enclave host calls and the cycles of figures belong."""

    strategy: str
    profile: CostProfile


@dataclass(slots=True)
class RunFigures:
    """The figures of one run; `name` is their source.

    `hidden` of the redundant calls in `total` were suppressed, and belong to no site. `by_call` and
    `sites` are None if they are unknown. `whole`: the sites' `calls` and `host_calls` are known,
    not only `redundant`. `stacks`: the stack from which most of a site's redundant calls come (of
    all its calls, if none is redundant). `missing`: the modules whose symbols could not be read, by
    path, and why. `enclave`: the strategy and the name of the cost profile of the enclave figures;
    None if they are unknown. `suppressed`: suppressed sites by reason. `around`: what the library
    OS does around the calls, by its kind as in `replay.enclaves`; it has enclave figures only.
    `is_baseline`: `check --write-baseline` wrote it. `lacking`: what a log lacks, so the enclave
    figures are the lowest that are possible.
    """

    name: str
    total: KeyTally
    hidden: int = 0
    by_call: dict[str, KeyTally] | None = None
    sites: dict[Key, KeyTally] | None = None
    whole: bool = False
    stacks: dict[Key, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    enclave: tuple[str, str] | None = None
    suppressed: dict[str, KeyTally] = field(default_factory=dict)
    around: dict[str, KeyTally] = field(default_factory=dict)
    is_baseline: bool = field(default=False, compare=False)
    lacking: tuple[str, ...] = field(default=(), compare=False)

    @property
    def redundant(self) -> int:
        """The redundant calls that were not suppressed."""
        return self.total.redundant - self.hidden


def key_of(call: str, function: str, module: str, program: str) -> Key:
    """Return the key of a site. O(length).

    >>> key_of("mmap", "libx.so+0x1de39", "libx.so", "/usr/bin/prog (deleted)")
    Key(call='mmap', function='libx.so+?', module='libx.so', program='prog')
    """
    return Key(
        call, _ADDRESS.sub("+?", function), module, program.removesuffix(_GONE).rsplit("/", 1)[-1]
    )


def from_sites(
    found: Sites,
    name: str,
    suppressions: Iterable[Suppression] = (),
    enclave: EnclaveBasis | None = None,
) -> RunFigures:
    """Return the figures of a trace. `enclave` must be one of those that `found` has counted; a
    site's cost is that of its calls and of the first touches of the pages that they mapped.

    Rules that concern only redundant calls suppress these calls, but not their sites. O(sites ×
    frames), plus reading the symbols.
    """
    ledger = found.ledger
    rules = list(suppressions)
    hiding = [rule for rule in rules if not rule.only_redundant]
    quieting = [rule for rule in rules if rule.only_redundant]
    figures = RunFigures(
        name, KeyTally(ledger.calls, ledger.redundant, ledger.host_calls), by_call={}, sites={}
    )
    assert figures.by_call is not None and figures.sites is not None
    for call, line in ledger.by_call.items():
        figures.by_call[call] = KeyTally(line.calls, line.redundant, line.host_calls)
    if enclave is not None:
        known = (("touched pages", found.knows_touched), ("sizes of files", found.knows_sizes))
        figures.lacking = tuple(what for what, is_known in known if not is_known)
        figures.enclave = enclave.strategy, enclave.profile.name
        figures.total.add_enclave(found.meters[enclave.strategy].total(), enclave.profile)
        for kind, work in found.around.items():
            cost = work.cost(enclave.strategy)
            if cost != Counts():
                figures.around[kind] = KeyTally()
                figures.around[kind].add_enclave(cost, enclave.profile)
    figures.whole = all(site.stack != NO_STACK for site in found.sites)
    weights: dict[Key, Counter[int]] = {}
    costs: dict[int, tuple[KeyTally, Counts]] = {}
    for site in found.sites:
        places = (
            own_frames(site.call, found.stacks.walk(site.stack)) if site.stack != NO_STACK else []
        )
        names = StackPlaces(places)
        rule = matching(hiding, site.call, site.program, names) if places else None
        redundant = site.redundant
        if rule is not None:
            figures.hidden += site.redundant
            tally = figures.suppressed.setdefault(rule.reason, KeyTally())
        else:
            if places and matching(quieting, site.call, site.program, names) is not None:
                figures.hidden += site.redundant
                redundant = 0
            place = places[0][0] if places else Place(UNKNOWN, "")
            key = key_of(site.call, place.function, place.module, site.program)
            tally = figures.sites.setdefault(key, KeyTally())
            if site.stack != NO_STACK:
                # One redundant call outweighs all other calls together.
                weights.setdefault(key, Counter())[site.stack] += (redundant << 40) + site.calls
        tally.add(site.calls, redundant, site.host_calls)
        if enclave is not None:
            costs.setdefault(id(tally), (tally, Counts()))[1].add(site.cost(enclave.strategy))
    if enclave is not None:
        for tally, counts in costs.values():
            tally.add_enclave(counts, enclave.profile)
    figures.stacks = {
        key: max(counter, key=lambda number: (counter[number], -number))
        for key, counter in weights.items()
    }
    figures.missing = {module.path: why for module, why in found.stacks.symbolizer.missing.items()}
    return figures


def as_json(figures: RunFigures) -> dict[str, Any]:
    """Return what `check --write-baseline` writes and `from_json` reads."""
    sites = sorted((figures.sites or {}).items(), key=lambda item: item[0])
    return {
        "baseline": SCHEMAS["baseline"],
        **_tally(figures.total, figures.enclave),
        **(enclave_json(figures) if figures.enclave else {}),
        "hidden": figures.hidden,
        "whole": figures.whole,
        "by_call": {call: _tally(tally) for call, tally in sorted((figures.by_call or {}).items())},
        "sites": [{**key._asdict(), **_tally(tally, figures.enclave)} for key, tally in sites],
        "suppressed": _named(figures.suppressed, figures.enclave),
        "around": _named(figures.around, figures.enclave) if figures.enclave else {},
    }


def _named(tallies: Mapping[str, KeyTally], enclave: object) -> dict[str, dict[str, int]]:
    return {name: _tally(tally, enclave) for name, tally in sorted(tallies.items())}


def enclave_json(figures: RunFigures) -> dict[str, Any]:
    """Return the key `enclave`, which states the strategy and the cost profile of the enclave
    figures."""
    strategy, profile = figures.enclave or ("", "")
    return {"enclave": {"strategy": strategy, "costs": profile}}


def _tally(tally: KeyTally, enclave: object = None) -> dict[str, int]:
    numbers = {"calls": tally.calls, "redundant": tally.redundant, "host_calls": tally.host_calls}
    return {**numbers, **enclave_numbers(tally)} if enclave else numbers


def enclave_numbers(tally: KeyTally) -> dict[str, int]:
    """Return the enclave figures of a tally: `cycles_low` and `cycles` are the ends of a range."""
    return {name: getattr(tally, name) for name in ENCLAVE}


def from_json(data: Any, name: str) -> RunFigures:
    """Return the figures in the JSON of one of the verbs. O(size). Raises LaconicError if another
    program wrote it."""
    reader = None
    if isinstance(data, dict):
        if "baseline" in data:
            reader = _baseline
        elif "callers" in data:
            reader = _callers
        elif "limits" in data and "kept" in data:
            reader = _check
        elif "strategy" in data and "elided" in data:
            reader = _run
    if reader is None:
        raise LaconicError(
            f"{name!r} is JSON, but none that laconic run, replay, live, callers, check or check "
            "--write-baseline wrote: name a file of theirs, or a trace"
        )
    try:
        return reader(data, name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise LaconicError(f"{name!r} is damaged, {what}: make it again") from None


def _baseline(data: Mapping[str, Any], name: str) -> RunFigures:
    _readable(data["baseline"], SCHEMAS["baseline"], name)
    figures = RunFigures(name, _read(data), _count(data, "hidden"), whole=bool(data["whole"]))
    figures.is_baseline = True
    if "enclave" in data:
        figures.enclave = str(data["enclave"]["strategy"]), str(data["enclave"]["costs"])
    figures.by_call = {call: _read(line) for call, line in data["by_call"].items()}
    figures.sites = {
        Key(*(str(line[part]) for part in Key._fields)): _read(line) for line in data["sites"]
    }
    for name, tallies in (("suppressed", figures.suppressed), ("around", figures.around)):
        tallies.update((str(key), _read(line)) for key, line in data.get(name, {}).items())
    return figures


def _run(data: Mapping[str, Any], name: str) -> RunFigures:
    # The sums of run, replay and live have the same keys; only live has sites.
    command = "live" if "sites" in data else "run"
    _readable(data["schema"], SCHEMAS[command], name)
    by_call = {call: _read(line) for call, line in data["by_call"].items()}
    return RunFigures(name, _read(data), by_call=by_call)


def _check(data: Mapping[str, Any], name: str) -> RunFigures:
    _readable(data["schema"], SCHEMAS["check"], name)
    # Its offenders are some of the sites; the other sites are unknown.
    hidden = _count(data, "hidden")
    total = _read(data)
    total.redundant += hidden
    return RunFigures(name, total, hidden)


def _callers(data: Mapping[str, Any], name: str) -> RunFigures:
    _readable(data["schema"], SCHEMAS["callers"], name)
    if data["by"] != "function" or data["inverted"]:
        how = "--inverted" if data["inverted"] else f"--by {data['by']}"
        raise LaconicError(
            f"{name!r} was made with {how}, which names no sites: make it again without"
        )
    hidden = sum(_count(line, "redundant") for line in data["suppressed"])
    figures = RunFigures(name, _read(data), hidden, sites={}, whole=data["stackless"] == 0)
    # Sites without redundant calls are not listed if they are sorted by redundant calls.
    complete = data["sort"] != REDUNDANT
    figures.whole &= complete
    if complete and "cycles" in data:
        figures.enclave = EVERY_CALL, str(data["profile"])
    assert figures.sites is not None
    for line in data["callers"]:
        tally = _caller(line, figures)
        if line["suppressed_redundant"] is not None:
            figures.hidden += tally.redundant
            tally.redundant = 0
            if not complete:
                continue
        key = key_of(
            str(line["call"]), str(line["name"]), str(line["module"]), str(line["program"])
        )
        figures.sites.setdefault(key, KeyTally()).include(tally)
    if figures.enclave is None:
        return figures
    for line in data["suppressed"]:
        figures.suppressed[str(line["reason"])] = _caller(line, figures)
    for line in data["around"]:
        figures.around[str(line["kind"])] = KeyTally()
        _add_cost(figures.around[str(line["kind"])], line)
    figures.total.cycles_low, figures.total.cycles = _ends(data)
    parts = (figures.sites, figures.suppressed, figures.around)
    figures.total.enclave_host_calls = sum(
        tally.enclave_host_calls for part in parts for tally in part.values()
    )
    return figures


def _caller(line: Mapping[str, Any], figures: RunFigures) -> KeyTally:
    # A line of callers; its calls count only if the calls of all lines are known.
    tally = KeyTally(redundant=_count(line, "redundant"))
    if figures.whole:
        tally.calls = _count(line, "calls")
        tally.host_calls = _count(line, "host_calls")
    if figures.enclave is not None:
        _add_cost(tally, line)
    return tally


def _add_cost(tally: KeyTally, line: Mapping[str, Any]) -> None:
    tally.enclave_host_calls = _count(line["counts"][EVERY_CALL], "host_calls")
    tally.cycles_low, tally.cycles = _ends(line)


def _ends(line: Mapping[str, Any]) -> tuple[int, int]:
    # Return the cycles under every-call, at the low and the high end of the cost profile.
    cycles = line["cycles"][EVERY_CALL]
    return _count(cycles, "low"), _count(cycles, "high")


def _readable(schema: Any, ours: int, name: str) -> None:
    if schema != ours:
        raise LaconicError(
            f"{name!r} has schema {schema!r}, and this Laconic reads {ours}; write the file again "
            "with this Laconic"
        )


def _read(line: Mapping[str, Any]) -> KeyTally:
    known = ENCLAVE if ENCLAVE[0] in line else ()
    return KeyTally(*(_count(line, name) for name in ("calls", "redundant", "host_calls", *known)))


def _count(line: Mapping[str, Any], name: str) -> int:
    value = line[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {str(value)[:40]!r}, no count")
    return value
