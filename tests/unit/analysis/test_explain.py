"""`laconic explain`: what is found of one call, the words for it, the picture, and bad input.

`LACONIC_GOLDEN=write` in the environment writes the golden file anew.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

import laconic.trace
from laconic.analysis.explain import Explanation, explain, locate
from laconic.analysis.neighbourhood import Run
from laconic.analysis.sites import sites
from laconic.commands import main
from laconic.errors import LaconicError
from laconic.linux.pagemap import FILE_PAGE
from laconic.memory.change import EXTEND, MAP, RESTRICT, UNMAP, ZERO
from laconic.memory.flags import (
    MADV_DONTNEED,
    VM_MAY_RWX,
    VM_MAYSHARE,
    VM_SHARED,
)
from laconic.memory.vma import Vma
from laconic.report.explain import as_json, as_text
from laconic.report.picture import picture
from laconic.strategies import NAMES
from laconic.trace.schema import ADOPTED, CODES, MEMORY_CODES, UNFINISHED
from tests.helpers.explaintraces import ANONYMOUS, FIXED, PAGE, unpacked
from tests.helpers.pagetraces import HOSTILE, Stacked, hostile, known
from tests.helpers.traces import BASE, Builder, small

GOLDEN = Path(__file__).parent / "golden" / "explain.txt"
RW = 3
SHARED = VM_SHARED | VM_MAYSHARE


class Process(Builder):
    """A trace of one process whose address space is known from its beginning, and empty."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, about={"strategy": "laconic"})
        about = {
            "path": "/bin/prog",
            "bits": 64,
            "layout": {"mmap_base": BASE + (1 << 40), "refused_advice": []},
        }
        self.row("program", 0x5555_5555_6000, 0, data=json.dumps(about).encode())
        self.row("maps", 0, ADOPTED)

    def map(
        self, page: int, pages: int, prot: int = RW, flags: int = ANONYMOUS, file: int = 0
    ) -> None:
        """A mapping that was made."""
        start = BASE + page * PAGE
        self.row("mmap", start, pages * PAGE, prot, flags, 3 if file else -1, 0, result=start,
                 host_calls=1, kinds=MAP,
                 file=file)  # fmt: skip


def of(path: str, event: str | int) -> Explanation:
    """What is to be known of an event."""
    return explain(laconic.trace.open(path), str(event))


def text(path: str, event: str | int) -> str:
    """The same in words; every line fits."""
    told = of(path, event)
    json.dumps(as_json(told))
    output = as_text(told)
    assert max(map(len, output.splitlines())) <= 80
    return output


