"""What the tracer's loop makes of stops that are over when it looks at them."""

from __future__ import annotations

import pytest

from laconic.linux.clone import CLONE_THREAD, CLONE_VM
from laconic.linux.pal import only_changes
from laconic.memory.ledger import Ledger
from laconic.tracer import ptrace
from laconic.tracer.loop import Tracer
from laconic.tracer.mediate import Mediator
from laconic.tracer.process import TracedMm, TracedThread


def test_a_thread_that_is_killed_at_its_clone_adds_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message that the tracer reads may be the exit status already: SIGKILL's is 9, and no
    thread's id."""
    resumed: list[int] = []
    monkeypatch.setattr(ptrace, "event_message", lambda tid: 9)
    monkeypatch.setattr(ptrace, "stopped_for", lambda tid: ptrace.EVENT_EXIT)
    monkeypatch.setattr(ptrace, "resume", lambda request, tid, signal=0: resumed.append(tid))
    tracer = Tracer(Mediator(only_changes, Ledger()))
    parent = tracer.threads[1000] = TracedThread(1000, 1000, TracedMm(None))
    parent.child_flags = CLONE_VM | CLONE_THREAD
    tracer._new_thread(parent, ptrace.EVENT_CLONE)
    assert [*tracer.threads] == [1000]
    assert parent.child_flags == CLONE_VM | CLONE_THREAD, "the child that it did make is looked for"
    assert not resumed, "its exit is still to be reported"
