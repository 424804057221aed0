"""Bar charts of results, for notebooks: as Vega-Lite, which notebooks draw, and as HTML for
notebooks that do not. Neither loads anything from a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

#: The MIME type of a Vega-Lite specification.
VEGA_LITE = "application/vnd.vegalite.v5+json"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
#: Colors that can be distinguished without telling red from green, in the order of the series.
_COLORS = ("#4c78a8", "#f58518", "#72b7b2", "#b279a2")
#: Dimensions of the HTML chart, in pixels.
_LABELS, _BARS, _LINE = 260, 420, 20


class Bar(NamedTuple):
    """A bar of `label`, from `start` to `end`; `text` is its value as text."""

    label: str
    series: str
    start: float
    end: float
    text: str


class Chart(NamedTuple):
    """Bars, grouped by label in the order of `bars`. `title` describes them, `measure` is what
    their length shows. `stacked`: the series of a label are parts of one bar instead of separate
    bars."""

    title: str
    measure: str
    bars: list[Bar]
    stacked: bool = False

    @property
    def series(self) -> list[str]:
        """The series, in the order of their first bars. O(bars)."""
        return list(dict.fromkeys(bar.series for bar in self.bars))

    def vega_lite(self) -> dict[str, Any]:
        """Return the specification of the chart, with its data. O(bars)."""
        labels = list(dict.fromkeys(bar.label for bar in self.bars))
        series = self.series
        y: dict[str, Any] = {"field": "label", "type": "nominal", "sort": labels, "title": None}
        encoding: dict[str, Any] = {
            "y": {**y, "axis": {"labelLimit": 400}},
            "x": {"field": "start", "type": "quantitative", "title": self.measure},
            "x2": {"field": "end"},
            "tooltip": [{"field": name, "type": "nominal"} for name in ("label", "series", "text")],
        }
        if len(series) > 1:
            colors = {"domain": series, "range": list(_COLORS[: len(series)])}
            encoding["color"] = {
                "field": "series",
                "type": "nominal",
                "scale": colors,
                "title": None,
            }
            if not self.stacked:
                encoding["yOffset"] = {"field": "series", "type": "nominal", "sort": series}
        return {
            "$schema": _SCHEMA,
            "title": self.title,
            "width": 480,
            "data": {"values": [bar._asdict() for bar in self.bars]},
            "mark": "bar" if len(series) > 1 else {"type": "bar", "color": _COLORS[0]},
            "encoding": encoding,
        }

    def html(self) -> str:
        """Return the chart as a picture (SVG) with its title. O(bars)."""
        series = self.series
        largest = max((bar.end for bar in self.bars), default=0) or 1
        parts: list[str] = []
        line, before = -1, ""
        for bar in self.bars:
            is_new = bar.label != before
            before = bar.label
            if is_new or not self.stacked:
                line += 1
            top = line * _LINE
            if is_new:
                parts.append(
                    f'<text x="{_LABELS - 6}" y="{top + 14}" text-anchor="end">'
                    f"{escape(_short(bar.label))}</text>"
                )
            start, end = (_LABELS + _BARS * place / largest for place in (bar.start, bar.end))
            color = _COLORS[series.index(bar.series) % len(_COLORS)]
            parts.append(
                f'<rect x="{start:.1f}" y="{top + 3}" width="{max(end - start, 1):.1f}" '
                f'height="{_LINE - 6}" fill="{color}">'
                f"<title>{escape(f'{bar.label}, {bar.series}: {bar.text}')}</title></rect>"
            )
        legend = "; ".join(
            f'<span style="color:{_COLORS[number % len(_COLORS)]}">&#9632;</span> {escape(name)}'
            for number, name in enumerate(series)
        )
        return (
            f"<p>{escape(self.title)} ({escape(self.measure)}): {legend}</p>"
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABELS + _BARS + 10}" '
            f'height="{(line + 1) * _LINE}" font-size="12" fill="currentColor" role="img" '
            f'aria-label="{escape(self.title)}">{"".join(parts)}</svg>'
        )


def calls_chart(counts: Iterable[tuple[str, int, int]], title: str) -> Chart:
    """Return a chart of kinds of call: (name, host calls, elided calls). O(kinds)."""
    bars = []
    for name, host_calls, elided in counts:
        bars.append(Bar(name, "host calls", 0, host_calls, f"{host_calls:,}"))
        total = host_calls + elided
        bars.append(Bar(name, "elided", host_calls, total, f"{elided:,}"))
    return Chart(title, "calls", bars, stacked=True)


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"


def mime_bundle(
    table: str,
    chart: Chart | None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
) -> Mapping[str, Any]:
    """Return a notebook's representations of a result, by MIME type: its table with the chart, and
    the chart alone as Vega-Lite."""
    bundle: dict[str, Any] = {"text/html": table + (chart.html() if chart is not None else "")}
    if chart is not None:
        bundle[VEGA_LITE] = chart.vega_lite()
    wanted = set(bundle) if include is None else set(include)
    return {kind: data for kind, data in bundle.items() if kind in wanted - set(exclude or ())}
