"""Settings of allocators: glibc's malloc, jemalloc, mimalloc. A setting is advised only if the
trace shows its cause."""

from __future__ import annotations

from collections.abc import Iterator

from laconic.analysis.advise.advice import (
    Advice,
    power_of_two,
    round_up,
    shown_size,
    variable,
    variables,
)
from laconic.analysis.advise.figures import AdviceFigures
from laconic.analysis.advise.watch import ARENA, BLOCK_LEAST, MIB, Image
from laconic.memory.flags import PAGE_SHIFT
from laconic.trace.words import plural

#: How often something must happen to justify a setting.
OFTEN = 16
#: The maximum that glibc accepts for mmap_threshold (HEAP_MAX_SIZE / 2), in bytes.
_MOST = ARENA // 2
_LIBRARIES = ("libjemalloc", "libmimalloc", "libtcmalloc")


def advise(figures: AdviceFigures) -> Iterator[Advice]:
    """Yield the advice for the allocators that the trace shows. O(programs × arenas)."""
    yield from _glibc(figures)
    jemalloc = [image for image in figures.images if has(image, "libjemalloc")]
    mimalloc = [image for image in figures.images if has(image, "libmimalloc")]
    yield from _jemalloc(figures, jemalloc)
    yield from _mimalloc(figures, mimalloc)


def has(image: Image, *libraries: str) -> bool:
    """True if a file was mapped whose name begins with one of `libraries`. O(files)."""
    return any(name.startswith(libraries) for name in image.files)


def _glibc(figures: AdviceFigures) -> Iterator[Advice]:
    images = [image for image in figures.images if not has(image, *_LIBRARIES)]
    threaded = max(figures.images, key=lambda image: (len(image.arenas), _opened(image)))
    arenas = len(threaded.arenas) if len(threaded.arenas) > 1 else 0
    churning = [image for image in images if has(image, "libc.so", "libc-2")]
    churned = [each for image in churning for each in image.churned.items()]
    seen = {
        "arenas": arenas,
        "reserved": arenas * ARENA,
        "growths": sum(threaded.arenas.values()),
        "opened": figures.most(_opened) if arenas else 0,
        "blocks": sum(count for _, count in churned),
        "largest": max((size for size, _ in churned), default=0),
        "shrinks": sum(image.shrinks for image in images),
        "pages": sum(count * (size >> PAGE_SHIFT) for size, count in churned)
        + sum(image.shrunk_pages for image in images),
    }
    # Each is an munmap, or a brk, of two host calls; its pages are accepted when they are added and
    # again when they are removed.
    times = seen["blocks"] + seen["shrinks"]
    often = times >= OFTEN and figures.worth(2 * times, 2 * seen["pages"])
    if not arenas and not often:
        return
    heap = seen["opened"] + max((image.peak_blocks for image in images), default=0)
    least = power_of_two(figures.most(lambda image: image.peak_brk) + heap)
    pairs = {"MALLOC_ARENA_MAX": "1"} if arenas else {}
    pairs["MALLOC_MMAP_THRESHOLD_"] = str(
        min(power_of_two(max(seen["largest"], BLOCK_LEAST)), _MOST)
    )
    pairs["MALLOC_TRIM_THRESHOLD_"] = str(2 * least)
    causes = [
        *(_arenas(figures, threaded, seen) if arenas else ()),
        *(_returned(figures, images, churning, seen) if often else ()),
        "One threshold alone would stop malloc from adjusting the other",
    ]
    yield variables(pairs, ". ".join(causes), heap=heap, **seen)


def _opened(image: Image) -> int:
    # The bytes of glibc's arenas that were made accessible.
    return sum(image.tops.values())


def _arenas(figures: AdviceFigures, threaded: Image, seen: dict[str, int]) -> Iterator[str]:
    # A sentence on the program that has most arenas. The heap must have room for what the arenas
    # of any program had, which may be another.
    opened, opener = figures.largest(_opened)
    other = ""
    if opened > _opened(threaded):
        other = f" ({opener} opened {shown_size(opened)})"
    yield (
        f"{figures.owner(threaded)} has {plural(seen['arenas'], 'malloc arena')} beside the heap: "
        f"{shown_size(seen['reserved'])} of address space, which grew by "
        f"{plural(seen['growths'], 'mprotect')}, to {shown_size(_opened(threaded))} in all{other}. "
        "Without sgx.use_exinfo all of it is committed, without EDMM the enclave holds it; with "
        "both it is address space only. With one heap, which is then kept, threads wait for each "
        "other in malloc and free"
    )


def _returned(
    figures: AdviceFigures, images: list[Image], churning: list[Image], seen: dict[str, int]
) -> Iterator[str]:
    # A sentence for each way in which memory goes back to the system.
    if seen["blocks"]:
        owners = figures.owners(churning, lambda image: max(image.churned, default=0))
        yield (
            f"{owners} mapped and unmapped {plural(seen['blocks'], 'block')} of "
            f"{shown_size(seen['largest'])} and less whole, each by two host calls: below the "
            "threshold they come from the heap"
        )
    if seen["shrinks"]:
        owners = figures.owners(images, lambda image: image.shrinks)
        yield (
            f"{owners} gave the heap back {plural(seen['shrinks'], 'time')} by brk, each of which "
            "is two host calls: it is kept"
        )


def _jemalloc(figures: AdviceFigures, images: list[Image]) -> Iterator[Advice]:
    discards = sum(image.discards for image in images)
    if discards >= OFTEN:
        why = _discarded(figures, images, discards, "jemalloc")
        yield variable(
            "MALLOC_CONF",
            "dirty_decay_ms:-1,muzzy_decay_ms:-1",
            f"{why}, which Gramine zeroes one by one. Those that the program itself asks for "
            "remain, and what is freed stays in the enclave",
            discards=discards,
        )


def _discarded(figures: AdviceFigures, images: list[Image], discards: int, allocator: str) -> str:
    # The cause of settings that keep what is freed.
    owners = figures.owners(images, lambda image: image.discards)
    return f"{owners}: {allocator} gave freed pages back by {plural(discards, 'madvise')}"


def _mimalloc(figures: AdviceFigures, images: list[Image]) -> Iterator[Advice]:
    discards = sum(image.discards for image in images)
    reserved = [region.length for image in images for region in image.reservations]
    opens = sum(map(_opens, images))
    if discards >= OFTEN:
        why = _discarded(figures, images, discards, "mimalloc")
        yield variable("MIMALLOC_PURGE_DELAY", "-1", why + " (from 2.1 on)", discards=discards)
        yield variable("MIMALLOC_ALLOW_DECOMMIT", "0", why + " (2.0)", discards=discards)
    if opens >= OFTEN:
        yield variable(
            "MIMALLOC_EAGER_COMMIT_DELAY",
            "0",
            f"{figures.owners(images, _opens)}: mimalloc reserved "
            f"{shown_size(round_up(sum(reserved), MIB))} and made it accessible in "
            f"{plural(opens, 'step')}",
            opens=opens,
            reserved=sum(reserved),
        )


def _opens(image: Image) -> int:
    # How often a part of a reservation was made accessible.
    return sum(region.opens for region in image.reservations)
