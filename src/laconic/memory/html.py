"""Tables as HTML, which notebooks show in place of a `repr`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

#: The maximum number of rows shown. More rows make a notebook slow without making it clearer.
MOST_ROWS = 200


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]], count: int) -> str:
    """Return a table of the first `MOST_ROWS` of `count` rows; a caption states how many are
    missing.

    Integers are grouped by thousands, other numbers are rounded to three digits, and None is an
    empty cell. O(rows that are shown).

    >>> html_table(["a&b"], [[1234], [None]], 2)
    '<table><thead><tr><th>a&amp;b</th></tr></thead><tbody><tr><td>1,234</td></tr><tr><td></td></tr></tbody></table>'
    """
    from html import escape

    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_text(cell))}</td>" for cell in row) + "</tr>"
        for row in islice(rows, MOST_ROWS)
    )
    caption = ""
    if count > MOST_ROWS:
        caption = f"<caption>the first {MOST_ROWS:,} of {count:,} rows</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return str(cell)
