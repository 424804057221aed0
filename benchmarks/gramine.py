"""Which changes to Gramine pay off on real programs: the tables and the picture of
docs/gramine.md and docs/appendix/gramine.md."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from benchmarks.enclave import PROGRAMS as ENCLAVE_PROGRAMS
from benchmarks.machine import DOCS, table
from benchmarks.traces import record
from laconic.analysis.ablation import BASE, LACONIC, Ablation, Step, ablate
from laconic.analysis.compare import BOUND, Figures, compare
from laconic.report.ablation import CHANGES
from laconic.sgx.costs import DEFAULT, CostProfile, load, shipped
from laconic.trace.reader import TraceReader

#: Those of docs/enclave.md but for per-page, which is not a real program, and a shell script.
PROGRAMS = (*(name for name in ENCLAVE_PROGRAMS if name != "per-page"), "bash")
PICTURE = DOCS / "pictures" / "gramine.svg"
#: What all changes together may cost, in cycles, of every-call.
MOST = 0.5
#: The picture, in its own units: width, a row's height, the width of labels, and of a panel.
_WIDTH, _ROW, _LABEL, _PANEL, _TOP = 1200, 26, 300, 330, 84
_STYLE = """\
svg { background: #ffffff; }
text { font: 13px sans-serif; fill: #1a1a1a; }
.head { font-size: 15px; font-weight: bold; }
.left { fill: #4c72b0; }
.saved { fill: #dd8452; }
.grid { stroke: #d0d0d0; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  svg { background: #1a1a1a; }
  text { fill: #e8e8e8; }
  .grid { stroke: #444444; }
}
"""


def host_calls(figures: Figures) -> float:
    """Return the host calls of one strategy on one trace; of a range, the lower end."""
    return figures.total.low.host_calls


def cycles(figures: Figures) -> float:
    """Return the cycles of one strategy on one trace, in the middle of the range."""
    return sum(figures.total.cycles) / 2


def shares(steps: Sequence[Step], measure: Callable[[Figures], float]) -> list[float]:
    """Return each row's cost divided by every-call's, the mean over all traces."""
    base = steps[0].figures
    found = []
    for step in steps:
        ratios = [
            measure(ours) / (measure(theirs) or 1)
            for ours, theirs in zip(step.figures, base, strict=True)
        ]
        found.append(sum(ratios) / len(ratios))
    return found


def _order(ablation: Ablation) -> list[list[str]]:
    steps = ablation.steps
    of_calls = shares(steps, host_calls)
    rows = []
    for step, calls in zip(steps, of_calls, strict=True):
        saved = "" if step.switch == BASE else f"{100 * step.saved:.2f}"
        alone = "" if step.alone is None else f"{100 * step.alone:.2f}"
        total = f"{step.host_calls[0]:,}"
        rows.append([f"`{step.switch}`", f"{step.share:.3f}", saved, alone, f"{calls:.3f}", total])
    return rows


def _programs(
    ablation: Ablation, programs: Sequence[str], cell: Callable[[Figures, Figures], str]
) -> str:
    rows = [
        [
            f"`{step.switch}`",
            *(
                cell(ours, theirs)
                for ours, theirs in zip(step.figures, ablation.steps[0].figures, strict=True)
            ),
        ]
        for step in ablation.steps
    ]
    return table(["+ switch", *programs], rows)


def _profiles(ablation: Ablation, paths: Sequence[str]) -> tuple[str, list[float]]:
    # The same rows under each cost profile, and what all changes together leave.
    columns: list[list[float]] = []
    for name in shipped():
        profile = load(name)

        def measure(figures: Figures, profile: CostProfile = profile) -> float:
            return sum(profile.cycles(figures.total.low)) / 2

        column = shares(ablation.steps[:-1], measure)
        # The bound decides by what things cost.
        bound = [compare(path, [BASE, BOUND], profile).strategies for path in paths]
        ratios = [cycles(each[BOUND]) / cycles(each[BASE]) for each in bound]
        columns.append([*column, sum(ratios) / len(ratios)])
    rows = [
        [f"`{step.switch}`", *(f"{column[row]:.3f}" for column in columns)]
        for row, step in enumerate(ablation.steps)
    ]
    return table(["+ switch", *shipped()], rows), [column[-3] for column in columns]


def picture(steps: Sequence[Step]) -> str:
    """Return a waterfall chart as SVG: what each change saves of cycles, and of host calls, in
    percent of every-call's."""
    tall = _TOP + len(steps) * _ROW + 12
    head = "What each change saves, added one by one (mean over the programs)"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {tall}" '
        f'role="img" aria-label="{escape(head)}">\n<style>\n{_STYLE}</style>\n',
        f'<text class="head" x="12" y="24">{escape(head)}</text>\n',
    ]
    for row, step in enumerate(steps):
        y = _TOP + row * _ROW + 16
        parts.append(f'<text x="12" y="{y}">{escape(CHANGES[step.switch])}</text>\n')
    for number, (title, measure) in enumerate((("cycles", cycles), ("host calls", host_calls))):
        parts += _panel(_LABEL + number * (_PANEL + 120), title, shares(steps, measure), steps)
    parts.append("</svg>\n")
    return "".join(parts)


def _panel(left: int, title: str, found: list[float], steps: Sequence[Step]) -> list[str]:
    bottom = _TOP + len(steps) * _ROW
    parts = [f'<text class="head" x="{left}" y="{_TOP - 22}">{title}, % of every-call</text>\n']
    for percent in (0, 25, 50, 75, 100):
        x = left + _PANEL * percent / 100
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>\n'
            f'<text x="{x:.1f}" y="{_TOP - 4}" text-anchor="middle">{percent}</text>\n'
        )
    before = 0.0
    for row, (share, step) in enumerate(zip(found, steps, strict=True)):
        y = _TOP + row * _ROW + 4
        is_whole = step.switch in (BASE, LACONIC, BOUND)
        low, high = (0.0, share) if is_whole else (min(share, before), max(share, before))
        kind = "left" if is_whole else "saved"
        x, width = left + _PANEL * low, max(_PANEL * (high - low), 1.5)
        change = round(100 * (share - before), 1)
        label = f"{100 * share:.1f}" if is_whole else f"{change:+.1f}" if change else "0.0"
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 8}"/>\n'
            f'<text x="{x + width + 6:.1f}" y="{y + 13}">{label.replace("-", "−")}</text>\n'
        )
        before = share
    return parts


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The sections of the page, and what must hold. Writes the picture too."""
    with tempfile.TemporaryDirectory() as directory:
        paths = record(PROGRAMS, Path(directory))
        traces = [str(path) for path in paths.values()]
        default = ablate([TraceReader(path) for path in traces], load(DEFAULT), jobs=None)
        profiles, left = _profiles(default, traces)
    programs = list(paths)
    PICTURE.write_text(picture(default.steps), encoding="utf-8")
    head = ["+ switch", "cycles ÷ every-call", "saved, %", "saved alone, %"]
    head += ["host calls ÷ every-call", "host calls"]
    ratio = _programs(
        default, programs, lambda ours, theirs: f"{cycles(ours) / cycles(theirs):.3f}"
    )
    counted = _programs(default, programs, lambda ours, _: f"{host_calls(ours):,.0f}")
    targets = [
        (f"cycles, all changes / every-call, {name}", share, MOST)
        for name, share in zip(shipped(), left, strict=True)
    ]
    return {
        "gramine-order": table(head, _order(default)),
        "gramine-profiles": profiles,
        "gramine-programs": ratio,
        "gramine-host-calls": counted,
    }, targets
