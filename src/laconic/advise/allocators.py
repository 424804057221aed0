"""Settings of allocators: glibc's malloc, jemalloc, mimalloc. Each is given only where the trace shows its cause."""

from __future__ import annotations

from collections.abc import Iterator

from laconic.advise.advice import Advice, plural, power_of_two, round_up, shown_size, variable
from laconic.advise.figures import Figures
from laconic.advise.watch import ARENA, CHUNK, MIB, Image
from laconic.memory.flags import PAGE_SHIFT

#: How often something must happen before it is worth a setting.
OFTEN = 16
#: Growths of thread arenas that are worth committing more at once.
GROWTHS = 64
#: The most that glibc takes for mmap_threshold (HEAP_MAX_SIZE / 2) and that is worth giving to each arena, in bytes.
_MOST = ARENA // 2
#: Blocks of these sizes are other allocators' own: CPython's arenas, V8's pages.
_OTHERS = CHUNK
_LIBRARIES = ("libjemalloc", "libmimalloc", "libtcmalloc")


def advise(figures: Figures) -> Iterator[Advice]:
    """The advice for the allocators that the trace shows. O(programs × arenas)."""
    yield from _glibc(figures)
    yield from _jemalloc([image for image in figures.images if has(image, "libjemalloc")])
    yield from _mimalloc([image for image in figures.images if has(image, "libmimalloc")])


def has(image: Image, *libraries: str) -> bool:
    """True where a file was mapped whose name begins with one of `libraries`. O(files)."""
    return any(name.startswith(libraries) for name in image.files)


def _glibc(figures: Figures) -> Iterator[Advice]:
    most = max(figures.images, key=lambda image: len(image.arenas), default=None)
    if most is not None and len(most.arenas) > 1:
        growths = figures.total(lambda image: sum(image.arenas.values()))
        yield variable(
            "MALLOC_ARENA_MAX",
            "1",
            f"one process has {plural(len(most.arenas), 'malloc arena')} beside the heap: "
            f"{shown_size(len(most.arenas) * ARENA)} of address space, which grew by {plural(growths, 'mprotect')}. "
            "Without sgx.use_exinfo all of it is committed",
            arenas=len(most.arenas),
            reserved=len(most.arenas) * ARENA,
            growths=growths,
        )
    growths = figures.total(lambda image: sum(image.arenas.values()))
    if growths >= GROWTHS:
        largest = figures.most(lambda image: image.arena_most)
        value = min(power_of_two(largest), _MOST)
        yield variable(
            "MALLOC_TOP_PAD_",
            str(value),
            f"threads' malloc arenas grew {plural(growths, 'time')}, to {shown_size(largest)} at most: made that large "
            "at once they need not grow. Without sgx.use_exinfo each growth is a host call",
            growths=growths,
            largest=largest,
        )
    yield from _trim(figures)
    yield from _blocks(figures)


def _trim(figures: Figures) -> Iterator[Advice]:
    shrinks = figures.total(lambda image: image.shrinks)
    if shrinks >= OFTEN:
        value = power_of_two(figures.most(lambda image: image.peak_brk)) * 2
        yield variable(
            "MALLOC_TRIM_THRESHOLD_",
            str(value),
            f"the heap was given back {plural(shrinks, 'time')} by brk, each of which Gramine makes two host calls of",
            shrinks=shrinks,
        )


def _blocks(figures: Figures) -> Iterator[Advice]:
    churned: list[tuple[int, int]] = []
    for image in figures.images:
        if has(image, "libc.so", "libc-2") and not has(image, *_LIBRARIES):
            churned += [(size, times) for size, times in image.churned.items() if size % _OTHERS]
    times = sum(each for _, each in churned)
    if times >= OFTEN:
        largest = max(size for size, _ in churned)
        value = min(power_of_two(largest), _MOST)
        yield variable(
            "GLIBC_TUNABLES",
            f"glibc.malloc.mmap_threshold={value}:glibc.malloc.trim_threshold={2 * value}",
            f"{plural(times, 'block')} of {shown_size(largest)} and less were mapped and unmapped whole: below this "
            "threshold they come from the heap",
            blocks=times,
            pages=sum(each * (size >> PAGE_SHIFT) for size, each in churned),
            largest=largest,
        )


def _jemalloc(images: list[Image]) -> Iterator[Advice]:
    discards = sum(image.discards for image in images)
    unmaps = sum(image.unmaps for image in images)
    options, why = [], []
    if discards >= OFTEN:
        options.append("dirty_decay_ms:-1,muzzy_decay_ms:-1")
        why.append(f"{plural(discards, 'madvise')} gave pages back that had been freed a while before")
    if unmaps >= 2 * OFTEN:
        options.append("retain:true")
        why.append(f"{plural(unmaps, 'munmap')} gave address space back")
    if options:
        yield variable(
            "MALLOC_CONF", ",".join(options), "jemalloc: " + "; ".join(why), discards=discards, unmaps=unmaps
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
            f"mimalloc: {shown_size(round_up(sum(reserved), MIB))} were reserved and made accessible in "
            f"{plural(opens, 'step')}",
            opens=opens,
            reserved=sum(reserved),
        )
