"""Names: C++ and Rust demangled, perf maps, and small numbers for what comes again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from laconic.stacks.demangle import demangle, has_demangler
from laconic.stacks.jit import PerfMap, read_perf_map
from laconic.stacks.table import Frame, Interned, Module, Tables

#: v0 names and what they are in words, from the grammar of RFC 2603.
V0 = {
    "_RNvC7mycrate3foo": "mycrate::foo",
    "_RNvCs1234_7mycrate3foo": "mycrate::foo",
    "_RNvNtC7mycrate3bar3foo.llvm.123": "mycrate::bar::foo",
    "_RNCNvC7mycrate3foo0B3_": "mycrate::foo::{closure#0}",
    "_RNCNvC7mycrate3foos_0": "mycrate::foo::{closure#1}",
    "_RNvMC7mycrateNtB2_3Foo3bar": "<mycrate::Foo>::bar",
    "_RNvXC7mycrateNtB2_3FooNtC3std5Clone5clone": "<mycrate::Foo as std::Clone>::clone",
    "_RNvYNtC7mycrate3FooNtC3std5Clone5clone": "<mycrate::Foo as std::Clone>::clone",
    "_RINvC7mycrate3foomE": "mycrate::foo::<u32>",
    "_RINvC7mycrate3fooTmhERShQeE": "mycrate::foo::<(u32, u8), &[u8], &mut str>",
    "_RINvC7mycrate3fooPhOxAhj4_E": "mycrate::foo::<*const u8, *mut i64, [u8; 4]>",
    "_RINvC7mycrate3fooKj7f_Kln2_Kb1_Kc41_E": "mycrate::foo::<127, -2, true, 'A'>",
    "_RINvC7mycrate3fooFUKChEmE": 'mycrate::foo::<unsafe extern "C" fn(u8) -> u32>',
    "_RINvC7mycrate3fooDNtC3std2FnEL_E": "mycrate::foo::<dyn std::Fn>",
    "_RINvC7mycrate3fooDG_INtC3std2FnTRL0_hEEp6OutputuEL_E": (
        "mycrate::foo::<dyn for<'a> std::Fn<(&'a u8,), Output = ()>>"
    ),
    "_RNvC7mycrateu8gdel_5qa": "mycrate::gödel",
}


@pytest.mark.parametrize("name", V0)
def test_rust_v0(name: str) -> None:
    assert demangle(name) == V0[name]


@pytest.mark.parametrize(
    "name",
    ["_R", "_RX", "_RNvC7mycrate", "_RNvC9short3foo", "_RB_", "_RNvB_3foo", "_RINvC1a1bKz_E"],
)
def test_rust_v0_that_is_none(name: str) -> None:
    assert demangle(name) == name


def test_rust_v0_hostile() -> None:
    """Spoilt names and deep ones end in bounded time, and never raise."""
    choose = random.Random(2)
    for name in V0:
        for _ in range(300):
            letters = list(name)
            letters[choose.randrange(2, len(name))] = choose.choice("_BCEIKLMNRSTXYu0129sG")
            assert demangle("".join(letters))
    deep = "_R" + "NvNv" * 2000 + "C1a1b"
    assert demangle(deep) == deep
    # Each pair is the one before, twice: 2 to the power of 40 letters.
    bomb, place = "INvC1a1bThhE", 8
    for _ in range(40):
        bomb, place = bomb + "T" + 2 * f"B{base62(place)}" + "E", len(bomb)
    assert demangle("_R" + bomb + "E") == "_R" + bomb + "E"


def base62(number: int) -> str:
    """A number as v0 names have it."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    number -= 1
    text = ""
    while number >= 0:
        text, number = digits[number % 62] + text, number // 62 if number >= 62 else -1
    return text + "_"


