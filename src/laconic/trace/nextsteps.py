"""The next commands for a new trace."""

from __future__ import annotations

import shlex


def next_steps(path: str) -> str:
    """Return the commands that answer questions about the trace at `path`, one per line.

    >>> print(next_steps("a.trace"))
    next:  laconic callers a.trace               which places make the calls
           laconic compare a.trace               what they cost in an enclave
           laconic html a.trace -o report.html   both, and more, in a browser
    """
    name = shlex.quote(path)
    commands = (
        (f"laconic callers {name}", "which places make the calls"),
        (f"laconic compare {name}", "what they cost in an enclave"),
        (f"laconic html {name} -o report.html", "both, and more, in a browser"),
    )
    width = max(len(command) for command, _ in commands)
    lines = [f"{command:<{width}}   {answer}" for command, answer in commands]
    return "next:  " + "\n       ".join(lines)
