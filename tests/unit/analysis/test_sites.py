"""Sites: what the calls from one place count as, and at which events."""

from __future__ import annotations

from pathlib import Path

import laconic.trace
from laconic.analysis.sites import sites
from tests.helpers.sitetraces import sited


def test_a_site_has_its_first_and_last_event_and_its_first_redundant_one(tmp_path: Path) -> None:
    """Each call of these traces has a row with its stack before it."""
    found = sites(laconic.trace.open(sited(tmp_path / "a.trace", {"f": (3, 2), "g": (0, 1)})))
    setup, first, second = found.sites
    assert (setup.call, setup.calls, setup.redundant, setup.first_redundant) == ("mmap", 1, 0, -1)
    assert setup.first == setup.last
    assert (first.calls, first.redundant, first.host_calls, first.failed) == (5, 3, 2, 0)
    # The first three of the five calls change nothing.
    assert first.first == first.first_redundant == setup.first + 2
    assert first.last == first.first + 8
    assert (second.calls, second.redundant, second.first_redundant) == (1, 0, -1)
    assert second.first == second.last == first.last + 2


def test_the_first_redundant_call_may_follow_others(tmp_path: Path) -> None:
    plan = {"f": (0, 2), "g": (1, 0), "h": (2, 0)}
    found = sites(laconic.trace.open(sited(tmp_path / "a.trace", plan)))
    assert [site.first_redundant - site.first for site in found.sites if site.redundant] == [0, 0]
    assert [site.redundant for site in found.sites] == [0, 0, 1, 2]
