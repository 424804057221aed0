"""What is shown while something takes long: on a terminal, after some time, and not otherwise."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from laconic.commands import progress
from laconic.stacks import notice, symbolize
from laconic.stacks.symbols import Symbol
from laconic.stacks.table import FILE, Frame, Module


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        """As a terminal answers."""
        return True


def wait_for(text: str, terminal: Terminal) -> None:
    """Waits until the terminal shows it."""
    deadline = time.monotonic() + 20
    while text not in terminal.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_long_wait_shows_a_moving_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    with progress.waiting("checking process 7"):
        wait_for("checking process 7", terminal)
    shown = terminal.getvalue()
    time.sleep(0.3)
    assert terminal.getvalue() == shown, "the bar goes on"


def test_a_short_wait_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.waiting("checking process 7"):
        pass
    assert terminal.getvalue() == ""


def test_without_a_terminal_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    error = io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.waiting("checking process 7"):
        time.sleep(0.1)
    assert error.getvalue() == ""


def test_symbols_that_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar of the replay gives way to that of the symbols."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(notice, "PATIENCE", 0.05)

    def read(*_: object) -> list[Symbol]:
        wait_for("reading symbols of python", terminal)
        return []

    monkeypatch.setattr(symbolize, "read_symbols", read)
    path = os.path.realpath(sys.executable)
    with progress.progress("replaying a.trace", 9) as update:
        update(5)
        symbolize.Symbolizer(()).places(Module(FILE, path), Frame(1, 1, True, False))
    shown = terminal.getvalue()
    assert "replaying a.trace" in shown.partition("reading symbols")[0]
    time.sleep(0.3)
    assert terminal.getvalue() == shown, "a bar goes on"


def test_symbols_of_many_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two seconds are those of a whole report."""
    shown = []

    def show(what: str, patience: float) -> AbstractContextManager[None]:
        shown.append((what, patience))
        time.sleep(0.1)
        return nullcontext()

    monkeypatch.setattr(notice, "show", show)
    symbolizer = symbolize.Symbolizer(())
    for name in ("first", "second"):
        path = shutil.copy(sys.executable, tmp_path / name)
        symbolizer.places(Module(FILE, str(path)), Frame(1, 1, True, False))
    assert [what for what, _ in shown] == ["reading symbols of first", "reading symbols of second"]
    assert shown[0][1] == 2.0 and shown[1][1] <= 1.9
