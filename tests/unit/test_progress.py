"""What is shown while something takes long: on a terminal, after some time, and not otherwise."""

from __future__ import annotations

import io
import sys
import time

import pytest

from laconic.commands import progress


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
