"""The page of two traces: regressions and improvements between them. It needs no script; with one,
its table can be sorted and searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from html import escape

from laconic.analysis.baseline import Key, KeyTally
from laconic.analysis.callers import AROUND, SITE, SUPPRESSED, CycleSpan
from laconic.analysis.compare import BOUND, Compared
from laconic.analysis.diff import Delta
from laconic.analysis.pair import Box, Pair, PairRow, Side
from laconic.analysis.suppressions import LOADING
from laconic.report.diff import sentence, subject
from laconic.report.headline import LOWEST, WORK, Sentence
from laconic.report.html import numbers, sections
from laconic.report.html.document import joined, piece, script_of
from laconic.report.html.headline import heading
from laconic.report.html.names import short_function, short_line, short_module
from laconic.report.html.numbers import count, cycles, seconds, share, size
from laconic.report.html.sections import term, text
from laconic.report.numbers import change
from laconic.report.text import plain, script_json
from laconic.trace.words import plural

#: Rows of the table, and rows of the list on the first screen.
ROWS, FIRST = 500, 5
#: The part of the graph's width, in percent, below which a box is not drawn; the height of a row in
#: pixels.
_THINNEST, _HEIGHT = 0.15, 22
#: The maximum number of rows of the graph, and of boxes in total: deeper boxes, and the thinnest
#: ones, are not drawn.
_DEEPEST, _BOXES = 24, 3_000
#: The maximum number of boxes that are listed as text.
_LISTED = 200
#: The thresholds of the colors: a box's change as a part of the larger of its costs.
_STEPS = (0.02, 0.25, 0.6)
#: The words of the page that its notes define.
_WORDS = ("calls", "host calls", "elided", "redundant", "floor", "cycles", "OCALL", "EPC")
_SCRIPTS = ("base", "tip", "top", "pair")
_ARROW = ' <span class="ar" aria-hidden="true">→</span><span class="vh">to</span> '


def as_html(pair: Pair) -> bytes:
    """Return the page, in UTF-8: the same for the same data. O(sites + boxes)."""
    style, script = _pieces()
    title = f"{plain(pair.before.name)} → {plain(pair.after.name)}"
    parts = {
        "title": escape(title),
        "hero": _hero(pair),
        "sites": _table(pair),
        "graph": _graph(pair),
        "strategies": _strategies(pair),
        "notes": _notes_section(pair),
        "data": script_json(_headline(pair)._asdict()),
    }
    return joined(piece("pair.html"), style, script, parts)


@cache
def _pieces() -> tuple[str, str]:
    return f"{piece('page.css')}\n{piece('pair.css')}", script_of(_SCRIPTS)


# The first screen


def _hero(pair: Pair) -> str:
    chosen = sections.selected(pair.before.sites.selection)
    parts = [
        heading(_headline(pair), _first_name(pair)),
        chosen,
        _warning(pair),
        _figures(pair),
        _five(pair),
    ]
    return "\n".join(part for part in parts if part)


def _headline(pair: Pair) -> Sentence:
    return Sentence(*map(plain, sentence(pair.difference)))


def _first_name(pair: Pair) -> str:
    # The function that the headline may name.
    first = next((row.today for row in pair.rows if row.today.kind == SITE), None)
    return "" if first is None else short_function(first.key.function)


def _warning(pair: Pair) -> str:
    lost = [side.name for side in (pair.before, pair.after) if side.sites.loss]
    if not lost:
        return ""
    verb = "is" if len(lost) == 1 else "are"
    return (
        f'<p class="warn">{text(" and ".join(lost))} {verb} incomplete, see the <a href="#notes">notes</a>. '
        "All numbers are of the readable part.</p>"
    )


def _figures(pair: Pair) -> str:
    total = pair.difference.total
    was, now = total.was, total.now
    elided = [
        sum(line.elided for line in side.sites.ledger.by_call.values()) for side in pair.sides
    ]
    span_was, span_now = _span(was), _span(now)
    unit = numbers.unit(max(span_was.high, span_now.high))
    css = _direction(total)
    changed = _change(total, unit)
    cost = "unchanged" if css == "same" else f'<span class="{css}">{changed}</span>'
    if css != "same" and span_was.high:
        cost += f" ({_part(span_was.middle, span_now.middle)})"
    peaks, low_peaks = (
        [_peak(side, name) for side in pair.sides] for name in ("every-call", "laconic")
    )
    grown = f"{'+' if peaks[1] > peaks[0] else '−'}{size(abs(peaks[1] - peaks[0]))}"
    parts = [
        _figure(
            term("calls", "Calls"),
            _arrow(_exact(was.calls), _exact(now.calls)),
            _changed(was.calls, now.calls),
            f"{_arrow(_exact(was.redundant), _exact(now.redundant))} {term('redundant')}",
        ),
        _figure(
            term("host calls", "Host calls on Linux"),
            _arrow(_exact(was.host_calls), _exact(now.host_calls)),
            _changed(was.host_calls, now.host_calls),
            f"{_arrow(*map(_exact, elided))} {term('elided')}",
        ),
        _figure(
            f"Cost in an enclave, {term('cycles')}",
            _arrow(cycles(span_was, (unit[0], "")), cycles(span_now, unit)),
            f"{cost}, under every-call",
            f"{_arrow(seconds(span_was), seconds(span_now))} at {numbers.CLOCK / 1e9:g} GHz",
        ),
        _figure(
            f"Peak {term('EPC')}",
            _arrow(*map(size, peaks)),
            _changed(peaks[0], peaks[1], grown),
            f"{_arrow(*map(size, low_peaks))} under laconic",
        ),
    ]
    return f'<dl class="fig">{"".join(parts)}</dl>'


def _figure(label: str, value: str, changed: str, more: str) -> str:
    return (
        f'<div><dt>{label}</dt><dd>{value}</dd><dd class="wh">{changed}</dd>'
        f'<dd class="wh">{more}</dd></div>'
    )


def _arrow(was: str, now: str) -> str:
    return f"{was}{_ARROW}{now}"


def _exact(number: int) -> str:
    shown = count(number)
    return shown if shown == f"{number:,}" else f'<span title="{number:,}">{shown}</span>'


def _changed(was: float, now: float, amount: str = "") -> str:
    # Return a change with its sign, and relative to the value before.
    if was == now:
        return "unchanged"
    css = "up" if now > was else "down"
    shown = amount or f"{'+' if now > was else '−'}{count(abs(round(now - was)))}"
    part = f" ({_part(was, now)})" if was else ""
    return f'<span class="{css}">{shown}</span>{part}'


def _part(was: float, now: float) -> str:
    # Return the relative increase or decrease, as text.
    if not was:
        return "new"
    if not now:
        return "gone"
    if now >= 2 * was:
        return f"{numbers.digits(now / was)} times"
    return f"{share(abs(now - was), was)} {'more' if now > was else 'less'}"


def _span(tally: KeyTally) -> CycleSpan:
    return CycleSpan(tally.cycles_low, tally.cycles)


def _change(delta: Delta, unit: numbers.Unit | None = None) -> str:
    """Return a change of cost, with a sign that is as wide as a digit."""
    shown = change(*delta.cycles, unit)
    return numbers.unbroken(shown.replace("-", "−"))


def _direction(delta: Delta) -> str:
    middle = delta.cycles.middle
    if not middle:
        return "same"
    return "up" if middle > 0 else "down"


def _peak(side: Side, name: str) -> int:
    found = side.compared
    return found.strategies[name].peak[1] if found is not None and name in found.strategies else 0


def _five(pair: Pair) -> str:
    # By their indices in the table.
    rows = {
        at: row.today
        for at, row in enumerate(pair.rows[:ROWS])
        if row.today.cycles.middle and _is_shown(row.today)
    }
    shown = list(rows.items())[:FIRST]
    if not shown:
        return '<div class="five"><h2>No site costs more or less than before</h2></div>'
    most = max(abs(end) for _, delta in shown for end in delta.cycles)
    unit = numbers.unit(most)
    items = "".join(
        _subject(place, at, delta, most, unit, pair) for place, (at, delta) in enumerate(shown, 1)
    )
    key = (
        '<span class="key"><i class="k down"></i>costs less<i class="k up"></i>costs more'
        '<i class="k th"></i>high end</span>'
    )
    return f'<div class="five"><h2>Sites that changed most {key}</h2><ol>{items}</ol></div>'


def _is_shown(delta: Delta) -> bool:
    # Suppressed sites are in the table only, as in the page of one trace; ld.so is one site.
    return delta.kind != SUPPRESSED or delta.key.function == LOADING


def _subject(place: int, at: int, delta: Delta, most: float, unit: numbers.Unit, pair: Pair) -> str:
    was, now = _span(delta.was), _span(delta.now)
    css = _direction(delta)
    # Both costs of a row have the same unit.
    scale = numbers.unit(max(was.high, now.high))
    return (
        f'<li class="pr"><span class="rk">{place}</span>'
        f'<span class="who">{_name(delta, at)}<span class="wh">{_where(delta, pair)}</span></span>'
        f"{_change_bar(delta, most)}"
        f'<span class="num"><b class="{css}">{_change(delta, unit)}</b>'
        f'<span class="wh">{_part(was.middle, now.middle)}</span></span>'
        f'<span class="num sv"><b>{cycles(now, scale)}</b>'
        f'<span class="wh">{cycles(was, scale)} before</span></span></li>'
    )


def _change_bar(delta: Delta, most: float) -> str:
    # Increases are to the right of the middle, decreases to its left.
    css = _direction(delta)
    ends = sorted(abs(end) for end in delta.cycles)
    bars = []
    for kind, end in (("n2", ends[1]), ("n1", ends[0])):
        width = 50 * end / most
        x = 50.0 if css == "up" else 50 - width
        bars.append(
            f'<rect class="{kind} {css}" x="{x:.2f}%" y="5" width="{width:.2f}%" height="12" rx="2"/>'
        )
    return (
        '<svg class="bar" width="100%" height="22" aria-hidden="true" focusable="false">'
        f'{"".join(bars)}<line class="zero" x1="50%" x2="50%" y1="0" y2="22"/></svg>'
    )


def _name(delta: Delta, at: int) -> str:
    # A link to the row of the table.
    full = plain(delta.key.function)
    return f'<a class="fn" href="#row-{at}" title="{escape(full)}">{escape(_title(delta))}</a>'


def _title(delta: Delta) -> str:
    name = delta.key.function
    if delta.kind == AROUND:
        return WORK.get(name, name)
    if delta.kind == SUPPRESSED:
        return "ld.so" if name == LOADING else plain(name)
    return plain(short_function(name)) or delta.key.call


def _where(delta: Delta, pair: Pair) -> str:
    if delta.kind == AROUND:
        return "what Gramine does around the calls"
    was, now = count(delta.was.calls), count(delta.now.calls)
    calls = f"{now if was == now else _arrow(was, now)} {text(delta.key.call)}"
    if delta.kind == SUPPRESSED:
        loader = "the loader · " if delta.key.function == LOADING else ""
        return f"{loader}{calls}calls"
    return " · ".join([*map(escape, _places(delta, pair)), calls])


def _places(delta: Delta, pair: Pair) -> list[str]:
    # The module of a site, and its program if the runs have several.
    module, program = plain(short_module(delta.key.module)), plain(delta.key.program)
    if not pair.has_programs and module:
        return [module]
    return [module, program] if module and module != program else [program]


def _bars(was: CycleSpan, now: CycleSpan, css: str, most: float, height: int) -> str:
    def width(value: float) -> str:
        return f"{100 * value / most:.2f}%"

    return (
        f'<svg class="bar" width="100%" height="{height}" aria-hidden="true" focusable="false">'
        f'<rect class="w2" x="0" y="2" width="{width(was.high)}" height="8" rx="2"/>'
        f'<rect class="w1" x="0" y="2" width="{width(was.low)}" height="8" rx="2"/>'
        f'<rect class="n2 {css}" x="0" y="12" width="{width(now.high)}" height="8" rx="2"/>'
        f'<rect class="n1 {css}" x="0" y="12" width="{width(now.low)}" height="8" rx="2"/></svg>'
    )


# All sites


def _table(pair: Pair) -> str:
    if not pair.rows:
        return "<p>Neither run made a memory call.</p>"
    most = max(max(row.today.was.cycles, row.today.now.cycles) for row in pair.rows)
    unit = numbers.unit(most / 10)
    changes = numbers.unit(max(abs(end) for row in pair.rows for end in row.today.cycles))
    heads = [
        *("Site", "Call", f"Change, {_cycles(changes)}", f"Before, {_cycles(unit)}", "After"),
        *("Laconic before", "Laconic after", "Calls", "Redundant"),
    ]
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    rows = "".join(_row(at, row, unit, changes, pair) for at, row in enumerate(pair.rows[:ROWS]))
    left = len(pair.rows) - ROWS
    rest = ""
    if left > 0:
        rest = (
            f'<p class="wh">and {plural(left, "row")} that changed less: '
            "<code>laconic diff --json</code> has all.</p>"
        )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All sites by change">'
        f'<table class="plain" id="rows"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{rest}'
    )


def _cycles(unit: numbers.Unit) -> str:
    return f"{unit[1]} cycles".strip()


def _row(at: int, row: PairRow, unit: numbers.Unit, changes: numbers.Unit, pair: Pair) -> str:
    delta, left = row.today, row.laconic
    scale = (unit[0], "")
    css, middle = _direction(delta), delta.cycles.middle
    changed = _change(delta, (changes[0], ""))
    cells = [f'<td class="{css}" data-value="{middle:.0f}">{changed}</td>']
    for tally in (delta.was, delta.now, left.was, left.now):
        span = _span(tally)
        cells.append(f'<td data-value="{span.middle:.0f}">{cycles(span, scale)}</td>')
    for was, now in (
        (delta.was.calls, delta.now.calls),
        (delta.was.redundant, delta.now.redundant),
    ):
        shown = _exact(now) if was == now else _arrow(_exact(was), _exact(now))
        cells.append(f'<td data-value="{now}">{shown}</td>')
    full = plain(delta.key.function)
    return (
        f'<tr id="row-{at}"><th scope="row" title="{escape(full)}"><span class="fn">{escape(_title(delta))}</span> '
        f'<span class="wh">{escape(_place(row, pair))}</span></th><td>{text(delta.key.call)}</td>{"".join(cells)}</tr>'
    )


def _place(row: PairRow, pair: Pair) -> str:
    delta = row.today
    if delta.kind != SITE:
        return "no call" if delta.kind == AROUND else "suppressed"
    before, after = (short_line(file, line) for file, line in row.lines)
    line = before if before == after else " → ".join(part for part in (before, after) if part)
    return " · ".join(part for part in (*_places(delta, pair), plain(line)) if part)


# The call graph


def _graph(pair: Pair) -> str:
    root = pair.graph
    if not root.width:
        return "<p>No call costs anything in an enclave.</p>"
    thinnest = _THINNEST
    boxes = list(_boxes(root, 0, 0.0, 100.0 / root.width))
    while len(boxes) > _BOXES:
        thinnest *= 2
        boxes = [each for each in boxes if each[2] >= thinnest]
    rows = max((depth for depth, *_ in boxes), default=0) + 1
    height = rows * _HEIGHT
    unit = numbers.unit(max(root.before, root.after))
    drawn = "".join(_box(*each, unit) for each in boxes)
    steps = [*(f"h{step}" for step in (3, 2, 1)), "g0", *(f"g{step}" for step in (1, 2, 3))]
    words = [
        "much less",
        "less",
        "a little less",
        "unchanged",
        "a little more",
        "more",
        "much more",
    ]
    legend = "".join(
        f'<li><i class="k {css}"></i>{word}</li>' for css, word in zip(steps, words, strict=True)
    )
    about = escape(subject(pair.rows[0].today)) if pair.rows else ""
    label = f"Call graph of both runs, {rows} rows; the largest change: {about}"
    return (
        f'<div class="pic"><svg class="dg" height="{height}" role="img" aria-label="{label}">{drawn}</svg></div>'
        f'<ul class="legend">{legend}</ul>{_listed(boxes, unit)}'
    )


def _boxes(
    box: Box, depth: int, at: float, scale: float
) -> Iterator[tuple[int, float, float, Box]]:
    # Yield depth, position and width in percent, and the box: those that are wide enough, outermost
    # first.
    for each in box.boxes.values():
        width = each.width * scale
        if width >= _THINNEST and depth < _DEEPEST:
            yield depth, at, width, each
            yield from _boxes(each, depth + 1, at, scale)
        at += width


def _box(depth: int, at: float, width: float, box: Box, unit: numbers.Unit) -> str:
    return (
        f'<svg x="{at:.3f}%" y="{depth * _HEIGHT}" width="{width:.3f}%" height="{_HEIGHT}">'
        f"<title>{escape(_about(box, unit))}</title>"
        f'<rect class="{_color(box)}" width="100%" height="100%"/>'
        + (f'<text x="5" y="15">{escape(_box_name(box))}</text>' if width > 1 else "")
        + "</svg>"
    )


def _box_name(box: Box) -> str:
    return plain(short_function(box.name))


def _about(box: Box, unit: numbers.Unit) -> str:
    module = "" if box.module in ("", SUPPRESSED) else f" ({plain(short_module(box.module))})"
    before, after = (cycles((cost, cost), unit) for cost in (box.before, box.after))
    changed = "unchanged" if box.before == box.after else _part(box.before, box.after)
    return f"{_box_name(box)}{module}: {before} cycles before, {after} after, {changed}"


def _color(box: Box) -> str:
    most = max(box.before, box.after)
    part = (box.after - box.before) / most if most else 0.0
    step = sum(abs(part) >= least for least in _STEPS)
    if not step:
        return "g0"
    return f"g{step}" if part > 0 else f"h{step}"


def _listed(boxes: Sequence[tuple[int, float, float, Box]], unit: numbers.Unit) -> str:
    rows = "".join(
        f'<tr><th scope="row" class="i{min(depth, 6)}">{escape(_box_name(box))}</th>'
        f"<td>{cycles((box.before, box.before), unit)}</td><td>{cycles((box.after, box.after), unit)}</td>"
        f"<td>{'unchanged' if box.before == box.after else _part(box.before, box.after)}</td></tr>"
        for depth, _, _, box in boxes[:_LISTED]
    )
    heads = "".join(
        f'<th scope="col">{head}</th>' for head in ("Function", "Before", "After", "Change")
    )
    return (
        '<details class="astext"><summary>The call graph as text</summary>'
        '<div class="scroll" tabindex="0" role="region" aria-label="The call graph as text">'
        f'<table class="plain"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


# Strategies


def _strategies(pair: Pair) -> str:
    before, after = pair.before.compared, pair.after.compared
    if before is None or after is None:
        return "<p>One of the runs made no memory call; there is nothing to compare.</p>"
    names = [name for name in before.strategies if name in after.strategies]
    costs = [
        CycleSpan(*found.strategies[name].total.cycles)
        for found in (before, after)
        for name in names
    ]
    most = max(max(span.high for span in costs), 1.0)
    unit = numbers.unit(most)
    bars = "".join(_strategy(name, before, after, most, unit) for name in names)
    heads = [
        "Strategy",
        "Before",
        "After",
        "Change",
        f"{term('OCALL', 'OCALLs')} before",
        "after",
        f"Peak {term('EPC')} before",
        "after",
    ]
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    rows = "".join(_strategy_row(name, before, after, unit) for name in names)
    return (
        f'<ol class="sts both">{bars}</ol>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Strategies before and after">'
        f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _of(name: str, before: Compared, after: Compared) -> tuple[CycleSpan, CycleSpan]:
    return CycleSpan(*before.strategies[name].total.cycles), CycleSpan(
        *after.strategies[name].total.cycles
    )


def _both(name: str, before: Compared, after: Compared) -> Delta:
    # The costs under one strategy, as a change.
    was, now = _of(name, before, after)
    return Delta(Key(""), _tally(was), _tally(now))


def _tally(span: CycleSpan) -> KeyTally:
    return KeyTally(cycles_low=round(span.low), cycles=round(span.high))


def _strategy(name: str, before: Compared, after: Compared, most: float, unit: numbers.Unit) -> str:
    was, now = _of(name, before, after)
    delta = _both(name, before, after)
    css = _direction(delta)
    shown = sections.SHOWN.get(name, name)
    changed = "unchanged" if css == "same" else _part(was.middle, now.middle)
    return (
        f'<li><span class="who"><span class="sn">{text(shown)}</span>'
        f'<span class="wh">{text(sections.STRATEGIES.get(name, "no strict strategy costs less"))}</span></span>'
        f"{_bars(was, now, css, most, 22)}"
        f'<span class="num"><b>{cycles(now, unit)}</b><span class="wh">{cycles(was, unit)} before</span></span>'
        f'<span class="num"><b class="{css}">{changed}</b></span></li>'
    )


def _strategy_row(name: str, before: Compared, after: Compared, unit: numbers.Unit) -> str:
    was, now = _of(name, before, after)
    delta = _both(name, before, after)
    figures = [found.strategies[name] for found in (before, after)]
    cells = [
        cycles(was, unit),
        cycles(now, unit),
        f'<span class="{_direction(delta)}">{_change(delta, unit)}</span>',
        *(_exact(each.total.high.host_calls) for each in figures),
        *(size(each.peak[1]) for each in figures),
    ]
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    css = ' class="floor"' if name == BOUND else ""
    return f'<tr{css}><th scope="row">{text(sections.SHOWN.get(name, name))}</th>{row}</tr>'


# Notes


def _notes(pair: Pair) -> Iterator[str]:
    for side in (pair.before, pair.after):
        for loss in side.sites.loss:
            yield f"{text(side.name)}: {text(loss)}."
    for path, why in sorted(pair.difference.missing.items()):
        yield f"No symbols of <code>{text(path)}</code>: {text(why)}."
    for note in pair.difference.notes:
        yield f"{text(note)}."
    yield (
        "A site is the same in both runs where call, function, module and program have the same "
        "names; addresses, directories and lines do not matter."
    )
    profile = pair.profile
    yield (
        f"Cycles are an estimate by the cost profile <code>{text(profile.name)}</code> "
        f"({text(profile.machine)}); each range goes from its low to its high end, and a change is "
        "the difference at each end."
    )
    if not (pair.before.sites.knows_touched and pair.after.sites.knows_touched):
        yield (
            "A log does not say which pages were touched: the cycles of its sites are those with "
            "no page touched."
        )
    if not (pair.before.sites.knows_sizes and pair.after.sites.knows_sizes):
        yield f"{LOWEST}, except in the comparison of strategies."
    yield (
        "Two runs of one program differ a little: in threads, in addresses, and in which pages are "
        "touched. Record a program twice to see by how much."
    )


def _notes_section(pair: Pair) -> str:
    notes = list(_notes(pair))
    items = "".join(f"<li>{note}</li>" for note in notes)
    words = "".join(f"<dt>{word}</dt><dd>{escape(sections.WORDS[word])}</dd>" for word in _WORDS)
    lost = pair.before.sites.loss or pair.after.sites.loss
    about = f"how far to trust these figures · {len(notes)} notes, {len(_WORDS)} words"
    return (
        f'<details{" open" if lost else ""}><summary><h2>Notes</h2> <span class="wh">{about}</span></summary>'
        f'<ul>{items}</ul><h3>Words</h3><dl class="gl">{words}</dl></details>{_foot(pair)}'
    )


def _foot(pair: Pair) -> str:
    sides = []
    for label, side in (("Before", pair.before), ("After", pair.after)):
        words = side.about.get("command") or []
        command = " ".join(str(word) for word in words) if isinstance(words, list) else ""
        events = plural(side.sites.events, "event")
        shown = f" of <code>{text(command)}</code>" if command else ""
        sides.append(f"{label}: {text(side.name)}, {events}{shown}")
    return f'<p class="wh foot">{" · ".join(("Laconic", *sides))} · <a href="#top">Back to the top</a></p>'