class TestWhatDiffered:
    """Each kind of change, and each reason for none, in plain words."""

    def test_nothing(self, tmp_path: Path) -> None:
        trace = Process(tmp_path / "a.trace")
        trace.map(0, 4)
        trace.row("mprotect", BASE, 2 * PAGE, RW, result=0)
        path = trace.end()
        told = of(path, "mprotect:1")
        assert (told.changes, told.host_call, told.recorded) == ((), None, 0)
        assert (
            told.counts["every-call"]["host_calls"] == 1
            and told.counts["every-call"]["emodpr"] == 2
        )
        assert not any(told.counts["laconic"].values()) and not any(
            told.counts["skip-equal"].values()
        )
        output = text(path, "mprotect:1")
        assert (
            "request: make 2 pages (8,192 bytes) at 0x7f0000000000 readable and writable" in output
        )
        assert "  2 pages at 7f0000000000: nothing: rw-p already\n" in output
        assert "host calls\n  none: the host already has this state\n" in output
        assert "  laconic     the same\n" in output and "  skip-equal  nothing\n" in output

    def test_extend_and_restrict(self, tmp_path: Path) -> None:
        trace = Process(tmp_path / "a.trace")
        trace.map(0, 4)
        trace.row(
            "mprotect", BASE + PAGE, 2 * PAGE, 5, result=0, host_calls=1, kinds=EXTEND | RESTRICT
        )
        output = text(trace.end(), "mprotect:1")
        assert "  2 pages at 7f0000001000: gains x; loses w (EXTEND|RESTRICT)\n" in output
        assert (
            "  mprotect(0x7f0000001000, 8192, PROT_READ|PROT_EXEC)\n"
            "  because the bookkeeping of 2 pages" in output
        )

    def test_contents_thrown_away(self, tmp_path: Path) -> None:
        """With how many touched pages; and where none was touched, nothing is done."""
        trace = Process(tmp_path / "a.trace")
        trace.map(0, 16)
        touched = ((BASE, BASE + 12 * PAGE, 0),)
        trace.row(
            "madvise",
            BASE,
            16 * PAGE,
            MADV_DONTNEED,
            result=0,
            host_calls=1,
            kinds=ZERO,
            touched=touched,
        )
        trace.row("madvise", BASE, 16 * PAGE, MADV_DONTNEED, result=0)
        path = trace.end()
        output = text(path, "madvise:1")
        assert (
            "request: throw away the contents of 16 pages (65,536 bytes)" in output
            and "(MADV_DONTNEED)" in output
        )
        assert "contents are thrown away: 12 touched pages (ZERO)" in output
        assert "never touched, so there are no contents to throw away" in " ".join(
            text(path, "madvise:2").split()
        )

    def test_the_same_file(self, tmp_path: Path) -> None:
        trace = Process(tmp_path / "a.trace")
        number = trace.file("/lib/libc.so.6", size=1 << 20)
        trace.map(0, 8, 1, FIXED, number)
        read = ((BASE, BASE + PAGE, FILE_PAGE),)
        trace.row("mmap", BASE, 8 * PAGE, 1, FIXED, 3, 0, result=BASE, file=number, touched=read)
        trace.row(
            "mmap",
            BASE,
            8 * PAGE,
            RW,
            ANONYMOUS,
            -1,
            0,
            result=BASE,
            host_calls=1,
            kinds=8 | EXTEND,
        )
        path = trace.end()
        assert "the same file, the same offset, never written" in " ".join(
            text(path, "mmap:2").split()
        )
        output = text(path, "mmap:3")
        assert "backed by anonymous memory instead of libc.so.6; gains w (FILE|EXTEND)" in " ".join(
            output.split()
        )

    def test_unmapped_in_part(self, tmp_path: Path) -> None:
        """A hole in what is unmapped is not a change."""
        trace = Process(tmp_path / "a.trace")
        trace.map(0, 2)
        trace.map(6, 2)
        trace.row("munmap", BASE, 8 * PAGE, result=0, host_calls=1, kinds=UNMAP)
        output = text(trace.end(), "munmap:1")
        assert "  2 pages at 7f0000000000: unmapped: no page of it was touched (UNMAP)\n" in output
        assert "  4 pages at 7f0000002000: nothing: nothing is mapped here\n" in output
        assert "  munmap(0x7f0000000000, 32768)\n" in output

    def test_a_refusal(self, tmp_path: Path) -> None:
        trace = Process(tmp_path / "a.trace")
        trace.map(0, 2)
        trace.row("munmap", BASE + 1, PAGE, result=-22)
        output = text(trace.end(), "munmap:1")
        assert output.startswith("event 3: munmap(0x7f0000000001, 4096) = -1 EINVAL\n")
        assert "none: the bookkeeping knows the error that the host would return" in output

    def test_moved(self, tmp_path: Path) -> None:
        trace = Process(tmp_path / "a.trace")
        trace.map(0, 4)
        target = BASE + 64 * PAGE
        trace.row(
            "mremap",
            BASE,
            4 * PAGE,
            8 * PAGE,
            3,
            target,
            result=target,
            host_calls=1,
            kinds=MAP | UNMAP,
        )
        output = text(trace.end(), "mremap:1")
        call = "mremap(0x7f0000000000, 16384, 32768, MREMAP_MAYMOVE|MREMAP_FIXED, 0x7f0000040000)"
        assert call in " ".join(output.split())
        assert "moved here from 7f0000000000 with its contents" in " ".join(output.split())

    def test_a_change_that_only_the_host_can_describe(self, tmp_path: Path) -> None:
        """A segment is attached: what the host then showed is the difference."""
        trace = Process(tmp_path / "a.trace")
        number = trace.file("/SYSV00000000 (deleted)", inode=32768)
        trace.row("maps", 1, 0)
        trace.row("vma", BASE, BASE + 4 * PAGE, 3 | SHARED | VM_MAY_RWX, BASE, 0, 0, file=number)
        trace.row("shmat", 32768, 0, 0, result=BASE, host_calls=1)
        output = text(trace.end(), "shmat:1")
        assert (
            "  4 pages at 7f0000000000: mapped where nothing was; the contents are the file's"
            in output
        )
        assert "* A                       after  rw-s SYSV00000000 (deleted)+0x0\n" in output
        assert "  shmat(0x8000, 0, 0)\n  because the bookkeeping of 4 pages differs" in output

    def test_a_log_does_not_tell(self, tmp_path: Path) -> None:
        """What is mapped, since a call on it succeeded, and of which nothing else is known."""
        trace = Builder(tmp_path / "a.trace", "strace", {"unknown": ["touched pages"]})
        trace.program("/bin/prog", ["prog"])
        trace.row("mprotect", BASE, PAGE, 1, result=0)
        trace.row("shmat", 5, 0, 0, result=BASE + (1 << 30))
        path = trace.end()
        assert "r--p (not known)\n" in text(path, "mprotect:1")
        assert "  nothing: only the host knows what it does\n" in text(path, "shmat:1")

    def test_work_that_began_earlier(self, tmp_path: Path) -> None:
        """What was edited in the `begin` row, before another thread's call, is this call's."""
        trace = Process(tmp_path / "a.trace")
        trace.row("clone3", 0x3D0F00, result=101)
        trace.map(0, 4)
        trace.row("begin", BASE, 4 * PAGE, call_code=CODES["munmap"], state=1)
        trace.row("mmap", BASE + 8 * PAGE, PAGE, 3, ANONYMOUS, -1, 0, tid=101,
                  result=BASE + 8 * PAGE, host_calls=1,
                  kinds=MAP)  # fmt: skip
        trace.row("munmap", BASE, 4 * PAGE, result=0, host_calls=1, kinds=UNMAP)
        path = trace.end()
        told = of(path, "munmap:1")
        assert told.found.begin == 4
        assert [(change.start, change.end, change.kind) for change in told.changes] == [
            (BASE, BASE + 4 * PAGE, UNMAP)
        ]
        assert told.counts["every-call"]["eremove"] == 4
        assert "its work began at event 4" in text(path, "munmap:1")

    def test_not_followed_and_never_over(self, tmp_path: Path) -> None:
        trace = Process(tmp_path / "a.trace")
        trace.row("mincore", BASE, PAGE, 0x5000, result=0)
        trace.row("mmap", 0, PAGE, 3, 0x22, -1, 0, state=UNFINISHED)
        trace.row("mmap", 0, PAGE, 3, 0x22, -1, 0, pid=300, result=BASE)
        path = trace.end()
        assert "not explained further: no bookkeeping concerns it" in text(path, "mincore:1")
        assert "not explained further: it never returned" in text(path, "mmap:1")
        assert "not explained further: its process is not followed" in text(path, "mmap:2")

    def test_other_rows(self, tmp_path: Path) -> None:
        path = small(tmp_path / "a.trace")
        output = text(path, 1)
        assert output.startswith(
            "event 1 is not a memory call: program, a program that begins in its process;"
        )
        assert output.endswith("the next memory call is event 2\n")
        last = len(list(laconic.trace.open(path).rows())) - 1
        assert text(path, last).endswith("there is no memory call after it\n")


