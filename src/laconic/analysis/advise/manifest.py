"""Memory options of a Gramine manifest. Values that come from Gramine, not from the trace, are
constants here.

Options, defaults and helper threads are those of Gramine's Documentation/manifest-syntax.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from os.path import basename
from typing import TYPE_CHECKING, Any

from laconic.analysis.advise.advice import (
    MANIFEST,
    Advice,
    manifest_size,
    power_of_two,
    round_up,
    shown_size,
)
from laconic.analysis.advise.figures import EAGER, OURS, TODAY, AdviceFigures
from laconic.analysis.advise.watch import MIB, Image
from laconic.memory.flags import PAGE_SHIFT, VM_PROT
from laconic.memory.vma import Vma
from laconic.sgx.meter import ANY_MACHINE, Counts
from laconic.trace.numbers import LowHigh, cycles, low_to_high
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.sgx.costs import CostProfile

#: Gramine's own threads: IPC, Async, and one for TLS handshakes.
HELPERS = 3
#: The defaults of sys.stack.size and sys.brk.max_size, in bytes.
STACK, BRK = 256 << 10, 256 << 10
#: Allowances, none of them measured: the library OS and the PAL with their data, and the memory of
#: each thread (TCS, TLS, SSA frames, stacks of PAL and library OS); bytes.
RUNTIME, PER_THREAD = 64 * MIB, 256 << 10
#: The enclave's address range with EDMM if the manifest does not set it: sgx.enclave_size of 1024G,
#: in bytes.
EDMM_DEFAULT = 1 << 40
#: The size of the contiguous range that a fork needs for the checkpoint store (cp_alloc in
#: libos_checkpoint.c: CP_INIT_VMA_SIZE, and half of it again), in bytes.
CHECKPOINT = 96 * MIB
#: The minimum free part of an enclave or a heap, relative to what is needed, because runs differ.
SPARE = 0.05
#: Programs that read the limit of their stack, which no trace shows, and the limit that they need
#: to behave as with Linux's 8 MiB, in bytes. PostgreSQL leaves 512 KiB free, takes 2 MiB at most
#: (InitializeGUCOptionsFromEnvironment in guc.c), and does not start with less than 612 KiB.
_STACK_LIMITS = {"postgres": 2560 << 10}
#: Settings of programs that reduce such a mapping.
_SMALLER = {"mariadbd": "innodb_buffer_pool_size_max", "mysqld": "innodb_buffer_pool_size_max"}


def advise(figures: AdviceFigures, profile: CostProfile, heap: int = 0) -> list[Advice]:
    """Return all memory options that a manifest should set; empty if the trace has no program.
    `heap`: bytes that come from the break if the advised settings are followed. O(programs)."""
    if not figures.images:
        return []
    threads, stack, brk = _threads(figures), _stack(figures), _brk(figures, heap)
    # Memory that comes from the break with the settings is mapped without them, so it counts once.
    size = _need(
        figures, threads.figures["value"], stack.figures["value"], brk.figures["value"] - heap
    )
    edmm = _edmm(figures, profile, size)
    return [_size(figures, size, edmm), edmm, threads, stack, brk, _exinfo(figures, edmm)]


def _need(figures: AdviceFigures, threads: int, stack: int, brk: int) -> dict[str, Any]:
    # The needs of the largest program: what it maps, or what it maps at a fork plus the checkpoint
    # store; the rest of its heap's reservation, one stack, and the allowances.
    def mapped(image: Image) -> int:
        forked = image.forked_fitting + CHECKPOINT if image.forked_fitting else 0
        return max(image.peak_fitting, forked)

    def need(image: Image) -> int:
        return mapped(image) + max(brk - image.peak_brk, 0) + stack + RUNTIME + threads * PER_THREAD

    largest = max(figures.images, key=need)
    at_fork = mapped(largest) > largest.peak_fitting
    return {
        "owner": figures.owner(largest),
        "checkpoint": CHECKPOINT if at_fork else 0,
        "value": power_of_two(need(largest) + round(SPARE * need(largest))),
        "need": need(largest),
        "peak_mapped": largest.peak_mapped,
        "closed_at_peak": largest.closed_at_peak,
        "allowance": RUNTIME + threads * PER_THREAD,
    }


def _size(figures: AdviceFigures, size: dict[str, Any], edmm: Advice) -> Advice:
    today, ours = (figures.costs[name].epc_pages for name in (TODAY, OURS))
    why = (
        f"{size['owner']} maps {shown_size(size['peak_mapped'])} at most, "
        f"{shown_size(size['closed_at_peak'])} of it PROT_NONE{_checkpoint(size['checkpoint'])}; "
        f"with heap, stack and an allowance of {shown_size(size['allowance'])} for Gramine itself "
        f"(not measured) {shown_size(size['need'])}; a power of two that leaves "
        f"{100 * (1 - size['need'] / size['value']):.0f} % free. Without EDMM the enclave must "
        "hold all of that; with EDMM it is an address range, in which reservations count as well, "
        f"and what is committed at most is {low_to_high(*today)} pages ({TODAY}) or "
        f"{low_to_high(*ours)} ({OURS}), over all processes"
    )
    if figures.source != "run":
        why += (
            ". The log does not show what was mapped before its first call, the program itself: "
            "add that"
        )
    why += "".join(_refused(figures))
    if size["value"] > EDMM_DEFAULT:
        why += f". That is more than the {manifest_size(EDMM_DEFAULT)} which EDMM has by default"
    value = manifest_size(size["value"])
    more = {"epc_pages": {TODAY: today, OURS: ours}}
    return Advice("sgx.enclave_size", f'sgx.enclave_size = "{value}"', MANIFEST, why, size | more)


def _checkpoint(size: int) -> str:
    if not size:
        return ""
    return f", and at a fork {shown_size(size)} more, in one piece, for what is sent to the child"


def _refused(figures: AdviceFigures) -> Iterator[str]:
    # Sentences on programs that cannot start.
    for process, image in figures.programs():
        name = basename(process.path)
        setting = _SMALLER.get(name)
        cure = f"set {setting} of {name}" if setting else f"find the setting of {name}"
        if image.is_too_large_together and image.largest_eager is not None:
            size, start, vma = image.largest_eager
            yield (
                f". {figures.owner(image)} does not start, or does not run to its end, as it is: "
                f"it maps {shown_size(image.peak_eager)} at a time of files or without "
                "MAP_NORESERVE, which Gramine commits at once, with EDMM or without, and which no "
                f"machine has. The largest of these mappings is {_large(size, vma)} at {start:#x}; "
                f"{cure} that makes them smaller. The size above is with them"
            )
        for start, (size, vma) in image.impossible.items():
            yield (
                f". {figures.owner(image)} does not start as it is: it maps {_large(size, vma)} at "
                f"{start:#x}{'' if vma.file else ' without MAP_NORESERVE'}, which Gramine commits "
                f"at once, with EDMM or without, and which no machine has; {cure} that makes it "
                "smaller. The size above is without that mapping, except parts whose protection "
                "was changed later"
            )


def _large(size: int, vma: Vma) -> str:
    # What an impossible mapping holds.
    if vma.file is not None:
        return f"{shown_size(size)} of {basename(vma.file.path)}"
    return shown_size(size) if vma.flags & VM_PROT else f"{shown_size(size)} PROT_NONE"


def without_edmm(figures: AdviceFigures, size: int) -> Counts:
    """Return what the same enclaves of `size` bytes do without EDMM: EADD of every page, and
    afterwards only work in software: zeroing new mappings, as Gramine does, and copying that
    happens in any case. EEXTEND is not counted. O(n)."""
    enclaves = figures.counts.ecreate
    return Counts(
        ecreate=enclaves,
        einit=enclaves,
        eadd=enclaves * (size >> PAGE_SHIFT),
        pages_zeroed=figures.total(lambda image: image.allocated_pages),
        pages_copied=figures.counts.pages_copied,
    )


def _edmm(figures: AdviceFigures, profile: CostProfile, size: dict[str, Any]) -> Advice:
    without = profile.cycles(counts := without_edmm(figures, size["value"]))
    with_, ours = figures.costs[TODAY].cycles, figures.costs[OURS].cycles
    too_large = size["value"] >= ANY_MACHINE
    refused = any(image.impossible for image in figures.images)
    stopped = any(image.is_too_large_together for image in figures.images)
    enable = too_large or refused or stopped or sum(with_) < sum(without)
    apart = with_[1] < without[0] or without[1] < with_[0]
    if refused:
        verdict = "the program does not start as it is (sgx.enclave_size), so costs do not decide"
    elif stopped:
        verdict = "the program does not run to its end (sgx.enclave_size), so costs do not decide"
    elif too_large:
        verdict = (
            f"an enclave of {manifest_size(size['value'])} cannot be built without EDMM, because "
            "no machine has so much EPC"
        )
    elif apart:
        verdict = f"{'with' if enable else 'without'} EDMM it costs less"
    else:
        verdict = f"the ranges overlap; the middle is lower {'with' if enable else 'without'} EDMM"
    why = (
        f"{verdict}. Without: EADD of {plural(counts.eadd, 'page')} in "
        f"{plural(counts.ecreate, 'enclave')} and zeroing of {plural(counts.pages_zeroed, 'page')} "
        f"at mmap, {cycles(*without)} (EEXTEND not counted), and no leaf afterwards; page "
        f"permissions are then not enforced. With: {cycles(*with_)} under {TODAY}, {cycles(*ours)} "
        f"under {OURS}. Profile: {profile.name}"
    )
    return Advice(
        "sgx.edmm_enable",
        f"sgx.edmm_enable = {'true' if enable else 'false'}",
        MANIFEST,
        why,
        {
            "value": enable,
            "ranges_overlap": not apart,
            "without_edmm": {
                "cycles": without,
                "eadd": counts.eadd,
                "pages_zeroed": counts.pages_zeroed,
            },
            "with_edmm": {TODAY: with_, OURS: ours},
        },
    )


def _threads(figures: AdviceFigures) -> Advice:
    peak, owner = figures.largest(lambda image: image.peak_threads)
    needed, needs = figures.largest(_possible_threads)
    found = figures.most(lambda image: image.found_threads)
    why = f"{plural(peak, 'thread')} of {owner} at once"
    if found:
        why += f", of which {found:,}, beside the first, were running at attach"
    if needed > peak:
        why += (
            f"; how many live at once depends on timing, and {needs} starts so many that {needed} "
            "is safe"
        )
    why += (
        f". In addition, Gramine's own {HELPERS}: IPC, Async and one TLS handshake. With EDMM this "
        "is the number of slots made at the start, and more can be made"
    )
    if figures.source != "run":
        why += ". A log that does not show the ends of threads makes this too high"
    value = needed + HELPERS
    return Advice(
        "sgx.max_threads",
        f"sgx.max_threads = {value}",
        MANIFEST,
        why,
        {"value": value, "peak_threads": peak, "possible_threads": needed, "helpers": HELPERS},
    )


#: Whatever number of threads a program starts, this many may live at once.
_FEW_THREADS = 16


def _possible_threads(image: Image) -> int:
    # Threads that end before others start may live at the same time as these in another run, so all
    # started threads could. A program that starts thousands does not have them all at once: the
    # estimate for many threads is at most twice as many as lived at once.
    most = max(2 * image.peak_threads, _FEW_THREADS)
    return max(image.peak_threads, min(1 + image.started_threads, most))


def _stack(figures: AdviceFigures) -> Advice:
    main, main_owner = figures.largest(lambda image: image.peak_stack)
    deepest, owner = figures.largest(lambda image: image.depth)
    limits = [
        (_STACK_LIMITS[name], name)
        for process, _ in figures.programs()
        if (name := basename(process.path)) in _STACK_LIMITS
    ]
    limit, reader = max(limits, default=(0, ""))
    value = max(round_up(max(main, deepest), 64 << 10), STACK, limit)
    why = f"the main thread's stack of {main_owner} is {shown_size(main)} at most"
    if not figures.touches:
        why = "the log does not show stacks, so this is Gramine's default"
    elif deepest:
        why += (
            f", other threads of {owner} used up to {shown_size(deepest)} of theirs; the size is "
            "each thread's"
        )
    if limit:
        why += (
            f". {reader} reads the limit of its stack and behaves as usual from "
            f"{shown_size(limit)} on"
        )
    unseen, holder = figures.largest(lambda image: image.found_threads)
    line = f'sys.stack.size = "{manifest_size(value)}"'
    if unseen:
        line = f'# sys.stack.size: unknown, at least "{manifest_size(value)}"'
        were = "thread was" if unseen == 1 else "threads were"
        why = (
            f"{unseen:,} {were} running already in {holder}, and nothing shows how deep their "
            "stacks are: record the program from its start (laconic run -o FILE -- CMD). Of the "
            f"others, {why}"
        )
    elif figures.touches and value == STACK:
        why += ". Gramine's default is enough"
    return Advice(
        "sys.stack.size",
        line,
        MANIFEST,
        why,
        {
            "value": value,
            "main_stack": main,
            "deepest_thread_stack": deepest,
            "limit_read": limit,
            "unseen_stacks": unseen,
        },
    )


def _brk(figures: AdviceFigures, heap: int) -> Advice:
    peak, owner = figures.largest(lambda image: image.peak_brk)
    refused, repeated = (
        figures.total(lambda image: image.refused),
        figures.total(lambda image: image.repeated),
    )
    value = max(round_up(peak + round(SPARE * peak), MIB) if peak > BRK else BRK, BRK)
    if refused:
        value = max(round_up(2 * peak, MIB), MIB)
    # Blocks of many sizes leave gaps in a heap, so it needs half as much again.
    value = round_up(value + heap * 3 // 2, MIB) if heap else value
    why = f"the heap of {owner} grows to {shown_size(peak)}"
    if refused:
        why += (
            f" and was refused more {plural(refused, 'time')}, {repeated:,} of them for the same "
            "address again: it is at its limit, so this is twice what it had"
        )
    else:
        why += "; no growth was refused"
        if value > peak and not heap:
            why += f", and {shown_size(value - peak)} are to spare"
    if heap:
        why += (
            f". {shown_size(heap)} that were mapped come from it with the settings of malloc "
            "below, and have half as much again"
        )
    return Advice(
        "sys.brk.max_size",
        f'sys.brk.max_size = "{manifest_size(value)}"',
        MANIFEST,
        why,
        {
            "value": value,
            "peak_brk": peak,
            "refused": refused,
            "repeated": repeated,
            "from_settings": heap,
        },
    )


def _exinfo(figures: AdviceFigures, edmm: Advice) -> Advice:
    lazy = figures.total(lambda image: image.lazy_pages)
    low, high = figures.lazy_touched
    closed, reserver = figures.largest(lambda image: image.peak_unlazy_closed)
    saves = bool(lazy and edmm.figures["value"])
    # HotSpot's null checks and safepoints are page faults that it handles; without EXINFO Gramine
    # ends the process.
    jvm = any(name.startswith("libjvm.so") for image in figures.images for name in image.files)
    costs = [figures.costs[name].cycles for name in (EAGER, TODAY)]
    why = list(_lazily(lazy, low, high, costs if saves else None))
    if closed:
        why.append(
            f"{reserver} reserves {shown_size(closed)} PROT_NONE at most without MAP_NORESERVE: "
            "with EDMM Gramine commits all of that at once, unless the program adds the flag"
        )
    if jvm:
        why.append(
            "the JVM handles SIGSEGV, and without EXINFO Gramine ends a process that a page fault "
            "stops"
        )
    return Advice(
        "sgx.use_exinfo",
        f"sgx.use_exinfo = {'true' if saves or jvm else 'false'}",
        MANIFEST,
        "; ".join(why),
        {
            "value": saves or jvm,
            "noreserve_pages": lazy,
            "noreserve_touches": [low, high],
            "prot_none_without_noreserve": closed,
            "cycles": {"without_exinfo": costs[0], "with_exinfo": costs[1]},
        },
    )


def _lazily(lazy: int, low: int, high: int, costs: list[LowHigh] | None) -> Iterator[str]:
    if lazy:
        touches = (
            plural(low, "first touch", "first touches")
            if low == high
            else f"{low_to_high(low, high)} first touches"
        )
        yield f"{plural(lazy, 'page')} were mapped MAP_NORESERVE, and there were {touches} in them"
        if costs:
            yield (
                "with EXINFO Gramine commits such pages at their first touch, else at once: "
                f"{cycles(*costs[1])} under {TODAY} with it, {cycles(*costs[0])} without"
            )
        else:
            yield "without EDMM nothing is committed later, and none of them needs EXINFO"
    else:
        yield (
            "nothing is mapped MAP_NORESERVE, so lazy allocation does not help this program as it "
            "is"
        )
