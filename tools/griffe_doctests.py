"""An extension of Griffe for the API page: the examples of a docstring become code blocks.

Markdown reads lines that begin with `>>>` as nested quotations.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

#: The lines of an example, up to the next empty line or the end.
EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


class Doctests(griffe.Extension):
    """Encloses each example in a fence."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(
                lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value
            )
