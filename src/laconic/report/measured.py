"""What SGX hardware counted while a traced program ran, next to the part that the modeled memory
calls cause.

Gramine counts an EENTER for each ECALL, for the return from each OCALL and for each exception that
it raises in the enclave; an EEXIT for each OCALL; an AEX for each fault and interrupt; a
synchronous signal for each exception that the host raises (pal/src/host/linux-sgx/host_entry.S and
host_exception.c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.analysis.compare import Compared
from laconic.analysis.schemas import Json
from laconic.replay.engine import Measured
from laconic.report.names import wrapped
from laconic.report.numbers import low_to_high
from laconic.report.tables import between, tables
from laconic.sgx.meter import Counts

#: Each of SGX's counters, and the modeled counts that memory calls contribute to it.
CAUSES: Mapping[str, tuple[str, ...]] = {
    "eenters": ("host_calls", "exceptions"),
    "eexits": ("host_calls",),
    "aexs": ("eaug_faults", "exceptions"),
    "sync_signals": ("exceptions",),
    "async_signals": (),
}
_NAMES = {
    "eenters": "EENTERs",
    "eexits": "EEXITs",
    "aexs": "AEXs",
    "sync_signals": "sync signals",
    "async_signals": "async signals",
}


def as_json(compared: Compared) -> Json | None:
    """Return the counters of the hardware and, for each strategy, the part that memory calls cause;
    None if there are no counters."""
    if not compared.measured:
        return None
    model = {}
    for name, figures in compared.strategies.items():
        low, high = figures.total.low, figures.total.high
        model[name] = {
            counter: [_caused(low, counter), _caused(high, counter)] for counter in CAUSES
        }
    return {
        "total": _total(compared.measured),
        "entries": [entry._asdict() for entry in compared.measured],
        "from_memory_calls": model,
    }


def _caused(counts: Counts, counter: str) -> int:
    return sum(getattr(counts, cause) for cause in CAUSES[counter])


def _total(measured: Sequence[Measured]) -> Json:
    # A process's counters include those of its threads. After SIGUSR1 Gramine prints counters
    # again, starting from 0.
    processes = [entry for entry in measured if entry.whole_process]
    entries = processes or measured
    return {counter: sum(getattr(entry, counter) for entry in entries) for counter in CAUSES}


def as_text(figures: Mapping[str, Any], width: int) -> list[str]:
    """Return lines for people. `figures` are those of `as_json`."""
    total = figures["total"]
    rows = [("measured on hardware", {counter: [total[counter]] * 2 for counter in CAUSES})]
    rows += list(figures["from_memory_calls"].items())
    columns = []
    for counter in CAUSES:
        cells = [between(*ends[counter]) for _, ends in rows]
        columns.append([_NAMES[counter].replace(" ", "\n"), *cells])
    lines = ["", "SGX's own counters, and what memory calls cause of them by the model"]
    lines += tables("strategy", columns, [(label, None) for label, _ in rows], width)
    lines.append("")
    lines += wrapped(_shares(figures), width)
    return lines


def _shares(figures: Mapping[str, Any]) -> str:
    # Gramine's behavior is every-call, so only that model can be compared with a measurement.
    total, model = figures["total"], figures["from_memory_calls"].get("every-call")
    if model is None:
        return ""
    parts = []
    excess = False
    for counter in ("eexits", "aexs"):
        low, high = model[counter]
        count = total[counter]
        share = "no share is defined"
        if count:
            share = f"{low_to_high(100 * low / count, 100 * high / count, '.1f')} %"
        excess = excess or low > count
        parts.append(f"{low_to_high(low, high)} of the {count:,} {_NAMES[counter]} ({share})")
    text = (
        "If the program ran in Gramine with sgx.edmm_enable, its memory calls account for "
        f"{' and '.join(parts)}. The other EEXITs are OCALLs for files, sockets, locks, the log "
        "and Gramine's own start; the other AEXs are timer and tracking interrupts, and "
        "instructions that Gramine emulates."
    )
    if excess:
        text += (
            " The model has more than was measured: the program ran without sgx.edmm_enable, or "
            "the log lacks the statistics of some process."
        )
    return text
