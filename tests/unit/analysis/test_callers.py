"""laconic callers: what is put together, what people and programs are shown of it, names that come
from anywhere.

`LACONIC_GOLDEN=write` in the environment writes the golden files anew.
"""

from __future__ import annotations

import doctest
import importlib
import json
import os
import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from laconic.analysis.callers import BY, COST, REDUNDANT, SITE, SORTS, SUPPRESSED, Callers, callers
from laconic.analysis.frames import own_frames, own_line
from laconic.analysis.sites import sites
from laconic.analysis.suppressions import BUILT_IN, Suppression
from laconic.report.callers import as_json, as_text
from laconic.report.names import columns, filled, seen
from laconic.sgx.costs import COSTED, CostProfile, Figure
from laconic.stacks.symbolize import Place, Symbolizer
from laconic.stacks.table import FILE, JIT, PYTHON, VDSO, Frame, Module
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CHOSEN, FRAME
from laconic.trace.stacks import NO_STACK, Places, Stacks
from tests.helpers.commandline import laconic
from tests.helpers.sitetraces import sited
from tests.helpers.traces import BASE, Builder, small
from tests.tracer.lab import environment

GOLDEN = Path(__file__).parent / "golden"
#: A fixed one: shipped profiles change.
PROFILE = CostProfile(
    "fixed", "none", {name: Figure(1000, 1500, "a test", "none") for name in COSTED}
)
#: Function names that no terminal may get as they are, or that are very long.
HOSTILE = (
    "red\x1b[31m\x1b]0;title\x07",
    "turned\u202eevil\u2066",
    "two\r\nlines\tand\x85more",
    "メモリ" * 40,
    "std::map<"
    + "std::basic_string<char, std::char_traits<char>, std::allocator<char>>, " * 6
    + "int>::at(int)",
    "x" * 500,
    "half\udc80",
)


