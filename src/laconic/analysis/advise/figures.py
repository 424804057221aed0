"""The figures on which advice is based: one replay under the strategies that are shown, with a
`Watch` beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os.path import basename
from typing import TYPE_CHECKING

from laconic.analysis.advise.watch import OPENBLAS, Image, Watch
from laconic.analysis.frames import own_frames
from laconic.libos.strategy import Maker, Strategy
from laconic.libos.touches import Touches
from laconic.replay.enclaves import Enclaves
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener, Program
from laconic.replay.sizebounds import SizeBounds, assumed_sizes
from laconic.sgx.meter import Counts
from laconic.strategies import strategy
from laconic.strategies.every_call import EveryCall
from laconic.trace.stacks import NO_STACK, Stacks
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.memory.space import AddressSpace
    from laconic.sgx.costs import CostProfile
    from laconic.sgx.meter import Meter
    from laconic.trace.numbers import LowHigh
    from laconic.trace.reader import TraceReader

#: The strategies whose costs are shown: what a library OS does today, the same with EXINFO off, and
#: Laconic's.
TODAY, EAGER, OURS = "every-call", "every-call, no EXINFO", "laconic"
SHOWN = (TODAY, EAGER, OURS)
#: The significant part of a figure: a smaller difference may occur between two equal runs.
NOISE = 0.05


class Eager(EveryCall):
    """every-call without sgx.use_exinfo: no lazy allocation, with or without MAP_NORESERVE."""

    def alloc(self, start: int, end: int, prot: int, lazy: int = 0) -> None:
        """Commit new anonymous memory at once. O(log n)."""
        super().alloc(start, end, prot)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one strategy costs on a trace, each as (lowest, highest). `cycles` are by the profile;
    `epc_pages` is the maximum of committed pages, in all enclaves at once."""

    host_calls: LowHigh
    cycles: LowHigh
    epc_pages: LowHigh


@dataclass(slots=True)
class AdviceFigures:
    """What a trace shows. `images` and `processes` correspond to each other, in the order in which
    they began.

    `costs` are by strategy; `counts` are those of TODAY for all enclaves together, with the minimum
    of touches. `touches` is False if the trace does not record which pages were touched; results
    that depend on touches are then ranges, like those that depend on the sizes of files if it does
    not have them (`unsized`). `unseen`: pages whose pagemap was unreadable. `losses`:
    what the trace lacks, one sentence each. `exit_status` is None if it is unknown. `attached`: the
    programs were running before the recording began, so the trace lacks what they did until then.
    `cpus` of the machine of the recording, 0 if unknown.
    """

    source: str
    redacted: bool
    images: list[Image]
    processes: list[Program]
    costs: dict[str, Cost]
    counts: Counts
    lazy_touched: tuple[int, int]
    touches: bool = True
    unseen: int = 0
    losses: list[str] = field(default_factory=list)
    exit_status: int | None = None
    attached: bool = False
    cpus: int = 0
    unsized: bool = False

    def programs(self) -> list[tuple[Program, Image]]:
        """Return the programs, each with its image."""
        return list(zip(self.processes, self.images, strict=True))

    def most(self, what: Callable[[Image], int]) -> int:
        """Return the maximum of a quantity over all programs."""
        return max(map(what, self.images), default=0)

    def owner(self, image: Image) -> str:
        """Return the program and the process of an image, as text. O(programs)."""
        for process, found in self.programs():
            if found is image:
                return f"{basename(process.path) or 'a program'} (process {process.pid})"
        return "an unknown program"

    def largest(self, what: Callable[[Image], int]) -> tuple[int, str]:
        """Return the maximum of a quantity over all programs, and the program that has it, as
        text."""
        image = max(self.images, key=what)
        return what(image), self.owner(image)

    def owners(self, images: Sequence[Image], what: Callable[[Image], int]) -> str:
        """Return the programs that a sum over `images` comes from, as text: the one with the
        largest part, and the number of the others. O(programs)."""
        parts = [what(image) for image in images]
        others = sum(part > 0 for part in parts) - 1
        owner = self.owner(images[parts.index(max(parts))])
        return f"{owner} and {plural(others, 'other program')}" if others > 0 else owner

    def total(self, what: Callable[[Image], int]) -> int:
        """Return the sum of a quantity over all programs."""
        return sum(map(what, self.images))

    def worth(self, host_calls: int, accepts: int) -> bool:
        """True if these host calls or EACCEPTs are a significant part of TODAY's."""
        counts = self.counts
        return host_calls > NOISE * counts.host_calls or accepts > NOISE * counts.eaccept


