"""Laconic: a library OS memory subsystem that speaks to its host only when something changes."""

__version__ = "0.1.0"
