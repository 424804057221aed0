"""`laconic pack`: names that stay when the modules are gone, rows that stay as they are, and bad
input."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import laconic.trace
from laconic.commands import main
from laconic.memory.change import MAP
from laconic.stacks.symbols import open_elf
from laconic.stacks.table import FILE, JIT, Module
from laconic.trace.packing import symbols_of
from laconic.trace.schema import CODES, EVENTS, FRAME, Row
from laconic.trace.stacks import Stacks
from tests.helpers.pagetraces import known
from tests.helpers.sitetraces import sited
from tests.helpers.traces import BASE, Builder, small
from tests.tracer.lab import COMMAND, compiler, environment

PAGE = 4096
SOURCE = """\
static inline __attribute__((always_inline)) int add(int x) { return x * 3; }
int grow(int x) { return add(x) + 1; }
"""
SYMBOLS = CODES["symbols"]
#: No process has such a number (PID_MAX_LIMIT is 4,194,304).
NOBODY = 2_000_000_000


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A shared library with a function `grow`, with symbols and DWARF."""
    gcc = compiler()
    if gcc is None:
        pytest.skip("there is no C compiler")
    place = tmp_path_factory.mktemp("library")
    (place / "grow.c").write_text(SOURCE)
    words = [gcc, "-g", "-O1", "-shared", "-fPIC", "-Wl,--build-id", "-o", "libgrow.so", "grow.c"]
    subprocess.run(words, cwd=place, check=True)
    return (place / "libgrow.so").read_bytes()


@pytest.fixture
def perf_map() -> Iterator[Path]:
    """Where the perf map of a process that nobody is would be."""
    path = Path(f"/tmp/perf-{NOBODY + os.getpid()}.map")
    yield path
    path.unlink(missing_ok=True)