class TestFigures:
    """What one call does is what all calls do together, taken apart."""

    @pytest.mark.parametrize("make", [small, known])
    def test_calls_sum_up(self, make: object, tmp_path: Path) -> None:
        path = make(tmp_path / "a.trace")  # type: ignore[operator]
        total: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
        for number, row in enumerate(laconic.trace.open(path).rows()):
            if row.event < MEMORY_CODES:
                for name, counts in of(path, number).counts.items():
                    total[name].update(counts)
        expected: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
        for site in sites(laconic.trace.open(path), NAMES).sites:
            for name, counted in site.counts.items():
                expected[name].update(counted.as_dict())
        for name in NAMES:
            # Whether a page stays untouched shows later.
            found, known_of = (
                {
                    thing: count
                    for thing, count in counts.items()
                    if count and thing != "untouched_pages"
                }
                for counts in (total[name], expected[name])
            )
            assert found == known_of and (name != "every-call" or found)

    def test_every_row_of_hostile_names(self, tmp_path: Path) -> None:
        """Nothing raises, everything fits, and no character moves a cursor or turns the writing."""
        trace = hostile(tmp_path / "a.trace")
        path = trace if isinstance(trace, str) else str(tmp_path / "a.trace")
        numbers = [
            number
            for number, row in enumerate(laconic.trace.open(path).rows())
            if row.event < MEMORY_CODES
        ]
        assert len(numbers) == 3 * len(HOSTILE)
        for number in numbers:
            assert not re.search(
                "[\x00-\x09\x0b-\x1f\x7f\u202e\u2066\u2028\u200b]", as_text(of(path, number))
            )

    def test_the_log_of_another_tool(self, tmp_path: Path) -> None:
        path = small(tmp_path / "a.trace", source="strace", about={"unknown": ["touched pages"]})
        output = text(path, "munmap:1")
        assert "the trace was imported from a log, so the host executed the call itself" in output
        assert text(path, "madvise:1").count("touched pages") == 0

    def test_recorded_under_another_strategy(self, tmp_path: Path) -> None:
        trace = Builder(tmp_path / "a.trace", about={"strategy": "every-call"})
        trace.program("/bin/prog", ["prog"])
        trace.row("mmap", BASE, PAGE, 3, ANONYMOUS, -1, 0, result=BASE, host_calls=1, kinds=MAP)
        trace.row("mprotect", BASE, PAGE, 3, result=0, host_calls=1)
        output = text(trace.end(), "mprotect:1")
        assert "1 host call when recorded, under every-call; the bookkeeping would issue:" in output
        assert "none: the host already has this state" in output


