"""Settings of language runtimes: the JVM, Go, V8. Each is given only where the trace shows its cause."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import basename

from laconic.advise.advice import Advice, argument, plural, power_of_two, round_up, shown_size, variable
from laconic.advise.allocators import OFTEN, has
from laconic.advise.figures import Figures
from laconic.advise.watch import CHUNK, GO_HEAP, MIB, Image, Region

JAVA = ("java",)
NODE = ("node", "nodejs")
#: HotSpot reserves its compressed class space of this size, with or without the CDS archive before it, in bytes.
CLASS_SPACE, _ARCHIVE = 1 << 30, 64 * MIB
#: G1 and Parallel GC keep mark bitmaps of these parts of the heap's size; Serial GC keeps none.
_BITMAPS = (64, 32)
#: Threads that make a runtime's own helpers worth a setting, and commits of one reservation.
_THREADS, _STEPS = 6, 4
#: A reservation for V8's code that is large for an enclave, in bytes.
_CODE_RANGE = 64 * MIB


def advise(figures: Figures) -> Iterator[Advice]:
    """The advice for the runtimes that the trace shows. O(programs × reservations)."""
    programs = figures.programs()
    java = [image for _, image in programs if has(image, "libjvm.so")]
    if java:
        yield from _jvm(max(java, key=lambda image: image.peak_mapped), figures.touches)
    go = [image for image in figures.images if image.go_heap]
    if go:
        yield from _go(max(go, key=lambda image: image.peak_mapped))
    v8 = [image for process, image in programs if basename(process.path) in NODE or has(image, "libnode", "libv8")]
    if v8:
        yield from _v8(max(v8, key=lambda image: image.peak_mapped))


def _limit(used: int, least: int) -> int:
    # Half as much again as what was used, and the next power of two, in bytes: another run may need more.
    return max(power_of_two(used * 3 // 2), least)


def _used(region: Region, known: bool) -> int:
    # What of a reservation was needed: the pages touched, or where that is not known those that were accessible.
    return region.touched_bytes if known else region.peak


def _jvm(image: Image, known: bool) -> Iterator[Advice]:
    regions = [each for each in image.reservations if each.opens]
    code = max((each for each in regions if each.executable), key=lambda each: each.length, default=None)
    # A heap of 1 GiB is as large as the class space, which HotSpot maps after it.
    spaces = [each for each in regions if not each.executable and 0 <= each.length - CLASS_SPACE <= _ARCHIVE]
    classes = spaces[-1] if spaces else None
    heaps = [each for each in regions if each is not code and each is not classes]
    heap = max(heaps, key=lambda each: each.length, default=None)
    if heap is not None:
        yield from _java_heap(image, heap, known)
    if code is not None:
        yield from _code_cache(code, known)
    if classes is not None:
        used = _used(classes, known)
        value = _limit(used, 16 * MIB)
        if value < CLASS_SPACE:
            yield argument(
                f"-XX:CompressedClassSpaceSize={value // MIB}m",
                JAVA,
                f"the JVM reserved {shown_size(classes.length)} for classes and used {shown_size(used)} of it",
                reserved=classes.length,
                used=used,
            )


def _java_heap(image: Image, heap: Region, known: bool) -> Iterator[Advice]:
    bitmaps = [
        each.length
        for each in image.reservations
        if any(each.length == round_up(heap.length // part, 4096) for part in _BITMAPS)
    ]
    if bitmaps:
        yield argument(
            "-XX:+UseSerialGC",
            JAVA,
            f"the garbage collector is a parallel one: it reserved {shown_size(sum(bitmaps))} of mark bitmaps beside "
            f"the heap, and the JVM had {plural(image.peak_threads, 'thread')}",
            bitmaps=sum(bitmaps),
            threads=image.peak_threads,
        )
    used = _used(heap, known)
    value = _limit(used, 8 * MIB)
    if 2 * value <= heap.length:
        yield argument(
            f"-Xmx{value // MIB}m",
            JAVA,
            f"the JVM reserved {shown_size(heap.length)} for its heap and used {shown_size(used)} of it",
            reserved=heap.length,
            used=used,
        )
    if heap.opens >= _STEPS:
        start = max(round_up(heap.peak, MIB), MIB)
        yield argument(
            f"-Xms{min(start, value) // MIB}m",
            JAVA,
            f"the JVM made its heap accessible in {plural(heap.opens, 'step')}, {shown_size(heap.peak)} in all",
            steps=heap.opens,
            opened=heap.peak,
        )


def _code_cache(code: Region, known: bool) -> Iterator[Advice]:
    used = _used(code, known)
    value = _limit(used, 16 * MIB)
    if 2 * value <= code.length:
        yield argument(
            f"-XX:ReservedCodeCacheSize={value // MIB}m",
            JAVA,
            f"the JVM reserved {shown_size(code.length)} for compiled code and used {shown_size(used)} of it",
            reserved=code.length,
            used=used,
        )
    if code.opens >= _STEPS:
        yield argument(
            "-XX:TieredStopAtLevel=1",
            JAVA,
            f"the code cache grew in {plural(code.opens, 'step')} to {shown_size(code.peak)}: without the second "
            "compiler there is less code, and one compiler's threads and arenas less",
            steps=code.opens,
            opened=code.peak,
        )


def _go(image: Image) -> Iterator[Advice]:
    if image.peak_threads >= _THREADS:
        yield variable(
            "GOMAXPROCS",
            "2",
            f"Go: {plural(image.peak_threads, 'thread')} at once, each with a slot in the enclave and its own caches",
            threads=image.peak_threads,
        )
    if image.discards >= OFTEN:
        why = f"Go: {plural(image.discards, 'madvise')} gave pages back"
        yield variable(
            "GODEBUG",
            "madvdontneed=0",
            why + "; with MADV_FREE in its place Gramine does nothing",
            discards=image.discards,
        )
        less = why + " after collections, which come less often this way"
        yield variable("GOGC", "400", less, discards=image.discards)
    # Arenas follow each other from there on; what the kernel places lies far above.
    opened = sum(region.peak for region in image.reservations if GO_HEAP <= region.start < 2 * GO_HEAP)
    if opened >= 64 * MIB:
        limit = round_up(opened, 64 * MIB)
        yield variable(
            "GOMEMLIMIT",
            f"{limit // MIB}MiB",
            f"Go: the heap grew to {shown_size(opened)}; a limit keeps it within the enclave",
            heap=opened,
        )


def _v8(image: Image) -> Iterator[Advice]:
    code = max((each for each in image.regions if each.executable), key=lambda each: each.length, default=None)
    reserved = 0 if code is None else code.length
    if image.exec_changes >= OFTEN or reserved >= _CODE_RANGE:
        yield argument(
            "--jitless",
            NODE,
            f"V8: {plural(image.exec_changes, 'call')} changed what is executable, {shown_size(reserved)} are reserved "
            "for code. Without compilation there are none: programs are interpreted, and there is no WebAssembly",
            changes=image.exec_changes,
            reserved=reserved,
        )
    if image.peak_threads >= _THREADS:
        yield argument(
            "--v8-pool-size=1",
            NODE,
            f"V8: {plural(image.peak_threads, 'thread')} at once, some of them helpers for collection and compilation",
            threads=image.peak_threads,
        )
    if image.chunks >= OFTEN:
        yield argument(
            "--max-semi-space-size=32",
            NODE,
            f"V8: {plural(image.chunks, 'page')} of {shown_size(CHUNK)} of its heap were unmapped: with a larger young "
            "generation they come and go less often",
            pages=image.chunks,
        )
