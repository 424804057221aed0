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
    yield from _jemalloc([image for image in figures.images if has(image, "libjemalloc")])
    yield from _mimalloc([image for image in figures.images if has(image, "libmimalloc")])


def has(image: Image, *libraries: str) -> bool:
    """True if a file was mapped whose name begins with one of `libraries`. O(files)."""
    return any(name.startswith(libraries) for name in image.files)


def _glibc(figures: AdviceFigures) -> Iterator[Advice]:
    images = [image for image in figures.images if not has(image, *_LIBRARIES)]
    most = max(len(image.arenas) for image in figures.images)
    arenas = most if most > 1 else 0
    churned = [
        each
        for image in images
        if has(image, "libc.so", "libc-2")
        for each in image.churned.items()
    ]
    seen = {
        "arenas": arenas,
        "reserved": arenas * ARENA,
        "growths": figures.total(lambda image: sum(image.arenas.values())),
        "opened": figures.most(lambda image: sum(image.tops.values())) if arenas else 0,
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
    yield variables(pairs, ". ".join(_malloc(seen, often)), heap=heap, **seen)


def _malloc(seen: dict[str, int], often: bool) -> Iterator[str]:
    # The causes, one sentence each.
    if seen["arenas"]:
        yield (
            f"One process has {plural(seen['arenas'], 'malloc arena')} beside the heap: "
            f"{shown_size(seen['reserved'])} of address space, which grew by "
            f"{plural(seen['growths'], 'mprotect')}, to {shown_size(seen['opened'])} in all. "
            "Without sgx.use_exinfo all of it is committed, without EDMM the enclave holds it; "
            "with both it is address space only. With one heap, which is then kept, threads wait "
            "for each other in malloc and free"
        )
    if often and seen["blocks"]:
        yield (
            f"{plural(seen['blocks'], 'block')} of {shown_size(seen['largest'])} and less were "
            "mapped and unmapped whole, each by two host calls: below the threshold they come from "
            "the heap"
        )
    if often and seen["shrinks"]:
        yield (
            f"The heap was given back {plural(seen['shrinks'], 'time')} by brk, each of which is "
            "two host calls: it is kept"
        )
    yield "One threshold alone would stop malloc from adjusting the other"


def _jemalloc(images: list[Image]) -> Iterator[Advice]:
    discards = sum(image.discards for image in images)
    if discards >= OFTEN:
        yield variable(
            "MALLOC_CONF",
            "dirty_decay_ms:-1,muzzy_decay_ms:-1",
            f"jemalloc: {plural(discards, 'madvise')} gave freed pages back, which Gramine zeroes "
            "one by one. Those that the program itself asks for remain, and what is freed stays "
            "in the enclave",
            discards=discards,
        )


def _mimalloc(images: list[Image]) -> Iterator[Advice]:
    discards = sum(image.discards for image in images)
    reserved = [region.length for image in images for region in image.reservations]
    opens = sum(region.opens for image in images for region in image.reservations)
    if discards >= OFTEN:
        why = f"mimalloc: {plural(discards, 'madvise')} gave freed pages back"
        yield variable("MIMALLOC_PURGE_DELAY", "-1", why + " (from 2.1 on)", discards=discards)
        yield variable("MIMALLOC_ALLOW_DECOMMIT", "0", why + " (2.0)", discards=discards)
    if opens >= OFTEN:
        yield variable(
            "MIMALLOC_EAGER_COMMIT_DELAY",
            "0",
            f"mimalloc: {shown_size(round_up(sum(reserved), MIB))} were reserved and made "
            f"accessible in {plural(opens, 'step')}",
            opens=opens,
            reserved=sum(reserved),
        )