@pytest.mark.skipif(not has_demangler(), reason="there is no libstdc++")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("_ZN2ns1SIiE2goEi", "ns::S<int>::go(int)"),
        ("_ZN2ns1SIiE2goEi.isra.0", "ns::S<int>::go(int) [clone .isra.0]"),
        (
            "_ZNSt6vectorIiSaIiEE9push_backEOi",
            "std::vector<int, std::allocator<int> >::push_back(int&&)",
        ),
        ("_ZN4core3ptr13drop_in_place17h0123456789abcdefE", "core::ptr::drop_in_place"),
        (
            "_ZN4main4main28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE",
            "main::main::{{closure}}",
        ),
        (
            "_ZN54_$LT$a..P$LT$u8$GT$$u20$as$u20$a..m..T$GT$2go17h0123456789abcdefE",
            "_ZN54_$LT$a..P$LT$u8$GT$$u20$as$u20$a..m..T$GT$2go17h0123456789abcdefE",
        ),
        (
            "_ZN39_$LT$a..P$LT$u8$GT$$u20$as$u20$a..T$GT$2go17h0123456789abcdefE",
            "<a::P<u8> as a::T>::go",
        ),
    ],
)
def test_cxx_and_legacy_rust(name: str, words: str) -> None:
    assert demangle(name) == words


@pytest.mark.parametrize(
    "name", ["main", "", "_Z", "_Znonsense", "<script>", "_ZN\0", "_Z" + "N1a" * 10_000, "Zebra"]
)
def test_names_that_are_not_mangled(name: str) -> None:
    assert demangle(name) == name


def test_perf_map() -> None:
    text = b"1000 100 py::old:a.py\n2000 10 LazyCompile:~f <b>.js:1\nbad\n1080 20 py::new:b.py\n"
    found = PerfMap(text + b"zz 1 x\n3000 0 none\n-5 9 no\n4000 8 \xff\xfe\n")
    assert len(found) == 3
    assert found.name(0x1000) is None, "what is written over is gone"
    assert found.name(0x1080) == found.name(0x109F) == "py::new:b.py" and found.name(0x10A0) is None
    assert found.name(0x2008) == "LazyCompile:~f <b>.js:1" and found.name(0x3000) is None
    assert found.name(0x4001) == "\\xff\\xfe" and found.name(0) is found.name(1 << 63) is None


def test_perf_map_that_is_not_there(tmp_path: Path) -> None:
    assert read_perf_map(1, str(tmp_path / "none")) is None and read_perf_map(1 << 30) is None
    path = tmp_path / "map"
    path.write_text("10 10 f\n")
    found = read_perf_map(1, str(path))
    assert found is not None and found.name(0x1F) == "f"


def test_perf_map_against_a_dictionary() -> None:
    """Random entries, written over one another, against a dictionary of single addresses."""
    choose = random.Random(6)
    for _ in range(200):
        lines = []
        truth: dict[int, str] = {}
        for number in range(choose.randrange(1, 30)):
            start, size = choose.randrange(0, 60), choose.randrange(1, 12)
            lines.append(f"{start:x} {size:x} n{number}")
            for gone in {truth[at] for at in range(start, start + size) if at in truth}:
                truth = {at: name for at, name in truth.items() if name != gone}
            truth |= dict.fromkeys(range(start, start + size), f"n{number}")
        found = PerfMap("\n".join(lines).encode())
        assert [found.name(at) for at in range(80)] == [truth.get(at) for at in range(80)]


def test_interned() -> None:
    numbers: Interned[tuple[int, ...]] = Interned()
    assert [numbers.number(value) for value in ((1,), (2,), (1,), ())] == [0, 1, 0, 2]
    assert len(numbers) == 3 and list(numbers) == [(1,), (2,), ()] and numbers[1] == (2,)


def test_tables() -> None:
    tables = Tables()
    assert tables.modules[0].kind == "cut" and tables.frames[0].module == 0
    module = tables.modules.number(Module("file", "/lib/a", "00"))
    frame = tables.frames.number(Frame(module, 0x10, False, False))
    other = tables.guessed(frame)
    assert other != frame and tables.guessed(frame) == tables.guessed(other) == other
    assert tables.frames[other] == Frame(module, 0x10, False, True)
    assert tables.frames[frame].lookup == 0xF and Frame(1, 0x10, True, False).lookup == 0x10
