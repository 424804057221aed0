"""Vectors: what the export writes, and what `vectors check` finds."""

from __future__ import annotations

import gzip
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from laconic.analysis import vectors as analysis
from laconic.analysis.vectors import COUNTS, DEFAULT, EPC, MISSING, PAL, TABLE, compare
from laconic.commands import main
from laconic.errors import LaconicError
from laconic.linux.pagemap import FILE_PAGE
from laconic.memory.flags import MADV_DONTNEED, MAP_ANONYMOUS, MAP_FIXED, MAP_SHARED, PAGE_SIZE
from laconic.memory.mmap import page_align
from laconic.memory.rangemap import RangeMap
from laconic.report.vectors import as_json, as_text
from laconic.trace import vectors as file_format
from laconic.trace.reader import TraceReader
from laconic.trace.vectors import (
    COUNTED,
    INTERNAL,
    PalCall,
    Vectors,
    VectorState,
    VmaLine,
    crc,
    merged,
    read,
)
from tests.helpers.comparetraces import begun
from tests.helpers.traces import BASE, small
from tests.tracer.lab import COMMAND, environment

ROOT = Path(__file__).parents[3]
CORPUS = ROOT / "vectors"
ISSUE = CORPUS / "issue-1708.vectors.gz"


class Command:
    """`laconic WORDS`, in this process; `out` and `err` are what the last one wrote."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture
        self.out = self.err = ""

    def __call__(self, *words: str | Path, status: int = 0) -> None:
        found = main([str(word) for word in words])
        self.out, self.err = self.capture.readouterr()
        assert found == status, self.err


@pytest.fixture
def laconic(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command line."""
    return Command(capfd)


def text(vectors: Vectors, strategies: tuple[int, ...]) -> str:
    """What another implementation of these strategies would write."""
    items: list[file_format.Item] = [
        (number, rule) for number, rule in vectors.strategies.items() if number in strategies
    ]
    items += [state for state in vectors.states if state.strategy in strategies]
    return "\n".join(
        [file_format.HEADER, *(line for item in items for line in file_format.lines(item)), ""]
    )


def states(vectors: Vectors, name: str) -> Iterator[tuple[str, VectorState]]:
    """The events' names and the states of one strategy."""
    number = next(n for n, rule in vectors.strategies.items() if rule.name == name)
    for state in vectors.states:
        if state.strategy == number:
            yield vectors.events[state.event].name, state


# The corpus


def test_each_state_has_the_crc_and_the_length_of_its_table() -> None:
    for path in CORPUS.glob("*.vectors.gz"):
        vectors = read(str(path))
        assert [rule.name for rule in vectors.strategies.values()] == list(DEFAULT)
        assert len(vectors.events) > 5
        for state, table in analysis._with_tables(vectors):
            assert (crc(table), len(table)) == (state.crc, state.vmas), f"{path}: {state}"
            assert all(row.start < row.end for row in table)
            if vectors.strategies[state.strategy].table == file_format.MERGED:
                assert merged(table) == table


def test_an_mprotect_to_the_protection_that_the_vmas_have_is_no_pal_call() -> None:
    """The first step of issue #1708: every-call makes a Protect per page, skip-equal none."""
    vectors = read(str(ISSUE))
    protects = {
        name: [state for call, state in states(vectors, name) if call == "mprotect"]
        for name in DEFAULT
    }
    for state in protects["every-call"]:
        (call,) = (call for call in state.pal if not call.flags & INTERNAL)
        assert (call.name, call.old, call.new, call.kinds) == ("protect", 3, 3, 0)
        assert state.counts[COUNTED.index("host_calls")] == 1
    for name in DEFAULT[1:]:
        assert len(protects[name]) == 64
        assert all(not s.pal and s.counts == file_format.NO_COUNTS for s in protects[name])
        assert all(not s.added and not s.dropped for s in protects[name])


