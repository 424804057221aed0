"""Stacks in the formats of common tools: folded stacks, speedscope's JSON, and a self-contained
SVG."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from laconic.analysis.flamegraph import CALLS, CYCLES, HOST_CALLS, PAGES, Flame, Flames
from laconic.analysis.schemas import SCHEMAS
from laconic.report.names import seen
from laconic.report.numbers import cycles
from laconic.report.text import plain

FORMATS = ("folded", "speedscope", "svg")
#: The suffixes with which flamegraph.pl and inferno mark the names of such frames, to color them.
_ANNOTATIONS = {"inlined": "_[i]", "jit": "_[j]"}
_SPEEDSCOPE = "https://www.speedscope.app/file-format-schema.json"
#: The SVG, in its own units: width, height of a box, width of a letter, and width of the narrowest
#: box that is drawn.
_WIDTH, _ROW, _LETTER, _LEAST = 1200, 18, 7.25, 0.3
#: The unit of each weight, in singular and plural.
_UNITS = {
    CYCLES: ("cycle", "cycles"),
    CALLS: ("call", "calls"),
    HOST_CALLS: ("host call", "host calls"),
    PAGES: ("committed page", "committed pages"),
}
_STYLE = """\
svg { background: #ffffff; }
text { font: 12px monospace; fill: #000000; }
rect { stroke: #ffffff; stroke-width: 0.5; }
g:hover > rect { stroke: #000000; stroke-width: 1; }
.head { font-size: 15px; }
.button { cursor: pointer; text-decoration: underline; }
.hit { fill: #e05ad6; }
@media (prefers-color-scheme: dark) {
  svg { background: #1a1a1a; }
  rect { stroke: #1a1a1a; }
  g:hover > rect { stroke: #ffffff; }
  .head, .button, .found { fill: #e8e8e8; }
}
"""
#: The script that zooms and searches.
_SCRIPT = Path(__file__).with_name("flamegraph.js")


def title(flames: Flames) -> str:
    """Return a short title of the graph."""
    of = "redundant memory calls" if flames.redundant else "memory calls"
    text = f"{of} by stack"
    if flames.weight != CALLS:
        text = f"{_UNITS[flames.weight][1]} in an enclave under every-call, of {of}, by stack"
    return text if flames.selection is None else f"{text}; selected: {flames.selection}"


def as_json(flames: Flames, missing: Mapping[str, str]) -> dict[str, Any]:
    """Return stacks with their weights, the outermost box first; `missing` are modules without
    symbols, and why. O(frames)."""
    return {
        "schema": SCHEMAS["flamegraph"],
        "title": title(flames),
        "weight": flames.weight,
        "redundant": flames.redundant,
        "total": flames.total,
        "stackless": flames.stackless,
        "hidden": dict(sorted(flames.hidden.items())),
        "stacks": [
            {"weight": weight, "frames": [flame._asdict() for flame in stack]}
            for stack, weight in flames.stacks.items()
        ],
        "missing_symbols": dict(sorted(missing.items())),
    }


def as_folded(flames: Flames) -> str:
    """Return one stack per line, in the format of flamegraph.pl, inferno and many others: frames
    from the outermost on, joined by `;`, a space, the weight. O(frames)."""
    lines: dict[str, int] = {}
    for stack, weight in flames.stacks.items():
        key = ";".join(_folded(flame) for flame in stack)
        lines[key] = lines.get(key, 0) + weight
    return "".join(f"{key} {weight}\n" for key, weight in sorted(lines.items()))


def _folded(flame: Flame) -> str:
    # A semicolon would end the frame.
    return seen(flame.name).replace(";", ":") + _ANNOTATIONS.get(flame.kind, "")


def as_speedscope(flames: Flames, name: str, version: str) -> str:
    """Return the JSON of https://www.speedscope.app: one sampled profile, one sample per stack.
    O(frames)."""
    numbers: dict[Flame, int] = {}
    samples = [
        [numbers.setdefault(flame, len(numbers)) for flame in stack] for stack in flames.stacks
    ]
    profile = {
        "type": "sampled",
        "name": title(flames),
        "unit": "none",
        "startValue": 0,
        "endValue": flames.total,
        "samples": samples,
        "weights": list(flames.stacks.values()),
    }
    made = {
        "$schema": _SPEEDSCOPE,
        "exporter": f"laconic@{version}",
        "name": seen(name),
        "activeProfileIndex": 0,
        "shared": {"frames": [_shared(flame) for flame in numbers]},
        "profiles": [profile],
    }
    return json.dumps(made, indent=1) + "\n"


def _shared(flame: Flame) -> dict[str, Any]:
    module = f" ({flame.module})" if flame.module and flame.module not in flame.name else ""
    inlined = " [inlined]" if flame.kind == "inlined" else ""
    frame: dict[str, Any] = {"name": seen(f"{flame.name}{module}{inlined}")}
    if flame.file:
        frame["file"] = seen(flame.file)
    if flame.line:
        frame["line"] = flame.line
    return frame


@dataclass(slots=True)
class _FrameBox:
    # One box, and the boxes below it.
    flame: Flame
    weight: int = 0
    below: dict[tuple[str, str, str], _FrameBox] = field(default_factory=dict)


def as_svg(flames: Flames) -> str:
    """Return a self-contained picture: boxes as wide as their weight, callers above what they call;
    the whole name is in the tooltip of each. A click zooms, `/` searches; without scripts it is
    complete. O(frames)."""
    root, height = _tree(flames)
    total = amount(flames, flames.total)
    head = f"{title(flames)}: {total}" if flames.total else f"{title(flames)}: there are none"
    top = 40
    tall = top + height * _ROW + 10
    boxes: list[str] = []
    left_out = _draw(root, 0.0, top, flames, boxes.append)
    small = f"; {left_out:,} boxes are too narrow to be drawn" if left_out else ""
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {tall}" '
            f'width="{_WIDTH}" height="{tall}" role="img" aria-label="{escape(head)}">\n',
            f"<desc>{escape(head)}{small}</desc>\n<style>\n{_STYLE}</style>\n",
            f'<text class="head" x="{_WIDTH / 2:.0f}" y="24" text-anchor="middle">'
            f"{escape(head)}</text>\n",
            *boxes,
            f"<script><![CDATA[\n{_SCRIPT.read_text()}]]></script>\n",
            "</svg>\n",
        )
    )


def _tree(flames: Flames) -> tuple[_FrameBox, int]:
    root, height = _FrameBox(Flame("all", kind="call")), 1
    for stack, weight in flames.stacks.items():
        root.weight += weight
        box = root
        for flame in stack:
            key = flame.name, flame.module, flame.kind
            box = box.below.setdefault(key, _FrameBox(flame))
            if box.flame != flame:
                box.flame = box.flame._replace(line=0)  # more than one of its lines makes calls
            box.weight += weight
        height = max(height, len(stack) + 1)
    return root, height if root.weight else 0


def _draw(
    root: _FrameBox, left: float, top: float, flames: Flames, say: Callable[[str], None]
) -> int:
    # Without recursion, because stacks may be deeper than Python's own.
    left_out = 0
    waiting = [(root, left, top)] if root.weight else []
    while waiting:
        box, x, y = waiting.pop()
        width = box.weight * _WIDTH / root.weight
        if width < _LEAST:
            left_out += 1
            continue
        say(_box(box, x, y, width, root.weight, flames))
        parts = []
        for key in sorted(box.below):
            parts.append((box.below[key], x, y + _ROW))
            x += box.below[key].weight * _WIDTH / root.weight
        waiting += reversed(parts)
    return left_out


def _box(box: _FrameBox, x: float, y: float, width: float, total: int, flames: Flames) -> str:
    flame = box.flame
    module = f" ({flame.module})" if flame.module and flame.module != flame.name else ""
    line = f" {flame.file.rsplit('/', 1)[-1]}:{flame.line}" if flame.line else ""
    inlined = " [inlined]" if flame.kind == "inlined" else ""
    whole = plain(f"{flame.name}{module}{line}{inlined}")
    tip = f"{whole}: {amount(flames, box.weight)}, {100 * box.weight / total:.1f} %"
    letters = int((width - 6) / _LETTER)
    name = plain(flame.name)
    shown = name if len(name) <= letters else f"{name[: letters - 2]}.." if letters >= 4 else ""
    text = f'<text x="{x + 3:.1f}" y="{y + 13:.1f}">{escape(shown)}</text>' if shown else ""
    return (
        f'<g><title>{escape(tip)}</title><rect x="{x:.2f}" y="{y:.0f}" width="{width:.2f}" '
        f'height="{_ROW}" fill="{_colour(flame)}"/>{text}</g>\n'
    )


def amount(flames: Flames, weight: int) -> str:
    """Return a weight with its unit; cycles, which are an estimate, with three digits."""
    if flames.weight == CYCLES:
        return cycles(weight, weight)
    return f"{weight:,} {_UNITS[flames.weight][weight != 1]}"


def _colour(flame: Flame) -> str:
    # Each module always has the same warm hue; programs and calls are gray and blue.
    if flame.kind in ("program", "suppressed", "around"):
        return "#c9c9c9"
    if flame.kind == "call":
        return "#9cc3e6"
    hue = zlib.crc32(flame.module.encode("utf-8", "surrogateescape")) % 60
    return f"hsl({hue},80%,{72 if flame.kind else 65}%)"
