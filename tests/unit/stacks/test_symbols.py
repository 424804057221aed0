"""Functions, files and lines by address: what compilers wrote, stripped, split off, and spoilt."""

from __future__ import annotations

import ctypes
import lzma
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from laconic.stacks.cfi import FROM_RSP
from laconic.stacks.elf import Elf
from laconic.stacks.lines import Lines
from laconic.stacks.modules import Modules, read_mappings
from laconic.stacks.symbolize import Place, Symbolizer
from laconic.stacks.symbols import (
    SymbolTable,
    find_debug_file,
    is_stripped_go,
    open_elf,
    read_symbols,
)
from laconic.stacks.table import CUT, FILE, JIT, VDSO, Frame, Module
from tests.tracer.lab import tool

C = """\
static inline __attribute__((always_inline)) void innermost(int n)
{
    __asm__ volatile("in_inlined: nop" : : "r"(n));
}
static inline __attribute__((always_inline)) void middle(int n)
{
    innermost(n + 1);
}
static __attribute__((noinline)) void hidden(int n)
{
    __asm__ volatile("in_hidden: nop" : : "r"(n));
}
void shown(int n)
{
    hidden(n);
    middle(n);
    hidden(n + 1);
}
int main(int argc, char **argv) { shown(argc); return 0; }
"""
CXX = """\
namespace shop {
template <class T> struct Till {
    __attribute__((noinline)) static T add(T n) { asm volatile("in_add: nop" : : "r"(n)); return n; }
};
static inline __attribute__((always_inline)) int twice(int n) { asm volatile("in_twice: nop"); return 2 * n; }
}
int main(int argc, char **) { return shop::twice(shop::Till<int>::add(argc)); }
"""  # noqa: E501
RUST = """\
#![allow(named_asm_labels)] use std::arch::asm;
pub trait Shape { fn area(&self) -> u32; }
pub struct Square(pub u32);
impl Shape for Square {
    #[inline(never)]
    fn area(&self) -> u32 { unsafe { asm!("in_area: nop") }; self.0 * self.0 }
}
#[inline(always)]
fn twice(n: u32) -> u32 { unsafe { asm!("in_twice: nop") }; n * 2 }
fn main() { println!("{}", twice(Square(std::env::args().count() as u32).area())); }
"""


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Path]:
    """Compiles a source into the test's directory."""

    def build(source: str, *flags: str, compiler: str = "gcc", suffix: str = ".c") -> Path:
        path = tmp_path / f"source{suffix}"
        path.write_text(source)
        target = tmp_path / f"program{len(list(tmp_path.iterdir()))}"
        command = [tool(compiler), *flags, str(path), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return target

    return build


def labels(path: Path) -> dict[str, int]:
    """The addresses of labels in a program's own symbol table."""
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}


def module(path: Path) -> Module:
    """A program's module as the tracer would note it."""
    about = path.stat()
    return Module(FILE, str(path), open_elf(str(path)).build_id, about.st_size, about.st_mtime_ns)


def places(path: Path, address: int, directories: Sequence[str] = ()) -> list[Place]:
    """What an exact address is."""
    return list(Symbolizer(directories).places(module(path), Frame(1, address, True, False)))


@pytest.mark.parametrize(
    "flags", [("-gdwarf-5",), ("-gdwarf-4",), ("-gdwarf-5", "-gz"), ("-gdwarf-5", "-no-pie")]
)
def test_lines_and_inlined_functions(compiled: Callable[..., Path], flags: tuple[str, ...]) -> None:
    path = compiled(C, "-O2", *flags)
    at = labels(path)
    source, name = str(path.parent / "source.c"), path.name
    assert places(path, at["in_inlined"]) == [
        Place("innermost", name, source, 3, inlined=True),
        Place("middle", name, source, 7, inlined=True),
        Place("shown", name, source, 16),
    ]
    assert places(path, at["in_hidden"]) == [Place("hidden", name, source, 11)]


def test_a_supplementary_file(compiled: Callable[..., Path], tmp_path: Path) -> None:
    """dwz moves what several files share to one that they refer to: names of functions too."""
    one, two = compiled(C, "-O2", "-g"), compiled(C, "-O1", "-g")
    shared = tmp_path / "shared"
    words = [tool("dwz"), "-m", str(shared), "-M", str(shared), str(one), str(two)]
    subprocess.run(words, check=True)
    assert open_elf(str(one)).section(".gnu_debugaltlink")
    for path in (one, two):
        found = places(path, labels(path)["in_inlined"])
        assert [(place.function, place.line) for place in found] == [
            ("innermost", 3),
            ("middle", 7),
            ("shown", 16),
        ]


