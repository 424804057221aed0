"""Settings of language runtimes, the JVM, Go and V8, and of OpenBLAS. A setting is advised only if
the trace shows its cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os.path import basename
from typing import NamedTuple

from laconic.analysis.advise.advice import (
    Advice,
    argument,
    power_of_two,
    round_up,
    shown_size,
    variable,
)
from laconic.analysis.advise.allocators import OFTEN, has
from laconic.analysis.advise.figures import TODAY, AdviceFigures
from laconic.analysis.advise.watch import ARENA, GO_HEAP, MIB, Image, Region
from laconic.memory.flags import PAGE_SHIFT
from laconic.trace.words import plural

JAVA = ("java",)
NODE = ("node", "nodejs")
#: The size of HotSpot's reservation for its compressed class space, with or without the CDS archive
#: before it, in bytes.
CLASS_SPACE, _ARCHIVE = 1 << 30, 64 * MIB
#: G1 and Parallel GC keep mark bitmaps of 1/64 and 1/32 of the heap's size; Serial GC keeps none.
_BITMAPS = (64, 32)
#: Collectors other than the serial one; a JVM accepts only one.
_COLLECTORS = tuple(
    f"-XX:+Use{name}GC" for name in ("G1", "Parallel", "Z", "Shenandoah", "ConcMarkSweep")
)
#: The number of threads from which a runtime's own helpers justify a setting: V8's, and Go's, which
#: run the program itself.
_THREADS, _GO_THREADS = 6, 16
#: The value that is advised for GOMAXPROCS.
_PROCESSORS = 4
#: The number of pages becoming or ceasing to be executable from which V8 should not compile: at
#: some 30,000 cycles per page under every-call and `published` they cost about a thousand million
#: cycles, about what scripts of half a second lose without compilation.
_EXECUTABLE = 1 << 15
#: For a reservation that was made smaller.
_THIS_RUN = "That is this run's: a longer one, or more load, may need more"


def advise(figures: AdviceFigures) -> Iterator[Advice]:
    """Yield the advice for the runtimes that the trace shows. O(programs × reservations)."""
    programs = figures.programs()
    java = [_Jvm.of(image) for _, image in programs if has(image, "libjvm.so")]
    if java:
        yield from _jvm(figures, java)
    go = [image for image in figures.images if image.go_heap]
    if go:
        yield from _go(figures, go)
    v8 = [
        image
        for process, image in programs
        if basename(process.path) in NODE or has(image, "libnode", "libv8")
    ]
    if v8:
        yield from _v8(figures, v8)
    yield from _openblas(figures)


def _limit(used: int, least: int) -> int:
    # Half as much again as was used, rounded up to a power of two, in bytes, because another run
    # may need more.
    return max(power_of_two(used * 3 // 2), least)


def _used(region: Region, known: bool) -> int:
    # The part of a reservation that was needed: the pages touched or, if that is unknown, the pages
    # that were accessible.
    return region.touched_bytes if known else region.peak


class _Jvm(NamedTuple):
    # The reservations of one JVM that were found.
    image: Image
    heap: Region | None
    code: Region | None
    classes: Region | None

    @classmethod
    def of(cls, image: Image) -> _Jvm:
        """Return the reservations of `image` by their purpose. O(reservations × arenas)."""
        regions = [each for each in image.reservations if each.opens and not _is_arena(image, each)]
        code = max(
            (each for each in regions if each.executable),
            key=lambda each: each.length,
            default=None,
        )
        # A heap of 1 GiB is as large as the class space, which HotSpot maps after it.
        spaces = [
            each
            for each in regions
            if not each.executable and 0 <= each.length - CLASS_SPACE <= _ARCHIVE
        ]
        classes = spaces[-1] if spaces else None
        heaps = [each for each in regions if each is not code and each is not classes]
        if classes is not None:
            # Later reservations are not the heap: they contain other data on classes, for example.
            before = regions[: regions.index(classes)]
            heaps = [each for each in heaps if each in before] or heaps
        # The collector's own data, its bitmaps and tables, are a small part of the heap.
        heap = max(heaps, key=lambda each: (each.touched_bytes, each.peak), default=None)
        return cls(image, heap, code, classes)


def _is_arena(image: Image, region: Region) -> bool:
    # An arena of a glibc thread, whose first piece was made accessible at its aligned base.
    end = region.start + region.length
    return region.length in (ARENA, 2 * ARENA) and any(
        region.start <= base < end for base in image.arenas
    )


def _most_used(
    jvms: Iterable[_Jvm], region: Callable[[_Jvm], Region | None], known: bool
) -> tuple[Image, Region] | None:
    # A limit applies to every JVM of the trace, so it follows from the one that used most.
    found = [(jvm.image, each) for jvm in jvms if (each := region(jvm)) is not None]
    return max(found, key=lambda pair: _used(pair[1], known), default=None)


def _jvm(figures: AdviceFigures, jvms: Sequence[_Jvm]) -> Iterator[Advice]:
    known = figures.touches
    heap = _most_used(jvms, lambda jvm: jvm.heap, known)
    if heap is not None:
        yield from _java_heap(figures, *heap, known)
    code = _most_used(jvms, lambda jvm: jvm.code, known)
    if code is not None:
        yield from _code_cache(figures, *code, known)
    classes = _most_used(jvms, lambda jvm: jvm.classes, known)
    if classes is not None:
        image, space = classes
        used = _used(space, known)
        value = _limit(used, 16 * MIB)
        if value < CLASS_SPACE:
            yield argument(
                f"-XX:CompressedClassSpaceSize={value // MIB}m",
                JAVA,
                f"{figures.owner(image)} reserved {shown_size(space.length)} for classes and used "
                f"{shown_size(used)} of it. {_THIS_RUN} (else: OutOfMemoryError)",
                reserved=space.length,
                used=used,
            )


def _java_heap(figures: AdviceFigures, image: Image, heap: Region, known: bool) -> Iterator[Advice]:
    bitmaps = [
        each.length
        for each in image.reservations
        if any(each.length == round_up(heap.length // part, 4096) for part in _BITMAPS)
    ]
    if bitmaps:
        yield argument(
            "-XX:+UseSerialGC",
            JAVA,
            f"{figures.owner(image)} has a parallel garbage collector: it reserved "
            f"{shown_size(sum(bitmaps))} of mark bitmaps beside the heap, and the JVM had "
            f"{plural(image.peak_threads, 'thread')}. Collections by one thread stop the program "
            "for longer where the heap is large",
            _COLLECTORS,
            bitmaps=sum(bitmaps),
            threads=image.peak_threads,
        )
    used = _used(heap, known)
    value = _limit(used, 8 * MIB)
    if 2 * value <= heap.length:
        yield argument(
            f"-Xmx{value // MIB}m",
            JAVA,
            f"{figures.owner(image)} reserved {shown_size(heap.length)} for its heap and used "
            f"{shown_size(used)} of it. {_THIS_RUN} (else: OutOfMemoryError)",
            ("-Xmx", "-XX:MaxHeapSize=", "-Xms", "-XX:InitialHeapSize="),
            reserved=heap.length,
            used=used,
        )
    # Each growth that is undone again costs an munmap's two host calls.
    if heap.opens >= OFTEN and figures.worth(2 * heap.opens, 0):
        start = max(round_up(heap.peak, MIB), MIB)
        yield argument(
            f"-Xms{min(start, value) // MIB}m",
            JAVA,
            f"{figures.owner(image)} made its heap accessible in {plural(heap.opens, 'step')}, "
            f"{shown_size(heap.peak)} at most",
            ("-Xms", "-XX:InitialHeapSize="),
            steps=heap.opens,
            opened=heap.peak,
        )


def _code_cache(
    figures: AdviceFigures, image: Image, code: Region, known: bool
) -> Iterator[Advice]:
    used = _used(code, known)
    value = _limit(used, 16 * MIB)
    if 2 * value <= code.length:
        yield argument(
            f"-XX:ReservedCodeCacheSize={value // MIB}m",
            JAVA,
            f"{figures.owner(image)} reserved {shown_size(code.length)} for compiled code and "
            f"used {shown_size(used)} of it. {_THIS_RUN}: a server compiles as long as it runs, "
            "and where the cache is full it compiles no more",
            reserved=code.length,
            used=used,
        )


def _go_opened(image: Image) -> int:
    # The size of Go's heap in bytes. Arenas follow each other from that address on; mappings that
    # the kernel places lie far above.
    return sum(
        region.peak for region in image.reservations if GO_HEAP <= region.start < 2 * GO_HEAP
    )


def _go(figures: AdviceFigures, images: Sequence[Image]) -> Iterator[Advice]:
    # The variables apply to every Go program of the trace, so each follows from the one that needs
    # most of what it limits.
    image = max(images, key=lambda image: image.peak_threads)
    if image.peak_threads >= _GO_THREADS:
        yield variable(
            "GOMAXPROCS",
            str(_PROCESSORS),
            f"{figures.owner(image)}, a Go program, has {plural(image.peak_threads, 'thread')} at "
            f"once, each with a slot in the enclave and its own caches. No more than {_PROCESSORS} "
            "goroutines then compute at the same time",
            threads=image.peak_threads,
        )
    image = max(images, key=lambda image: image.discards)
    if image.discards >= OFTEN:
        yield variable(
            "GODEBUG",
            "madvdontneed=0",
            f"{figures.owner(image)}, a Go program, gave pages back by "
            f"{plural(image.discards, 'madvise')}; for MADV_FREE, in its place, Gramine does "
            "nothing",
            discards=image.discards,
        )
    image = max(images, key=_go_opened)
    opened = _go_opened(image)
    if opened >= 64 * MIB:
        limit = round_up(opened, 64 * MIB)
        yield variable(
            "GOMEMLIMIT",
            f"{limit // MIB}MiB",
            f"{figures.owner(image)}, a Go program, grew its heap to {shown_size(opened)}; a limit "
            "(Go 1.19 and later) keeps it within the enclave. That is this run's: a program that "
            "keeps more than the limit collects garbage all the time",
            opened=opened,
        )


def _openblas(figures: AdviceFigures) -> Iterator[Advice]:
    # A buffer for each thread, committed as a whole under every-call.
    image = max(figures.images, key=lambda image: len(image.buffers))
    buffers = image.buffers
    committed = sum(region.length for region in buffers)
    if len(buffers) < 2 or not figures.worth(0, committed >> PAGE_SHIFT):
        return
    touched = sum(region.touched_bytes for region in buffers)
    on = f" (this trace: {plural(figures.cpus, 'CPU')})" if figures.cpus else ""
    yield variable(
        "OPENBLAS_NUM_THREADS",
        "1",
        f"OpenBLAS in {figures.owner(image)} mapped {plural(len(buffers), 'buffer')} "
        f"(alloc_mmap): {shown_size(committed)}, of which {shown_size(touched)} were touched; "
        f"{TODAY} commits all of it. There is a thread, with a buffer and a stack, for each "
        f"CPU{on}; with this setting there is one buffer, and its routines compute on one CPU. A "
        "larger value is a compromise",
        buffers=len(buffers),
        committed=committed,
        touched=touched,
    )


def _v8(figures: AdviceFigures, images: Sequence[Image]) -> Iterator[Advice]:
    image = max(images, key=lambda image: image.exec_pages)
    # Reservations for code are not a cause: under every-call, lazy pages cost nothing until they
    # are touched.
    if image.exec_pages >= _EXECUTABLE:
        yield argument(
            "--jitless",
            NODE,
            f"{figures.owner(image)} runs V8 and changed what is executable by "
            f"{plural(image.exec_changes, 'call')}, {plural(image.exec_pages, 'page')} in all. "
            "Without compilation there are none, but JavaScript is interpreted and runs several "
            "times slower, which no figure here shows, and there is no WebAssembly: only for a "
            "program that waits more than it computes",
            changes=image.exec_changes,
            pages=image.exec_pages,
        )
    image = max(images, key=lambda image: image.peak_threads)
    if image.peak_threads >= _THREADS:
        yield argument(
            "--v8-pool-size=1",
            NODE,
            f"{figures.owner(image)} runs V8 and has {plural(image.peak_threads, 'thread')} at "
            "once, some of them helpers for collection and compilation. With one helper both take "
            "longer",
            threads=image.peak_threads,
        )
