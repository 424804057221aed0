"""The kernel's constants as text, as strace writes them (x86-64)."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from laconic.linux.clone import CLONE_FLAGS
from laconic.memory import flags
from laconic.trace.importers.strace.names import NUMBERS


def _table(prefix: str, *without: str) -> dict[int, str]:
    # The names of one kind by value; the first name if two have the same value.
    found: dict[int, str] = {}
    for name, value in ((name.decode(), value) for name, value in NUMBERS.items()):
        if name.startswith(prefix) and not name.startswith(
            ("PROT_RWX", "MAP_TYPE", "MAP_HUGE_", *without)
        ):
            found.setdefault(value, name)
    return found


PROT: Final = {bit: name for bit, name in _table("PROT_").items() if bit}
_MAP: Final = _table("MAP_")
MAP: Final = {bit: name for bit, name in _MAP.items() if bit > flags.MAP_TYPE}
MAP_TYPES: Final = {value: name for value, name in _MAP.items() if value < flags.MAP_TYPE}
MREMAP: Final = _table("MREMAP_")
MS: Final = _table("MS_")
MCL: Final = _table("MCL_")
MLOCK: Final = _table("MLOCK_")
MADV: Final = _table("MADV_")
SHM: Final = _table("SHM_")
MPOL: Final = _table("MPOL_", "MPOL_F_", "MPOL_MF_")
#: The flags within a memory policy's mode (MPOL_MODE_FLAGS), not those of get_mempolicy.
MPOL_F: Final = {bit: name for bit, name in _table("MPOL_F_").items() if bit > 0xFF}
MPOL_MF: Final = _table("MPOL_MF_")
PR: Final = _table("PR_SET_", "PR_SET_VMA_")
SECCOMP: Final = _table("SECCOMP_SET_") | _table("SECCOMP_GET_")
CLONE: Final = {bit: name for name, bit in CLONE_FLAGS.items()}


@lru_cache(4096)
def prot(value: int) -> str:
    """
    >>> prot(3)
    'PROT_READ|PROT_WRITE'
    """
    return bits(value, PROT, "PROT_NONE")


@lru_cache(4096)
def map_flags(value: int) -> str:
    """
    >>> map_flags(0x40022 | 21 << 26)
    'MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT'
    """
    kind = value & flags.MAP_TYPE
    words = [MAP_TYPES.get(kind) or f"{kind:#x}"]
    size = flags.MAP_HUGE_MASK << flags.MAP_HUGE_SHIFT
    if rest := value & ~(flags.MAP_TYPE | size):
        words.append(bits(rest, MAP))
    if value & size:
        words.append(f"{(value & size) >> flags.MAP_HUGE_SHIFT}<<MAP_HUGE_SHIFT")
    return "|".join(words)


@lru_cache(4096)
def clone_flags(value: int, with_signal: bool) -> str:
    """Return the flags of clone(2), whose low byte is the exit signal of the child (CSIGNAL), or of
    clone3(2)."""
    number = value & 0xFF if with_signal else 0
    words = [bits(value - number, CLONE)] if value - number or not number else []
    return "|".join([*words, signal_name(number)] if number else words)


def memory_policy(value: int) -> str:
    """Return the mode of mbind(2) and set_mempolicy(2).

    >>> memory_policy(0x8002)
    'MPOL_BIND|MPOL_F_STATIC_NODES'
    """
    mode = sum(bit for bit in MPOL_F if value & bit)
    base = one(value - mode, MPOL, "MPOL")
    return f"{base}|{bits(mode, MPOL_F)}" if mode else base


def bits(value: int, names: Mapping[int, str], none: str = "0") -> str:
    """Return a set of flags as text; bits without a name are a hexadecimal number at the end.

    >>> bits(0x8000005, PROT)
    'PROT_READ|PROT_EXEC|0x8000000'
    """
    words = [name for bit, name in names.items() if value & bit]
    rest = value & ~sum(bit for bit in names if value & bit)
    return "|".join([*words, f"{rest:#x}"] if rest else words) or none


def one(value: int, names: Mapping[int, str], family: str) -> str:
    """Return one of several values as text; for a value without a name, name the family.

    >>> one(200, MADV, "MADV")
    '0xc8 /* MADV_??? */'
    """
    return names.get(value) or f"{value:#x} /* {family}_??? */"


def signal_name(number: int) -> str:
    """
    >>> signal_name(9), signal_name(36)
    ('SIGKILL', 'SIGRT_4')
    """
    if 32 <= number <= 64:
        return f"SIGRT_{number - 32}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