class BufferCallers(Listener):
    """Records the stacks from which the mappings in `Image.buffers` were made. It must come after
    the `Enclaves` that watch."""

    def __init__(self, images: list[Image]) -> None:
        self._images = images

    def call_done(self, done: CallDone) -> None:
        """Note the stack of a buffer that was just mapped. O(1)."""
        buffers = self._images[done.mm.number].buffers if done.mm.number >= 0 else {}
        if buffers and done.name == "mmap":
            region = next(reversed(buffers))
            if region.start == done.result and buffers[region] == NO_STACK:
                buffers[region] = done.stack

    def keep_own(self, stacks: Stacks) -> None:
        """Keep only the buffers that OpenBLAS itself has mapped (alloc_mmap in its memory.c).
        O(buffers)."""
        for image in self._images:
            image.buffers = {
                region: stack
                for region, stack in image.buffers.items()
                if stack != NO_STACK and _is_openblas(stack, stacks)
            }


def _is_openblas(stack: int, stacks: Stacks) -> bool:
    own = own_frames("mmap", stacks.walk(stack))
    return bool(own) and own[0][0].module.startswith(OPENBLAS)


def measure(
    opened: Callable[[], TraceReader],
    profile: CostProfile,
    progress: Callable[[int], None] | None = None,
) -> AdviceFigures:
    """Return the figures of the trace that `opened` opens; a log, which does not record touched
    pages, is read twice.

    Raises LaconicError if it cannot be read. O(events × strategies).
    """
    trace = opened()
    engine, low, images = _replayed(trace, False, progress)
    known = trace.source == "run"
    _, high, more = (engine, low, images) if known else _replayed(opened(), True, progress)
    costs = {}
    for name in SHOWN:
        totals = [
            enclaves.meters[name].total()
            for bounds in (low, high)
            for enclaves in (bounds.least, bounds.most)
        ]
        calls = sorted(float(total.host_calls) for total in totals)
        cycles = sorted(value for total in totals for value in profile.cycles(total))
        pages = sorted(
            float(enclaves.meters[name].peak_epc_pages)
            for bounds in (low, high)
            for enclaves in bounds.assumed
        )
        costs[name] = Cost((calls[0], calls[-1]), (cycles[0], cycles[-1]), (pages[0], pages[-1]))
    lazy = [sum(image.lazy_touched for image in each) for each in (images, more)]
    status = engine.end.get("exit_status")
    return AdviceFigures(
        trace.source,
        trace.redacted,
        images,
        engine.started,
        costs,
        low.assumed[0].meters[TODAY].total(),
        (lazy[0], lazy[1]),
        known,
        low.assumed[0].unseen,
        engine.losses,
        status if isinstance(status, int) else None,
        trace.was_attached,
        trace.cpus if known else 0,
        len(low.assumed) > 1,
    )


def watching(images: list[Image]) -> dict[str, Maker]:
    """Return the maker of a `Watch` for each address space, which fills `images`."""

    def watch(meter: Meter, space: AddressSpace, touches: Touches) -> Strategy:
        return Watch(meter, space, touches, images)

    return {Watch.name: watch}


def _replayed(
    trace: TraceReader, touched: bool, progress: Callable[[int], None] | None
) -> tuple[Replay, SizeBounds, list[Image]]:
    images: list[Image] = []
    makers: dict[str, Maker] = {TODAY: strategy(TODAY), EAGER: Eager, OURS: strategy(OURS)}
    first, *others = assumed_sizes(trace)
    assumed = [Enclaves(makers | watching(images), touched, assumed_sizes=first)]
    assumed += [Enclaves(makers, touched, assumed_sizes=size) for size in others]
    bounds = SizeBounds(assumed)
    stacks = Stacks()
    callers = BufferCallers(images)
    listeners: list[Listener] = [*assumed, *([bounds] if others else []), callers]
    engine = Replay(trace, "laconic", listeners=listeners, stacks=stacks)
    engine.run(progress=progress)
    bounds.finish()
    callers.keep_own(stacks)
    return engine, bounds, images
