"""mprotect and pkey_mprotect: do_mprotect_pkey in mm/mprotect.c."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EINVAL, ENOMEM, EPERM
from typing import Final

from laconic.memory.change import NOTHING, Change, Outcome, classify, new
from laconic.memory.flags import (
    ADDRESS_MASK,
    PAGE_MASK,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    PROT_RWX,
    PROT_SEM,
    PROT_WRITE,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_MAYEXEC,
    VM_PROT,
    VM_SEALED,
)
from laconic.memory.mmap import page_align
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

#: The flags that decide whether an mprotect changes nothing. A sealed VMA is refused.
_PROT_OR_SEALED: Final = VM_PROT | VM_SEALED


def mprotect(
    space: AddressSpace,
    start: int,
    length: int,
    prot: int,
    pkey: int = -1,
    read_implies_exec: bool = False,
    vma_start: Callable[[int], int] | None = None,
) -> Outcome:
    """Change a protection (mprotect(2)); unless `pkey` is -1, set its key too (pkey_mprotect(2)).

    `start` and `length` are in bytes. With PROT_GROWSDOWN, the change starts at the start of the
    VMA of `start`. Pages that look alike can be several VMAs (is_mergeable_anon_vma): `vma_start`
    returns the start of the host's VMA.

    At a hole, a refusal or a sealed VMA, the pages before it stay changed, as on Linux. A call with
    a key is always passed on, because only the host knows which keys are allocated. Complexity:
    O(log n + k), and O(log n) if one VMA already has the requested protection.
    """
    # The common cases first: pages of one VMA that may be changed. PROT_EXEC alone is not common,
    # as it allocates a protection key.
    if not start % PAGE_SIZE and pkey == -1 and not read_implies_exec and prot != PROT_EXEC:
        vmas = space.vmas
        end = start + length
        vma = vmas.hinted(start, end)
        if vma is not None and vma.flags & _PROT_OR_SEALED == prot and not space.mdwe:
            return NOTHING
        position = vmas.position(start)
        keys, values, low, high = position
        vma = values[low]
        within = high < len(keys) and start < end <= keys[high]
        if within and vma is not None and not space.mdwe:
            flags = vma.flags
            if flags & _PROT_OR_SEALED == prot:
                # Programs repeat redundant mprotects at the same address.
                vmas.hint(start, position)
                return NOTHING
            may = flags >> 4 & VM_PROT  # VM_MAY% are four bits above VM_%
            if not end % PAGE_SIZE and not prot & ~may and not flags & VM_SEALED:
                return _within(space, start, end, prot, vma)
    return _mprotect(space, start, length, prot, pkey, read_implies_exec, vma_start)


def _mprotect(
    space: AddressSpace,
    start: int,
    length: int,
    prot: int,
    pkey: int,
    read_implies_exec: bool,
    vma_start: Callable[[int], int] | None,
) -> Outcome:
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    prot &= ~grows
    if grows == PROT_GROWSDOWN | PROT_GROWSUP or start & ~PAGE_MASK:
        return Outcome(-EINVAL)
    if not length:
        return NOTHING
    end = start + page_align(length) & ADDRESS_MASK
    if end <= start:
        return Outcome(-ENOMEM)
    if prot & ~(PROT_RWX | PROT_SEM):
        return Outcome(-EINVAL)
    # Unallocated keys are refused before the VMAs are checked (mm_pkey_is_allocated).
    keyed = pkey != -1
    edit_start, refusal = _first_vma(space, start, end, grows)
    if refusal:
        return Outcome(refusal, ask=keyed)
    if edit_start < start and vma_start is not None:
        edit_start = max(edit_start, vma_start(start))
    start = edit_start
    edit_end, result = _permitted(space, start, end, prot & PROT_RWX, read_implies_exec)

    def protect(vma: Vma) -> Vma:
        wanted = vma.flags & ~VM_PROT | _prot(vma, prot & PROT_RWX, read_implies_exec)
        if pkey != -1:
            return vma._replace(flags=wanted, pkey=pkey)
        return vma if vma.flags == wanted else vma.with_flags(wanted)

    # PROT_EXEC alone allocates a protection key, even if the call is refused or changes nothing,
    # and denies access by that key in PKRU (execute_only_pkey in arch/x86/mm/pkeys.c). With
    # PROT_SEM it takes such a key away (__arch_override_mprotect_pkey), though the protection stays
    # the same.
    sets_key = prot & PROT_RWX == PROT_EXEC
    changes = space.edit(start, edit_end, protect) if edit_end > start else ()
    return Outcome(result, changes, start, end, ask=keyed or sets_key)


def _first_vma(space: AddressSpace, start: int, end: int, grows: int) -> tuple[int, int]:
    # The checks of the first VMA in do_mprotect_pkey. Returns the start of the change, and 0 or a
    # negative errno.
    run_start, run_end, vma = space.vmas.find(start)
    if grows == PROT_GROWSDOWN:
        if vma is None and run_end < end:
            # vma_find() returns the next VMA above, and the change starts at its start.
            run_start, _, vma = space.vmas.find(run_end)
        if vma is None:
            return start, -ENOMEM
        return run_start, 0 if vma.flags & VM_GROWSDOWN else -EINVAL
    if vma is None:
        return start, -ENOMEM
    return start, -EINVAL if grows else 0  # no VM_GROWSUP on x86


def _within(space: AddressSpace, start: int, end: int, prot: int, vma: Vma) -> Outcome:
    # A permitted change within one VMA.
    wanted = vma.with_flags(vma.flags & ~VM_PROT | prot)
    space.vmas.set(start, end, wanted)
    change = new(Change, (classify(vma, wanted), start, end, wanted, vma, None))
    return new(Outcome, (0, (change,), start, end, False, False, False, None))


def _prot(vma: Vma, prot: int, read_implies_exec: bool) -> int:
    if read_implies_exec and prot & PROT_READ and vma.flags & VM_MAYEXEC:
        prot |= PROT_EXEC
    return prot


def _permitted(
    space: AddressSpace, start: int, end: int, prot: int, read_implies_exec: bool
) -> tuple[int, int]:
    # The end of the change, which is at the first hole or refusal, and the call's result.
    for vma_start, _, vma in space.vmas.runs(start, end):
        if vma is None:
            return vma_start, -ENOMEM
        wanted = _prot(vma, prot, read_implies_exec)
        if wanted & ~(vma.flags >> 4):
            return (
                vma_start,
                -EACCES,
            )  # newflags & ~(newflags >> 4): VM_MAY% are four bits above VM_%
        if space.mdwe and wanted & PROT_EXEC and (wanted & PROT_WRITE or not vma.flags & VM_EXEC):
            return vma_start, -EACCES  # map_deny_write_exec
        if vma.flags & VM_SEALED:
            return vma_start, -EPERM
    return end, 0