def check_golden(name: str, text: str) -> None:
    """The text is that of the golden file."""
    path = GOLDEN / name
    if os.environ.get("LACONIC_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


class Run(Builder):
    """A trace as `laconic run` writes it, with frames that are numbers."""

    def begin(self, modules: Sequence[Module], frames: Sequence[Frame]) -> None:
        """The modules and frames that stacks are made of; both are numbered from 1."""
        self.program("/bin/prog", ["prog"])
        for number, module in enumerate(modules, 1):
            self.row("module", number, pid=0, data=json.dumps(module._asdict()).encode())
        packed = [
            FRAME.pack(one.module << 2 | one.exact << 1 | one.guessed, one.address)
            for one in frames
        ]
        self.row("frames", 1, pid=0, data=b"".join(packed))
        self.row("mmap", 0, 1 << 20, 3, 0x22, -1, 0, result=BASE, state=CHOSEN, host_calls=1)

    def protect(
        self, stack: int, frames: Sequence[int] | None = None, prot: int = 3, **fields: int
    ) -> None:
        """A call from a stack; `frames` where it comes for the first time."""
        data = b"" if frames is None else struct.pack(f"<{len(frames)}I", *frames)
        self.row("site", stack, data=data, **fields)
        self.row("mprotect", BASE, 8192, prot, result=0, **fields)


def recorded(path: Path) -> str:
    """A trace whose modules are gone, with JIT memory, a cut stack and frames that were guessed."""
    trace = Run(path)
    lost = [Module(FILE, path, "ab" * 20) for path in ("/gone/lib.so", "/gone/\x1bprog")]
    modules = [lost[0], Module(JIT, "[jit]", pid=1 << 30), lost[1]]
    frames = [
        Frame(1, 0x1234, True, False),
        Frame(2, 0x7F0000, False, False),
        Frame(3, 0x555, False, True),
    ]
    trace.begin(modules, frames)
    trace.row("module", 0, pid=0, data=json.dumps(Module("cut", "[cut]")._asdict()).encode())
    trace.row("frames", 0, pid=0, data=FRAME.pack(0 << 2 | 2, 0))
    for number in range(1500):
        trace.protect(0, [1, 2, 3, 0] if not number else None)
    trace.protect(1, [3, 3, 3])
    trace.protect(1, prot=1)
    trace.protect(2, [99])
    trace.protect(2, prot=3)
    return trace.end()


def found_in(
    path: str, by: str = "function", *, inverted: bool = False, sort: str = COST
) -> tuple[Callers, Stacks]:
    """The callers of a trace with the built-in suppressions and no debug files."""
    found = sites(TraceReader(path), stacks=Stacks(Symbolizer(())))
    return callers(
        found, by, sort=sort, inverted=inverted, suppressions=BUILT_IN, profile=PROFILE
    ), found.stacks


def test_doctests() -> None:
    for name in ("laconic.analysis.frames", "laconic.report.names"):
        failed, attempted = doctest.testmod(importlib.import_module(name))
        assert attempted and not failed


class TestNames:
    """Lines of a terminal, whatever stands in them."""

    @pytest.mark.parametrize("name", HOSTILE)
    @pytest.mark.parametrize("width", [60, 80])
    def test_nothing_is_lost_and_nothing_is_raw(self, name: str, width: int) -> None:
        lines = filled(f"{name} (prog) file.c:12345", width, "  < ")
        assert all(
            (line.isprintable() and line.isascii()) or "メ" in line or "モ" in line
            for line in lines
        )
        assert all(columns(line) <= width and len(line.rstrip()) == len(line) for line in lines)
        assert lines[0].startswith("  < ") and all(line.startswith(" " * 6) for line in lines[1:])
        whole = seen(f"{name} (prog) file.c:12345")
        assert "".join("".join(lines).removeprefix("  < ").split()) == "".join(whole.split())
        assert not {unicodedata.category(each) for line in lines for each in line} & {
            "Cc",
            "Cf",
            "Cs",
            "Zl",
            "Zp",
        }

    def test_words(self) -> None:
        assert filled("", 80) == filled("  ", 80) == []
        assert filled("a  b", 80, "  ") == ["  a  b"]
        assert filled("aaaa bbbb cccc", 9) == ["aaaa bbbb", "  cccc"]
        assert filled("a" * 9 + " b", 5) == ["aaaaa", "  aaa", "  a b"]
        assert filled("share (12.5 % of all)", 13) == ["share (12.5 %", "  of all)"]
        assert filled("e\u0301" * 5, 5) == ["e\u0301" * 5]


class TestPlaces:
    """A stack whose names are found as they are asked for."""

    def test_no_more_is_looked_for_than_must_be(self) -> None:
        numbers: list[int] = []

        def find(number: int) -> list[tuple[Place, bool]]:
            numbers.append(number)
            inlined = [(Place(f"in{number}", "m", inlined=True), False)] if number == 1 else []
            return [*inlined, (Place(f"f{number}", "m"), False)]

        places = Places(5, find)
        assert numbers == [] and places and numbers == [0]
        assert places[0][0].function == "f0" and numbers == [0]
        assert [place.function for place, _ in places[:3]] == ["f0", "in1", "f1"] and numbers == [
            0,
            1,
        ]
        assert [places.frames_after(count) for count in range(4)] == [5, 4, 3, 3]
        rest = places.after(2)
        assert rest[0][0].function == "f1" and rest.frames_after(1) == 3 and numbers == [0, 1]
        assert len(places) == 6 and len(rest) == 4 and numbers == [0, 1, 2, 3, 4]
        assert rest[-1][0].function == "f4" and [place.function for place, _ in rest][:2] == [
            "f1",
            "f2",
        ]
        assert not Places(0, find) and not places.after(6) and len(places.after(9)) == 0
        with pytest.raises(IndexError):
            places[6]

    @pytest.mark.parametrize(
        ("call", "functions", "first"),
        [
            ("mprotect", ["__mprotect", "grow"], "grow"),
            ("mprotect", ["mprotect", "mprotect_all"], "mprotect_all"),
            ("mmap", ["__mmap64", "mmap", "grow"], "grow"),
            ("mmap", ["__GI___mmap64", "grow"], "grow"),
            ("mmap", ["syscall", "grow"], "grow"),
            ("mmap", ["sbrk", "grow"], "sbrk"),
            ("brk", ["__brk", "__sbrk", "grow"], "grow"),
            ("brk", ["brk"], "brk"),
            (
                "mprotect",
                [
                    "runtime/internal/syscall.Syscall6",
                    "syscall.RawSyscall",
                    "syscall.Mprotect",
                    "m.f",
                ],
                "m.f",
            ),
            (
                "mmap",
                ["golang.org/x/sys/unix.Syscall6.abi0", "golang.org/x/sys/unix.Mmap", "main.main"],
                "main.main",
            ),
            ("mmap", ["syscall.Syscall", "syscall.Exec"], "syscall.Exec"),
            ("brk", [], None),
        ],
    )
    def test_the_call_s_own_wrappers(
        self, call: str, functions: list[str], first: str | None
    ) -> None:
        spots = [(Place(function, "m"), False) for function in functions]
        for places in (spots, tuple(spots), Places(len(spots), lambda number: [spots[number]])):
            own = own_frames(call, places)
            assert (own[0][0].function if own else None) == first

    def test_words_of_a_log(self, tmp_path: Path) -> None:
        lines = [
            "/lib/libc.so.6(__mmap64+0x26) [0x10a1b6]",
            " /opt/a b/pr(og) (deleted)(ns::f(int, char (*)(int))+0x1) [0x5] ",
            "/lib/x.so() [0x1f]",
            "/opt/prog(_ZN4pool6refillEi+0x1) [0x5]",
            "no frame\x1b at all",
        ]
        trace = Builder(tmp_path / "a.trace", source="strace")
        trace.row("stack", data="\n".join(lines).encode())
        trace.row("mmap", 0, 1 << 20, 3, 0x22, -1, 0, result=BASE, state=CHOSEN)
        found = sites(TraceReader(trace.end()))
        assert [place for place, _ in found.stacks.places(found.sites[0].stack)] == [
            Place("__mmap64", "libc.so.6"),
            Place("ns::f(int, char (*)(int))", "pr(og)"),
            Place("x.so+0x1f", "x.so", known=False),
            Place("pool::refill(int)", "prog"),
            Place("no frame\x1b at all", "?", known=False),
        ]


class TestTogether:
    """What is counted under what."""

    PLAN: ClassVar = {"grow": (40, 4), "shrink": (25, 0), "keep": (0, 7), "0x12": (3, 1)}

    def test_by_function(self, tmp_path: Path) -> None:
        path = sited(tmp_path / "a.trace", self.PLAN)
        found, _ = found_in(path, sort=REDUNDANT)
        assert [(one.name, one.redundant, one.calls, one.known) for one in found.callers] == [
            ("grow", 40, 44, True), ("shrink", 25, 25, True), ("libgrow.so+0x12", 3, 4, True),
        ]  # fmt: skip
        assert (found.calls, found.redundant, found.host_calls, found.stackless) == (81, 68, 13, 0)

    def test_the_most_expensive_come_first(self, tmp_path: Path) -> None:
        """Each order is that of its own figures; what no call causes is in none but the costs."""
        path = sited(tmp_path / "a.trace", self.PLAN)
        for sort in SORTS:
            found, _ = found_in(path, sort=sort)
            figures: dict[str, list[Any]] = {
                "cost": [found.cycles(one).middle for one in found.callers],
                "redundant": [one.redundant for one in found.callers],
                "calls": [one.calls for one in found.callers],
                "host-calls": [one.cost().host_calls for one in found.callers],
                "pages": [one.committed_pages() for one in found.callers],
            }
            assert figures[sort] == sorted(figures[sort], reverse=True)
            assert any(one.kind != SITE for one in found.callers) == (
                sort not in ("redundant", "calls")
            )
        found, _ = found_in(path)
        assert [one.name for one in found.callers][:2] == ["setup", "grow"]
        assert sum(found.cycles(one).low for one in found.callers) == found.total().low

    def test_own_lines_join_the_calls_of_a_line(self) -> None:
        """A library's Python code, and the interpreter's own, is not the program's."""
        own = Place("work", "my.py", "/home/my.py", 7)
        library = Place("pad", "np.py", "/usr/lib/python3/site-packages/np.py", 3)
        native = Place("malloc", "libc.so.6", "malloc.c", 9)
        main = Place("main", "python3", "main.c", 1)
        spots = [(place, False) for place in (native, library, own, main)]
        assert own_line(spots, "/bin/python3") == own
        assert own_line([spots[0], spots[1], spots[3]], "/bin/python3 (deleted)") == main
        assert own_line(spots[:1], "/bin/python3") == native

    def test_own_lines_have_the_calls_of_every_kind(self, tmp_path: Path) -> None:
        """One row for a line that maps, protects and unmaps; the costs are those of all sites."""
        path = sited(tmp_path / "a.trace", self.PLAN)
        found, stacks = found_in(path, "own-line")
        by_function, _ = found_in(path)
        (main,) = [one for one in found.callers if one.name == "main"]
        assert main.call == "" and main.calls == by_function.calls == found.calls
        parts = [one for one in by_function.callers if one.kind == SITE]
        assert found.cycles(main).low == sum(by_function.cycles(one).low for one in parts)
        assert "calls of main" in as_text(found, stacks)

    @pytest.mark.parametrize("by", BY)
    @pytest.mark.parametrize("inverted", [False, True])
    def test_every_call_is_counted_once(self, by: str, inverted: bool, tmp_path: Path) -> None:
        found, stacks = found_in(sited(tmp_path / "a.trace", self.PLAN), by, inverted=inverted)
        total = sum(one.redundant for one in found.callers)
        assert total == (136 if inverted and by in ("function", "module", "line") else 68)
        json.dumps(as_json(found, stacks))
        assert as_text(found, stacks)

    def test_suppressed_calls_are_one_caller(self, tmp_path: Path) -> None:
        found = sites(TraceReader(sited(tmp_path / "a.trace", self.PLAN)))
        rules = [Suppression("r", function="*rin*"), Suppression("s", function="keep")]
        result = callers(found, sort=REDUNDANT, suppressions=rules)
        assert result.hidden == {"r": 25} and [one.name for one in result.callers] == [
            "grow",
            "libgrow.so+0x12",
        ]
        assert (result.calls, result.redundant) == (81, 68)
        result = callers(found, suppressions=rules)
        lines = {one.name: one.calls for one in result.callers if one.kind == SUPPRESSED}
        assert lines == {"r": 25, "s": 7}
        assert sum(result.cycles(one).high for one in result.callers) == result.total().high

    def test_rules_about_redundant_calls_leave_costs_alone(self, tmp_path: Path) -> None:
        found = sites(TraceReader(sited(tmp_path / "a.trace", self.PLAN)))
        rule = Suppression("r", function="grow", only_redundant=True)
        result = callers(found, suppressions=[rule])
        (caller,) = (one for one in result.callers if one.name == "grow")
        assert (caller.kind, caller.quiet, caller.redundant) == (SITE, "r", 40)
        assert callers(found, sort=REDUNDANT, suppressions=[rule]).hidden == {"r": 40}

    def test_programs_apart(self, tmp_path: Path) -> None:
        """The same function in two programs is two callers; in two processes of one it is one."""
        trace = Run(tmp_path / "a.trace")
        trace.begin([Module(FILE, "/gone/lib.so")], [Frame(1, 5, True, False)])
        trace.protect(0, [1])
        for pid in (101, 102):
            trace.row("clone", 17, result=pid)
        trace.program("/bin/other", ["other"], pid=102)
        trace.row(
            "mmap", 0, 1 << 20, 3, 0x22, -1, 0, result=BASE, state=CHOSEN, host_calls=1, pid=102
        )
        trace.protect(0, pid=101)
        trace.protect(0, pid=102)
        found, _ = found_in(trace.end(), sort=REDUNDANT)
        counts = [(one.name, one.program, one.redundant) for one in found.callers]
        assert counts == [("lib.so+0x5", "/bin/prog", 2), ("lib.so+0x5", "/bin/other", 1)]

    def test_the_event_is_the_first_redundant_one_of_all_that_are_grouped(
        self, tmp_path: Path
    ) -> None:
        """Sites come in the order of their first calls, redundant or not."""
        plan = {"early": (2, 1), "late": (3, 0)}
        found = sites(TraceReader(sited(tmp_path / "a.trace", plan)))
        first = min(site.first_redundant for site in found.sites if site.redundant)
        for order in (found.sites, found.sites[::-1]):
            result = callers(replace(found, sites=order), by="module", sort=REDUNDANT)
            (caller,) = result.callers
            assert (caller.event, caller.redundant) == (first, 5)
            assert caller.first == min(site.first for site in found.sites if site.redundant)

    def test_the_stack_shown_is_the_one_of_most(self, tmp_path: Path) -> None:
        trace = Run(tmp_path / "a.trace")
        trace.begin(
            [Module(FILE, "/gone/lib.so")], [Frame(1, 5, True, False), Frame(1, 6, True, False)]
        )
        trace.protect(0, [1, 2])
        trace.protect(1, [1, 1])
        trace.protect(1)
        found, stacks = found_in(trace.end(), sort=REDUNDANT)
        assert found.callers[0].stack == 1 and len(found.callers[0].stacks) == 2
        assert as_json(found, stacks)["callers"][0]["stack"][1]["function"] == "lib.so+0x5"


class TestReport:
    """For people and as JSON."""

    def test_golden(self, tmp_path: Path) -> None:
        found, stacks = found_in(recorded(tmp_path / "a.trace"))
        check_golden("callers-run.txt", as_text(found, stacks))
        long = "std::vector<int, std::allocator<int>>::reserve(unsigned long)"
        plan = {"grow": (40, 4), long: (2500, 1), "0x12": (1, 0)}
        path = sited(tmp_path / "b.trace", plan)
        for by in BY:
            check_golden(f"callers-{by}.txt", as_text(*found_in(path, by)))
        redundant = as_text(*found_in(path, sort=REDUNDANT))
        check_golden("callers-redundant.txt", redundant)
        check_golden("callers-inverted.txt", as_text(*found_in(path, inverted=True), limit=2))
        check_golden("callers.json", json.dumps(as_json(*found_in(path)), indent=1) + "\n")

    def test_callers_without_a_name_are_marked(self, tmp_path: Path) -> None:
        """Missing modules, JIT memory, cut stacks and guesses are said to be such."""
        found, stacks = found_in(recorded(tmp_path / "a.trace"))
        text = as_text(found, stacks)
        assert (
            "lib.so+0x1234" in text and "[jit]" in text and "[cut]" in text and "?+0x0" not in text
        )
        assert "no symbols of /gone/lib.so: No such file or directory" in text
        assert "no symbols of /gone/\\x1bprog: No such file or directory" in text
        assert "? a frame that was found by its frame pointer" in text
        missing = as_json(found, stacks)["missing_symbols"]
        assert missing == dict.fromkeys(
            ("/gone/lib.so", "/gone/\x1bprog"), "No such file or directory"
        )

    @pytest.mark.parametrize("width", [60, 80, 100])
    @pytest.mark.parametrize("by", BY)
    def test_hostile_names(self, by: str, width: int, tmp_path: Path) -> None:
        names = {
            name.replace("\n", " ").replace("\r", " ").replace("\x85", " "): (5, 0)
            for name in HOSTILE[:-1]
        }
        path = sited(
            tmp_path / "a.trace",
            names,
            program="/bin/\x1b[2Jpr\nog",
            module="/lib/\u202emod\x07.so",
        )
        found, stacks = found_in(path, by)
        text = as_text(found, stacks, width)
        assert {char for char in text if not char.isprintable()} == {"\n"}
        assert max(columns(line) for line in text.splitlines()) <= width
        assert json.loads(json.dumps(as_json(found, stacks)))["callers"]

    def test_numbers_are_not_cut(self, tmp_path: Path) -> None:
        found, stacks = found_in(sited(tmp_path / "a.trace", {"grow": (40, 4)}))
        found.callers[0].redundant = found.redundant = 123_456_789_012
        found.callers[0].calls = found.calls = 987_654_321_098_765
        found.callers[0].counts["every-call"].host_calls = 10**15
        for width in (60, 80):
            text = " ".join((shown := as_text(found, stacks, width)).split())
            assert "987,654,321,098,765 memory calls, 123,456,789,012 redundant" in text
            assert text.count("123,456,789,012") == text.count("987,654,321,098,765") == 2
            assert "1,000,000,000,000,000 host calls" in text
            text = shown
            assert max(map(len, text.splitlines())) <= width

    def test_the_same_bytes(self, tmp_path: Path) -> None:
        """Whatever was asked for before."""
        found, stacks = found_in(recorded(tmp_path / "a.trace"))
        first = as_text(found, stacks)
        as_json(found, stacks)
        assert as_text(found, stacks) == first

    def test_shares(self, tmp_path: Path) -> None:
        """All sites, and what no call causes, are all of the cost."""
        found, stacks = found_in(sited(tmp_path / "a.trace", {"grow": (30, 1), "shrink": (10, 0)}))
        data = as_json(found, stacks)
        lists = [*data["callers"], *data["suppressed"], *data["around"]]
        assert sum(one["share"] for one in lists) == pytest.approx(1)
        for name in ("every-call", "laconic"):
            for end in ("low", "high"):
                assert sum(one["cycles"][name][end] for one in lists) == data["cycles"][name][end]

    def test_one_unit_for_all_costs(self, tmp_path: Path) -> None:
        found, stacks = found_in(sited(tmp_path / "a.trace", {"grow": (30, 1), "shrink": (10, 0)}))
        lines = as_text(found, stacks).splitlines()
        heads = [line for line in lines if line.split()[:2] == ["M", "cycles"]]
        assert heads and heads[0].split() == ["M", "cycles", "M", "cycles"]
        for sort, words in (("host-calls", "host"), ("pages", "MiB MiB")):
            text = as_text(*found_in(sited(tmp_path / f"{sort}.trace", {"f": (1, 1)}), sort=sort))
            assert words in " ".join(text.split())


class TestStacks:
    """How much of a stack is shown."""

    def stack(self, tmp_path: Path, depth: int, own: int, *, program: str = "/opt/prog") -> str:
        """A trace with one stack: so many frames of a library, of which one is the program's."""
        trace = Builder(tmp_path / "a.trace", source="strace")
        trace.program(program, ["prog"])
        names = [
            f"{'/opt/prog' if number == own else '/lib/l.so'}(f{number}(int)+0x1) [0x1]"
            for number in range(depth)
        ]
        trace.row("stack", data="\n".join(names).encode())
        trace.row("mmap", 0, 1 << 20, 3, 0x22, -1, 0, result=BASE, state=CHOSEN)
        return trace.end()

    @pytest.mark.parametrize(("own", "shown"), [(2, 3), (15, 16), (28, 8), (99, 8)])
    def test_as_many_frames_as_reach_the_program(
        self, own: int, shown: int, tmp_path: Path
    ) -> None:
        text = as_text(*found_in(self.stack(tmp_path, 30, own)))
        assert f"< f{shown - 1} (" in text and f"  < {30 - shown} more\n" in text

    def test_frames(self, tmp_path: Path) -> None:
        path = self.stack(tmp_path, 30, 2)
        out = laconic("callers", path, "--frames", "12").stdout
        assert "< f11 (l.so)" in out and "< 18 more" in out
        out = laconic("callers", path, "--frames", "all", "-v").stdout
        assert "< f29(int) (l.so)" in out and "more" not in out

    def test_interpreted_functions_come_first(self, tmp_path: Path) -> None:
        trace = Run(tmp_path / "a.trace")
        modules = [Module(FILE, "/gone/lib.so"), Module(JIT, "[jit]", pid=7)]
        frames = [Frame(1, 5, True, False), Frame(2, 6, False, False), Frame(2, 9, False, False)]
        trace.begin(modules, frames)
        trace.row("symbols", 2, pid=0, data=json.dumps({"places": {
            "6": [["py::inner:a.py", "[jit]", "", 0, False, True]],
            "9": [["py::outer:a.py", "[jit]", "", 0, False, True]],
        }}).encode())  # fmt: skip
        trace.protect(0, [1, 1, 2, 1, 1, 3, 1])
        text = as_text(*found_in(trace.end()))
        assert (
            "    py::inner:a.py ([jit])\n  < py::outer:a.py ([jit])\n"
            "  5 C frames, the innermost lib.so+0x5\n" in text
        )

    def test_frames_of_importlib_are_counted(self, tmp_path: Path) -> None:
        trace = Run(tmp_path / "a.trace")
        modules = [
            Module(FILE, "/gone/lib.so"),
            Module(PYTHON, "/lib/pack/__init__.py", name="<module>"),
            Module(PYTHON, "<frozen importlib._bootstrap>", name="_load"),
            Module(PYTHON, "/lib/work.py", name="<module>"),
        ]
        frames = [
            Frame(1, 5, True, False),
            Frame(2, 30, False, False),
            Frame(3, 690, False, False),
            Frame(4, 2, False, False),
        ]
        trace.begin(modules, frames)
        trace.protect(0, [1, 2, 3, 3, 4])
        text = as_text(*found_in(trace.end()))
        assert "    <module> pack/__init__.py:30\n  < <module> work.py:2\n" in text
        assert "C frame, the innermost lib.so+0x5; 2 frames of importlib\n" in text
        hint = "the lines of the program's own code: --by own-line"
        path = str(tmp_path / "a.trace")
        assert hint not in text and hint in as_text(*found_in(path, "line"))
        text = " ".join(as_text(*found_in(path, "own-line")).split())
        assert "protect <module> (pack/__init__.py:30)" in text


class TestCommand:
    """Every kind of trace, and wrong options."""

    def test_a_trace_without_stacks(self, tmp_path: Path) -> None:
        path = sited(tmp_path / "a.trace", {"grow": (1, 1)}, stacks=False)
        done = laconic("callers", path)
        assert (
            done.returncode == 0 and "3 calls have no stack: record with  strace -k" in done.stdout
        )
        assert "2          1  mprotect (no stack)" in done.stdout
        done = laconic("callers", small(tmp_path / "b.trace"))
        assert "record with  laconic run -o FILE --stacks all" in done.stdout.replace("\n ", "")

    def test_an_empty_trace(self, tmp_path: Path) -> None:
        for name, trace in (
            ("a", Builder(tmp_path / "a.trace")),
            ("b", Builder(tmp_path / "b.trace")),
        ):
            if name == "a":
                trace.program("/bin/prog", ["prog"])
            done = laconic("callers", trace.end(), "--json", str(tmp_path / "json"))
            assert (done.returncode, done.stdout) == (0, "This program made no memory calls.\n")
            assert json.loads((tmp_path / "json").read_text())["callers"] == []

    def test_an_empty_selection(self, tmp_path: Path) -> None:
        trace = small(tmp_path / "a.trace")
        text = "No memory call is selected: change --between, --pid, --program or --call."
        done = laconic("callers", trace, "--call", "mlock")
        assert (done.returncode, done.stdout) == (0, f"selected: mlock calls\n{text}\n")
        page = tmp_path / "a.html"
        laconic("html", trace, "--call", "mlock", "-o", str(page))
        assert f"<h1>{text}</h1>" in page.read_text()

    def test_a_cut_trace(self, tmp_path: Path) -> None:
        """What was recorded is shown, and that there may be more."""
        trace = Run(tmp_path / "a.trace")
        trace.begin([Module(FILE, "/gone/lib.so")], [Frame(1, 5, True, False)])
        trace.protect(0, [1])
        trace.protect(7)  # a stack of which the trace has no frames
        done = laconic("callers", trace.cut())
        # Calls whose stack is not known may be from the same place.
        assert (
            done.returncode == 0
            and "1+          1  mprotect lib.so+0x5\n" in done.stdout
            and "1+          1  mprotect (no stack)\n" in done.stdout
        )
        assert "is not complete" in done.stderr and "2 calls have no stack" in done.stdout
        whole = Path(sited(tmp_path / "b.trace", {"grow": (5000, 0)}))
        cut = tmp_path / "c.trace"
        cut.write_bytes(whole.read_bytes()[:-300])
        done = laconic("callers", cut)
        assert "is not complete" in done.stderr or done.returncode == 2

    def test_rows_that_are_damaged(self, tmp_path: Path) -> None:
        """A module, frames and a stack that are no such: what is known is shown."""
        trace = Run(tmp_path / "a.trace")
        trace.begin(
            [Module(FILE, "/gone/lib.so")], [Frame(1, 5, True, False), Frame(2, 6, True, False)]
        )
        for number, data in enumerate(
            (b"{", b"[]", b'{"new": 1, "path": 5, "kind": []}', b"[" * 99999, b"\xff"), 2
        ):
            trace.row("module", number, pid=0, data=data)
        trace.row("symbols", 2, pid=0, data=b"5")
        trace.row("frames", 3, pid=0, data=b"123456789abcdef")
        trace.protect(0, [1, 2, 3, 4, 5])
        trace.row("site", 1, data=b"\1\0\0\0\2\0")
        trace.row("mprotect", BASE, 8192, 3, result=0)
        done = laconic("callers", trace.end())
        assert (
            done.returncode == 0 and "2          2  mprotect (no stack)" in done.stdout
        ) or "lib.so+0x5" in done.stdout

    def test_no_escape_code_in_a_pipe(self, tmp_path: Path) -> None:
        path = sited(tmp_path / "a.trace", {"gr\x1b[31mow": (5, 0)})
        env = environment(COLUMNS="200", FORCE_COLOR="1", TERM="xterm-256color")
        done = laconic("callers", path, "--json", str(tmp_path / "json"), env=env)
        assert "\x1b" not in done.stdout + done.stderr + (tmp_path / "json").read_text()
        assert max(map(len, done.stdout.splitlines())) <= 80 and "gr\\x1b[31mow" in done.stdout

    def test_limit(self, tmp_path: Path) -> None:
        path = sited(tmp_path / "a.trace", {f"f{number}": (number, 0) for number in range(1, 21)})
        assert laconic("callers", path).stdout.count("mprotect f") == 9  # and setup
        out = laconic("callers", path, "--limit", "1", "--sort", "redundant").stdout
        assert "mprotect f20" in out and "and 19 more (--all, --json): 190 redundant calls" in out
        out = laconic("callers", path, "--all").stdout
        assert out.count("mprotect f") == 20 and "more" not in out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "no trace was named"),
            (["a", "b"], "more than one trace"),
            (["a", "--", "true"], "not both"),
            (["--"], "no command"),
            (["missing.trace"], "missing.trace"),
            (["--by", "place", "a"], "'place'"),
            (["--sort", "size", "a"], "'size'"),
            (["--all", "--limit", "3", "a"], "--limit"),
            (["--frames", "none", "a"], "'none'"),
            (["--limit", "0", "a"], "'0'"),
            (["--limit", "-1", "a"], "-1"),
            (["--inverted", "--by", "stack", "a"], "--inverted"),
            (["--costs", "nothing", "a"], "nothing"),
            (["--json", "/missing/x", "a"], "/missing/x"),
            (["/dev/null"], "/dev/null"),
        ],
    )
    def test_wrong_words(self, words: list[str], message: str, tmp_path: Path) -> None:
        done = laconic("callers", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "") and message in done.stderr

    def test_json_alone_on_standard_output(self, tmp_path: Path) -> None:
        path = sited(tmp_path / "a.trace", {"grow": (5, 1)})
        found = json.loads(laconic("callers", path, "--json", "-").stdout)
        assert found["callers"][1]["redundant"] == 5 and found["schema"] == 3
        assert found["headline"]["text"].startswith("mmap from setup (libgrow) costs")


def test_a_vdso_of_another_kernel(tmp_path: Path) -> None:
    trace = Run(tmp_path / "a.trace")
    trace.begin([Module(VDSO, "[vdso]", "00" * 20)], [Frame(1, 5, True, False)])
    trace.protect(0, [1])
    found, stacks = found_in(trace.end())
    assert "no symbols of [vdso]: it is another kernel's" in as_text(found, stacks)
    assert stacks.places(NO_STACK) == () and stacks.places(0)[0][0].function == "[vdso]+0x5"
