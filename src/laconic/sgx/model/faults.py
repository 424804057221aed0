"""Refusals by the hardware, the driver and the kernel: #GP, #PF, an error code in RAX, a signal, an
errno.

Each refusal names the page where it happened. Work that an operation did below that address stays
done.
"""

from __future__ import annotations

from errno import errorcode
from typing import Final

#: Error codes of the SGX instructions (RAX, with ZF=1).
PG_INVLD: Final = 6
EPC_PAGE_CONFLICT: Final = 7
NOT_TRACKED: Final = 11
CHILD_PRESENT: Final = 13
ENCLAVE_ACT: Final = 14
PREV_TRK_INCMPL: Final = 17
PAGE_ATTRIBUTES_MISMATCH: Final = 19
PAGE_NOT_MODIFIABLE: Final = 20

NAMES: Final = {
    PG_INVLD: "PG_INVLD",
    EPC_PAGE_CONFLICT: "EPC_PAGE_CONFLICT",
    NOT_TRACKED: "NOT_TRACKED",
    CHILD_PRESENT: "CHILD_PRESENT",
    ENCLAVE_ACT: "ENCLAVE_ACT",
    PREV_TRK_INCMPL: "PREV_TRK_INCMPL",
    PAGE_ATTRIBUTES_MISMATCH: "PAGE_ATTRIBUTES_MISMATCH",
    PAGE_NOT_MODIFIABLE: "PAGE_NOT_MODIFIABLE",
}

#: Bits of a #PF's error code (X86_PF_*).
PF_PROT: Final = 1
PF_WRITE: Final = 2
PF_USER: Final = 4
PF_INSTR: Final = 0x10
PF_SGX: Final = 0x8000

#: The bits that an access adds to its fault's error code.
PF_ACCESS: Final = {"load": PF_USER, "store": PF_USER | PF_WRITE, "fetch": PF_USER | PF_INSTR}


class Refused(Exception):
    """The hardware or the kernel refuses `what` at the page `address`; the pages of the range below
    it are done."""

    def __init__(self, what: str, address: int, why: str) -> None:
        super().__init__(f"{what} at {address:#x}: {why}")
        self.what = what
        self.address = address


class GeneralProtection(Refused):
    """#GP(0)."""

    def __init__(self, what: str, address: int, why: str) -> None:
        super().__init__(what, address, f"#GP, {why}")


class PageFault(Refused):
    """#PF with its `error_code`: if bit 15 (SGX) is set, the EPCM refused; otherwise the page
    tables did."""

    def __init__(self, what: str, address: int, error_code: int, why: str) -> None:
        super().__init__(what, address, f"#PF({error_code:#x}), {why}")
        self.error_code = error_code


class LeafError(Refused):
    """An SGX instruction that returned with ZF=1 and this `code` in RAX."""

    def __init__(self, what: str, address: int, code: int) -> None:
        super().__init__(what, address, f"{NAMES.get(code, 'error')} ({code})")
        self.code = code


class HostFault(PageFault):
    """A #PF that the kernel answers with a `signal`; `error` is ENOMEM if the EPC is full, and
    otherwise 0."""

    def __init__(self, address: int, error_code: int, signal: int, error: int, why: str) -> None:
        super().__init__("fault", address, error_code, why)
        self.signal = signal
        self.error = error


class SgxError(Exception):
    """An operation of a `Machine` was refused.

    `what` is the SGX instruction, ioctl or access. `done` is the address up to which the operation
    was carried out. `error` is an errno (0: not from the kernel), `code` an instruction's error
    code (0: none), and `fault` a #PF's error code (0: none). For a #GP, all three are 0.
    """

    def __init__(
        self, what: str, done: int, error: int = 0, code: int = 0, fault: int = 0, why: str = ""
    ) -> None:
        parts = [errorcode.get(error, f"errno {error}")] if error else []
        parts += [f"{NAMES.get(code, 'error')} ({code})"] if code else []
        parts += [f"#PF({fault:#x})"] if fault else []
        parts += [why] if why else []
        super().__init__(f"{what} stopped at {done:#x}: {', '.join(parts) or '#GP'}")
        self.what = what
        self.done = done
        self.error = error
        self.code = code
        self.fault = fault

    @classmethod
    def of(cls, refused: Refused) -> SgxError:
        """Return the same refusal as an error for a machine's caller."""
        error = refused.error if isinstance(refused, HostFault) else 0
        code = refused.code if isinstance(refused, LeafError) else 0
        fault = refused.error_code if isinstance(refused, PageFault) else 0
        return cls(
            refused.what, refused.address, error, code, fault, str(refused).partition(": ")[2]
        )
