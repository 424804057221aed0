"""The page itself: its pieces joined, and a policy by which a browser takes nothing else for
them."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from laconic.analysis.timeline.collect import Page
from laconic.report.html.data import Limits, as_json
from laconic.report.html.text import script_json

#: What a page may be, in bytes.
LARGEST = 1_400_000
#: The script's pieces, in the order in which they are joined.
SCRIPTS = ("base", "axes", "calls", "spaces", "map", "strategies", "flame", "table", "main")
_PIECES = files("laconic.report.html") / "pieces"


def as_html(page: Page) -> bytes:
    """The page, in UTF-8: the same for the same data. What does not fit into `LARGEST` bytes is
    drawn more coarsely.

    O(size of the page's data).
    """
    limits = Limits()
    while True:
        made = _document(page, script_json(as_json(page, limits)))
        if len(made) <= LARGEST or limits == limits.halved():
            return made
        limits = limits.halved()


def _document(page: Page, data: str) -> bytes:
    template, style, script = _pieces()
    # Each stands where its placeholder does; what is put in is not looked through again.
    parts = template.split("@@")
    values = {
        "policy": policy(style, script), "style": style, "data": data, "script": script, "figures": _figures(page),
    }  # fmt: skip
    return "".join(values.get(part, part) for part in parts).encode()


def _figures(page: Page) -> str:
    # For who has no script: numbers alone, so that no name needs to be made harmless.
    ledger = page.ledger
    share = f" ({100 * ledger.redundant / ledger.calls:.1f} %)" if ledger.calls else ""
    return (
        f"Memory calls: {ledger.calls:,}; host calls: {ledger.host_calls:,}; redundant calls: "
        f"{ledger.redundant:,}{share}; processes: {ledger.processes:,}."
    )


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script, and nothing from anywhere."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _pieces() -> tuple[str, str, str]:
    read = {name: (_PIECES / name).read_text("utf-8") for name in ("page.html", "page.css")}
    scripts = "\n".join((_PIECES / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    return read["page.html"], read["page.css"], f'(() => {{\n"use strict";\n{scripts}}})();\n'
