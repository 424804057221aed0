"""Suppressions: every key, patterns, and what is wrong in a file, with line and column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.suppressions import ALL, BUILT_IN, KEYS, SITE, Suppression, load, matching
from laconic.errors import LaconicError
from laconic.stacks.symbolize import Place
from tests.helpers.commandline import laconic
from tests.helpers.sitetraces import sited

STACK = [
    Place("grow", "libgrow.so.1"),
    Place("work<int>", "prog"),
    Place("prog+0x10", "prog", known=False),
]


def rule(**patterns: Any) -> Suppression:
    """A rule of these patterns."""
    return Suppression("why", **patterns)


@pytest.mark.parametrize(
    ("patterns", "hides"),
    [
        ({"call": "madvise"}, True),
        ({"call": "m*"}, True),
        ({"call": "mprotect"}, False),
        ({"call": "MADVISE"}, False),
        ({"function": "grow"}, True),
        ({"function": "gro"}, False),
        ({"function": "work<*>"}, True),
        ({"function": "prog+0x??"}, True),
        ({"module": "libgrow.so*"}, True),
        ({"module": "prog"}, True),
        ({"module": "prog", "where": SITE}, False),
        ({"module": "libgrow.so*", "where": SITE}, True),
        ({"module": "*o*", "where": ALL}, True),
        ({"module": "prog", "where": ALL}, False),
        ({"function": "grow", "module": "prog"}, False),
        ({"function": "*", "module": "prog"}, True),
        ({"program": "/opt/*/prog"}, True),
        ({"program": "prog"}, False),
        ({"call": "madvise", "module": "prog", "program": "*prog"}, True),
        ({"call": "madvise", "module": "prog", "program": "*other"}, False),
        ({"call": "[ms]*", "function": "wor[!x]*"}, True),
    ],
)
def test_patterns(patterns: dict[str, str], hides: bool) -> None:
    """All that are given must match; function and module the same frame."""
    assert rule(**patterns).matches("madvise", "/opt/bin/prog", STACK) is hides


def test_the_first_rule_that_matches_gives_the_reason() -> None:
    rules = [
        Suppression("no", call="brk"),
        Suppression("one", call="m*"),
        Suppression("two", module="prog"),
    ]
    found = matching(rules, "madvise", "/bin/prog", STACK)
    assert found is not None and found.reason == "one"
    assert matching(rules, "brk", "/bin/prog", []) is rules[0]
    assert matching(rules, "mmap", "/bin/prog", []) is rules[1]
    assert matching(rules[2:], "mmap", "/bin/prog", []) is None


@pytest.mark.parametrize(
    ("call", "stack", "hidden"),
    [
        (
            "mmap",
            ["_dl_map_segments ld-linux-x86-64.so.2", "_dl_map_object ld-linux-x86-64.so.2"],
            True,
        ),
        ("mmap", ["ld-linux-x86-64.so.2+0x5d2b ld-linux-x86-64.so.2"], True),
        ("mmap", ["ld-2.31.so+0x5d2b ld-2.31.so", "main prog"], True),
        ("mmap", ["_dl_map_object_from_fd prog", "main prog"], True),
        ("mmap", ["ld-something prog"], False),
        ("mmap", ["grow ld-tree", "dlopen ld-linux-x86-64.so.2"], False),
        ("mprotect", ["_dl_protect_relro ld-linux-x86-64.so.2"], True),
        ("brk", ["_dl_sysdep_start ld-linux-x86-64.so.2"], True),
        ("brk", ["__default_morecore libc.so.6", "malloc libc.so.6", "main prog"], True),
        ("brk", ["libc.so.6+0x9b0e9 libc.so.6", "main prog"], True),
        ("brk", ["sysmalloc prog", "malloc prog", "main prog"], True),
        ("brk", ["__malloc_alloc_meta prog", "__libc_malloc_impl prog", "main prog"], True),
        ("brk", ["main prog", "__libc_start_main libc.so.6"], False),
        ("brk", ["extend libjemalloc.so.2", "malloc libc.so.6"], False),
        (
            "madvise",
            ["advise_stack_range libc.so.6", "start_thread libc.so.6", "clone3 libc.so.6"],
            True,
        ),
        ("madvise", ["libc.so.6+0x890e8 libc.so.6", "libc.so.6+0x1053fc libc.so.6"], True),
        ("madvise", ["libpthread-2.31.so+0x7ea7 libpthread-2.31.so", "clone libc-2.31.so"], True),
        ("madvise", ["libc.so.6+0x9a000 libc.so.6", "free libc.so.6", "main prog"], False),
        ("madvise", ["purge libc.so.6", "main prog"], False),
        ("mmap", ["sysmalloc libc.so.6", "malloc libc.so.6"], False),
    ],
)
def test_the_built_in_rules(call: str, stack: list[str], hidden: bool) -> None:
    """ld.so's own and the C library's own, with names and without; never what a program does
    through them."""
    places = [Place(function, module) for function, module in map(str.split, stack)]
    assert (matching(BUILT_IN, call, "/bin/prog", places) is not None) is hidden


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "laconic.toml"
    path.write_text(
        '# all keys\n[[suppress]]\nreason = "é"\ncall = "m*"\nfunction = "f"\nmodule = "x.so*"\n'
        'program = "/bin/p"\n'
        "[[suppress]]\nfunction = '''g'''\n"
    )
    assert load(str(path)) == [
        Suppression("é", "m*", "f", "x.so*", "/bin/p"),
        Suppression(str(path), function="g"),
    ]
    path.write_text("")
    assert load(str(path)) == []
    path.write_bytes(b'suppress = [{call = "brk"},\r\n {module = "x"}]\r\n')
    assert [one.call or one.module for one in load(str(path))] == ["brk", "x"]


BROKEN = {
    # text → where, what the message has
    '[[suppress]]\ncall = "mmap\n': ("line 2, column 13", "not TOML"),
    "[[suppress]]\r\n\r\ncall = = 1\r\n": ("line 3, column 8", "not TOML"),
    "[[suppress]]\ncall": ("line 2, column 5", "not TOML"),
    '[[suppress]]\ncall = "a"\ncall = "b"\n': ("line 3, column", "not TOML"),
    '[[suppress]]\ncall = "a"\n\n[[suppress]]\n  cal = "b"\n': ("line 5, column 3", "'cal'"),
    '[[suppress]]\ncall = "a"\n[[ suppress ]]\n"fun\\u0063" = "b"\n': (
        "line 3, column 1",
        "'func'",
    ),
    '[[suppress]]\ncall = "a"\nmodule = 5\n': ("line 3, column 1", "module"),
    '[[suppress]]\nmodule = ["a"]\n': ("line 2, column 1", "module"),
    "[[suppress]]\nmodule = { a = 1 }\n": ("line 2, column 1", "module"),
    '[[suppress]]\n[suppress.call]\nx = "a"\n': ("line 2, column 11", "call"),
    '[[suppress]]\ncall = ""\n': ("line 2, column 1", "empty"),
    '[[suppress]]\ncall = "a"\n\n [[suppress]]\nreason = "all of it"\n': (
        "line 4, column 2",
        "hide everything",
    ),
    '[[suppress]]\nreason = "all"\nfunction = "*"\ncall = "**"\n': (
        "line 1, column 1",
        "hide everything",
    ),
    "[[suppress]]\n": ("line 1, column 1", "hide everything"),
    '\n[suppress]\ncall = "brk"\n': ("line 2, column 2", "[[suppress]]"),
    'suppress = "brk"\n': ("line 1, column 1", "[[suppress]]"),
    'suppress = [{call = "brk"}, {cal = "brk"}]\n': ("line 1, column 30", "'cal'"),
    "suppress = [1]\n": ("line 1, column 1", "[[suppress]]"),
    '[[suppress]]\ncall = "a"\n[[supress]]\ncall = "b"\n': ("line 3, column 3", "'supress'"),
    "x = " + "[" * 5000: ("line 1, column", "TOML"),
    "x = 1" + "0" * 5000: ("line 1, column", "TOML"),
}


@pytest.mark.parametrize("text", BROKEN, ids=[f"{number}" for number in range(len(BROKEN))])
def test_a_broken_file(text: str, tmp_path: Path) -> None:
    """The message has the place, what was wrong, and fits on a few lines."""
    where, output = BROKEN[text]
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode())
    with pytest.raises(LaconicError, match=re.escape(output)) as caught:
        load(str(path))
    message = str(caught.value)
    assert (
        message.startswith(f"suppressions {str(path)!r}, {where}")
        and len(message) < len(str(path)) + 200
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('[[suppress]]\nreason = "ä"\nmodule = "'.encode() + b'\xe4"\n')
    with pytest.raises(LaconicError, match="line 3, column 11: it is not UTF-8"):
        load(str(path))
    with pytest.raises(LaconicError, match="No such file or directory: name another file"):
        load(str(tmp_path / "missing.toml"))
    with pytest.raises(LaconicError, match="directory"):
        load(str(tmp_path))
    with pytest.raises(LaconicError, match="cannot be read"):
        load("a\0b")


class TestCommand:
    """laconic callers: laconic.toml of the working directory, a file that is named, none."""

    def test_hidden_calls_are_counted(self, tmp_path: Path) -> None:
        trace = sited(tmp_path / "a.trace", {"grow": (9, 1), "shrink": (4, 0)})
        (tmp_path / "laconic.toml").write_text(
            '[[suppress]]\nreason = "as agreed"\nfunction = "grow"\n'
        )
        out = laconic("callers", trace, cwd=tmp_path).stdout
        assert "10          9  as agreed (1 site)" in out and "grow (" not in out
        words = ("callers", trace, "--sort", "redundant")
        out = laconic(*words, cwd=tmp_path).stdout
        assert "15 memory calls, 13 redundant (87 %)" in out
        assert "grow (" not in out and "4          4  mprotect shrink" in out
        shown = "suppressed: 9 redundant calls (--no-suppressions shows them)\n  9: as agreed\n"
        assert shown in out
        out = laconic(*words, "--no-suppressions", cwd=tmp_path).stdout
        assert "grow (" in out and "suppressed" not in out
        (tmp_path / "other.toml").write_text('[[suppress]]\nmodule = "libgrow.so"\n')
        out = laconic(*words, "--suppressions", "other.toml", cwd=tmp_path).stdout
        assert (
            "suppressed: 13 redundant calls" in out
            and "  13: other.toml" in out
            and "mprotect" not in out
        )

    @pytest.mark.parametrize("name", ["laconic.toml", "other.toml"])
    def test_a_broken_file_ends_it(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text('[[suppress]]\nfonction = "x"\n')
        options = [] if name == "laconic.toml" else ["--suppressions", name]
        command = ["touch", "started"]
        done = laconic("callers", *options, "--", *command, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "started").exists()
        assert f"'{name}', line 2, column 1: there is no key 'fonction'" in done.stderr
        assert all(key in done.stderr for key in KEYS)

    def test_both_options(self, tmp_path: Path) -> None:
        done = laconic(
            "callers", "--suppressions", "x", "--no-suppressions", "a.trace", cwd=tmp_path
        )
        assert done.returncode == 2 and "--no-suppressions" in done.stderr
        done = laconic("callers", "--suppressions", "missing.toml", "a.trace", cwd=tmp_path)
        assert done.returncode == 2 and "'missing.toml' cannot be read, No such file" in done.stderr
