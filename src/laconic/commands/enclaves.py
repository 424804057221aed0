"""The enclaves of a trace, as JSON, for the verbs that show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laconic.analysis.compare import Model
    from laconic.analysis.schemas import Json
    from laconic.sgx.costs import CostProfile
    from laconic.trace import Trace
    from laconic.trace.selection import Selection


def enclaves(
    trace: Trace,
    names: Sequence[str],
    profile: CostProfile,
    pages: int | None = None,
    jobs: int | None = None,
    model: Model | None = None,
    selection: Selection | None = None,
) -> tuple[Json, int, list[str]]:
    """Return what a trace does in enclaves, as JSON; the number of events; and the data that it
    lacks.

    `pages`: the size of an EPC with which the peaks are compared. Raises LaconicError if the trace
    cannot be read.
    """
    from laconic.analysis.compare import compare
    from laconic.commands.progress import progress
    from laconic.report.compare import as_json

    with progress(f"comparing {trace.path}", trace.size) as update:
        compared = compare(
            trace, names, profile, progress=update, jobs=jobs, model=model, selection=selection
        )
    return as_json(compared, pages), compared.events, compared.lost
