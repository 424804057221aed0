"""How a host can fail: each operation of the driver and each leaf of the enclave, in all ways that
matter."""

from __future__ import annotations

import random
from errno import EAGAIN, EBUSY, EFAULT, EINTR, ENOMEM, EPERM

from laconic.sgx.model.failures import Failure, Plan
from laconic.sgx.model.faults import (
    EPC_PAGE_CONFLICT,
    NOT_TRACKED,
    PAGE_ATTRIBUTES_MISMATCH,
    PAGE_NOT_MODIFIABLE,
)

#: By the operation: what passes if it is tried again; what does not.
PASSES = {
    "restrict": [Failure(EBUSY), Failure(EAGAIN, after=1), Failure(EFAULT, EPC_PAGE_CONFLICT, 2)],
    "modify_types": [Failure(EBUSY), Failure(EAGAIN, after=1), Failure(EINTR, after=2)],
    "remove": [Failure(EBUSY), Failure(EAGAIN, after=1)],
    "eaccept": [Failure(code=NOT_TRACKED), Failure(code=NOT_TRACKED, after=1)],
    "eacceptcopy": [Failure(code=EPC_PAGE_CONFLICT), Failure(code=EPC_PAGE_CONFLICT, after=1)],
    "emodpe": [Failure(code=EPC_PAGE_CONFLICT, after=1)],
    "mprotect": [Failure(EAGAIN)],
}
STAYS = {
    "restrict": [Failure(EFAULT, PAGE_NOT_MODIFIABLE), Failure(EFAULT, after=1), Failure(EPERM)],
    "modify_types": [
        Failure(EFAULT, PAGE_NOT_MODIFIABLE),
        Failure(EFAULT, after=1),
        Failure(EPERM, after=2),
    ],
    "remove": [Failure(EPERM), Failure(EFAULT, after=1)],
    "eaug": [Failure(ENOMEM), Failure(ENOMEM, after=1)],
    "eaccept": [
        Failure(code=PAGE_ATTRIBUTES_MISMATCH),
        Failure(code=PAGE_ATTRIBUTES_MISMATCH, after=1),
    ],
    "eacceptcopy": [
        Failure(code=PAGE_ATTRIBUTES_MISMATCH),
        Failure(code=PAGE_ATTRIBUTES_MISMATCH, after=1),
    ],
    "emodpe": [Failure(), Failure(after=1)],
    "etrack": [Failure(EFAULT), Failure(EFAULT, after=1)],
    "mprotect": [Failure(ENOMEM), Failure(ENOMEM, after=1)],
}
FAILURES = {kind: PASSES.get(kind, []) + failures for kind, failures in STAYS.items()}


def now_and_then(seed: int) -> Plan:
    """One operation in thirty fails, in any way; two in a row do not, so that what failed can be
    taken back."""
    source = random.Random(seed)
    quiet = 0

    def fail(kind: str, number: int) -> Failure | None:
        nonlocal quiet
        quiet -= 1
        if quiet > 0 or source.random() > 1 / 30:
            return None
        quiet = 60
        return source.choice(FAILURES[kind])

    return Plan(fail)
