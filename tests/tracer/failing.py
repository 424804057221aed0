"""Runs `laconic` so that the host refuses planned calls:
`python -m tests.tracer.failing N:ERRNO,... run -- CMD`. N counts the host calls from 1."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from laconic.tracer import mediate
from laconic.tracer.process import TracedThread

#: The planned failures: the number of a host call → its errno.
_PLAN: dict[int, int] = {}


class FailingMediator(mediate.Mediator):
    """A mediator for which the planned host calls fail. brk fails by returning the old break."""

    made = 0

    def make_host_call(self, thread: TracedThread, name: str) -> None:
        """Skip a planned call; the thread stops at its end all the same."""
        FailingMediator.made += 1
        errno = _PLAN.get(FailingMediator.made)
        if errno is not None:
            space = thread.mm.space
            result = space.brk if name == "brk" and space is not None else -errno
            self.registers.skip(thread.tid, result)
        super().make_host_call(thread, name)


def failing(plan: Iterable[tuple[int, int]]) -> list[str]:
    """The command that starts `laconic` with planned failures: (number, errno) of each."""
    written = ",".join(f"{number}:{errno}" for number, errno in plan)
    return [sys.executable, "-m", "tests.tracer.failing", written]


def _main() -> int:
    from laconic.commands import main

    for item in sys.argv[1].split(","):
        number, _, errno = item.partition(":")
        _PLAN[int(number)] = int(errno)
    mediate.Mediator = FailingMediator  # type: ignore[misc]
    return main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(_main())
