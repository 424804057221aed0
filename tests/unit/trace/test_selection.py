"""A selection of calls: the bookkeeping sees every call, and reports count the selected ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from laconic.analysis.compare import compare
from laconic.analysis.explain import locate
from laconic.analysis.info import contents
from laconic.analysis.sites import sites
from laconic.analysis.timeline.collect import collect
from laconic.memory.change import MAP, RESTRICT
from laconic.memory.flags import PAGE_SIZE
from laconic.sgx import costs
from laconic.trace import open as open_trace
from laconic.trace.selection import Selection
from tests.helpers.commandline import laconic
from tests.helpers.comparetraces import ANON, PAGES, RW, begun
from tests.helpers.pagetraces import known
from tests.helpers.traces import BASE

#: In nanoseconds.
MILLISECONDS = 1_000_000
#: Selections of which each call of the trace is in exactly one.
PARTITIONS = (
    [Selection(pids=(100,)), Selection(pids=(200,))],
    [Selection(programs=("prog",)), Selection(programs=("/bin/chi*",))],
    [Selection(calls=("mprotect",)), Selection(calls=("mmap", "munmap", "clone"))],
    [Selection(end=15 * MILLISECONDS), Selection(start=15 * MILLISECONDS + 1)],
)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Calls of two processes with different programs."""
    return known(tmp_path_factory.mktemp("selection") / "known.trace")


@pytest.mark.parametrize("parts", PARTITIONS, ids=str)
def test_the_parts_of_a_trace_add_up(parts: Sequence[Selection], trace: str) -> None:
    """Sites, their costs, and the contents of the parts add up to those of the whole trace."""

    def counted(selection: Selection | None) -> Counter[object]:
        found = sites(trace, selection=selection)
        counter: Counter[object] = Counter()
        for site in found.sites:
            key = site.call, site.stack, site.program
            counter[key, "calls"] += site.calls
            counter[key, "redundant"] += site.redundant
            for strategy, counts in site.counts.items():
                for name, value in counts.as_dict().items():
                    counter[key, strategy, name] += value
        assert found.ledger.calls == sum(site.calls for site in found.sites)
        assert found.ledger.redundant == sum(site.redundant for site in found.sites)
        for name, line in contents(open_trace(trace), selection=selection).by_call.items():
            # What called the first execve of a process is unknown, and is not a selected program.
            if name != "execve":
                counter["info", name] += line.calls
        page = collect(open_trace(trace), costs.load(), selection=selection)
        counter["page"] += sum(site.calls for site in page.sites)
        counter["pages's ledger"] += page.ledger.calls
        return counter

    first, second = map(counted, parts)
    assert first and second and first + second == +counted(None)


@pytest.mark.parametrize("parts", PARTITIONS, ids=str)
def test_enclaves_of_the_parts(parts: Sequence[Selection], trace: str) -> None:
    """The work for the calls adds up. What is done around the calls is counted only if whole
    processes are selected, and adds up too."""
    around = not parts[0].divides_processes

    def counted(selection: Selection | None) -> Counter[tuple[str, str]]:
        figures = compare(trace, ["every-call", "laconic"], selection=selection).strategies
        return Counter(
            {
                (name, str(label)): span.low.eaug + span.low.eaccept + span.low.host_calls
                for name, each in figures.items()
                for label, span in each.by_call.items()
                if around or label in ("mmap", "munmap", "mprotect")
            }
        )

    first, second = map(counted, parts)
    assert first and second and first + second == +counted(None)
    if not around:
        chosen = compare(trace, ["every-call"], selection=parts[0]).strategies["every-call"]
        assert "load" not in chosen.by_call


