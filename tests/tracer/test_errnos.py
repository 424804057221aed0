"""Calls that fail for several reasons at once: the program gets the errno that it gets without
Laconic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.lab import STRATEGIES, build, run_alone, run_laconic, skip_where_it_did, tool

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
as_root = pytest.mark.skipif(os.getuid() != 0, reason="gives up privileges, or makes a namespace")
PARTS = (
    "descriptors",
    "validate",
    "huge",
    "keys",
    "execution",
    "last-page",
    "neighbors",
    "mdwe",
    "mdwe-not-inherited",
    "shared",
)
MTHP = Path("/sys/kernel/mm/transparent_hugepage/hugepages-16kB/shmem_enabled")


def compare(part: str, strategy: str, place: Path) -> None:
    """Run a part of the program alone and under Laconic, without randomization: the output is the
    same."""
    command: list[str | Path] = [tool("setarch"), "-R", build("errnos"), part]
    alone = run_alone(command, cwd=place)
    assert alone.returncode == 0, alone.stdout
    skip_where_it_did(alone)
    run = run_laconic(*command, strategy=strategy, cwd=place)
    assert (run.status, run.out) == (0, alone.stdout), run.err
    assert run.exact()
    assert run.figures["resynced"] == 0


@every_strategy
@pytest.mark.parametrize("part", PARTS)
def test_the_errno_is_that_of_the_kernel(part: str, strategy: str, tmp_path: Path) -> None:
    compare(part, strategy, tmp_path)


@as_root
@every_strategy
@pytest.mark.parametrize("part", ["locked", "unlockable"])
def test_limits_on_locked_memory_come_before_other_errors(
    part: str, strategy: str, tmp_path: Path
) -> None:
    compare(part, strategy, tmp_path)


@as_root
@every_strategy
def test_the_first_segment_of_an_ipc_namespace_is_detached(strategy: str, tmp_path: Path) -> None:
    compare("segment", strategy, tmp_path)


@pytest.fixture
def large_shared_folios() -> Iterator[None]:
    """Shared anonymous memory may have folios of 16 KiB, on the whole machine."""
    if not os.access(MTHP, os.W_OK):
        pytest.skip("this kernel, or user, cannot turn on multi-size THP for shared memory")
    before = MTHP.read_text().partition("[")[2].partition("]")[0]
    MTHP.write_text("advise")
    yield
    MTHP.write_text(before)


@pytest.mark.slow
@pytest.mark.usefixtures("large_shared_folios")
@every_strategy
def test_shared_memory_is_aligned_to_its_folios(strategy: str, tmp_path: Path) -> None:
    compare("shared", strategy, tmp_path)