def test_code_that_no_function_covers(compiled: Callable[..., Path]) -> None:
    """Hand-written code has its lines in the line table alone, and its name in the symbol table."""
    source = "    .globl main\nmain:\n    xor %eax, %eax\nin_raw:\n    nop\n    ret\n"
    source += "    .size main, . - main\n"
    path = compiled(source, "-g", suffix=".s")
    assert places(path, labels(path)["in_raw"]) == [
        Place("main", path.name, str(path.parent / "source.s"), 5)
    ]


def test_without_dwarf(compiled: Callable[..., Path]) -> None:
    path = compiled(C, "-O2")
    at = labels(path)
    assert [place.function for place in places(path, at["in_inlined"])] == ["shown"]
    assert places(path, at["in_hidden"]) == [Place("hidden", path.name)]
    assert places(path, 4) == [Place(f"{path.name}+0x4", path.name, known=False)]


def test_stripped(compiled: Callable[..., Path]) -> None:
    """What is exported has its name; what is not is never called by its neighbour's."""
    path = compiled(C, "-O2", "-rdynamic")
    at = labels(path)
    subprocess.run([tool("strip"), str(path)], check=True)
    assert [place.function for place in places(path, at["in_inlined"])] == ["shown"]
    hidden = at["in_hidden"]
    assert places(path, hidden) == [Place(f"{path.name}+{hidden:#x}", path.name, known=False)]
    # A return address belongs to the call before it, also where that is the function's last
    # instruction.
    after = Frame(1, at["main"], False, False)
    assert Symbolizer(()).places(module(path), after)[0].function != "main"


def test_mini_debug_information(compiled: Callable[..., Path], tmp_path: Path) -> None:
    """Fedora's programs have the stripped symbols in a small file inside, packed by xz."""
    path = compiled(C, "-O2")
    at = labels(path)["in_hidden"]
    inner, packed = tmp_path / "inner", tmp_path / "inner.xz"
    objcopy = tool("objcopy")
    subprocess.run([objcopy, "--only-keep-debug", str(path), str(inner)], check=True)
    packed.write_bytes(lzma.compress(inner.read_bytes()))
    subprocess.run([tool("strip"), str(path)], check=True)
    assert not places(path, at)[0].known
    section = f".gnu_debugdata={packed}"
    subprocess.run([objcopy, "--add-section", section, str(path)], check=True)
    assert places(path, at) == [Place("hidden", path.name)]
    packed.write_bytes(packed.read_bytes()[:-40])
    section = f".gnu_debugdata={packed}"
    subprocess.run([objcopy, "--update-section", section, str(path)], check=True)
    assert len(places(path, at)) == 1, "cut off: some answer, and no error"


@pytest.mark.parametrize("place", ["absolute", "relocated"])
def test_a_stripped_go_program(compiled: Callable[..., Path], tmp_path: Path, place: str) -> None:
    """Go's runtime has its own table of functions (runtime.pcHeader), whatever strip takes."""
    path = compiled(C, "-O2")
    hidden, shown = (labels(path)[name] for name in ("hidden", "shown"))
    text = next(one.addr for one in open_elf(str(path)).sections if one.name == ".text")
    first, second = sorted((hidden, shown))
    names = b"main.first\0main.(*T).second\0"
    head = struct.pack("<IHBB", 0xFFFFFFF1, 0, 1, 8)
    start = text if place == "absolute" else 0
    table_at = 72 + len(names)
    head += struct.pack("<8Q", 2, 0, start, 72, 0, 0, 0, table_at)
    table = struct.pack("<5I", first - text, 20, second - text, 28, second - text + 64)
    functions = struct.pack("<IiIi", first - text, 0, second - text, 11)
    data = head + names + table + functions
    subprocess.run([tool("strip"), str(path)], check=True)
    assert not is_stripped_go(open_elf(str(path)))
    packed = tmp_path / "table"
    how = "--add-section"
    for size in (len(data), *range(0, len(data), 7)):
        packed.write_bytes(data[:size])
        subprocess.run([tool("objcopy"), how, f".gopclntab={packed}", str(path)], check=True)
        found = [places(path, at)[0] for at in (first + 1, second + 1, second + 64)]
        if size == len(data):
            assert [one.function for one in found[:2]] == ["main.first", "main.(*T).second"]
            assert not found[2].known
        else:
            assert len(found) == 3, "cut off: some answer, and no error"
        how = "--update-section"
    assert is_stripped_go(open_elf(str(path)))
    symbolizer = Symbolizer(())
    symbolizer.places(module(path), Frame(1, first + 1, True, False))
    ((what, why),) = symbolizer.partial.values()
    assert what == "source lines" and "Go's runtime" in why


