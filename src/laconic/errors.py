"""What goes wrong in ways that a user can cure. Every message says what was wrong, with the value,
and the cure."""

from __future__ import annotations


class LaconicError(Exception):
    """An error for people: printed as one line, never as a traceback. `exit_code` is the
    command's."""

    exit_code = 2


class CannotRun(LaconicError):
    """The program cannot be started (126 not executable, 127 not found, as in a shell)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NoTracing(LaconicError):
    """This kernel or container does not let Laconic trace."""

    exit_code = 71
