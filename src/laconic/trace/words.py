"""Counts with their nouns."""

from __future__ import annotations


def plural(number: int, noun: str, more: str = "") -> str:
    """Return a count with its noun; `more` is the plural if it is not the singular with an s.

    >>> plural(1, "call"), plural(2500, "call"), plural(2, "process", "processes")
    ('1 call', '2,500 calls', '2 processes')
    """
    return f"{number:,} {noun if number == 1 else more or f'{noun}s'}"
