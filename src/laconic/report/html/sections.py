"""The parts of the page that need no script: headline, figures, the most expensive sites, the site
table's first rows, the strategies with the bound as a line, and the notes.

Every name in the markup must pass through `text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from laconic.analysis.compare import BOUND, Figures
from laconic.analysis.timeline.collect import Page
from laconic.replay.enclaves import BEFORE
from laconic.report.headline import LOWEST
from laconic.report.html import numbers
from laconic.report.html.data import FIRST
from laconic.report.html.groups import Group, by_cost, groups, loaded_files, subjects
from laconic.report.html.headline import markup
from laconic.report.html.missing import missing
from laconic.report.html.names import LOADER
from laconic.report.html.numbers import (
    CLOCK,
    count,
    cycles,
    middle,
    seconds,
    share,
    size,
    unbroken,
)
from laconic.report.numbers import ends_text, low_to_high
from laconic.report.text import plain
from laconic.sgx.meter import Counts
from laconic.trace.numbers import LowHigh
from laconic.trace.selection import Selection
from laconic.trace.words import plural

#: The number of rows of the site table without a script.
ROWS = 25

#: The defined words of the page, with their definitions.
WORDS = {
    "calls": "memory calls of the program: mmap, mprotect, munmap, brk, madvise and others.",
    "host calls": "the system calls that Linux executes for them under laconic.",
    "elided": "describes a call that needed no host call.",
    "redundant": "describes a call that succeeded and changed nothing.",
    "touched": "describes pages that the program has read or written at least once.",
    "floor": "the lowest cost that any strict strategy could have. A strict strategy never gives a "
    "page more access than the program requested.",
    "cycles": "an estimate: counted events, times the cost of each in the cost profile. The range is "
    "the profile's low and high end.",
    "OCALL": "a call from the enclave to the host: the CPU leaves the enclave and enters it again.",
    "EPC": "the physical memory of enclaves. Its peak is the size that the enclave needs.",
    "EAUG": "adds a page to a running enclave. It comes with a fault: the CPU leaves the enclave, the "
    "driver adds the page, and the CPU returns.",
    "EACCEPT": "the enclave accepts a page that was added or changed, once for each page.",
    "EMOD": "EMODPE and EMODPR extend and restrict the permissions of a page, EMODT changes its type, "
    "EREMOVE removes it.",
    "ETRACK": "waits until no CPU uses an old permission: an interrupt to every CPU in the enclave, "
    "once for each page that is restricted or removed.",
}

#: A short description of each strategy; `laconic.strategies` has the names.
STRATEGIES = {
    "every-call": "commits what is mapped, passes every call on",
    "skip-equal": "omits an mprotect if the protection is already set",
    "classify": "does only the kind of change that a call makes",
    "laconic": "classify, and commits a page when it is touched",
    "sgx-emm": "Intel's SDK: skips equal permissions in each region",
    "edmm-tuned": "the best published: pre-allocates, batches, frees lazily",
}
#: The page's names of strategies.
SHOWN = {"every-call": "Gramine today", BOUND: "floor"}


class CostPart(NamedTuple):
    """A part of a cost: its name, and the events that it contains."""

    name: str
    short: str
    events: tuple[str, ...]


#: The parts of a strategy's cost, in the order of its bar; the last one has all other events.
PARTS = (
    CostPart("pages added: EAUG and its faults", "EAUG", ("eaug", "eaug_faults")),
    CostPart("pages accepted: EACCEPT, EACCEPTCOPY", "EACCEPT", ("eaccept", "eacceptcopy")),
    CostPart(
        "permissions and types: EMODPE, EMODPR, EMODT, EREMOVE",
        "EMOD",
        ("emodpe", "emodpr", "emodt", "eremove"),
    ),
    CostPart("ETRACK and its interrupts", "ETRACK", ("etrack_ipis",)),
    CostPart("OCALLs, ioctls, copies and the rest", "OCALL", ()),
)


def text(name: str) -> str:
    """Return a name as markup in which every character is shown literally."""
    return escape(plain(name))


def term(word: str, shown: str = "") -> str:
    """Return a word of the page that opens its definition."""
    return f'<button type="button" class="term" data-term="{word}">{shown or word}</button>'


# The first screen


def hero(page: Page) -> str:
    """Return headline, figures and the most expensive sites."""
    parts = [markup(page), _hints(page), _attached(page), selected(page.selection)]
    parts += [_warning(page), _figures(page), _five(page)]
    return "\n".join(part for part in parts if part)


def selected(selection: Selection | None) -> str:
    """Return which calls the page covers, if not all; all its numbers are of these calls."""
    return "" if selection is None else f'<p class="wh">Selected: {text(str(selection))}</p>'


def _hints(page: Page) -> str:
    # What to do, if there is something.
    if not page.hints:
        return ""
    what = ", ".join(f"<code>{text(hint)}</code>" for hint in page.hints)
    return f'<p class="wh">Next: <code>laconic advise</code> says what to set: {what}.</p>'


def _attached(page: Page) -> str:
    # A trace of `laconic attach` lacks the start of the program.
    pid = page.about.get("attached_to")
    if not isinstance(pid, int):
        return ""
    return (
        f'<p class="wh">Laconic attached to process {pid} while it was running: what it did before is not in this '
        "trace, and the memory that it had is one row.</p>"
    )


def _warning(page: Page) -> str:
    # One line if the figures are not entirely reliable; the notes say why.
    if not page.loss:
        return ""
    return (
        f'<p class="warn">This trace is incomplete: {plural(len(page.loss), "kind")} of loss, see the '
        '<a href="#notes">notes</a>. All numbers are of the readable part.</p>'
    )


def strategy_cycles(page: Page, name: str) -> LowHigh:
    """Return the total of a strategy, (0, 0) if it was not compared."""
    if page.compared is None or name not in page.compared.strategies:
        return 0, 0
    return page.compared.strategies[name].total.cycles


def _figures(page: Page) -> str:
    ledger = page.ledger
    elided = sum(each.elided for each in ledger.by_call.values())
    parts = [
        _figure(
            term("calls", "Calls"),
            _view("calls", _exact(ledger.calls)),
            f"{_view('redundant', _exact(ledger.redundant))} {term('redundant')}, "
            f"{_view('redundant-share', share(ledger.redundant, ledger.calls))}",
        ),
        _figure(
            term("host calls", "Host calls on Linux"),
            _view("host-calls", _exact(ledger.host_calls)),
            f"{_view('elided', _exact(elided))} {term('elided')}",
        ),
        f'<div class="flow"><dt>Cost in an enclave, {term("cycles")}; seconds at {CLOCK / 1e9:g} GHz</dt>'
        f'<dd class="three">{_three(page)}</dd></div>',
        _peak(page),
    ]
    return f'<dl class="fig">{"".join(parts)}</dl>'


def _figure(label: str, value: str, below: str) -> str:
    return f'<div><dt>{label}</dt><dd>{value}</dd><dd class="wh">{below}</dd></div>'


def _view(name: str, shown: str) -> str:
    # The script replaces this element if a part of the trace is selected.
    return f'<span data-figure="{name}">{shown}</span>'


def _exact(number: int) -> str:
    # A rounded count has the exact one as its title.
    shown = count(number)
    return shown if shown == f"{number:,}" else f'<span title="{number:,}">{shown}</span>'


def _three(page: Page) -> str:
    today, laconic, floor = (
        strategy_cycles(page, name) for name in ("every-call", "laconic", BOUND)
    )
    unit = numbers.unit(today[1])
    less = ""
    if page.compared is not None and laconic[0]:
        ratio = page.compared.strategies["every-call"].ratio(page.compared.strategies["laconic"])
        if ratio is not None:
            less = f" · {_less(ratio)}"
    arrow = '<span class="ar" aria-hidden="true">→</span>'
    return arrow.join(
        f'<span class="a {css}"><span class="wh">{label}</span>{_view(css, cycles(span, unit))}'
        f'<span class="wh">{_view(css + "-seconds", seconds(span) + more)}</span></span>'
        for css, label, span, more in (
            ("today", "Gramine today", today, ""),
            ("lac", "under laconic", laconic, less),
            ("flr", term("floor"), floor, ""),
        )
    )


def _less(ratio: LowHigh) -> str:
    # How many times less laconic costs than today; a ratio of about 1 is not shown.
    low, high = ratio
    if low >= 1.005:
        return f"{numbers.times(low, high)} less"
    if high <= 0.995:
        return f"{numbers.times(1 / high, 1 / low)} more"
    return "no less"


def _peak(page: Page) -> str:
    if page.compared is None:
        return _figure(f"Peak {term('EPC')}", "0", "")
    peaks = {name: figures.peak[1] for name, figures in page.compared.strategies.items()}
    below = f"{size(peaks['laconic'])} under laconic" if "laconic" in peaks else ""
    return _figure(f"Peak {term('EPC')}", size(peaks.get("every-call", 0)), below)


def _five(page: Page) -> str:
    found = subjects(page)
    if not found:
        return ""
    shown = found[:FIRST]
    total = sum(middle(each.today) for each in groups(page))
    unit = numbers.unit(shown[0].today[1])
    most = max(group.today[1] for group in shown) or 1
    files = loaded_files(page)
    rows = [
        _subject(place, len(shown) > 1, group, most, total, unit, files)
        for place, group in enumerate(shown)
    ]
    hidden = [group for group in groups(page) if group.is_suppressed]
    rest = ""
    if hidden:
        low, high = (sum(group.today[end] for group in hidden) for end in (0, 1))
        sites = sum(len(group.sites) for group in hidden)
        rest = f'<p class="wh">and {cycles((low, high))} cycles suppressed ({plural(sites, "site")})</p>'
    key = (
        '<span class="key"><i class="k t"></i>Gramine today<i class="k th"></i>high end'
        '<i class="k l"></i>under laconic</span>'
    )
    return f'<div class="five"><h2>Costliest sites {key}</h2><ol>{"".join(rows)}</ol>{rest}</div>'


def _subject(
    place: int,
    ranked: bool,
    group: Group,
    most: float,
    total: float,
    unit: tuple[float, str],
    files: int,
) -> str:
    saved = _saved(group)
    worse = " worse" if middle(group.laconic) > middle(group.today) else ""
    number = f"{place + 1}" if ranked else ""
    return (
        f'<li><a href="#sites" data-rank="{place}"><span class="rk">{number}</span>'
        f'<span class="who"><span class="fn" title="{escape(group.full)}">{escape(group.function)}</span>'
        f'<span class="wh">{_where(group, files)}</span></span>{twin(group.today, group.laconic, most, 22)}'
        f'<span class="num"><b>{cycles(group.today, unit)}</b>'
        f'<span class="wh">{share(middle(group.today), total)}</span></span>'
        f'<span class="num sv{worse}"><b>{saved}</b>'
        f'<span class="wh">{cycles(group.laconic, unit)} left</span></span></a></li>'
    )


def _where(group: Group, files: int) -> str:
    if group.module == LOADER:
        mapped = f"{plural(files, 'file')} · " if files else ""
        sites = plural(len(group.sites), "stack")
        return f"the loader, {mapped}{plural(group.tally.calls, 'call')} from {sites}"
    if group.around == BEFORE:
        return "not mapped by a call of this trace"
    if group.around:
        return "what Gramine does around the calls"
    calls = ", ".join(group.calls)
    parts = [group.module, group.line, f"{count(group.tally.calls)} {calls}"]
    return escape(" · ".join(part for part in parts if part))


def _saved(group: Group) -> str:
    today, laconic = middle(group.today), middle(group.laconic)
    if not today:
        return "–"
    if laconic > today:
        return f"costs {share(laconic - today, today)} more"
    return f"saves {share(today - laconic, today)}"


def twin(today: LowHigh, laconic: LowHigh, most: float, height: int) -> str:
    """Return two bars, one above the other: today, and under laconic; each with its high end."""

    def width(value: float) -> str:
        return f"{100 * value / most:.2f}%"

    upper, lower = ('height="11"', 'height="5"')
    return (
        f'<svg class="bar" width="100%" height="{height}" aria-hidden="true" focusable="false">'
        f'<rect class="t2" x="0" y="2" width="{width(today[1])}" {upper} rx="2"/>'
        f'<rect class="t1" x="0" y="2" width="{width(today[0])}" {upper} rx="2"/>'
        f'<rect class="l2" x="0" y="15" width="{width(laconic[1])}" {lower} rx="1"/>'
        f'<rect class="l1" x="0" y="15" width="{width(laconic[0])}" {lower} rx="1"/></svg>'
    )


# Cost by site


def site_table(page: Page) -> str:
    """Return the heading and the first rows of the table; the script draws it again."""
    found = groups(page)
    unit = table_unit(found)
    letter = f"{unit[1]} " if unit[1] else ""
    heads = [
        "Site",
        "Call",
        "Calls",
        "Redundant",
        "Host calls",
        "Size",
        "Touched",
        f"Today, {letter}cycles",
        f"Laconic, {letter}cycles",
    ]
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    rows = "".join(_site_row(group, unit) for group in found[:ROWS])
    more = len(found) - ROWS
    rest = ""
    if more > 0:
        rest = f'<p class="wh nojs">and {plural(more, "row")} more: <code>laconic callers</code> lists all.</p>'
    return (
        f'<div class="scroll"><table id="tab" data-scale="{unit[0]:.0f}" data-letter="{unit[1]}"><thead>'
        f"<tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{rest}"
    )


def table_unit(found: Sequence[Group]) -> tuple[float, str]:
    """Return the unit of the table's cycles: the largest in which the first row has two digits, so
    that rows that cost much less are readable too."""
    most = found[0].today[1] if found else 0
    return numbers.unit(most / 10)


def _site_row(group: Group, unit: tuple[float, str]) -> str:
    tally = group.tally
    where = " · ".join(part for part in (group.module, group.line) if part)
    cells = [
        escape(", ".join(group.calls)),
        _exact(tally.calls),
        _exact(tally.redundant),
        _exact(tally.host_calls),
        size(tally.pages),
        size(tally.touched),
        cycles(group.today, (unit[0], "")),
        cycles(group.laconic, (unit[0], "")),
    ]
    name = (
        f'<span class="fn">{escape(group.function)}</span> <span class="wh">{escape(where)}</span>'
    )
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="row"><th scope="row" title="{escape(group.full)}">{name}</th>{row}</tr>'


# Strategies


def strategies(page: Page) -> str:
    """Return the bars, with the floor as a line through all of them, and the counts as a table."""
    if page.compared is None:
        return "<p>There is no call to compare strategies by.</p>"
    found = page.compared.strategies
    names = [name for name in found if name != BOUND]
    floor = found[BOUND].total.cycles if BOUND in found else (0.0, 0.0)
    most = max(*(found[name].total.cycles[1] for name in names), floor[1], 1)
    unit = numbers.unit(max(found[name].total.cycles[1] for name in names))
    rows = "".join(_strategy(page, name, floor, most, unit) for name in names)
    legend = "".join(
        f'<li><i class="k c{number}"></i>{part.name}</li>' for number, part in enumerate(PARTS)
    )
    legend += (
        '<li><i class="k hik"></i>up to the high end of the cost profile</li>'
        '<li><i class="k flk"></i>floor: no strict strategy costs less</li>'
    )
    return (
        f'<ol class="sts">{_floor_head(floor, most, unit)}{rows}{_axis(most)}</ol>'
        f'<ul class="legend">{legend}</ul>{_strategy_table(page, unit)}'
    )


def _place(value: float, most: float) -> str:
    return f"{100 * value / most:.2f}%"


def _floor_head(floor: LowHigh, most: float, unit: tuple[float, str]) -> str:
    at = 100 * floor[0] / most
    anchor = "start" if at < 50 else "end"
    return (
        '<li class="ax"><span class="who"></span><svg width="100%" height="22" aria-hidden="true">'
        f'<text class="flt" x="{at:.2f}%" y="14" text-anchor="{anchor}">floor {cycles(floor, unit)}</text>'
        f'<line class="fl" x1="{at:.2f}%" x2="{at:.2f}%" y1="17" y2="22"/></svg>'
        "<span></span><span></span></li>"
    )


def _strategy(page: Page, name: str, floor: LowHigh, most: float, unit: tuple[float, str]) -> str:
    assert page.compared is not None
    figures = page.compared.strategies[name]
    low, high = figures.total.cycles
    css = {"every-call": " t", "laconic": " l"}.get(name, "")
    shown = SHOWN.get(name, name)
    about = STRATEGIES.get(name, "")
    prefix = f"{name}: " if name in SHOWN and about else ""
    bars = []
    at = 0.0
    for number, (part, span) in enumerate(zip(PARTS, parts(page, figures), strict=True)):
        if span[0] <= 0:
            continue
        bars.append(
            f'<rect class="c{number}" x="{_place(at, most)}" y="14" width="{_place(span[0], most)}" height="22">'
            f"<title>{part.name}: {cycles(span)} cycles</title></rect>"
        )
        at += span[0]
    ratio = figures.ratio(page.compared.strategies[BOUND]) if floor[1] else None
    times = "" if ratio is None else f"<b>{numbers.times(*ratio)}</b>"
    cost = cycles((low, high), unit)
    left, right = _place(floor[0], most), _place(floor[1] - floor[0], most)
    end = _place(high, most)
    return (
        f'<li data-strategy="{text(name)}"><span class="who"><span class="sn{css}">{text(shown)}</span>'
        f'<span class="wh" title="{about}">{prefix}{about}</span></span>'
        f'<svg class="sbar" width="100%" height="50" role="img" aria-label="{text(shown)}: {cost} cycles">'
        f"{''.join(bars)}"
        f'<rect class="hi" x="{_place(at, most)}" y="21" width="{_place(max(high - at, 0), most)}" height="8"/>'
        f'<line class="cap" x1="{end}" x2="{end}" y1="16" y2="34"/>'
        f'<rect class="flo" x="{left}" y="0" width="{right}" height="100%"/>'
        f'<line class="flw" x1="{left}" x2="{left}" y1="0" y2="100%"/>'
        f'<line class="fl" x1="{left}" x2="{left}" y1="0" y2="100%"/></svg>'
        f'<span class="num"><b>{cost}</b><span class="wh">{seconds((low, high))}</span></span>'
        f'<span class="num">{times}<span class="wh">the floor</span></span></li>'
    )


def parts(page: Page, figures: Figures) -> list[LowHigh]:
    """Return the cost of each of `PARTS`: at the low end for the lowest counts, at the high end for
    the highest."""
    named = {event for part in PARTS for event in part.events}
    spans = []
    for part in PARTS:
        low = high = 0.0
        for event, cost in page.profile.figures.items():
            if event in part.events or (not part.events and event not in named):
                low += cost.low * getattr(figures.total.low, event)
                high += cost.high * getattr(figures.total.high, event)
        spans.append((low, high))
    return spans


def _axis(most: float) -> str:
    marks = [tick for tick in round_steps(most, 4) if tick < 0.97 * most]
    ticks = "".join(
        f'<text x="{_place(tick, most)}" y="13" text-anchor="{"middle" if tick else "start"}">'
        f"{cycles((tick, tick))}</text>"
        for tick in marks
    )
    return (
        '<li class="ax"><span class="who"></span><svg width="100%" height="18" aria-hidden="true">'
        f"{ticks}</svg><span></span><span></span></li>"
    )


def round_steps(most: float, wanted: int) -> Iterable[float]:
    """Return round numbers from 0 to `most`, about `wanted` of them."""
    rough = most / wanted
    power = 10.0 ** (len(str(int(rough))) - 1)
    step = next((each * power for each in (1, 2, 5, 10) if each * power >= rough), rough)
    number = 0
    while number * step <= most:
        yield number * step
        number += 1


def _strategy_table(page: Page, unit: tuple[float, str]) -> str:
    assert page.compared is not None
    found = page.compared.strategies
    heads = [
        "Strategy",
        "Cycles",
        f"at {CLOCK / 1e9:g} GHz",
        "× floor",
        term("OCALL", "OCALLs"),
        term("ETRACK"),
        f"{term('EAUG')} faults",
        term("EACCEPT"),
        f"Peak {term('EPC')}",
    ]
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    rows = []
    for name, figures in found.items():
        ratio = figures.ratio(found[BOUND]) if BOUND in found else None
        low, high = figures.total.low, figures.total.high
        cells = [
            cycles(figures.total.cycles, unit),
            seconds(figures.total.cycles),
            "–" if ratio is None else numbers.ratio(*ratio),
            *(
                _counts(low, high, *events)
                for events in (
                    ("host_calls",),
                    ("etrack_ipis",),
                    ("eaug_faults",),
                    ("eaccept", "eacceptcopy"),
                )
            ),
            _pages(figures.peak),
        ]
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        css = ' class="floor"' if name == BOUND else ""
        rows.append(f'<tr{css}><th scope="row">{text(SHOWN.get(name, name))}</th>{row}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Strategies, counts and cycles">'
        f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _counts(low: Counts, high: Counts, *events: str) -> str:
    first, last = (sum(getattr(counts, event) for event in events) for counts in (low, high))
    if first == last:
        return _exact(last)
    shown = unbroken(ends_text(count(first), count(last)))
    return f'<span title="{low_to_high(first, last)}">{shown}</span>'


def _pages(span: tuple[int, int]) -> str:
    return unbroken(ends_text(size(span[0]), size(span[1])))


# Notes


def notes(page: Page) -> list[str]:
    """Return how far the figures can be trusted: sentences, as markup."""
    lines = [f"{text(sentence)}." for sentence in missing(page)]
    lines += [
        f"No symbols of <code>{text(path)}</code>: {text(why)}." for path, why in page.modules
    ]
    profile = page.profile
    if page.compared is not None:
        guessed = (
            " No source for: "
            f"{text(', '.join(each.replace('_', ' ') for each in profile.unsourced))}."
            if profile.unsourced
            else ""
        )
        lines += [
            f"Cycles are an estimate by the cost profile <code>{text(profile.name)}</code> "
            f"({text(profile.machine)}); each range goes from its low to its high end.{guessed} "
            "Counts do not depend on it.",
            f"Seconds are cycles at {CLOCK / 1e9:g} GHz, of memory calls alone; they are no part "
            "of the program's own run time.",
            *([] if page.knows_sizes else [f"{LOWEST}, except in the comparison of strategies."]),
            "Where one number must do (the width of a bar, the order of rows, a share), it is the "
            "middle of the range.",
            *(_around(page)),
        ]
    if page.source != "run":
        lines.append(
            f"The trace was imported from a log ({text(page.source)}): the host calls are those "
            "that would be made."
        )
    lines += [f"{text(note)}." for note in page.ledger.notes]
    lines += _suppressed(page)
    return lines


def _around(page: Page) -> list[str]:
    # Costs that are in the total, but at no site.
    low = high = 0.0
    for work in page.around.values():
        cost = page.profile.cycles(work.cost())
        low += cost[0]
        high += cost[1]
    if not high:
        return []
    return [
        "What Gramine does around the calls (the start of programs and threads, fork, execve, the "
        f"growth of stacks) costs {cycles((low, high))} cycles; it has rows of its own, without "
        "calls, and is in no window of time."
    ]


def _suppressed(page: Page) -> list[str]:
    if not page.hidden:
        return ["Nothing is suppressed."]
    lines = [
        f"Suppressed: {escape(group.function)}: {plural(group.tally.calls, 'call')}, "
        f"{count(group.tally.redundant)} redundant, {cycles(group.today)} cycles, from "
        f"{plural(len(group.sites), 'site')}."
        for group in groups(page)
        if group.is_suppressed
    ]
    lines.append(
        "Suppressed sites are in all figures and pictures, but are never the headline; "
        "<code>--no-suppressions</code> shows them one by one."
    )
    return lines


def notes_section(page: Page, binned: Sequence[str]) -> str:
    """Return the collapsed section at the end; it is open if the trace is incomplete or empty."""
    sentences = [*notes(page), *(f"{text(sentence)}." for sentence in binned)]
    items = "".join(f"<li>{sentence}</li>" for sentence in sentences)
    words = "".join(f"<dt>{word}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS.items())
    opened = " open" if page.loss or not page.ledger.calls else ""
    about = f"how far to trust these figures · {len(sentences)} notes, {len(WORDS)} words"
    return (
        f'<details{opened}><summary><h2>Notes</h2> <span class="wh">{about}</span></summary>'
        f'<ul>{items}</ul>{_by_call(page)}<h3>Words</h3><dl class="gl">{words}</dl></details>{_foot(page)}'
    )


def _by_call(page: Page) -> str:
    ledger = page.ledger
    if not ledger.by_call:
        return ""
    found = sorted(ledger.by_call.items(), key=lambda item: (-item[1].calls, item[0]))
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th>'
        + "".join(
            f"<td>{_exact(number)}</td>"
            for number in (each.calls, each.host_calls, each.elided, each.narrowed, each.failed)
        )
        + "</tr>"
        for name, each in found
    )
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("Memory call", "Calls", "Host calls", "Elided", "Narrowed", "Failed")
    )
    return (
        '<h3>Calls by name</h3><div class="scroll" tabindex="0" role="region" aria-label="Calls by name">'
        f'<table class="plain"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _foot(page: Page) -> str:
    machine = " ".join(
        str(page.machine[key]) for key in ("system", "release", "machine") if page.machine.get(key)
    )
    parts = [
        f"Recorded on {text(machine)}" if machine and page.source == "run" else "",
        f"{page.events:,} {'event' if page.events == 1 else 'events'}"
        + (f" in {seconds((page.last * CLOCK / 1e9,) * 2)}" if page.last else ""),
        plural(page.ledger.processes, "process", "processes"),
        "" if page.end.get("exit_status") is None else f"exit status {page.end['exit_status']}",
    ]
    line = " · ".join(part for part in ("Laconic", *parts) if part)
    return f'<p class="wh foot">{line} · <a href="#top">Back to the top</a></p>'


def command(page: Page) -> str:
    """Return the command line, or the first program's name."""
    words = page.about.get("command") or []
    if isinstance(words, list) and words:
        return " ".join(plain(str(word)) for word in words)
    return plain(page.processes[0].path) if page.processes else "an empty trace"


__all__ = ["by_cost", "command", "hero", "notes_section", "site_table", "strategies"]
