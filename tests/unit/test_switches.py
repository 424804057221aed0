"""Each change to Gramine that can be switched on, by formulas worked out by hand for small
programs; and all combinations on the modelled enclave."""

from __future__ import annotations

import pytest
from tests.unit.enclaveworld import BASE, PAGE, Cost, Program, cost, machine

from laconic.errors import LaconicError
from laconic.memory import flags as f
from laconic.sgx.meter import Counts
from laconic.strategies import strategy
from laconic.strategies.every_call import EveryCall
from laconic.strategies.skip_equal import SkipEqual

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X


def rule(text: str) -> type[EveryCall]:
    """The strategy `every-call` with these switches."""
    found = strategy(f"every-call:{text}")
    assert issubclass(found, EveryCall)
    return found


def with_(*switches: str, hardware: bool = False) -> Program:
    """A program under `every-call` with these switches on, on the modelled enclave if `hardware`."""
    options = ",".join(switch if "=" in switch else f"{switch}=on" for switch in switches)
    return Program(rule(options), machine() if hardware else None)


# store

#: Pages of the store that a parent commits and frees, and of the checkpoint's data.
STORE, DATA = 16384, 8


def test_a_lazy_store_commits_what_is_used_of_it() -> None:
    """Today: 16,384 pages are added, accepted, trimmed and removed. Then: as many as the data."""
    p = with_("store")
    p.map(BASE, 3, RW)
    p.anew().strategy.fork(p.space.fork(), p.touches.copy())
    assert p.counts.eaug == p.counts.eaug_faults == DATA + DATA + 3
    assert p.counts.exceptions == DATA
    assert (p.counts.emodt, p.counts.etrack_ipis, p.counts.eremove) == (DATA,) * 3
    assert p.counts.eaccept == 2 * DATA + DATA + 3
    assert (p.counts.ioctls, p.counts.host_calls) == (2, 2 + 1 + 2 + 2 * 3)
    assert p.meter.peak_epc_pages == 3 + DATA + DATA + 3


# equal


def test_equal_is_the_strategy_skip_equal() -> None:
    counts = []
    for maker in (rule("equal=on"), SkipEqual):
        p = Program(maker)
        p.map(BASE, 5, RW)
        for page in range(5):
            p.protect(BASE + page * PAGE, 1, RW)
        p.protect(BASE + PAGE, 2, R)
        p.strategy.thread()
        p.unmap(BASE, 5)
        counts.append(p.counts)
    assert counts[0] == counts[1]
    with pytest.raises(LaconicError, match="use every-call:equal=on,store=on"):
        strategy("skip-equal:store=on")


# kinds, extend

#: By change, and for each page: EMODPE, EMODPR (with its tracking cycle), EACCEPT. Today it is one
#: of each, whatever changes.
CHANGES = {
    (RW, RW): {"kinds": (0, 0, 0), "extend": (1, 0, 0), "both": (0, 0, 0)},
    (R, RW): {"kinds": (1, 1, 1), "extend": (1, 0, 0), "both": (1, 0, 0)},
    (RW, R): {"kinds": (0, 1, 1), "extend": (1, 1, 1), "both": (0, 1, 1)},
    (RW, RX): {"kinds": (1, 1, 1), "extend": (1, 1, 1), "both": (1, 1, 1)},
    (0, R): {"kinds": (1, 1, 1), "extend": (1, 0, 0), "both": (1, 0, 0)},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("switches", ["kinds", "extend", "both"])
def test_a_protect_does_what_changes(change: tuple[int, int], switches: str) -> None:
    before, after = change
    n = 7
    p = with_(*(("kinds", "extend") if switches == "both" else (switches,)), hardware=True)
    p.map(BASE, n, before)
    p.anew().protect(BASE, n, after)
    extended, restricted, accepted = CHANGES[change][switches]
    assert (p.counts.emodpe, p.counts.emodpr, p.counts.etrack_ipis, p.counts.eaccept) == (
        n * extended,
        n * restricted,
        n * restricted,
        n * accepted,
    )
    assert p.counts.host_calls == p.counts.ioctls == restricted
    opens = switches == "extend" and change == (RW, RX)
    assert p.counts.open_windows == (n if opens else 0), "kinds: EMODPR comes first"
    assert list(p.meter.effective(BASE, BASE + n * PAGE)) == [(BASE, BASE + n * PAGE, after)]


def test_runs_of_one_protect_share_an_ioctl_where_they_touch() -> None:
    """RW, R, X: to R, the first and the last are restricted, and R is between them."""
    p = with_("kinds", hardware=True)
    for page, prot in enumerate((RW, RX, R, RWX)):
        p.map(BASE + page * PAGE, 1, prot)
    p.anew().protect(BASE, 4, R)
    assert cost(p) == Cost(2, 3, 0), "the first two are one run"


def test_two_switches_together_split_nothing_of_an_equal_call() -> None:
    p = with_("kinds", "equal")
    p.map(BASE, 4, RW)
    p.anew().protect(BASE + PAGE, 1, RW)
    assert p.counts == Counts()
    assert p.strategy.vmas.count == 1