@pytest.mark.parametrize("call", ["mmap", "mprotect"])
def test_compare_and_callers_count_the_same(call: str, tmp_path: Path) -> None:
    """The first touch of a page belongs to the call that mapped it, in both."""
    trace = begun(tmp_path / "touched.trace")
    length = PAGES * PAGE_SIZE
    trace.row("mmap", 0, length, RW, ANON, -1, 0, result=BASE, host_calls=1, kinds=int(MAP))
    trace.row("mprotect", BASE, PAGE_SIZE, 1, host_calls=1, kinds=int(RESTRICT))
    trace.row("exit", 0, touched=((BASE, BASE + PAGE_SIZE, 0),))
    path = trace.end()
    selection = Selection(calls=(call,))
    compared = compare(path, ["every-call", "laconic"], selection=selection)
    found = sites(path, selection=selection)
    for name, figures in compared.strategies.items():
        assert figures.total.high == figures.total.low == found.total(name)
    touched = compared.strategies["laconic"].by_call.get("touch")
    assert (touched is not None and touched.high.eaug > 0) == (call == "mmap")


def test_the_work_around_the_calls_is_noted(trace: str, tmp_path: Path) -> None:
    """A table of some of a process's calls states what it omits; of whole processes, none."""
    for words, is_noted in ((("--call", "mmap"), True), (("--pid", "100"), False)):
        done = laconic("compare", trace, "-j", "1", *words)
        assert done.returncode == 0
        assert ("load, exec, fork and threads do not" in " ".join(done.stdout.split())) == is_noted


def test_the_nth_call_is_that_of_the_selected_ones(trace: str) -> None:
    assert locate(open_trace(trace), "mmap:1", selection=Selection(pids=(200,))).row.pid == 200
    assert locate(open_trace(trace), "mmap:1").row.pid == 100


@pytest.mark.parametrize(
    "verb",
    [
        "callers",
        "info",
        "compare -j 1",
        "explain",
        "html -o a.html",
        "check --max-redundant 99%",
        "flamegraph --to svg -o a.svg",
    ],
)
def test_a_report_states_the_selection(verb: str, trace: str, tmp_path: Path) -> None:
    """In the text and in the JSON."""
    name, *words = verb.split()
    event = ["mprotect:1"] if name == "explain" else []
    chosen = ["--between", "1ms", "2s", "--pid", "100", "--program", "prog", "--call", "mprotect"]
    done = laconic(name, trace, *event, *words, *chosen, "--json", "a.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = "selected: mprotect calls of process 100, of program prog, from 0.001 s to 2 s\n"
    assert line in done.stdout + done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["selection"] == {
        "between": [0.001, 2.0], "pids": [100], "programs": ["prog"], "calls": ["mprotect"],
    }  # fmt: skip
    if "-o" in words:
        made = (tmp_path / words[-1]).read_text()
        assert "elected: mprotect calls of process 100, of program prog, from" in made


@pytest.mark.parametrize("to", ["csv", "strace", "perfetto"])
def test_an_export_has_the_selected_calls(to: str, trace: str) -> None:
    done = laconic("export", trace, "--to", to, "-o", "-", "--call", "mprotect", "--pid", "100")
    assert done.returncode == 0 and "selected: mprotect calls of process 100\n" in done.stderr
    assert "munmap" not in done.stdout and "clone" not in done.stdout
    calls = {"csv": ",mprotect,", "strace": " mprotect(", "perfetto": '"name":"mprotect"'}[to]
    assert done.stdout.count(calls) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--between", "2", "1"), "ends before it starts"),
        (("--between", "soon", "end"), "'soon' is not a time; give seconds"),
        (("--call", "mprotct"), "did you mean 'mprotect'"),
        (("--pid", "x"), "'x'"),
    ],
)
def test_a_wrong_selection(words: tuple[str, ...], message: str, trace: str) -> None:
    done = laconic("callers", trace, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_figures_of_json_cannot_be_selected(trace: str, tmp_path: Path) -> None:
    laconic("callers", trace, "--json", "a.json", cwd=tmp_path)
    done = laconic("diff", "a.json", trace, "--pid", "100", cwd=tmp_path)
    assert done.returncode == 2 and "name its trace instead" in done.stderr