class TestPicture:
    """Two strips of letters."""

    def test_marks(self) -> None:
        low, high = Vma(1 | VM_MAY_RWX), Vma(3 | VM_MAY_RWX)
        runs = [
            Run(BASE, BASE + PAGE, low, low, requested=True),
            Run(BASE + PAGE, BASE + 2 * PAGE, low, high, requested=True, kind=EXTEND),
            Run(BASE + 2 * PAGE, BASE + 3 * PAGE, None, None),
            Run(BASE + 3 * PAGE, BASE + 9 * PAGE, None, None, left_out=4),
        ]
        assert list(picture(runs))[1:] == [
            "  before  AA.~~~",
            "  after   AB.~~~",
            "          =*",
            "= A 7f0000000000-7f0000001000 1  r--p anonymous",
            "* A 7f0000001000-7f0000002000 1  r--p anonymous",
            "* B                       after  rw-p anonymous",
            "  . 7f0000002000-7f0000003000 1  (nothing)",
            "  ~ 7f0000003000-7f0000009000 6  4 runs that are not shown",
        ]

    def test_many_runs_and_the_largest(self, tmp_path: Path) -> None:
        """A reservation of 64 GiB beside single pages; of 400 unmapped VMAs those at both ends."""
        trace = Process(tmp_path / "a.trace")
        trace.map(1 << 20, 1 << 24, 0)
        for number in range(400):
            trace.map(2 * number, 1, 1 + number % 2 * 2)
        trace.row("munmap", BASE, 800 * PAGE, result=0, host_calls=400, kinds=UNMAP)
        output = text(trace.end(), "munmap:1")
        assert re.search(r"\* ~ \w+-\w+ +\d+  7\d\d runs that are not shown", output)
        assert "16,777,216  ---p anonymous" in output
        assert "  392 pages in 392 more runs (--json has them)\n" in output

    def test_golden(self, tmp_path: Path) -> None:
        path = known(tmp_path / "a.trace")
        made = "\n".join(
            as_text(of(path, event)) for event in ("mmap:2", "mprotect:1", "mprotect:2", 0)
        )
        if os.environ.get("LACONIC_GOLDEN") == "write":
            GOLDEN.write_text(made)
        assert made == GOLDEN.read_text()