def test_the_corpus_has_every_kind_of_event_and_pal_call() -> None:
    events, calls, flags = set(), set(), 0
    for path in CORPUS.glob("*.vectors.gz"):
        vectors = read(str(path))
        events |= {event.name for event in vectors.events.values()}
        for state in vectors.states:
            calls |= {(call.name, call.kinds) for call in state.pal}
            for call in state.pal:
                flags |= call.flags
    assert events >= {
        "load", "touch", "fork", "thread", "thread-end", "grow", "end",
        "mmap", "mprotect", "munmap", "madvise", "brk", "msync", "mremap",
    }  # fmt: skip
    assert "other" not in events, "an implementation can follow all of the corpus"
    assert {("alloc", 1), ("free", 2)} <= calls
    assert {("protect", kinds) for kinds in (0, 16, 32, 48)} <= calls
    assert flags == file_format.LAZY | file_format.SINGLE | INTERNAL


def test_no_touch_of_the_corpus_is_past_the_end_of_a_file() -> None:
    """Linux answers such an access with SIGBUS."""
    touches = 0
    for path in CORPUS.glob("*.vectors.gz"):
        # By process: where the file of each mapping ends.
        ends: dict[int, RangeMap[int]] = defaultdict(RangeMap)
        for event in read(str(path)).events.values():
            process, (a0, a1, _, flags, _, offset) = event.process, event.args
            if event.name == "fork":
                ends[a0] = ends[process].copy()
            elif event.name == "munmap" and event.result == 0:
                ends[process].clear(a0, a0 + page_align(a1))
            elif event.name == "mmap" and event.result >= 0:
                start = event.result
                ends[process].clear(start, start + page_align(a1))
                if event.file and not flags & MAP_ANONYMOUS:
                    end = start + page_align(event.size) - offset
                    ends[process].set(start, start + page_align(a1), end)
            elif event.name == "touch":
                for run_start, run_end, end in ends[process].parts(a0, a1):
                    assert run_end <= end, (
                        f"{path.name}, event {event.number}: {run_start:x}-{run_end:x}"
                    )
                    touches += 1
    assert touches > 20


def test_dontneed_of_what_nobody_wrote_of_a_file_is_no_pal_call() -> None:
    """Random-1's event 8 discards pages of a file that are inaccessible, and were never touched."""
    vectors = read(str(CORPUS / "random-1.vectors.gz"))
    assert vectors.events[8].name == "madvise" and vectors.events[8].args[2] == MADV_DONTNEED
    found = [state for state in vectors.states if state.event == 8]
    assert len(found) == len(DEFAULT) and not any(state.pal for state in found)


def test_neighbors_that_change_alike_are_one_call_of_classify() -> None:
    """Random-2's event 56 restricts pages of a file, and the anonymous page after them."""
    vectors = read(str(CORPUS / "random-2.vectors.gz"))
    for name in ("classify", "laconic"):
        (state,) = (state for _, state in states(vectors, name) if state.event == 56)
        assert [str(call) for call in state.pal] == ["protect 0 1000017000 100001a000 3 1 32 0"]
        assert state.counts[COUNTED.index("ioctls")] == 1
    for name in ("classify", "laconic"):
        for _, state in states(vectors, name):
            assert analysis.join_calls(state.pal) == state.pal


