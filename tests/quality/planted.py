"""Runs Laconic's command line with a planted bug: `python -m tests.quality.planted BUG run --
CMD`."""

from __future__ import annotations

import sys

import pytest

from laconic.commands import main
from tests.quality.faithfulbugs import BUGS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    BUGS[name](pytest.MonkeyPatch())
    sys.exit(main())
