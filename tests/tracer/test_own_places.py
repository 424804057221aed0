"""Where the host chooses the address, its choice is the program's and bookkeeping's."""

from __future__ import annotations

import pytest

from tests.tracer.lab import STRATEGIES, build, run_laconic


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_program_with_its_own_filter_uses_what_it_maps(strategy: str) -> None:
    run = run_laconic(build("own_places"), strategy=strategy)
    assert (run.status, run.out) == (0, "used\n"), run.err
    assert run.exact()
