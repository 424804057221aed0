"""Page runs before and after a call, as a picture: two strips of letters, and a legend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from laconic.analysis.neighbourhood import Run
from laconic.memory.flags import PAGE_SHIFT, VM_MAY_RWX, VM_MAYSHARE, VM_PROT, VM_SHARED, flag_names
from laconic.memory.rangemap import range_text
from laconic.memory.vma import Vma
from laconic.report.names import columns
from laconic.report.text import plain

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#: The flags that `Vma.permissions` shows already.
_SEEN = VM_PROT | VM_MAY_RWX | VM_SHARED | VM_MAYSHARE
_HEAD = 10


def picture(runs: Sequence[Run], width: int = 80) -> Iterator[str]:
    """Yield lines of at most `width` columns, if there are at most `width - 10` runs: each letter
    is one set of attributes (after 52, letters repeat), a dot a hole, `~` omitted runs; below, `*`
    marks a change, and `=` pages that already were as requested.

    Widths grow with the logarithm of the size, so one page next to a reservation of gigabytes is
    visible too. O(runs).
    """
    letters = _lettered(runs)
    widths = _widths(runs, width - _HEAD)
    yield "surrounding address space (not to scale): * changed, = already as requested"
    for side in ("before", "after"):
        yield f"  {side:<8}" + "".join(
            _sign(run, getattr(run, side), letters) * size
            for run, size in zip(runs, widths, strict=True)
        )
    yield (
        " " * _HEAD + "".join(_mark(run) * size for run, size in zip(runs, widths, strict=True))
    ).rstrip()
    room = max(len(_count(run)) for run in runs)
    for run in runs:
        yield from _lines(run, letters, room, width)


def _lettered(runs: Sequence[Run]) -> dict[Vma, str]:
    letters: dict[Vma, str] = {}
    for run in runs:
        for vma in (run.before, run.after):
            if vma is not None and vma not in letters:
                letters[vma] = _LETTERS[len(letters) % len(_LETTERS)]
    return letters


def _widths(runs: Sequence[Run], room: int) -> list[int]:
    wanted = [min((run.end - run.start >> PAGE_SHIFT).bit_length(), 12) for run in runs]
    while sum(wanted) > room and max(wanted) > 1:
        largest = max(wanted)
        wanted = [size - (size == largest) for size in wanted]
    return wanted


def _sign(run: Run, vma: Vma | None, letters: dict[Vma, str]) -> str:
    if run.left_out:
        return "~"
    return "." if vma is None else letters[vma]


def _mark(run: Run) -> str:
    if run.kind or run.before != run.after:
        return "*"
    return "=" if run.requested else " "


def _count(run: Run) -> str:
    return f"{run.end - run.start >> PAGE_SHIFT:,}"


def _lines(run: Run, letters: dict[Vma, str], room: int, width: int) -> Iterator[str]:
    where = f"{range_text(run.start, run.end, '012x')} {_count(run):>{room}}"
    front = f"{_mark(run)} {_sign(run, run.before, letters)} {where}  "
    if run.left_out:
        yield f"{front}{run.left_out:,} runs that are not shown"
        return
    yield from _described(front, run, run.before, run.name_before, width)
    if run.before != run.after:
        again = f"{_mark(run)} {_sign(run, run.after, letters)} {'after':>{len(where)}}  "
        yield from _described(again, run, run.after, run.name_after, width)


def _described(front: str, run: Run, vma: Vma | None, name: str, width: int) -> Iterator[str]:
    # Permissions and the backing of the pages, a long name shortened in its middle; special flags
    # are on a separate line if there is no room.
    if vma is None:
        yield f"{front}(nothing)"
        return
    known = vma.file is not None and vma.file.path not in ("", "?")
    offset = f"+{run.start - vma.base:#x}" if known else ""
    name = plain(name.rsplit("/", 1)[-1] if name.startswith("/") else name) or "anonymous"
    if vma.file is not None and not known:
        name = "(not known)"
    room = width - len(front) - len(vma.permissions()) - 1 - len(offset)
    line = f"{front}{vma.permissions()} {_shortened(name, room)}{offset}"
    flags = flag_names(vma.flags & ~_SEEN)
    if flags and columns(line) + len(flags) + 3 > width:
        yield line
        line, flags = "", f"{' ' * (width - len(flags) - 2)}[{flags}]"
    elif flags:
        flags = f" [{flags}]"
    yield line + flags


def _shortened(name: str, room: int) -> str:
    if columns(name) <= room:
        return name
    front, back = "", ""
    while columns(front) + columns(back) < room - 5:
        front, back = front + name[len(front)], name[len(name) - len(back) - 1] + back
    return f"{front}...{back}"
