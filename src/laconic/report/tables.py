"""Tables of numbers for a terminal, in which no number is truncated."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laconic.trace.numbers import ends_text

#: A table's row: its label, and the figures of one strategy; None for a heading.
LabeledRow = tuple[str, Mapping[str, Any] | None]
#: The maximum number of columns of a label.
_LABEL = 28
#: The minimum number of columns of a name in a tally.
_NARROWEST = 4


def between(low: float, high: float, form: str = ",") -> str:
    """Return a cell with a range of numbers; one number if both ends look alike."""
    return ends_text(f"{low:{form}}", f"{high:{form}}", " – ")


def tally(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return lines: names to the left, numbers to the right. Names are divided, if they must be, to
    fit into `width` columns; numbers never are. O(cells).

    Made without rich, whose import takes longer than the rest of a short run.

    >>> tally([["call", "calls"], ["brk", "3"]], width=80)
    ['call  calls', 'brk       3']
    """
    longest, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    room = width - sum(2 + each for each in widths)
    first = min(longest, max(room, _NARROWEST))
    lines = []
    for name, *cells in rows:
        head, *rest = textwrap.wrap(name, first)
        numbers = (f"  {cell:>{each}}" for cell, each in zip(cells, widths, strict=True))
        lines += [head.ljust(first) + "".join(numbers), *rest]
    return lines


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
    from rich.console import Console
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
    # Without colors, and with every label as it is.
    console = Console(
        file=out,
        width=max(width, first + sum(2 + _widest(column) for column in columns)),
        force_terminal=False,
        color_system=None,
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]