class TestEvents:
    """How an event is named, and what is not an event."""

    def test_names(self, tmp_path: Path) -> None:
        path = small(tmp_path / "a.trace")
        rows = list(laconic.trace.open(path).rows())
        second = [number for number, row in enumerate(rows) if row.event == CODES["mprotect"]][1]
        when = rows[second][1] / 1e9
        for event in (str(second), "mprotect:2", f"@{when:.9f}", f"@{when - 1e-4:.9f}"):
            assert locate(laconic.trace.open(path), event).number == second

    @pytest.mark.parametrize(
        ("event", "message"),
        [
            ("999", "there is no event 999: the trace has those from 0 to 25"),
            ("9" * 30, "names no event"),
            ("-1", "names no event"),
            ("@x", "names no event: give its number, @SECONDS"),
            ("@nan", "names no event"),
            ("@5", "there is no memory call at 5 s or later: the last of 12 is at 0.017000 s"),
            ("mprotect:9", "there is no 9. mprotect: of 12 memory calls, 2 are mprotect"),
            ("mprotect:0", "names no event"),
            ("mprotect:", "names no event"),
            ("frobnicate:1", "there is no memory call 'frobnicate'"),
            ("execve:1", "there is no memory call 'execve'"),
        ],
    )
    def test_bad_events(self, event: str, message: str, tmp_path: Path) -> None:
        path = small(tmp_path / "a.trace")
        with pytest.raises(LaconicError) as error:
            explain(laconic.trace.open(path), event)
        assert message in str(error.value)


class TestCommand:
    """Outputs and exit codes."""

    def test_text_and_json(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path, out = known(tmp_path / "a.trace"), tmp_path / "a.json"
        assert main(["explain", path, "mprotect:2", "--json", str(out)]) == 0
        shown = capfd.readouterr()
        assert "    grow (libx.so) x.c:5\n  < main (libx.so) x.c:3\n" in shown.out and not shown.err
        report = json.loads(out.read_text())
        assert report["call"] == "mprotect(0x7f0000000000, 8192, PROT_READ|PROT_WRITE)"
        assert [place["function"] for place in report["stack"]] == ["mprotect", "grow", "main"]
        assert main(["explain", path, "mprotect:2", "--json", "-"]) == 0
        assert json.loads(capfd.readouterr().out) == report

    def test_bad_input(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        empty, text_file, nothing = (
            tmp_path / "empty",
            tmp_path / "text",
            Builder(tmp_path / "nothing.trace").cut(),
        )
        empty.write_bytes(b"")
        text_file.write_text("hello\n")
        path = small(tmp_path / "a.trace")
        for words, output in (
            ([str(tmp_path / "none"), "1"], "cannot be read"),
            ([str(empty), "1"], "is empty"),
            ([str(text_file), "1"], "is not a trace"),
            ([nothing, "0"], "has none at all"),
            ([path, "99"], "from 0 to 25"),
            ([path, "2", "--json", str(tmp_path / "no" / "place")], "cannot be written"),
        ):
            assert main(["explain", *words]) == 2
            shown = capfd.readouterr()
            assert output in shown.err and not shown.out

    def test_damage_after_the_event_and_before(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What can be read is explained; what cannot is reported."""
        trace = Stacked(tmp_path / "a.trace")
        trace.program("/bin/prog", ["prog"])
        trace.row("mmap", BASE, PAGE, 3, ANONYMOUS, -1, 0, result=BASE, host_calls=1, kinds=MAP)
        trace.writer.flush()
        trace.row("mprotect", BASE, PAGE, 3, result=0)
        path = trace.end()
        data = bytearray(Path(path).read_bytes())
        at = data.rindex(b"\x28\xb5\x2f\xfd")
        data[at + 12] ^= 0xFF
        Path(path).write_bytes(data)
        assert main(["explain", path, "mmap:1"]) == 0
        assert capfd.readouterr().err.count("is not complete") == 1
        assert main(["explain", path, "mprotect:1"]) == 2
        assert capfd.readouterr().err.count("is not complete") == 1

    def test_missing_modules_are_named(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = unpacked(tmp_path / "a.trace")
        assert main(["explain", path, "mmap:1"]) == 0
        output = capfd.readouterr().out
        assert "    libgone.so+0x10\n" in output
        assert "no symbols of /nowhere/libgone.so: No such file or directory" in output
