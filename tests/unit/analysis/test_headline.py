"""The headline of a trace: which rule chooses it, and the sentence."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Mapping
from pathlib import Path

import pytest

import laconic.trace
from laconic.analysis.callers import CycleSpan
from laconic.analysis.headline import (
    COMMITS,
    COSTLY,
    EVEN,
    LOADER,
    NO_CALLS,
    REDUNDANT,
    RESTRICTS,
    UNTOUCHED,
    Headline,
    headline,
)
from laconic.analysis.sites import Work, sites
from laconic.analysis.suppressions import Suppression
from laconic.replay.enclaves import AROUND, BEFORE, OTHER
from laconic.report.headline import WORK, as_json, sentence
from laconic.sgx.costs import COSTED, CostProfile, Figure
from laconic.sgx.meter import Counts
from laconic.trace.schema import CHOSEN
from tests.helpers.traces import BASE, Builder

PAGE = 4096
#: A fixed one: shipped profiles change.
PROFILE = CostProfile(
    "fixed", "none", {name: Figure(1000, 1500, "a test", "none") for name in COSTED}
)


def test_all_work_around_the_calls_has_a_name() -> None:
    assert WORK.keys() == {*AROUND, OTHER}


def test_doctests() -> None:
    for name in ("laconic.report.numbers", "laconic.trace.numbers", "laconic.report.shortnames"):
        failed, attempted = doctest.testmod(importlib.import_module(name))
        assert attempted and not failed


class Log(Builder):
    """A trace with stacks of one function each."""

    def __init__(self, path: Path, **options: object) -> None:
        super().__init__(path, source="strace", **options)  # type: ignore[arg-type]
        self.program("/opt/prog", ["prog"])

    def call(self, module: str, function: str, name: str, *args: int, **fields: object) -> None:
        """A call from a function."""
        lines = f"/lib/{module}({function}+0x1) [0x1]\n/opt/prog(main+0x2) [0x2]"
        self.row("stack", data=lines.encode())
        self.row(name, *args, **fields)  # type: ignore[arg-type]

    def map(self, module: str, function: str, page: int, pages: int) -> None:
        """An anonymous mapping."""
        start = BASE + page * PAGE
        self.call(
            module, function, "mmap", 0, pages * PAGE, 3, 0x22, -1, 0, result=start, state=CHOSEN
        )

    def touch(self, page: int, pages: int) -> None:
        """Pages are touched, as a call without effect shows."""
        touched = ((BASE + page * PAGE, BASE + (page + pages) * PAGE, 0),)
        self.call(
            "libc.so.6", "touch", "msync", BASE + page * PAGE, PAGE, 4, result=0, touched=touched
        )

    def headline(self, *rules: Suppression) -> Headline:
        """The headline of the whole trace."""
        return headline(sites(laconic.trace.open(self.end())), rules, PROFILE)


def test_no_calls(tmp_path: Path) -> None:
    found = Log(tmp_path / "a.trace").headline()
    assert found.rule == NO_CALLS and sentence(found).text == "This program made no memory calls."


def test_a_site_that_commits_what_is_never_touched(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.trace")
    log.map("libbig-0a1b2c3d.so.1", "grow", 0, 8192)
    log.map("libsmall.so", "keep", 10_000, 4)
    found = log.headline()
    assert (found.rule, found.cause, found.committed, found.touched) == (COSTLY, COMMITS, 8193, 0)
    assert found.left == CycleSpan(0, 0) and 0.99 < found.share < 1
    assert sentence(found).text == (
        "mmap from grow (libbig) costs 24.6–36.9 M cycles, 99.9 % of the total; nothing under "
        "laconic: it commits 32.0 MiB that are never touched."
    )
    assert as_json(found)["rule"] == "costly"


def test_a_site_whose_pages_are_touched(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.trace")
    log.map("libbig.so", "grow", 0, 1000)
    log.touch(0, 100)
    found = log.headline()
    assert (found.rule, found.cause, found.touched) == (COSTLY, COMMITS, 100)
    assert sentence(found).text.endswith("it commits 3.91 MiB and touches 400 KiB.")
    log = Log(tmp_path / "b.trace")
    log.map("libbig.so", "grow", 0, 1000)
    log.touch(0, 800)
    found = log.headline()
    assert found.cause == "" and sentence(found).text.endswith("under laconic.")


def test_redundant_calls(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.trace")
    log.map("libc.so.6", "keep", 0, 1)
    for _ in range(100):
        log.call("prog.so", "tighten", "mprotect", BASE, PAGE, 3, result=0)
    found = log.headline()
    assert (found.rule, found.cause, found.redundant) == (REDUNDANT, RESTRICTS, 100)
    text, more = sentence(found)
    assert text == (
        "99.0 % of 101 calls change nothing: tighten (prog) calls mprotect 100 times, each time "
        "for "
        "nothing."
    )
    assert more.startswith("These calls cost ") and more.endswith("nothing under laconic.")


def test_the_loader_is_the_headline_only_alone(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.trace")
    for number in range(3):
        log.map("ld-linux-x86-64.so.2", "_dl_map_segment", 1000 * number, 500)
    found = log.headline()
    assert found.rule == LOADER and found.subject is not None and found.subject.sites == 1
    assert sentence(found).text.startswith("ld.so loads libraries costs 4.")
    log = Log(tmp_path / "b.trace")
    log.map("ld-linux-x86-64.so.2", "_dl_map_segment", 0, 1000)
    log.map("libbig.so", "grow", 2000, 200)
    found = log.headline()
    assert found.rule == COSTLY and found.subject is not None and found.subject.name == "grow"
    assert "83 %" in sentence(found).more


def test_the_most_expensive_work_is_named_before_the_headline(tmp_path: Path) -> None:
    """The site of the headline is where most is saved, which need not be where most is spent."""
    log = Log(tmp_path / "a.trace")
    log.map("ld-linux-x86-64.so.2", "_dl_map_segment", 0, 1000)
    log.map("libbig.so", "grow", 2000, 200)
    found = log.headline()
    text = sentence(found._replace(files=3)).text
    assert text.startswith("After loading 3 files (83 %), mmap from grow (libbig) costs most: 0.")
    log = Log(tmp_path / "b.trace")
    log.map("libused.so", "fill", 0, 1000)
    log.touch(0, 1000)
    log.map("libbig.so", "grow", 2000, 800)
    text = sentence(log.headline()).text
    assert text.startswith("Laconic saves most at mmap from grow (libbig), which costs 2.40–3.60 M")


def test_memory_from_before_attach_is_no_headline(tmp_path: Path) -> None:
    """It is one row, and the parts that decide on the headline are of the rest."""
    log = Log(tmp_path / "a.trace")
    log.map("libbig.so", "grow", 0, 20)
    found = sites(laconic.trace.open(log.end()))
    found.around[BEFORE] = Work(counts={name: Counts(eaccept=100_000) for name in found.meters})
    for name, meter in found.meters.items():
        meter.at(0, BEFORE)
        meter.counts.add(found.around[BEFORE].counts[name])
    chosen = headline(found, (), PROFILE)
    assert chosen.rule == COSTLY and chosen.subject is not None and chosen.subject.name == "grow"
    text = sentence(chosen).text
    assert text.startswith(
        "After the memory it had before attach (99.9 %), mmap from grow (libbig) costs most: "
    )
    many = "1 call after attach cost 6"
    assert many in sentence(chosen._replace(rule=EVEN)).text


def test_a_suppressed_site_is_not_the_headline(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.trace")
    log.map("libbig.so", "grow", 0, 1000)
    log.map("libsmall.so", "keep", 2000, 100)
    found = log.headline(Suppression("mine", module="libbig.so"))
    assert found.subject is not None and found.subject.name == "keep"


def test_no_site_stands_out(tmp_path: Path) -> None:
    """Many places of little cost each."""
    log = Log(tmp_path / "a.trace")
    for number in range(40):
        log.map("libmany.so", f"grow{number}", number * 10, 2)
    found = log.headline()
    assert found.rule == EVEN
    assert sentence(found).text.startswith("No site stands out: 40 calls cost ")
    assert sentence(found).text.endswith(" k cycles under laconic, 4.7 % less.")


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (1.0, "Laconic would save nothing: 40 calls cost "),
        (1.1, "Laconic would save nothing: 40 calls cost "),
        (0.98, "No site stands out: 40 calls cost "),
        (0.7, "No site stands out: 40 calls cost "),
    ],
)
def test_where_laconic_saves_nothing_the_headline_says_so(
    tmp_path: Path, left: float, text: str
) -> None:
    log = Log(tmp_path / "a.trace")
    for number in range(40):
        log.map("libmany.so", f"grow{number}", number * 10, 2)
    found = log.headline()
    ends = CycleSpan(*(left * end for end in found.total))
    assert sentence(found._replace(total_left=ends)).text.startswith(text)


def test_a_log_that_does_not_show_touches(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.trace", about={"unknown": ["touched pages"]})
    log.map("libbig.so", "grow", 0, 16)
    found = log.headline()
    assert found.rule == UNTOUCHED and "Record with  laconic run" in sentence(found).text


@pytest.mark.parametrize("pages", [3, 300, 30_000])
@pytest.mark.parametrize(
    "names", [{"f": "libx.so"}, {"ns::Class<int>::method(std::string const&) "
                                 "const": "a-very-long-name.so"}]
)  # fmt: skip
def test_it_is_short(names: Mapping[str, str], pages: int, tmp_path: Path) -> None:
    log = Log(tmp_path / "a.trace")
    for function, module in names.items():
        log.map(module, function, 0, pages)
    text, more = sentence(log.headline())
    assert len(text) <= 190 and len(more) <= 190 and "const&" not in text
