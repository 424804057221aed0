"""Errors that a user can fix. Every message states the problem, with the value, and the fix."""

from __future__ import annotations


class LaconicError(Exception):
    """An error for people: printed as one line, never as a traceback. `exit_code` is the command's
    exit code."""

    exit_code = 2


class CannotRun(LaconicError):
    """The program cannot be started (126: not executable, 127: not found, as in a shell)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NoTracing(LaconicError):
    """This kernel or container does not permit Laconic to trace."""

    exit_code = 71
