"""All advice for a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laconic.analysis.advise import allocators, manifest, runtimes

if TYPE_CHECKING:
    from laconic.analysis.advise.advice import Advice
    from laconic.analysis.advise.figures import AdviceFigures
    from laconic.sgx.costs import CostProfile


def advise(figures: AdviceFigures, profile: CostProfile) -> list[Advice]:
    """Return the manifest's options, then the settings of allocators and runtimes, as lines that
    are right if all of them are followed.

    O(programs × reservations).
    """
    if not figures.images:
        return []
    settings = [*allocators.advise(figures), *runtimes.advise(figures)]
    return [*manifest.advise(figures, profile, sum(each.heap for each in settings)), *settings]
