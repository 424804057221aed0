"""The program whose observations are compared, and its builds."""

from __future__ import annotations

from pathlib import Path

from tests.tracer.lab import build_source

HERE = Path(__file__).parent

BUILDS: dict[str, tuple[str, ...]] = {
    "dynamic": (),
    "static": ("-static",),
    "static-pie": ("-static-pie",),
}

REGRESSIONS = sorted(path.stem for path in (HERE / "regressions").glob("*.calls"))

LIST = 620


def program(build: str = "dynamic") -> Path:
    """The program that interprets lists of calls."""
    return build_source(HERE / "program.c", *BUILDS[build])


def read_list(name: str) -> list[str]:
    """A regression's list of calls."""
    return (HERE / "regressions" / f"{name}.calls").read_text().splitlines()


def build_of(name: str) -> str:
    """Which build a regression needs."""
    return "static" if name.endswith("-static") else "dynamic"