@pytest.mark.parametrize("how", ["build-id", "debuglink", ".debug", "directory"])
def test_separate_debug_files(compiled: Callable[..., Path], tmp_path: Path, how: str) -> None:
    path = compiled(
        C, "-O2", "-g", "-Wl,--build-id=none" if how != "build-id" else "-Wl,--build-id"
    )
    at = labels(path)["in_inlined"]
    whole = [(place.function, place.line) for place in places(path, at)]
    store = tmp_path / "store"
    identity = open_elf(str(path)).build_id
    where = {
        "build-id": store / ".build-id" / identity[:2] / f"{identity[2:]}.debug",
        "debuglink": tmp_path / "split.debug",
        ".debug": tmp_path / ".debug" / "split.debug",
        "directory": Path(f"{store}{tmp_path}") / "split.debug",
    }[how]
    where.parent.mkdir(parents=True, exist_ok=True)
    objcopy = tool("objcopy")
    subprocess.run([objcopy, "--only-keep-debug", str(path), str(where)], check=True)
    subprocess.run([objcopy, "--strip-all", str(path)], check=True)
    assert [place.known for place in places(path, at)] == [False]
    if how != "build-id":
        subprocess.run([objcopy, f"--add-gnu-debuglink={where}", str(path)], check=True)
    assert find_debug_file(open_elf(str(path)), str(path), (str(store),)) == str(where)
    assert [(place.function, place.line) for place in places(path, at, (str(store),))] == whole
    assert [function for function, _ in whole] == ["innermost", "middle", "shown"]
    with where.open("ab") as file:
        file.write(b"x")
    if how != "build-id":
        assert find_debug_file(open_elf(str(path)), str(path), (str(store),)) is None, (
            "another file of that name"
        )


def test_cxx(compiled: Callable[..., Path]) -> None:
    path = compiled(CXX, "-O2", "-g", compiler="g++", suffix=".cc")
    at = labels(path)
    (add,) = places(path, at["in_add"])
    assert add.function.startswith("shop::Till<int>::add(int)") and add.line == 3
    assert [(place.function, place.line) for place in places(path, at["in_twice"])] == [
        ("shop::twice", 5),
        ("main", 7),
    ]


@pytest.mark.parametrize("mangling", ["v0", "default"])
def test_rust(compiled: Callable[..., Path], mangling: str) -> None:
    flags = ("-Csymbol-mangling-version=v0",) if mangling == "v0" else ()
    path = compiled(RUST, "-O", "-g", *flags, compiler="rustc", suffix=".rs")
    at = labels(path)
    (area,) = places(path, at["in_area"])
    assert (area.function, area.line) == ("<source::Square as source::Shape>::area", 6)
    first, *_, last = places(path, at["in_twice"])
    assert (first.function, first.line, first.inlined) == ("source::twice", 9, True)
    assert (last.function, last.inlined) == ("source::main", False)


def test_modules_that_cannot_be_used(compiled: Callable[..., Path], tmp_path: Path) -> None:
    """Each is named with a reason: gone, another file now, none at all."""
    path = compiled(C, "-O2")
    other = compiled(C, "-O0")
    true = module(path)
    cases = {
        true._replace(path=str(tmp_path / "gone")): "No such file",
        true._replace(path=str(other)): "another build-id",
        true._replace(path=str(tmp_path / "source.c")): "not an ELF file",
        true._replace(build_id="", mtime=1): "changed",
        true._replace(path="bad\0name"): "null",
        Module(VDSO, "[vdso]", "00" * 20): "another kernel",
    }
    symbolizer = Symbolizer(())
    for one in cases:
        (place,) = symbolizer.places(one, Frame(1, 0x1234, True, False))
        assert place.function == f"{os.path.basename(one.path)}+0x1234" and not place.known
    assert symbolizer.missing.keys() == cases.keys()
    assert all(reason in symbolizer.missing[one] for one, reason in cases.items()), (
        symbolizer.missing
    )
    assert symbolizer.places(Module(CUT, "[cut]"), Frame(0, 0, True, False))[0].function == "[cut]"
    assert (
        symbolizer.places(Module(JIT, "[jit]", pid=1 << 30), Frame(0, 5, True, False))[0].function
        == "[jit]"
    )