def address_of_grow(path: Path) -> int:
    """Where the function is in its file."""
    with open(path, "rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        found = table.get_symbol_by_name("grow")
        assert found is not None
        return int(found[0]["st_value"])


class Stacked(Builder):
    """A trace with modules that are named, frames in them, and mprotects from these."""

    def begin(self, modules: dict[int, Module], frames: list[tuple[int, int]]) -> None:
        """Modules by number, and exact frames as (module, address), numbered from 1."""
        self.program("/bin/prog", ["prog"])
        self.row("mmap", BASE, 4 * PAGE, 3, 0x32, -1, 0, result=BASE, host_calls=1, kinds=MAP)
        for number, module in modules.items():
            self.row("module", number, pid=0, data=json.dumps(module._asdict()).encode())
        self.row(
            "frames",
            1,
            pid=0,
            data=b"".join(FRAME.pack(module << 2 | 2, where) for module, where in frames),
        )

    def call(self, number: int, *frames: int) -> None:
        """A redundant mprotect from a new stack."""
        self.row("site", number, data=struct.pack(f"<{len(frames)}I", *frames))
        self.row("mprotect", BASE, PAGE, 3, result=0)


def grown(place: Path, library: bytes) -> tuple[str, Path]:
    """A trace of calls from `grow`, and from JIT memory; the library."""
    module = place / "libgrow.so"
    module.write_bytes(library)
    build_id = open_elf(str(module)).build_id
    trace = Stacked(place / "a.trace")
    grow = address_of_grow(module)
    trace.begin(
        {1: Module(FILE, str(module), build_id), 2: Module(JIT, "[jit]", pid=NOBODY + os.getpid())},
        [(1, grow), (2, 0x1010), (2, 0x9000), (1, 0xFFFFFF)],
    )
    trace.call(1, 1, 2)
    trace.call(2, 3, 4)
    return trace.end(), module


def places(path: str) -> list[list[str]]:
    """Every stack of a trace in words."""
    stacks = Stacks()
    seen = []
    for row in laconic.trace.open(path).rows():
        stacks.take(row)
        if row.event == CODES["site"]:
            seen.append(row.a0)
    return [[f"{place.function} {place.file.rsplit('/')[-1]}:{place.line}" for place,
             _ in stacks.places(number)]
            for number in seen]  # fmt: skip


def rows(path: str) -> list[Row]:
    """All rows but the symbols."""
    return [row for row in laconic.trace.open(path).rows() if row.event != SYMBOLS]


def report(verb: list[str], path: str, out: Path) -> dict[str, object]:
    """The JSON of a verb."""
    assert main([*verb, path, "--json", str(out)]) == 0
    found: dict[str, object] = json.loads(out.read_text())
    return found


class TestPacked:
    """The same names on another machine."""

    def test_names_stay(
        self, tmp_path: Path, library: bytes, perf_map: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """When the library is gone, and the process's perf map; and no other process's map names
        its code."""
        path, module = grown(tmp_path, library)
        perf_map.write_text("1000 100 py::run:/a.py\n")
        before = places(path)
        assert before[0] == ["grow grow.c:2", "py::run:/a.py :0"]
        assert before[1] == ["[jit] :0", "libgrow.so+0xffffff :0"]
        packed = str(tmp_path / "b.trace")
        assert main(["pack", path, "-o", packed]) == 0
        shown = capfd.readouterr()
        assert (
            not shown.out
            and "symbols of 2 modules were added; 2 of their frames have a name" in _line(shown.err)
        )
        module.unlink()
        perf_map.write_text("1000 9000 another\n")
        assert places(packed) == before
        assert places(path)[0] == [f"libgrow.so+{address(path):#x} :0", "another :0"]
        assert report(["callers"], packed, tmp_path / "c.json")["missing_symbols"] == {}

    def test_nothing_else_changes(self, tmp_path: Path, library: bytes) -> None:
        """Rows, what replay --check and info say of them, and what the trace says of its
        recording."""
        path, _ = grown(tmp_path, library)
        packed = str(tmp_path / "b.trace")
        assert main(["pack", path, "-o", packed]) == 0
        assert rows(packed) == rows(path)
        assert [row.event for row in laconic.trace.open(packed).rows()][-1] == CODES["end"]
        out = tmp_path / "out.json"
        assert report(["replay", "--check"], packed, out) | {"trace": 0} == report(
            ["replay", "--check"], path, out
        ) | {"trace": 0}
        own = {"trace", "bytes", "bytes_per_call", "events"}
        one, two = report(["info"], path, out), report(["info"], packed, out)
        assert {key: one[key] for key in one.keys() - own} == {
            key: two[key] for key in two.keys() - own
        }
        old, new = laconic.trace.open(path), laconic.trace.open(packed)
        assert (old.about, old.machine, old.source, old.names) == (
            new.about,
            new.machine,
            new.source,
            new.names,
        )

    def test_twice(self, tmp_path: Path, library: bytes, capfd: pytest.CaptureFixture[str]) -> None:
        """The second time nothing is written, or the same bytes."""
        path, _ = grown(tmp_path, library)
        assert main(["pack", path]) == 0
        once = Path(path).read_bytes()
        assert main(["pack", path]) == 0
        assert "stays as it is: the symbols of 2 modules are in it already" in _line(
            capfd.readouterr().err
        )
        assert main(["pack", path, "-o", str(tmp_path / "b.trace")]) == 0
        assert Path(path).read_bytes() == once == (tmp_path / "b.trace").read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["a.trace", "b.trace", "libgrow.so"]

    def test_json(self, tmp_path: Path, library: bytes, capfd: pytest.CaptureFixture[str]) -> None:
        """Once what was added, then that all is there."""
        path, module = grown(tmp_path, library)
        assert main(["pack", path, "--json", str(tmp_path / "a.json")]) == 0
        assert json.loads((tmp_path / "a.json").read_text()) == {
            "schema": 1, "trace": path, "written": path, "frames": 4, "named": 1,
            "added": [str(module), "[jit]"],
            "already": 0, "missing_symbols": {"[jit]": "its process left no perf map"},
            "partial_symbols": {},
            "stacks_in_words": 0,
        }  # fmt: skip
        capfd.readouterr()
        assert main(["pack", path, "--json", "-"]) == 0
        again = json.loads(capfd.readouterr().out)
        assert (again["written"], again["added"], again["already"], again["missing_symbols"]) == (
            None,
            [],
            2,
            {},
        )

    def test_in_place_keeps_mode_and_link(self, tmp_path: Path, library: bytes) -> None:
        path, _ = grown(tmp_path, library)
        os.chmod(path, 0o640)
        (tmp_path / "link").symlink_to(path)
        assert main(["pack", str(tmp_path / "link")]) == 0
        assert (tmp_path / "link").is_symlink() and os.stat(path).st_mode & 0o777 == 0o640
        assert any(row.event == SYMBOLS for row in laconic.trace.open(path).rows())

    def test_a_newer_release_s_names_stay(self, tmp_path: Path, library: bytes) -> None:
        module = tmp_path / "libgrow.so"
        module.write_bytes(library)
        trace = Stacked(tmp_path / "a.trace")
        names = [*EVENTS, "something_new"]
        names[63] = "mnew"
        trace.writer._metadata["events"] = json.dumps(names)
        trace.begin({1: Module(FILE, str(module))}, [(1, address_of_grow(module))])
        trace.call(1, 1)
        path = trace.end()
        assert main(["pack", path]) == 0
        assert laconic.trace.open(path).names[:256] == [
            *names,
            *(f"?{at}" for at in range(len(names), 256)),
        ]

    def test_a_trace_older_than_symbols(self, tmp_path: Path, library: bytes) -> None:
        """Its own list of names ends before `symbols`."""
        path, _ = grown(tmp_path, library)
        trace = laconic.trace.open(path)
        trace.names = [
            *EVENTS[: CODES["symbols"]],
            *(f"?{at}" for at in range(CODES["symbols"], 256)),
        ]
        from laconic.trace.packing import write

        write(trace, symbols_of(trace), str(tmp_path / "b.trace"))
        assert laconic.trace.open(str(tmp_path / "b.trace")).names == laconic.trace.open(path).names


class TestWhatIsMissing:
    """Modules without symbols are named; what cannot be packed stays."""

    def test_modules(
        self, tmp_path: Path, library: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        stripped, changed = tmp_path / "stripped.so", tmp_path / "changed.so"
        stripped.write_bytes(library)
        subprocess.run(["strip", str(stripped)], check=True)
        changed.write_bytes(library)
        trace = Stacked(tmp_path / "a.trace")
        modules = {
            1: Module(FILE, "/nowhere/\x1b[2Jgone.so"),
            2: Module(FILE, str(changed), "ab" * 20),
            3: Module(FILE, str(stripped)),
        }
        trace.begin(modules, [(1, 16), (2, 16), (3, 0xFFFFFF)])
        trace.call(1, 1, 2, 3)
        path = trace.end()
        before = Path(path).read_bytes()
        assert main(["pack", path]) == 0
        output = capfd.readouterr().err
        assert "stays as it is: none of its modules has symbols here" in _line(output)
        assert "no symbols of /nowhere/\\x1b[2Jgone.so: No such file or directory" in _line(output)
        assert f"no symbols of {changed}: it has another build-id now" in _line(output)
        assert f"no symbols of {stripped}: it has no symbols for these addresses" in _line(output)
        assert Path(path).read_bytes() == before and "\x1b" not in output

    @pytest.mark.parametrize("cut", ["end", "middle", "head"])
    def test_not_complete(
        self, cut: str, tmp_path: Path, library: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """In its place a trace that lacks something is left alone; elsewhere what there is of it is
        packed, and the copy says so too, once."""
        path, _ = grown(tmp_path, library)
        data = bytearray(Path(path).read_bytes())
        if cut == "end":
            trace = Stacked(tmp_path / "a.trace", force=True)
            module = tmp_path / "libgrow.so"
            trace.begin({1: Module(FILE, str(module))}, [(1, address_of_grow(module))])
            trace.call(1, 1)
            trace.cut()
        elif cut == "middle":
            Path(path).write_bytes(data[:-200])
        else:
            at = data.index(b"system")
            data[at] ^= 1
            Path(path).write_bytes(data)
        before = Path(path).read_bytes()
        assert main(["pack", path]) == 2
        assert "stays as it is: -o OUT packs what there is of it" in _line(capfd.readouterr().err)
        assert Path(path).read_bytes() == before
        packed, again = str(tmp_path / "b.trace"), str(tmp_path / "c.trace")
        assert main(["pack", path, "-o", packed]) == 0
        assert f"{path!r} is not complete" in capfd.readouterr().err
        copied = rows(packed)
        assert [row for row in copied if row.event != CODES["lost"]] == rows(path)
        lost = [row.data.decode() for row in copied if row.event == CODES["lost"]]
        assert len(lost) == (cut != "end") and all("damaged" in text for text in lost)
        assert report(["info"], packed, tmp_path / "out.json")["complete"] is False
        assert main(["pack", packed, "-o", again]) == 0
        assert rows(again) == copied

    def test_no_stacks_and_stacks_in_words(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for path, output in (
            (
                small(tmp_path / "a.trace"),
                "it holds no stacks: record with laconic run -o FILE --stacks all",
            ),
            (
                sited(tmp_path / "b.trace", {"f": (1, 1)}),
                "its stacks are words already, as the log has them",
            ),
            (known(tmp_path / "c.trace"), "the symbols of 1 module are in it already"),
            (Builder(tmp_path / "d.trace").end(), "it holds no stacks"),
        ):
            assert main(["pack", path]) == 0
            assert output in _line(capfd.readouterr().err)


class TestBadInput:
    """Status 2, the cure is named, and nothing is lost."""

    def test_arguments(
        self, tmp_path: Path, library: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path, _ = grown(tmp_path, library)
        empty, there = tmp_path / "empty", tmp_path / "there"
        empty.write_bytes(b"")
        there.write_text("mine\n")
        hidden = small(tmp_path / "hidden.trace", redact=True)
        for words, output in (
            ([str(tmp_path / "none")], "cannot be read"),
            ([str(empty)], "is empty"),
            ([str(there)], "is not a trace"),
            ([hidden], "is redacted"),
            ([path, "-o", str(there)], "exists already"),
            ([path, "-o", path], "is the trace itself"),
            ([path, "-o", path, "--force"], "is the trace itself"),
            ([path, "-o", str(tmp_path), "--force"], "is not a regular file"),
            ([path, "-o", str(tmp_path / "no" / "place")], "cannot be written"),
            ([path, "--force"], "add -o OUT"),
        ):
            before = Path(path).read_bytes()
            assert main(["pack", *words]) == 2
            shown = capfd.readouterr()
            assert output in shown.err and not shown.out
            assert Path(path).read_bytes() == before
        assert there.read_text() == "mine\n"
        assert main(["pack", path, "-o", str(there), "--force"]) == 0
        assert rows(str(there)) == rows(path)

    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_a_full_disk(self, elsewhere: bool, tmp_path: Path, library: bytes) -> None:
        """The trace stays whole, and no half file is left."""
        path, _ = grown(tmp_path, library)
        before = Path(path).read_bytes()
        more = ["-o", str(tmp_path / "b.trace")] if elsewhere else []
        words = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *COMMAND, "pack", path, *more]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment())
        assert (
            done.returncode == 2
            and "could not be written" in done.stderr
            and "Traceback" not in done.stderr
        )
        assert Path(path).read_bytes() == before
        assert sorted(os.listdir(tmp_path)) == ["a.trace", "libgrow.so"]


def address(path: str) -> int:
    """The first frame's."""
    row = next(row for row in laconic.trace.open(path).rows() if row.event == CODES["frames"])
    return int(FRAME.unpack_from(row.data)[1])


def _line(text: str) -> str:
    return " ".join(text.split())
