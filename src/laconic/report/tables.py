"""Tables of numbers for a terminal, in which no number is truncated."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from laconic.trace.numbers import ends_text

if TYPE_CHECKING:
    from rich.console import Console

#: A table's row: its label, and the figures of one strategy; None for a heading.
LabeledRow = tuple[str, Mapping[str, Any] | None]
#: The maximum number of columns of a label.
_LABEL = 28


def between(low: float, high: float, form: str = ",") -> str:
    """Return a cell with a range of numbers; one number if both ends look alike."""
    return ends_text(f"{low:{form}}", f"{high:{form}}", " – ")


def plain_console(out: io.StringIO, width: int, *, soft_wrap: bool = False) -> Console:
    """Return a console that writes to `out` without colors, and leaves the text as it is."""
    from rich.console import Console

    return Console(
        file=out,
        width=width,
        force_terminal=False,
        color_system=None,
        highlight=False,
        emoji=False,
        markup=False,
        soft_wrap=soft_wrap,
    )


def tables(
    label: str, columns: Sequence[list[str]], rows: Sequence[LabeledRow], width: int
) -> list[str]:
    """Return lines of as many tables as are necessary to show every number whole in `width`
    columns. `columns` have a heading and one cell for each row; only the names of `rows` are used.
    O(cells)."""
    labels = [label, *(name for name, _ in rows)]
    first = min(max(map(len, labels)), _LABEL, max(width - 2 - max(map(_widest, columns)), 10))
    lines: list[str] = []
    left = list(columns)
    while left:
        room, taken = width - first, 0
        for column in left:
            room -= 2 + _widest(column)
            if room < 0 and taken:
                break
            taken += 1
        lines += ([""] if lines else []) + _table(labels, left[:taken], first, width)
        left = left[taken:]
    return lines


def _widest(column: Iterable[str]) -> int:
    return max(len(line) for cell in column for line in cell.split("\n"))


def _table(
    labels: Sequence[str], columns: Sequence[list[str]], first: int, width: int
) -> list[str]:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(labels[0], width=first, overflow="fold", vertical="bottom")
    for head, *cells in columns:
        table.add_column(
            head,
            justify="right",
            no_wrap=True,
            min_width=_widest([head, *cells]),
            vertical="bottom",
        )
    for row in zip(labels[1:], *(column[1:] for column in columns), strict=True):
        table.add_row(*row)
    out = io.StringIO()
    console = plain_console(out, max(width, first + sum(2 + _widest(column) for column in columns)))
    console.print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]
