"""The page itself: its pieces joined, and a policy that makes a browser execute only these
pieces."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from laconic.analysis.timeline.collect import Page
from laconic.report.html import sections
from laconic.report.html.data import PageLimits, as_json
from laconic.report.text import script_json

#: The maximum size of a page, in bytes.
LARGEST = 1_400_000
#: The script's pieces, in the order in which they are joined.
SCRIPTS = (
    *("base", "tip", "numbers", "view", "sites", "summary", "graph", "time", "spaces", "map"),
    *("top", "main"),
)
_PIECES = files("laconic.report.html") / "pieces"


def as_html(page: Page) -> bytes:
    """Return the page, in UTF-8: the same for the same data. Pictures that do not fit into
    `LARGEST` bytes are drawn more coarsely.

    O(size of the page's data).
    """
    limits = PageLimits()
    fixed = _fixed(page)
    while True:
        data = as_json(page, limits)
        notes = sections.notes_section(page, data["binned"])
        made = _document({**fixed, "notes": notes, "data": script_json(data)})
        if len(made) <= LARGEST or limits == limits.halved():
            return made
        limits = limits.halved()


def _fixed(page: Page) -> dict[str, str]:
    # The parts that do not depend on the resolution of the pictures.
    return {
        "kind": "" if page.ledger.calls else "empty",
        "command": escape(sections.command(page)),
        "hero": sections.hero(page),
        "sites": sections.site_table(page),
        "strategies": sections.strategies(page),
    }


def _document(parts: dict[str, str]) -> bytes:
    return joined(*_pieces(), parts)


def joined(template: str, style: str, script: str, parts: dict[str, str]) -> bytes:
    """Return a template with its style, its script, a policy for these two, and `parts` at the
    placeholders with their names."""
    values = {"policy": policy(style, script), "style": style, "script": script, **parts}
    # Each part replaces its placeholder; placeholders within parts are not replaced.
    return "".join(values.get(part, part) for part in template.split("@@")).encode()


def policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy: only this style and this script, and nothing from
    elsewhere."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri "
        "'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _pieces() -> tuple[str, str, str]:
    return piece("page.html"), piece("page.css"), script_of(SCRIPTS)


def piece(name: str) -> str:
    """Return the text of one of the files from which pages are made."""
    return (_PIECES / name).read_text("utf-8")


def script_of(names: Sequence[str]) -> str:
    """Return one script from several pieces."""
    scripts = "\n".join(piece(f"{name}.js") for name in names)
    return f'(() => {{\n"use strict";\n{scripts}}})();\n'
