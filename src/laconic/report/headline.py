"""The headline of a trace: one sentence that a person can repeat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from laconic.analysis.callers import AROUND, SITE, UNKNOWN, Caller, CycleSpan
from laconic.analysis.headline import (
    COMMITS,
    COSTLY,
    LEAVES,
    LOADER,
    NO_CALLS,
    REDUNDANT,
    RELEASES,
    RESTRICTS,
    UNTOUCHED,
    Headline,
)
from laconic.analysis.suppressions import LOADING
from laconic.replay.enclaves import BEFORE, EXEC, FORK, LOAD, OTHER, STACK, THREAD, WRITE
from laconic.report import numbers
from laconic.report.numbers import share, size
from laconic.report.shortnames import short_function, short_line, short_module
from laconic.trace.words import plural

#: The work of a library OS around the calls, as the subject of a sentence.
WORK = {
    LOAD: "Loading the program",
    BEFORE: "The memory it had before attach",
    EXEC: "execve",
    FORK: "fork",
    THREAD: "Starting and ending threads",
    WRITE: "Writing to mapped files",
    STACK: "The growth of stacks",
    OTHER: "What was not observed as calls",
}


#: The note on the costs of sites and calls in a log without sizes of files.
LOWEST = (
    "The log does not have the sizes of all mapped files: the counts and cycles of its sites and "
    "calls are the lowest that any sizes permit"
)
#: The maximum number of callers that cost more than a headline's subject and are named before it.
_NAMED = 2
#: The part of a program's cost, from 0 to 1, below which laconic saves nothing.
_NOTHING = 0.005


class Sentence(NamedTuple):
    """`text` is the headline; `more`, which may be empty, is what else matters."""

    text: str
    more: str = ""


def no_calls(is_selection: bool) -> str:
    """Return the answer if no call is counted."""
    if is_selection:
        return "No memory call is selected: change --between, --pid, --program or --call."
    return "This program made no memory calls."


def sentence(found: Headline) -> Sentence:
    """Return the headline, and what else matters."""
    if found.rule == NO_CALLS or found.subject is None:
        return Sentence(no_calls(found.is_selection))
    unit = numbers.unit([found.cost.high])
    cost = numbers.cycles(*found.cost, unit)
    total = numbers.cycles(*found.total)
    if found.rule == UNTOUCHED:
        return Sentence(
            f"This log does not say which pages were touched: it costs {total} or more under "
            "every-call. Record with  laconic run -o FILE  for one answer."
        )
    if found.rule == REDUNDANT:
        return Sentence(_redundant(found, found.subject), _costs(found, cost, unit))
    part = share(found.cost.middle, found.total.middle)
    if found.rule == LOADER:
        subject = loading(found.files)
        return Sentence(
            f"{_ranked(found, subject, cost)}, {part} of the total; {_left(found, unit)}."
        )
    if found.rule == COSTLY:
        cause = _cause(found)
        text = f"{_ranked(found, name(found.subject), cost)}, {part} of the total"
        text = f"{text}; {_left(found, unit)}{f': {cause}' if cause else ''}."
        return Sentence(text, _loader(found))
    return Sentence(_even(found))


def _ranked(found: Headline, subject: str, cost: str) -> str:
    # Return what a subject costs. If others cost more, they come first: laconic saves less of their
    # cost.
    if not found.larger:
        return f"{subject} costs {cost}"
    subject = _in_sentence(subject)
    if len(found.larger) > _NAMED or any(caller.kind == SITE for caller, _ in found.larger):
        return f"Laconic saves most at {subject}, which costs {cost}"
    names = [
        f"{_in_sentence(_larger(caller, found))} ({share(span.middle, found.total.middle)})"
        for caller, span in found.larger
    ]
    return f"After {' and '.join(names)}, {subject} costs most: {cost}"


def _larger(caller: Caller, found: Headline) -> str:
    if caller.kind == AROUND:
        return WORK[caller.name]
    return loading(found.files) if caller.name == LOADING else caller.name


def _in_sentence(subject: str) -> str:
    # The texts of `WORK` and of `loading` are written for the start of a sentence.
    is_ours = subject.startswith("Loading ") or subject in WORK.values()
    return subject[:1].lower() + subject[1:] if is_ours else subject


def _even(found: Headline) -> str:
    # No site saves much; the question then is whether all of them together do.
    calls = plural(found.calls, "call")
    if found.before.high:
        calls += " after attach"
        found = found._replace(
            total=_less(found.total, found.before),
            total_left=_less(found.total_left, found.before_left),
        )
    total = numbers.cycles(*found.total)
    saved = 1 - found.total_left.middle / found.total.middle if found.total.middle else 0.0
    if saved < _NOTHING:
        return (
            f"Laconic would save nothing: {calls} cost {total} under every-call, and no less under "
            "laconic."
        )
    left = numbers.cycles(*found.total_left) if found.total_left.high else "nothing"
    costs = f"{calls} cost {total} under every-call, and {left} under laconic"
    return f"No site stands out: {costs}, {share(saved, 1)} less."


def _less(whole: CycleSpan, part: CycleSpan) -> CycleSpan:
    return CycleSpan(max(whole.low - part.low, 0.0), max(whole.high - part.high, 0.0))


def name(subject: Caller) -> str:
    """Return a site as the subject of a sentence: call, function, module, and its line if it is
    known."""
    if subject.kind == AROUND:
        return WORK[subject.name]
    if subject.name == UNKNOWN:
        return f"{subject.call} (its stack is unknown)"
    return f"{subject.call} from {where(subject)}"


def where(subject: Caller) -> str:
    """Return the function of a site, its module and its line; the module only if it is not the
    program."""
    line = short_line(subject.file, subject.line)
    module = short_module(subject.module)
    function = short_function(subject.name)
    if function.startswith(f"{subject.module}+"):
        return function
    if line and subject.module == subject.program.rsplit("/", 1)[-1]:
        module = ""
    return f"{function} ({', '.join(part for part in (module, line) if part)})"


def loading(files: int) -> str:
    """Return the work of the dynamic loader as text."""
    return f"Loading {plural(files, 'file')}" if files else LOADING


def _left(found: Headline, unit: numbers.Unit) -> str:
    # Use the unit of the cost with which it is compared.
    if not found.left.high:
        return "nothing under laconic"
    return f"{numbers.span(*found.left, unit)} {unit[1]} under laconic".replace("  ", " ")


def _redundant(found: Headline, subject: Caller) -> str:
    head = f"{share(found.redundant, found.calls)} of {plural(found.calls, 'call')} change nothing"
    times = plural(subject.calls, "time")
    if subject.redundant == subject.calls:
        return f"{head}: {where(subject)} calls {subject.call} {times}, each time for nothing."
    return (
        f"{head}: {where(subject)} calls {subject.call} {times}, {subject.redundant:,} times for "
        "nothing."
    )


def _costs(found: Headline, cost: str, unit: numbers.Unit) -> str:
    part = share(found.cost.middle, found.total.middle)
    return f"These calls cost {cost}, {part} of the total; {_left(found, unit)}."


def _cause(found: Headline) -> str:
    if found.cause == COMMITS:
        committed = size(found.committed)
        if not found.touched:
            return f"it commits {committed} that are never touched"
        return f"it commits {committed} and touches {size(found.touched)}"
    if found.cause == RESTRICTS:
        return f"it restricts {size(found.restricted)} page by page"
    if found.cause == RELEASES:
        return f"it gives back {size(found.released)} page by page"
    if found.cause == LEAVES:
        return f"it leaves the enclave {plural(found.host_calls, 'time')}"
    return ""


def _loader(found: Headline) -> str:
    if found.loader is None or not found.loader_cost.high:
        return ""
    part = share(found.loader_cost.middle, found.total.middle)
    unit = numbers.unit([found.loader_cost.high])
    left = _left(found._replace(left=found.loader_left), unit)
    return (
        f"{loading(found.files)} costs {numbers.cycles(*found.loader_cost, unit)}, {part}; {left}."
    )


def as_json(found: Headline) -> dict[str, object]:
    """Return the headline as text, with its figures."""
    text, more = sentence(found)
    return {
        "rule": found.rule,
        "text": text,
        "more": more,
        "share": found.share,
        "cycles": ends(found.cost),
        "laconic_cycles": ends(found.left),
    }


def ends(span: Iterable[float]) -> dict[str, int]:
    """Return a range of cycles."""
    low, high = span
    return {"low": round(low), "high": round(high)}
