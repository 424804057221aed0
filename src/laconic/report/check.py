"""Whether a run meets its limits: for a CI log, as GitHub's annotations, and as JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from laconic.analysis.baseline import Key, KeyTally, RunFigures, enclave_json, enclave_numbers
from laconic.analysis.callers import SITE
from laconic.analysis.check import CYCLES, ENCLAVE_HOST_CALLS, Offender, Verdict
from laconic.analysis.diff import lowest
from laconic.analysis.frames import own_frames
from laconic.analysis.schemas import SCHEMAS
from laconic.report import numbers
from laconic.report.callers import Style, describe, missing_lines, stack_lines
from laconic.report.diff import place, signed, subject_of
from laconic.report.names import filled, seen
from laconic.report.numbers import share
from laconic.stacks.symbolize import Place
from laconic.trace.stacks import Stacks
from laconic.trace.words import plural

#: The number of frames of a stack that are shown unless the report is verbose.
_FRAMES = 4


def as_json(figures: RunFigures, verdicts: Iterable[Verdict], stacks: Stacks) -> dict[str, Any]:
    """Return the verdicts with all their offenders; `calls` and `host_calls` of an offender are
    null if they are unknown."""
    found = list(verdicts)
    return {
        "schema": SCHEMAS["check"],
        "kept": all(verdict.kept for verdict in found),
        "calls": figures.total.calls,
        "redundant": figures.redundant,
        "hidden": figures.hidden,
        "host_calls": figures.total.host_calls,
        **({**enclave_json(figures), **enclave_numbers(figures.total)} if figures.enclave else {}),
        "limits": [
            {
                "rule": verdict.rule,
                "counts": verdict.what,
                "kept": verdict.kept,
                "sentence": sentence(verdict, figures),
                "offenders": [_offender(one, figures, stacks) for one in verdict.offenders],
            }
            for verdict in found
        ],
        "missing_symbols": dict(sorted(figures.missing.items())),
    }


def _offender(one: Offender, figures: RunFigures, stacks: Stacks) -> dict[str, Any]:
    tally = one.tally
    frames = stacks.places(figures.stacks[one.key]) if one.key in figures.stacks else ()
    return {
        "kind": one.kind,
        **one.key._asdict(),
        "redundant": tally.redundant,
        "calls": tally.calls if one.known else None,
        "host_calls": tally.host_calls if one.known else None,
        **(enclave_numbers(tally) if figures.enclave else {}),
        "was": None
        if one.was is None
        else {
            "redundant": one.was.redundant,
            "host_calls": one.was.host_calls,
            **(enclave_numbers(one.was) if figures.enclave else {}),
        },
        "stack": [{**frame._asdict(), "guessed": guessed} for frame, guessed in frames],
    }


def sentence(verdict: Verdict, figures: RunFigures) -> str:
    """Return the result of a rule, as text."""
    if verdict.what != "cycles":
        return verdict.sentence
    total = figures.total
    most = verdict.most or 0
    fields = {
        "now": numbers.cycles(total.cycles_low, total.cycles),
        "most": f"{most:,}" if most < 1000 else numbers.cycles(most, most),
    }
    if verdict.was is not None:
        fields["was"] = numbers.cycles(verdict.was.cycles_low, verdict.was.cycles)
        low = total.cycles_low - verdict.was.cycles_low
        high = total.cycles - verdict.was.cycles
        fields["change"] = f" ({numbers.change(low, high)})" if low or high else ""
    return verdict.sentence.format(**fields)


def as_text(
    figures: RunFigures,
    verdicts: Iterable[Verdict],
    stacks: Stacks,
    width: int = 80,
    limit: int | None = 3,
    verbose: bool = False,
) -> str:
    """Return one line per limit, and under an exceeded limit at most `limit` offenders with the
    first frames of their stacks; with all frames that `callers` shows if `verbose`."""
    lines: list[str] = []
    failed = uncertain = False
    for verdict in verdicts:
        failed |= not verdict.kept
        # Lower ends can keep a limit that the run exceeds.
        uncertain |= verdict.kept and verdict.rule in (CYCLES, ENCLAVE_HOST_CALLS)
        word = "ok" if verdict.kept else "FAILED"
        lines += filled(f"{word} {verdict.rule}: {sentence(verdict, figures)}", width, "")
        shown = _shown(verdict, limit)
        for one in shown:
            lines += offender_lines(one, verdict.what, figures, stacks, width, verbose)
        more = len(verdict.offenders) - len(shown)
        if more > 0:
            lines.append(f"  and {more:,} more (-v, --limit, --json)")
    if uncertain and figures.lacking:
        lines += filled(lowest(figures), width, "")
    if failed:
        lines += missing_lines(stacks, width)
    return "\n".join(lines) + "\n" if lines else ""


def _shown(verdict: Verdict, limit: int | None) -> Sequence[Offender]:
    # The first `limit` sites, and the other offenders before the last of them.
    sites = [at for at, one in enumerate(verdict.offenders, 1) if one.kind == SITE]
    if limit is None or len(sites) <= limit:
        return verdict.offenders
    return verdict.offenders[: sites[limit - 1]]


def offender_lines(
    one: Offender,
    what: str,
    figures: RunFigures,
    stacks: Stacks,
    width: int = 80,
    verbose: bool = False,
) -> Iterator[str]:
    """Yield one offender, as `callers` shows it; `what` is the counted quantity, as in its
    verdict."""
    yield from filled(headline(one, what, figures.total), width, "  ")
    stack = figures.stacks.get(one.key)
    if stack is None:
        if one.key.function and one.kind == SITE:
            yield f"      {seen(one.key.function)}"
    else:
        style = Style(verbose=verbose, most=None if verbose else _FRAMES)
        found = stack_lines(one.key.call, stack, stacks, width - 2, one.key.program, style)
        yield from (f"  {line}" for line in found)
    if one.key.program:
        yield from filled(f"in {one.key.program}{_cost(one, what, figures)}", width, "    ")


def _cost(one: Offender, what: str, figures: RunFigures) -> str:
    # The cost of a site, as `callers` prints it, if the headline does not state it.
    if figures.enclave is None or what == "cycles" or not one.tally.cycles:
        return ""
    cost = numbers.cycles(one.tally.cycles_low, one.tally.cycles)
    part = share(one.tally.middle, figures.total.middle)
    return f"; costs {cost} under {figures.enclave[0]}, {part}"


def headline(one: Offender, what: str, total: KeyTally | None = None) -> str:
    """Return what an offender does, in one sentence; `what` is the counted quantity, as in its
    verdict. `total` is that of the whole run, for shares of cycles."""
    tally, call = one.tally, one.key.call
    if what in ("enclave_host_calls", "cycles") or one.kind != SITE:
        return _enclave_headline(one, what, total)
    host = what == "host_calls"
    of = f" of {tally.calls:,}" if one.known else ""
    many = tally.host_calls if host else tally.redundant
    calls = "call" if (tally.calls if one.known else many) == 1 else "calls"
    here = " from here" if one.key.function else ""
    if host:
        text = f"{plural(many, 'host call')} for {plural(tally.calls, f'{call} call')}{here}"
    else:
        text = f"{many:,}{of} {call} {calls}{here} changed nothing"
    if one.was is None:
        return text
    was = one.was.host_calls if host else one.was.redundant
    return f"{text}, {was:,} in the baseline ({signed(many - was)})"


def _enclave_headline(one: Offender, what: str, total: KeyTally | None) -> str:
    tally = one.tally
    number = getattr(tally, what)
    here = " from here" if one.key.function else ""
    host = "host call" if what == "host_calls" else "enclave host call"
    cost = plural(number, host)
    if what == "cycles":
        cost = numbers.cycles(tally.cycles_low, number)
        if total is not None:
            cost += f" ({share(tally.middle, total.middle)})"
    if one.kind == SITE:
        text = f"{cost} for {plural(tally.calls, f'{one.key.call} call')}{here}"
    else:
        text = f"{subject_of(one.key, one.kind)}: {cost}"
    if one.was is None:
        return text
    was = getattr(one.was, what)
    if what == "cycles":
        before = numbers.cycles(one.was.cycles_low, was)
        change = numbers.change(tally.cycles_low - one.was.cycles_low, number - was)
        return f"{text}, {before} in the baseline ({change})"
    return f"{text}, {was:,} in the baseline ({signed(number - was)})"


def as_github(
    figures: RunFigures,
    verdicts: Iterable[Verdict],
    stacks: Stacks,
    root: str,
    is_file: Callable[[str], bool],
    limit: int = 10,
) -> str:
    """Return GitHub Actions' workflow commands: one for each exceeded limit, and for its worst
    offenders. An offender is reported at the innermost line of its stack whose file is under `root`
    and satisfies `is_file`."""
    lines = []
    for verdict in verdicts:
        if verdict.kept:
            continue
        lines.append(_error(f"laconic {verdict.rule}", sentence(verdict, figures)))
        for one in _shown(verdict, limit):
            frames = _frames(one.key, figures, stacks)
            source = next(
                (found for found in (_source(frame, root, is_file) for frame in frames) if found),
                (),
            )
            text = [
                f"{headline(one, verdict.what, figures.total)}: {place(one.key)}"
                if one.kind == SITE
                else headline(one, verdict.what, figures.total),
                *(f"< {describe(f)}" for f in frames[1:8]),
            ]
            lines.append(_error(f"laconic {verdict.rule}", "\n".join(text), source))
    return "".join(f"{line}\n" for line in lines)


def _frames(key: Key, figures: RunFigures, stacks: Stacks) -> Sequence[Place]:
    stack = figures.stacks.get(key)
    return (
        [] if stack is None else [frame for frame, _ in own_frames(key.call, stacks.places(stack))]
    )


def _source(frame: Place, root: str, is_file: Callable[[str], bool]) -> tuple[str, int] | tuple[()]:
    whole = os.path.normpath(os.path.join(root, frame.file))
    path = os.path.relpath(whole, root)
    return (path, frame.line) if frame.line and not path.startswith("..") and is_file(whole) else ()


def _error(title: str, text: str, source: tuple[str, int] | tuple[()] = ()) -> str:
    where = f"file={_escaped(source[0], True)},line={source[1]}," if source else ""
    return f"::error {where}title={_escaped(title, True)}::{_escaped(text)}"


def _escaped(text: str, in_property: bool = False) -> str:
    # The escapes of @actions/core's command.ts.
    for char in "%\r\n" + (":," if in_property else ""):
        text = text.replace(char, f"%{ord(char):02X}")
    return text
