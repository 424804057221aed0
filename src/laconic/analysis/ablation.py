"""Which changes to Gramine pay off: the switches of every-call, added one by one in the order of
what they save.

The order is greedy. Each step adds the switch that saves most, given those that are on already.
All candidates of a step are modeled in one replay of each trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from laconic.analysis.compare import BOUND, Compared, Figures, Model, compare
from laconic.sgx.costs import CostProfile, load
from laconic.sgx.pal.switches import ALL_SWITCHES, Switches
from laconic.strategies import full_name
from laconic.strategies.options import show_switch
from laconic.trace.reader import Progress, TraceReader
from laconic.trace.selection import Selection

#: The first and the last rows of the table. They are not switches.
BASE: Final = "every-call"
LACONIC: Final = "laconic"


class Step(NamedTuple):
    """One row. `switch` is what this row adds: a switch, "every-call", "laconic" or "bound".

    `strategy` is the strategy's name. `figures` are its results, for each trace. `share` is its
    cost: the mean over all traces of cycles divided by those of every-call, in the middle of the
    cost profile. `saved` is the previous row's share minus this one's. `alone` is what the switch
    saves if it is the only one (None: the row adds no switch).
    """

    switch: str
    strategy: str
    figures: list[Figures]
    share: float
    saved: float
    alone: float | None = None

    @property
    def cycles(self) -> tuple[float, float]:
        """The minimum and maximum of the cycles in all traces."""
        pairs = [figures.total.cycles for figures in self.figures]
        return sum(low for low, _ in pairs), sum(high for _, high in pairs)

    @property
    def host_calls(self) -> tuple[int, int]:
        """The minimum and maximum of the host calls in all traces."""
        totals = [figures.total for figures in self.figures]
        return (
            sum(total.low.host_calls for total in totals),
            sum(total.high.host_calls for total in totals),
        )


@dataclass(frozen=True, slots=True)
class Ablation:
    """The result. `steps`: every-call, each switch in the order in which it was added, then laconic
    and the bound. `compared`: the comparison of each trace with no switch on.
    """

    steps: list[Step]
    compared: list[Compared]
    profile: CostProfile


def ablate(
    traces: Sequence[TraceReader],
    profile: CostProfile | None = None,
    *,
    progress: Progress | None = None,
    jobs: int | None = 1,
    model: Model | None = None,
    selection: Selection | None = None,
) -> Ablation:
    """Return what each change to Gramine saves on `traces`, which all have the same weight.

    Arguments and errors are those of `compare`; `progress` is called with the number of bytes read,
    counting every trace once per switch. O(events × switches²), in as many replays as there are
    switches.
    """
    profile = profile or load()
    size = sum(trace.size for trace in traces)
    done = 0

    def run(names: Sequence[str]) -> list[Compared]:
        nonlocal done
        found = []
        for trace in traces:
            at = done
            tell = None if progress is None else lambda read, at=at: progress(at + read)
            result = compare(
                trace, names, profile, progress=tell, jobs=jobs, model=model, selection=selection
            )
            found.append(result)
            done += trace.size
        return found

    left = list(Switches._fields)
    names = {switch: name_of((switch,)) for switch in left}
    compared = run([BASE, LACONIC, BOUND, *names.values()])
    base = _figures(compared, BASE)
    steps = [Step(BASE, BASE, base, 1.0, 0.0)]
    found = {switch: _figures(compared, name) for switch, name in names.items()}
    alone = {switch: 1.0 - _share(figures, base) for switch, figures in found.items()}
    while True:
        shares = {switch: _share(figures, base) for switch, figures in found.items()}
        best = min(left, key=lambda switch: shares[switch])
        saved = steps[-1].share - shares[best]
        steps.append(Step(best, names[best], found[best], shares[best], saved, alone[best]))
        left.remove(best)
        if not left:
            break
        on = [step.switch for step in steps[1:]]
        names = {switch: name_of((*on, switch)) for switch in left}
        results = run(list(names.values()))
        found = {switch: _figures(results, name) for switch, name in names.items()}
        for first, result in zip(compared, results, strict=True):
            first.findings.update(result.findings)
    for name in (LACONIC, BOUND):
        figures = _figures(compared, name)
        share = _share(figures, base)
        steps.append(Step(name, name, figures, share, steps[-1].share - share))
    assert done == len(Switches._fields) * size
    return Ablation(steps, compared, profile)


def program_shares(ablation: Ablation) -> list[tuple[str, float]]:
    """Return each program, by the last component of its path, with its share of every-call's cycles
    in the middle of the cost profile; the largest share first. O(programs)."""
    cycles: Counter[str] = Counter()
    for compared in ablation.compared:
        for number, span in compared.strategies[BASE].programs.items():
            if 0 <= number < len(compared.programs):
                path = compared.programs[number].path
                cycles[path.rpartition("/")[2]] += round(sum(span.cycles))
    total = cycles.total() or 1
    return [(name, part / total) for name, part in cycles.most_common()]


def name_of(switches: Sequence[str]) -> str:
    """Return the name of every-call with these switches on, `demand` with the value that
    `every-call:all` has."""
    values = ALL_SWITCHES._asdict()
    words = [
        f"{switch}={values[switch] if switch == 'demand' else show_switch(True)}"
        for switch in switches
    ]
    return full_name(f"{BASE}:{','.join(words)}")


def _figures(compared: Sequence[Compared], name: str) -> list[Figures]:
    return [each.strategies[name] for each in compared]


def _share(figures: Sequence[Figures], base: Sequence[Figures]) -> float:
    # All traces have the same weight, whatever their cost.
    shares = [
        sum(ours.total.cycles) / (sum(theirs.total.cycles) or 1.0)
        for ours, theirs in zip(figures, base, strict=True)
    ]
    return sum(shares) / len(shares)
