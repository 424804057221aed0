"""laconic and edmm-tuned at its best setting of a grid, on real programs: the tables of
docs/edmm-tuned.md and docs/appendix/edmm-tuned.md.

The grid is what `laconic sweep` writes for `STRATEGIES`. Costs under each profile are those of its
counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.enclave import PROGRAMS, worst
from benchmarks.machine import table
from benchmarks.traces import record
from laconic.analysis.sweep import choose, sweep
from laconic.sgx.costs import DEFAULT, CostProfile, load, shipped
from laconic.sgx.meter import THINGS, Counts
from laconic.strategies import arguments, base_name, full_name
from laconic.strategies.edmm_tuned import FAULT, MADVISE, OPTIONS, Tuning
from laconic.trace.numbers import low_to_high

#: In the order of the paper's ablations.
ABLATIONS = tuple(OPTIONS.settings)
STRATEGIES = (
    "laconic:batch=none/madvise",
    "edmm-tuned:preheat=0/16M/64M,demand=0/1/8/64/512,batch=none/madvise,lazyfree=0/15/100",
    "edmm-tuned:preheat=0/16M/64M,batch=fault,lazyfree=0/15/100",
    "edmm-tuned:" + "/".join(ABLATIONS),
)
Rows = Mapping[str, Mapping[str, Any]]
Cost = tuple[float, float]
Targets = list[tuple[str, str, float, float]]


class _Setting(NamedTuple):
    name: str
    tuning: Tuning
    row: Mapping[str, Any]

    @property
    def is_strict(self) -> bool:
        """Whether no page is RWX by design, and freed pages leave."""
        tuning = self.tuning
        return not tuning.preheat and not tuning.lazyfree and tuning.batch != FAULT

    @property
    def is_unpatched(self) -> bool:
        """Whether an unpatched kernel can do it, with the access that `is_strict` states."""
        return self.is_strict and self.tuning.batch != MADVISE


#: laconic on an unpatched kernel, and on the one that `batch=madvise` needs.
_LACONIC, _PATCHED = "laconic", "laconic:batch=madvise"


def _settings(rows: Rows) -> list[_Setting]:
    settings = []
    for name, row in rows.items():
        if base_name(name) == OPTIONS.strategy:
            values = arguments(name).get("values", OPTIONS.values)
            settings.append(_Setting(name, Tuning(**values), row))
    return settings


def _cost(row: Mapping[str, Any], profile: CostProfile, start: bool = True) -> Cost:
    # Without `start`, the adding and reading of pre-heated pages is free.
    counts = Counts(**{thing: row[thing] for thing in THINGS})
    if not start:
        counts.eaug_faults -= counts.eadd
        counts.eadd = 0
    return profile.cycles(counts)


def _least(costs: Iterable[Cost]) -> Cost:
    ends = list(costs)
    return min(low for low, _ in ends), min(high for _, high in ends)


def _ratio(ours: Cost, theirs: Cost) -> tuple[float, float]:
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return min(ratios), max(ratios)


def _shown(ratio: tuple[float, float]) -> str:
    return low_to_high(*ratio, ".2f")


def _anything(setting: _Setting) -> bool:
    return True


class _Against(NamedTuple):
    # A column of the first table. What must hold has a target.
    title: str
    ours: str
    accepts: Callable[[_Setting], bool]
    start: bool = True
    target: bool = False


_STRICT = "equal strictness"
_AGAINST = (
    _Against(f"{_STRICT}, both unpatched", _LACONIC, lambda one: one.is_unpatched, target=True),
    _Against(f"{_STRICT}, both patched", _PATCHED, lambda one: one.is_strict, target=True),
    _Against(f"{_STRICT}, edmm-tuned patched", _LACONIC, lambda one: one.is_strict),
    _Against("any setting, both patched", _PATCHED, _anything),
    _Against("any setting, both patched, start not counted", _PATCHED, _anything, start=False),
)


def _compared(program: str, rows: Rows, targets: Targets) -> list[list[str]]:
    lines = []
    settings = _settings(rows)
    for name in shipped():
        profile = load(name)
        line = [program, name]
        for title, ours, accepts, start, target in _AGAINST:
            best = _least(_cost(one.row, profile, start) for one in settings if accepts(one))
            ratio = _ratio(_cost(rows[ours], profile), best)
            line.append(_shown(ratio))
            if target:
                targets.append(
                    (f"cycles, laconic / edmm-tuned, {title}", f"{program}, {name}", ratio[1], 1.0)
                )
        lines.append(line)
    return lines


def _saving(program: str, rows: Rows, start: bool) -> list[str]:
    # Where the saving of the best setting comes from. The cost is the middle of its range.
    profile = load(DEFAULT)
    costs = [(sum(_cost(one.row, profile, start)) / 2, one) for one in _settings(rows)]
    plain = next(cost for cost, one in costs if one.tuning == Tuning())
    least, best = min(costs, key=lambda pair: pair[0])
    saved = plain - least

    def due(accepts: Callable[[_Setting], bool]) -> str:
        without = min(cost for cost, one in costs if accepts(one))
        return f"{100 * (without - least) / saved:.1f}"

    return [
        program,
        f"`{best.name.partition(':')[2]}`",
        f"{100 * saved / plain:.1f}",
        due(lambda one: not one.tuning.preheat),
        due(lambda one: not one.tuning.preheat and one.tuning.batch != FAULT),
        due(lambda one: one.is_strict),
        f"{best.row['open_windows']:,}",
    ]


def _ablated(program: str, rows: Rows) -> list[str]:
    profile = load(DEFAULT)
    names = [full_name(f"edmm-tuned:{setting}") for setting in ABLATIONS]
    plain = _cost(rows[full_name("edmm-tuned:edmm")], profile)
    names += [_LACONIC, _PATCHED]
    ratios = [_shown(_ratio(_cost(rows[name], profile), plain)) for name in names]
    return [program, *ratios]


def tables(found: Mapping[str, Rows]) -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """Return the sections and targets of the pages, for the rows of each program by strategy."""
    targets: Targets = []
    costs = [line for program, rows in found.items() for line in _compared(program, rows, targets)]
    head = ["program", "best setting", "saved, % of plain EDMM"]
    shares = ["due to pre-heated pages, %", "due to RWX pages, %", "due to wider access, %"]
    head += [*shares, "open windows"]
    titles = [against.title for against in _AGAINST]
    return {
        "tuned-summary": table(
            ["program", *titles],
            [[program, *ratios] for program, profile, *ratios in costs if profile == DEFAULT],
        ),
        "tuned-costs": table(["program", "cost profile", *titles], costs),
        "tuned-saving": table(
            head, [_saving(program, rows, True) for program, rows in found.items()]
        ),
        "tuned-saving-later": table(
            head, [_saving(program, rows, False) for program, rows in found.items()]
        ),
        "tuned-ablations": table(
            ["program", *ABLATIONS, _LACONIC, _PATCHED],
            [_ablated(program, rows) for program, rows in found.items()],
        ),
    }, worst(targets)


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The sections of the page, and what must hold."""
    with tempfile.TemporaryDirectory() as directory:
        traces = record(PROGRAMS, Path(directory))
        names = choose(",".join(STRATEGIES), "sgx2")
        output = str(Path(directory) / "grid.parquet")
        rows = sweep(
            [str(path) for path in traces.values()], names, output, profile=load(DEFAULT)
        ).rows
    programs = {str(path): program for program, path in traces.items()}
    found: dict[str, dict[str, Mapping[str, Any]]] = {program: {} for program in traces}
    for row in rows:
        if row["error"] is not None:
            raise SystemExit(f"{row['trace']}, {row['strategy']}: {row['error']}")
        found[programs[row["trace"]]][row["strategy"]] = row
    return tables(found)
