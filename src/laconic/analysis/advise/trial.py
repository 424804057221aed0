"""Trials of advice: how it is applied, and the result, compared with two runs of the unchanged
program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from os.path import basename
from typing import TYPE_CHECKING

from laconic.analysis.advise import manifest
from laconic.analysis.advise.advice import MANIFEST, Advice
from laconic.analysis.advise.figures import NOISE, SHOWN, TODAY, AdviceFigures, Cost
from laconic.trace.numbers import low_to_high
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.sgx.costs import CostProfile

#: Options of `java` and `node` whose value is a separate argument.
_TWO_WORDS = {
    *(
        "-cp",
        "-classpath",
        "--class-path",
        "-p",
        "--module-path",
        "--upgrade-module-path",
        "--add-modules",
    ),
    *("--limit-modules", "--add-exports", "--add-opens", "--add-reads", "--patch-module"),
    *("-r", "--require", "--import", "--loader", "-C", "--conditions"),
}
#: Options after which all arguments are the program's.
_LAST = {"-jar", "-m", "--module", "-e", "--eval", "-pe", "--print", "--"}


@dataclass(frozen=True, slots=True)
class After:
    """The result of one rerun; `differences` from the runs of the unchanged program, one sentence
    each. `peak_mapped`: the maximum of bytes that one program mapped."""

    costs: dict[str, Cost]
    peak_mapped: int
    exit_status: int
    differences: list[str]


@dataclass(slots=True)
class Trial:
    """The results of all trials. `again` is the second run of the unchanged program, or why its
    result is unknown. `pieces` are by the advice's place; text is the reason why the advice was not
    tried. `together` is the result of all advice at once, None if there is only one."""

    again: After | str | None = None
    pieces: dict[int, After | str] = field(default_factory=dict)
    together: After | str | None = None


def attempt(
    advice: Advice, command: Sequence[str], env: dict[str, str]
) -> tuple[list[str], dict[str, str]] | str:
    """Return the command and the additions to the environment `env` with which `advice` is tried,
    or why it is not. O(arguments).

    >>> from laconic.analysis.advise.advice import argument
    >>> smaller = argument("-Xmx8m", ("java",), "", ("-Xmx",))
    >>> attempt(smaller, ["java", "-Xmx1g", "Main", "-Xmx2g"], {})
    (['java', '-Xmx8m', 'Main', '-Xmx2g'], {})
    """
    if advice.env:
        return list(command), env | dict(advice.env)
    if advice.where == MANIFEST:
        return "a manifest's option changes nothing outside of Gramine"
    if basename(command[0]) in advice.programs:
        return [command[0], advice.flag, *_without(command[1:], advice)], env
    return (
        f"the command does not begin with {' or '.join(advice.programs)}: write {advice.flag} "
        "where that is started"
    )


def _without(words: Sequence[str], advice: Advice) -> list[str]:
    # If two flags set the same option, the last one would count, or both be rejected; the program's
    # own arguments stay.
    kept: list[str] = []
    place = 0
    while place < len(words) and words[place].startswith("-"):
        word = words[place]
        if word in _LAST:
            break
        size = 2 if word in _TWO_WORDS else 1
        if not word.startswith(advice.replaces):
            kept += words[place : place + size]
        place += size
    return [*kept, *words[place:]]


def after(
    runs: Sequence[AdviceFigures],
    status: int,
    figures: AdviceFigures,
    new_status: int,
    last_lines: Sequence[str] = (),
) -> After:
    """Compare a rerun with the runs of the unchanged program; `last_lines` are the last lines of
    its standard error.

    O(programs).
    """
    differences = _changes(runs, status, figures, new_status, last_lines)
    if (verdict := _verdict(runs, figures)) is not None:
        differences.append(verdict)
    return After(figures.costs, _mapped(figures), new_status, differences)


def unchanged(
    before: AdviceFigures,
    status: int,
    figures: AdviceFigures,
    new_status: int,
    last_lines: Sequence[str] = (),
) -> After:
    """Return the result of running the unchanged program once more. O(programs)."""
    return After(
        figures.costs,
        _mapped(figures),
        new_status,
        _changes([before], status, figures, new_status, last_lines),
    )


def _changes(
    runs: Sequence[AdviceFigures],
    status: int,
    figures: AdviceFigures,
    new_status: int,
    last_lines: Sequence[str],
) -> list[str]:
    differences = []
    if new_status != status:
        last = f" (standard error: {' / '.join(last_lines)})" if last_lines else ""
        differences.append(
            f"exit status {new_status}, {status} before{last}: do not take this over unseen"
        )
    counts, programs = [len(each.images) for each in runs], len(figures.images)
    if outside(counts, programs, 0):
        differences.append(
            f"{plural(programs, 'program')} ran, {low_to_high(min(counts), max(counts))} before"
        )
    if figures.losses:
        differences.append(f"its trace is not complete: {figures.losses[0]}")
    return differences


def exceeded(advice: Iterable[Advice], figures: AdviceFigures, profile: CostProfile) -> list[str]:
    """Return the manifest's lines that are too small for a rerun, one sentence each.
    O(programs)."""
    written = {each.option: each for each in advice if each.where == MANIFEST}
    return [
        f"{written[each.option].line} is too small here: {each.line}"
        for each in manifest.advise(figures, profile)
        if each.option
        in ("sgx.enclave_size", "sgx.max_threads", "sys.stack.size", "sys.brk.max_size")
        and each.figures["value"] > written[each.option].figures["value"]
    ]


def _mapped(figures: AdviceFigures) -> int:
    return figures.most(lambda image: image.peak_mapped)


def _verdict(runs: Sequence[AdviceFigures], figures: AdviceFigures) -> str | None:
    def change(what: Callable[[AdviceFigures], float]) -> int:
        return outside([what(each) for each in runs], what(figures))

    cycles = [change(lambda each, name=name: sum(each.costs[name].cycles)) for name in SHOWN]  # type: ignore[misc]
    calls = [change(lambda each, name=name: sum(each.costs[name].host_calls)) for name in SHOWN]  # type: ignore[misc]
    rise = [
        thing for thing, changes in (("cycles", cycles), ("host calls", calls)) if changes[0] > 0
    ]
    if rise:
        return f"it takes more {' and '.join(rise)} than before under {TODAY}"
    if min(*cycles, *calls, change(_mapped)) >= 0:
        return "no measured figure is better than before"
    return None


def outside(runs: Sequence[float], value: float, noise: float = NOISE) -> int:
    """Return -1 or 1 if `value` is below or above all `runs` by more than they differ among
    themselves and by more than `noise`, a part of them; otherwise 0.

    >>> outside([100, 100], 94), outside([100, 100], 96)
    (-1, 0)
    >>> outside([100, 120], 75), outside([100, 120], 81)
    (-1, 0)
    """
    low, high = min(runs), max(runs)
    if value < low - max(high - low, noise * low):
        return -1
    return int(value > high + max(high - low, noise * high))
