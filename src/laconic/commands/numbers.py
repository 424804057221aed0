"""Whole numbers on a command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable


def whole(what: str, least: int = 1) -> Callable[[str], int]:
    """What argparse reads a number of at most 15 digits with; `what` is named where it is none.

    >>> whole("number of places")("12")
    12
    """

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}: name {least} or more")
        return int(text)

    return read