def test_the_corpus_is_what_the_tool_writes(tmp_path: Path) -> None:
    """If this fails after a change of a strategy: python tools/vectors.py."""
    done = subprocess.run(
        [sys.executable, "tools/vectors.py", str(tmp_path)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = {path.name: gzip.decompress(path.read_bytes()) for path in tmp_path.iterdir()}
    committed = {
        path.name: gzip.decompress(path.read_bytes()) for path in CORPUS.glob("*.vectors.gz")
    }
    assert written.keys() == committed.keys()
    different = [name for name in sorted(written) if written[name] != committed[name]]
    assert not different, "python tools/vectors.py writes them again"
    assert sum(path.stat().st_size for path in CORPUS.glob("*.vectors.gz")) < 400_000


# The comparison


def test_a_file_without_inputs_is_compared() -> None:
    vectors = read(str(ISSUE))
    for strategies in ((0,), (1, 2), (0, 1, 2, 3)):
        other = _parsed(text(vectors, strategies))
        comparison = compare(vectors, other)
        assert comparison.difference is None
        assert len(comparison.states) == len(strategies)
        assert "no difference" in as_text(comparison, vectors)
        assert as_json(comparison, vectors)["equal"] is True


def _parsed(content: str) -> Vectors:
    return file_format._parse("mine", io.StringIO(content))


def _changed(change: str) -> tuple[Vectors, str]:
    # The vectors with one thing of every-call's event 2 changed, and what is expected to differ.
    vectors = read(str(ISSUE))
    other = _parsed(text(vectors, (0,)))
    state = next(state for state in other.states if state.event == 2)
    if change == "row":
        state.added[0] = state.added[0]._replace(prot=1)
        return other, TABLE
    if change == "no call":
        state.pal.clear()
        return other, PAL
    if change == "kinds":
        state.pal[0] = state.pal[0]._replace(kinds=16)
        return other, PAL
    if change == "counts":
        state.counts = file_format.NO_COUNTS
        return other, COUNTS
    if change == "epc":
        state.epc += 1
        return other, EPC
    other.states.remove(state)
    return other, MISSING


@pytest.mark.parametrize("change", ["row", "no call", "kinds", "counts", "epc", "missing"])
def test_the_first_difference_is_found(change: str) -> None:
    vectors = read(str(ISSUE))
    other, what = _changed(change)
    comparison = compare(vectors, other)
    difference = comparison.difference
    assert difference is not None
    assert (difference.what, difference.state.event, difference.strategy) == (what, 2, "every-call")
    shown = as_text(comparison, vectors)
    assert f"first difference: {what}, event 2, process 0, every-call" in shown
    assert "event 2 mprotect 0 7efffffc0000 1000 3" in shown
    if change == "row":
        assert "    > 7efffffc0000 7efffffc1000 3 0 0 0" in shown
        assert "    > 7efffffc0000 7efffffc1000 1 0 0 0" in shown
    result = as_json(comparison, vectors)
    assert result["difference"]["what"] == what
    json.dumps(result)


def test_columns_that_an_implementation_omits_are_not_compared() -> None:
    vectors = read(str(ISSUE))
    for change in ("row", "no call", "kinds", "counts", "epc"):
        other, _ = _changed(change)
        state = next(state for state in other.states if state.event == 2)
        unknown = {"row": "table", "no call": "pal", "kinds": "pal", "counts": "counts"}.get(change)
        if unknown is None:
            state.epc = -1
        else:
            state.unknown.add(unknown)
        if change == "row":
            following = next(state for state in other.states if state.event == 3)
            following.added.append(VmaLine(0x7EFFFFFC0000, 0x7EFFFFFC1000, 3))
        comparison = compare(vectors, other)
        assert comparison.difference is None, change
        assert comparison.unknown == (unknown is not None)


def test_memory_of_the_library_os_may_be_anywhere() -> None:
    call = PalCall("alloc", 0, 0x1000, 0x3000, -1, 3, 1, INTERNAL)
    assert analysis.same_call(call, call._replace(start=0x8000, end=0xA000))
    assert not analysis.same_call(call, call._replace(start=0x8000, end=0x9000))
    plain = call._replace(flags=0)
    assert not analysis.same_call(plain, plain._replace(start=0x8000, end=0xA000))
    assert analysis.same_call(plain, plain._replace(new=-1, kinds=-1))
    assert not analysis.same_call(plain, plain._replace(new=1))


def test_a_whole_table_may_follow_clear() -> None:
    vectors = read(str(CORPUS / "splits-and-merges.vectors.gz"))
    other = _parsed(text(vectors, (2,)))
    tables = [table for _, table in analysis._with_tables(other)]
    other.states = [
        replace(state, clear=True, dropped=[], added=table)
        for state, table in zip(other.states, tables, strict=True)
    ]
    again = _parsed(text(other, (2,)))
    assert compare(vectors, again).difference is None
    # Neighbors that are alike may be separate lines, since the table is compared merged.
    start, end, *rest = tables[-2][0]
    halves = [VmaLine(start, start + 4096, *rest), VmaLine(start + 4096, end, *rest)]
    halves[1] = halves[1]._replace(offset=halves[0].offset + 4096 if halves[0].file else 0)
    if end - start > 4096:
        other.states[-2].added = [*halves, *tables[-2][1:]]
    assert compare(vectors, other).difference is None


# The command line


def test_export_and_check(tmp_path: Path, laconic: Command) -> None:
    trace = small(tmp_path / "small.trace")
    out = tmp_path / "small.vectors"
    laconic("export", trace, "--to", "vectors", "-o", out)
    assert "laconic vectors check MINE --against" in laconic.err
    assert [rule.name for rule in read(str(out)).strategies.values()] == list(DEFAULT)
    one = tmp_path / "one.vectors"
    laconic("export", trace, "--to", "vectors", "--strategy", "sgx-emm", "laconic", "-o", one)
    rules = read(str(one)).strategies.values()
    assert [(rule.name, rule.pal) for rule in rules] == [("sgx-emm", False), ("laconic", True)]
    two = tmp_path / "two.vectors"
    laconic("export", trace, "--to", "vectors", "--strategy", "sgx-emm,laconic", "-o", two)
    assert two.read_bytes() == one.read_bytes()
    laconic("vectors", "check", one, "--against", out, "--json", tmp_path / "a.json")
    assert laconic.out.endswith("no difference\n")
    assert json.loads((tmp_path / "a.json").read_text())["compared"].keys() == {"laconic"}
    broken = tmp_path / "broken"
    broken.write_text(out.read_text().replace("pal free", "pal alloc", 1))
    laconic("vectors", "check", broken, "--against", out, status=1)
    assert "first difference: PAL calls" in laconic.out


def test_until_ends_the_vectors(tmp_path: Path, laconic: Command) -> None:
    trace = small(tmp_path / "small.trace")
    laconic("export", trace, "--to", "vectors", "-o", tmp_path / "all")
    laconic("export", trace, "--to", "vectors", "--between", "0", "0.006", "-o", tmp_path / "part")
    whole, part = read(str(tmp_path / "all")), read(str(tmp_path / "part"))
    assert 0 < len(part.events) < len(whole.events)


def test_errors_name_the_fix(tmp_path: Path, laconic: Command) -> None:
    trace = small(tmp_path / "small.trace")
    out = tmp_path / "o"
    for words, message in (
        (("--to", "csv", "--strategy", "laconic"), "use --to vectors"),
        (("--to", "vectors", "--between", "1", "2"), "select only where they end"),
        (("--to", "vectors", "--strategy", "lazy"), "choose from every-call"),
        (("--to", "vectors", "--limit", "5"), "--limit 5 does not go with"),
    ):
        laconic("export", trace, *words, "-o", out, status=2)
        assert message in laconic.err
        assert not out.exists(), "nothing is left"
    laconic("vectors", "check", trace, "--against", ISSUE, status=2)
    assert "pass a vector file" in laconic.err
    laconic("vectors", "check", tmp_path / "none", "--against", ISSUE, status=2)
    assert "check the name" in laconic.err
    other = tmp_path / "other"
    other.write_text("laconic-vectors 1\nstrategy 0 mine split 1\n")
    laconic("vectors", "check", other, "--against", ISSUE, status=2)
    assert "has vectors of mine" in laconic.err


@pytest.mark.parametrize(
    "line",
    [
        "state 1 2", "counts 1 2 3", "pal alloc 0 1000", "pal grow 0 1 2 3 4 5 6", "vma 0 0",
        "event x mmap 0", "strategy 0 a mixed 1", "unknown all", "init 0", "hello",
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad"
    path.write_text(f"laconic-vectors 1\n# a comment\nstate 0 0 0 0 0 0\n{line}\n")
    with pytest.raises(LaconicError, match="line 4: "):
        read(str(path))


def test_truncated_gzip_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(ISSUE.read_bytes()[:2000])
    with pytest.raises(LaconicError, match="cannot be read"):
        read(str(path))


def test_two_files_in_one_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "two"
    path.write_text("laconic-vectors 1\nstrategy 0 a split 1\nlaconic-vectors 1\n")
    with pytest.raises(LaconicError, match="line 3: another vector file begins here"):
        read(str(path))


def test_a_touch_past_the_end_of_a_file_is_preceded_by_other(tmp_path: Path) -> None:
    """The file has grown, which no event describes."""
    trace = begun(tmp_path / "grown.trace")
    number = trace.file("/data/grows", size=PAGE_SIZE)
    args = BASE, 4 * PAGE_SIZE, 3, MAP_SHARED | MAP_FIXED, 3, 0
    trace.row("mmap", *args, result=BASE, file=number)
    touched = ((BASE, BASE + 2 * PAGE_SIZE, FILE_PAGE),)
    trace.row("mprotect", BASE, 4 * PAGE_SIZE, 1, touched=touched)
    items: list[file_format.Item] = []
    found = analysis.record(TraceReader(trace.end()), DEFAULT, items.append)
    events = [item for item in items if isinstance(item, file_format.VectorEvent)]
    assert [event.name for event in events] == ["load", "mmap", "other", "touch", "mprotect", "end"]
    assert found.notes
    # From then on, every strategy has the file as long as it is.
    for index, name in enumerate(DEFAULT):
        (state,) = (
            item
            for item in items
            if isinstance(item, VectorState) and (item.event, item.strategy) == (4, index)
        )
        ends = [call.end for call in state.pal if call.name == "protect"]
        expected = BASE + (4 if name == "every-call" else 2) * PAGE_SIZE
        assert max(ends) == expected, name


# The documentation


def test_the_examples_of_the_page_print_what_it_shows(tmp_path: Path) -> None:
    """Every command of docs/vectors.md, in a copy of the directories that it names."""
    shutil.copytree(ROOT / "examples/vectors", tmp_path / "examples/vectors")
    shutil.copytree(CORPUS, tmp_path / "vectors")
    page = (ROOT / "docs/vectors.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    commands = [
        part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    ]
    assert len(commands) >= 6
    for part in commands:
        command, _, shown = part.partition("\n")
        script = f'laconic() {{ {shlex.join(COMMAND)} "$@"; }}\n{command}'
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.stdout == shown, f"{command}\n{done.stdout}{done.stderr}"


# The example in C

#: `BUG` of examples/vectors/bookkeeping.c, and a file of the corpus that finds it.
BUGS = {
    1: "splits-and-merges",
    2: "splits-and-merges",
    3: "noreserve-dontneed",
    4: "fixed-over-everything",
    5: "splits-and-merges",
    6: "issue-1708",
    7: "failing-calls",
    8: "past-the-end",
    9: "noreserve-dontneed",
    10: "fork",
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles the example with the given flags, once."""
    compiler = shutil.which("cc")
    assert compiler is not None, "a C compiler is needed: apt-get install gcc"

    @cache
    def program(*flags: str) -> Path:
        path = tmp_path_factory.mktemp("runner") / "runner"
        sources = [
            str(ROOT / "examples/vectors" / f"{n}.c") for n in ("bookkeeping", "runner", "reader")
        ]
        warnings = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *warnings, *flags, "-o", str(path), *sources], check=True)
        return path

    return program


def run(
    program: Path, name: str, *words: str, content: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The runner on a file of the corpus, or on `content`."""
    if content is None:
        content = gzip.decompress((CORPUS / f"{name}.vectors.gz").read_bytes()).decode()
    return subprocess.run(
        [str(program), *words],
        input=content,
        encoding="latin-1",
        capture_output=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize("strategy", ["every-call", "skip-equal"])
def test_the_example_follows_its_strategy_on_the_whole_corpus(
    tmp_path: Path, build: Callable[..., Path], strategy: str
) -> None:
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover"]
    define = ["-DSKIP_EQUAL"] if strategy == "skip-equal" else []
    program = build("-O1", *sanitizers, *define)
    for path in sorted(CORPUS.glob("*.vectors.gz")):
        name = path.name.removesuffix(".vectors.gz")
        done = run(program, name, "-s", strategy, "-w", str(tmp_path / "out"))
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        assert "states compared, no difference" in done.stdout
        # What the runner writes is what it has compared, and that it has compared nothing of a
        # process after a call that Gramine does not have.
        comparison = compare(read(str(path)), read(str(tmp_path / "out")))
        assert comparison.difference is None, f"{name}: {as_text(comparison, read(str(path)))}"


def test_the_end_states_how_many_states_were_compared(build: Callable[..., Path]) -> None:
    done = run(build("-O0"), "perl-fork")
    assert done.returncode == 0
    assert done.stdout.endswith("\n55 of 147 states compared, no difference in these\n")


def test_a_design_that_joins_protects_is_compared_with_joined_vectors(
    tmp_path: Path, build: Callable[..., Path]
) -> None:
    """Event 9 of splits-and-merges: six VMAs, two runs that change alike."""
    program = build("-O0", "-DSKIP_EQUAL", "-DJOIN")
    name, out = "splits-and-merges", tmp_path / "out"
    words = ("-s", "skip-equal", "-w", str(out))
    done = run(program, name, *words, "-j")
    assert done.stdout.endswith(" states compared, no difference\n"), done.stdout
    vectors = read(str(CORPUS / f"{name}.vectors.gz"))
    assert compare(vectors, read(str(out)), joined=True).difference is None
    plain = compare(vectors, read(str(out))).difference
    assert plain is not None and (plain.what, plain.state.event) == (PAL, 9)
    done = run(program, name, *words)
    assert done.returncode == 1 and done.stdout.count("  > protect ") == 6 + 2
    assert done.stdout.endswith("are joined: use -j\n")
    # What is joined must change alike all the same.
    done = run(build("-O0", "-DSKIP_EQUAL", "-DBUG=8"), "past-the-end", *words, "-j")
    assert done.returncode == 1


def test_the_runner_names_the_counts_that_differ(build: Callable[..., Path]) -> None:
    content = gzip.decompress(ISSUE.read_bytes()).decode()
    event, state, counts, _ = content.partition("\nevent 2 ")[2].split("\n", 3)
    assert counts.startswith("counts 1 1 ")
    changed = content.replace(
        "\n".join((event, state, counts)), f"{event}\n{state}\n{counts[:-8]} 9 0 0 0"
    )
    done = run(build("-O0"), "", content=changed)
    assert "counts that differ:\n  > EMODT: expected 9, actual 0\n" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("\x1f\x8b\x08", (), "line 1: compressed with gzip: use zcat FILE | runner"),
        ("laconic-vectors 2\n", (), "line 1: not a vector file of version 1"),
        ("laconic-vectors 1\nlaconic-vectors 1\n", (), "line 2: another vector file begins here"),
        (
            "laconic-vectors 1\nstrategy 0 a split 1\nstrategy 1 b split 1\n",
            ("-s", "c"),
            "the file has no vectors of c; it has those of a, b",
        ),
    ],
)
def test_the_runner_names_what_is_wrong_with_a_file(
    build: Callable[..., Path], content: str, words: tuple[str, ...], message: str
) -> None:
    done = run(build("-O0"), "", *words, content=content)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("bug", BUGS)
def test_each_planted_bug_is_found(tmp_path: Path, build: Callable[..., Path], bug: int) -> None:
    program = build("-O0", f"-DBUG={bug}")
    out = tmp_path / "out"
    done = run(program, BUGS[bug], "-w", str(out))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "first difference: " in done.stdout
    assert "expected, " in done.stdout and "actual, " in done.stdout
    done_here = compare(read(str(CORPUS / f"{BUGS[bug]}.vectors.gz")), read(str(out)))
    difference = done_here.difference
    assert difference is not None and f"after event {difference.state.event}," in done.stdout, (
        "laconic vectors check finds the same difference"
    )