def test_spoilt_files(compiled: Callable[..., Path]) -> None:
    """Bytes changed anywhere in the tables: some answer, in a moment, and no error."""
    path = compiled(C, "-O2", "-g")
    data = path.read_bytes()
    at = labels(path)["in_inlined"]
    with path.open("rb") as file:
        sections = [
            (section["sh_offset"], section["sh_size"])
            for section in ELFFile(file).iter_sections()
            if section.name.startswith((".debug", ".symtab", ".strtab", ".shstrtab"))
            and section["sh_size"]
        ]
    choose = random.Random(8)
    spoilt = path.with_name("spoilt")
    known = 0
    for _ in range(150):
        copy = bytearray(data)
        offset, size = choose.choice([*sections, (0, 64), (len(data) - 64 * 30, 64 * 30)])
        for _ in range(choose.randrange(1, 10)):
            copy[offset + choose.randrange(size)] = choose.choice(
                (0, 0xFF, 0x80, choose.randrange(256))
            )
        spoilt.write_bytes(copy if choose.randrange(5) else copy[: choose.randrange(len(copy))])
        one = Module(FILE, str(spoilt))
        places = Symbolizer(()).places(one, Frame(1, at, True, False))
        assert places
        known += places[-1].known
    assert 0 < known < 150


def test_symbol_table() -> None:
    table = SymbolTable(
        [
            (0x100, 0x40, 0, "_local"),
            (0x100, 0x40, 1, "__exported"),
            (0x100, 0x40, 2, "exported"),
            (0x110, 8, 0, "inside"),
            (0x200, 0, 0, "label"),
            (0x300, 1 << 63, 0, "endless"),
        ]
    )
    expected = {
        0xFF: None, 0x100: "exported", 0x110: "inside", 0x118: "exported", 0x13F: "exported",
        0x140: None,
        0x200: "label", 0x201: None, 0x300: "endless", 1 << 64: None,
    }  # fmt: skip
    assert {at: (found := table.find(at)) and found[0] for at in expected} == expected
    assert table.find(0x118) == ("exported", 0x100) and len(table) == 4
    assert SymbolTable([]).find(5) is None


def test_the_vdso() -> None:
    """This kernel's own is in this process; its functions have the names that programs know."""
    mapping = next((one for one in read_mappings(os.getpid()) if one.path == "[vdso]"), None)
    if mapping is None:
        pytest.skip("this kernel has no vDSO")
    modules = Modules()
    code = modules.code(os.getpid(), mapping, lambda at, size: ctypes.string_at(at, size))
    assert code is not None
    assert code is modules.code(os.getpid(), mapping, lambda at, size: ctypes.string_at(at, size))
    one = modules.tables.modules[code.number]
    assert one.kind == VDSO and one.build_id
    image = ctypes.string_at(mapping.start, mapping.end - mapping.start)
    symbols = read_symbols(Elf(lambda offset, size: image[offset : offset + size]))
    at = next(start for start, _, _, name in symbols if name == "clock_gettime")
    assert Symbolizer(()).places(one, Frame(1, at + 1, True, False)) == (
        Place("clock_gettime", "[vdso]"),
    )
    assert code.rule(at, True)[0] == FROM_RSP and code.elf.bias(mapping.start, 0) == mapping.start


@pytest.mark.parametrize("module", ["stacks.unwind", "trace.stacks"])
def test_nothing_waits_for_the_libraries(module: str) -> None:
    """They are imported for the first module whose DWARF is read."""
    command = (
        f"import sys, laconic.{module}\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'elftools', 'symbolic', "
        "'demangle'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_without_symbolic(
    compiled: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where there is no wheel of it, pyelftools reads all."""
    monkeypatch.setitem(sys.modules, "symbolic", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = compiled(C, "-O2", "-g")
    found = places(path, labels(path)["in_inlined"])
    assert [(place.function, place.line) for place in found] == [
        ("innermost", 3),
        ("middle", 7),
        ("shown", 16),
    ]


def test_symbols_of_the_c_library() -> None:
    """Plain names where there are several, and no versions."""
    path = next(
        (
            one
            for one in ("/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6")
            if os.path.exists(one)
        ),
        None,
    )
    if path is None:
        pytest.skip("the C library is at another place")
    symbols = read_symbols(open_elf(path))
    at = next(start for start, _, _, name in symbols if name == "mprotect")
    assert {name for start, _, _, name in symbols if start == at} >= {"mprotect", "__mprotect"}
    assert SymbolTable(symbols).find(at + 1) == ("mprotect", at)
    assert not any("@" in name for *_, name in symbols)


def test_lines_of_what_has_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    for path in (empty, tmp_path, tmp_path / "fifo", tmp_path / "none"):
        assert Lines(str(path)).find(0x1000) == []
