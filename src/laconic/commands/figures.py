"""The source of a run's figures: a trace, or the JSON that a verb wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.baseline import EnclaveBasis, RunFigures
    from laconic.analysis.suppressions import Suppression
    from laconic.trace import Trace
    from laconic.trace.selection import Selection
    from laconic.trace.stacks import Stacks


def read_figures(
    path: str,
    rules: Iterable[Suppression] = (),
    selection: Selection | None = None,
    enclave: EnclaveBasis | None = None,
) -> tuple[RunFigures, Stacks | None]:
    """Return the figures at `path`, and the stacks if it is a trace. Raises LaconicError."""
    from laconic.commands.traces import open_trace
    from laconic.trace.reader import open_input

    with open_input(path) as file:
        is_json = file.read(64).lstrip()[:1] == b"{"
    if not is_json:
        return trace_figures(open_trace(path), rules, selection=selection, enclave=enclave)
    if selection is not None:
        raise LaconicError(
            f"{path!r} is JSON, and calls cannot be selected from it; name its trace instead"
        )
    return read_json(path), None


def read_json(path: str) -> RunFigures:
    """Return the figures in the JSON that a verb wrote. Raises LaconicError."""
    from laconic.analysis.baseline import from_json
    from laconic.trace.reader import open_input

    with open_input(path) as file:
        data = file.read()
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = "it is empty" if not data.strip() else " ".join(str(error).split())[:120]
        raise LaconicError(f"{path!r} is not JSON, {what}: make it again") from None
    return from_json(parsed, path)


def trace_figures(
    trace: Trace,
    rules: Iterable[Suppression] = (),
    name: str = "",
    selection: Selection | None = None,
    enclave: EnclaveBasis | None = None,
) -> tuple[RunFigures, Stacks]:
    """Return the figures of a trace, and its stacks, and report what is missing. The figures are
    named `name`, or after the file.

    Raises LaconicError.
    """
    from laconic.analysis.baseline import from_sites
    from laconic.analysis.sites import sites
    from laconic.commands.progress import progress
    from laconic.commands.traces import tell_loss

    with progress(f"replaying {trace.path}", trace.size) as update:
        strategies = () if enclave is None else (enclave.strategy,)
        found = sites(trace, strategies, update, selection=selection)
    tell_loss(trace, found.loss)
    return from_sites(found, name or trace.path, rules, enclave), found.stacks
