"""What changes the rules for a whole address space: personality, MDWE, the layout, the limit on
VMAs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from laconic.linux.proc import ADDR_COMPAT_LAYOUT, READ_IMPLIES_EXEC
from laconic.memory.calls import PR_SET_MDWE, Call
from laconic.memory.flags import PROT_EXEC, VM_EXEC
from tests.kernel.child import PAGE
from tests.kernel.compare import ThroughPal
from tests.kernel.fuzz import Room, episode
from tests.model.strategies import LOW

EPISODES = range(4)
NO_FD = (1 << 64) - 1


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def _play(room: Room, first: list[Call]) -> None:
    for seed in EPISODES:
        calls = [*first, *episode(seed)]
        failed = room.play(calls)
        assert failed is None, f"episode {seed}, call {failed[0]}: {failed[1]}"


@pytest.mark.parametrize("mode", ["predict", "pal"])
def test_read_implies_exec(stack: ExitStack, mode: str) -> None:
    room = Room(mode, stack, prepare=lambda child: child.personality(READ_IMPLIES_EXEC))
    side = room.side(stack)
    assert side.thread.read_implies_exec
    assert side.step(Call("mmap", (LOW, PAGE, 1, 0x32, NO_FD, 0))) is None
    vma = side.space.vmas.get(side.bases.low)
    assert vma is not None
    assert vma.flags & VM_EXEC
    _play(room, [])


@pytest.mark.parametrize("mode", ["predict", "pal"])
def test_mdwe(stack: ExitStack, mode: str) -> None:
    deny = Call("prctl", (PR_SET_MDWE, 1, 0, 0, 0))
    room = Room(mode, stack)
    side = room.side(stack)
    for call in (
        deny,
        Call("mmap", (LOW, PAGE, 3, 0x32, NO_FD, 0)),
        Call("mprotect", (LOW, PAGE, PROT_EXEC)),
    ):
        assert side.step(call) is None
    assert side.space.mdwe
    vma = side.space.vmas.get(side.bases.low)
    assert vma is not None
    assert not vma.flags & VM_EXEC
    _play(room, [deny])


@pytest.mark.parametrize("mode", ["predict", "pal"])
def test_the_legacy_layout_goes_upwards(stack: ExitStack, mode: str) -> None:
    room = Room(mode, stack, persona=ADDR_COMPAT_LAYOUT)
    assert not room.side(stack).space.layout.top_down
    _play(room, [])


@pytest.mark.slow
def test_the_limit_on_vmas(stack: ExitStack) -> None:
    side = Room("pal", stack).side(stack)
    assert isinstance(side, ThroughPal)
    limit = side.space.layout.max_map_count
    pages = limit + 100
    assert side.step(Call("mmap", (LOW, pages * PAGE, 0, 0x4032, NO_FD, 0))) is None
    for page in range(1, pages, 2):
        assert (
            side.step(Call("mprotect", (LOW + page * PAGE, PAGE, 1)), compare=page % 20_000 == 1)
            is None
        )
    assert limit - 3 <= side.space.map_count <= limit
    high = LOW + pages * PAGE
    for call in (
        Call("munmap", (high - 10 * PAGE, PAGE)),
        Call("munmap", (LOW + PAGE, PAGE)),
        Call("mmap", (high + PAGE, PAGE, 3, 0x32, NO_FD, 0)),
        Call("mmap", (high + 3 * PAGE, PAGE, 3, 0x32, NO_FD, 0)),
        Call("mmap", (high + 5 * PAGE, PAGE, 3, 0x32, NO_FD, 0)),
        Call("mremap", (LOW, PAGE, PAGE, 3, high + 9 * PAGE)),
        Call("madvise", (high - 8 * PAGE, PAGE, 10)),
        Call("mlock", (high - 8 * PAGE, PAGE)),
        Call("munmap", (LOW, 40 * PAGE)),
        Call("mmap", (high + 5 * PAGE, PAGE, 3, 0x32, NO_FD, 0)),
    ):
        assert side.step(call) is None
