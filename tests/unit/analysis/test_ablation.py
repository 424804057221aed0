"""`laconic compare --ablation`: the order in which changes to Gramine are added, and what they
save."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from laconic.analysis.ablation import Step, ablate, name_of
from laconic.analysis.compare import BOUND, compare
from laconic.commands import main
from laconic.memory.change import MAP
from laconic.memory.flags import PAGE_SIZE
from laconic.report.ablation import as_json
from laconic.report.compare import UNSIZED
from laconic.sgx.pal.switches import Switches
from laconic.trace.reader import TraceReader
from tests.helpers.commandline import laconic
from tests.helpers.comparetraces import ANON, RW, begun, busy
from tests.helpers.traces import BASE


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """A program that maps 1,000 pages, touches two, protects, and unmaps them."""
    return busy(tmp_path / "a.trace").end()


def middle(step: Step) -> float:
    return sum(step.cycles) / 2


def test_each_step_adds_the_switch_that_saves_most(trace: str) -> None:
    seen: list[int] = []
    found = ablate([TraceReader(trace)], progress=seen.append)
    names = [step.switch for step in found.steps]
    assert names[0] == "every-call" and names[-2:] == ["laconic", BOUND]
    assert sorted(names[1:-2]) == sorted(Switches._fields)
    assert found.steps[-3].strategy == "every-call:all"
    base = middle(found.steps[0])
    on: list[str] = []
    for before, step in zip(found.steps, found.steps[1:-2], strict=False):
        left = [switch for switch in Switches._fields if switch not in on]
        others = compare(trace, [name_of((*on, switch)) for switch in left])
        least = min(sum(figures.total.cycles) / 2 for figures in others.strategies.values())
        assert middle(step) == least, "computed by itself"
        assert step.share == pytest.approx(least / base)
        assert step.saved == pytest.approx(before.share - step.share)
        on.append(step.switch)
    assert sum(step.saved for step in found.steps) == pytest.approx(1 - found.steps[-1].share)
    assert seen == sorted(seen)
    total = TraceReader(trace).size * len(Switches._fields)
    assert 0.99 * total < seen[-1] <= total


def test_the_savings_of_each_switch_alone(trace: str) -> None:
    found = ablate([TraceReader(trace)])
    base, demand = (
        sum(figures.total.cycles)
        for figures in compare(trace, ["every-call", "every-call:demand=16"]).strategies.values()
    )
    (step,) = (step for step in found.steps if step.switch == "demand")
    assert step.alone == pytest.approx(1 - demand / base)
    assert found.steps[0].alone is None


def test_unknown_file_sizes_are_noted(trace: str) -> None:
    found = ablate([TraceReader(trace)])
    assert UNSIZED not in as_json(found)["notes"]
    found.compared[0] = replace(found.compared[0], unsized=True)
    assert UNSIZED in as_json(found)["notes"]


def test_all_traces_have_the_same_weight(trace: str, tmp_path: Path) -> None:
    """A program that does the same ten times as often does not count ten times."""
    other = busy(tmp_path / "b.trace", rounds=10).end()
    both = ablate([TraceReader(trace), TraceReader(other)])
    for number, path in enumerate((trace, other)):
        final = compare(path, ["every-call", "every-call:all"]).strategies
        assert both.steps[-3].figures[number].total == final["every-call:all"].total
    shares = [
        sum(ours.total.cycles) / sum(theirs.total.cycles)
        for ours, theirs in zip(both.steps[-3].figures, both.steps[0].figures, strict=True)
    ]
    assert both.steps[-3].share == pytest.approx(sum(shares) / 2)
    assert both.steps[0].host_calls[1] == sum(
        figures.total.high.host_calls for figures in both.steps[0].figures
    )


def test_the_table_and_the_json(trace: str, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    told = laconic("compare", "--ablation", trace, trace, "--json", path, "--verify")
    assert (told.returncode, told.stderr) == (0, "")
    assert max(map(len, told.stdout.splitlines())) <= 80
    figures = json.loads(path.read_text())
    text = " ".join(told.stdout.split())
    folded = text.partition("no further saving: ")[2].partition(" where each change belongs")[0]
    for step in figures["ablation"]:
        saves = step["alone"] is None or abs(step["saved"]) >= 0.00005
        assert (f"\n{step['switch']} " in told.stdout) == saves
        assert (step["switch"] in re.split(r", | \(alone \S+ %\)", folded)) == (not saves)
        assert not saves or f"{step['host_calls']['high']:,}" in told.stdout
        assert len(step["traces"]) == len(figures["traces"]) == 2
        assert (
            sum(each["counts"]["host_calls"] for each in step["traces"])
            == (step["host_calls"]["high"])
        )
    assert "of 2 traces" in told.stdout
    assert "docs/gramine.md" in text and "equal (alone " in folded
    assert "by program" not in text and "laconic costs more" not in text
    assert figures["verify"]["every-call:all"]["breaches"] == 0
    assert figures["verify"]["every-call:all"]["steps"] > 0


def test_a_program(tmp_path: Path) -> None:
    """The program's own output and status; the table on standard error. It forks, executes and has
    threads: no step of `every-call:all` is a breach of the law Strict."""
    path = tmp_path / "f.json"
    shell = f"{sys.executable} -c 'import threading as t; t.Thread(target=print).start()'; (echo 7)"
    told = laconic(
        "compare", "--ablation", "--verify", "--json", path, "--", "sh", "-c", f"{shell}; exit 3"
    )
    assert (told.returncode, told.stdout) == (3, "\n7\n")
    assert "every-call" in told.stderr and "bound" in told.stderr
    verify = json.loads(path.read_text())["verify"]
    assert verify["every-call:all"]["steps"] > 100
    assert {found["breaches"] for found in verify.values()} == {0}


def test_the_programs_are_named_and_can_be_selected(tmp_path: Path) -> None:
    """A script in front of the program costs more than the program."""
    trace = busy(tmp_path / "a.trace", rounds=3)
    trace.row("execve", data=b"/bin/other")
    about = {"path": "/bin/other", "argv": ["other"], "bits": 64}
    trace.row("program", 0x5555_5555_6000, 0, data=json.dumps(about).encode())
    trace.row("maps", 0, 2)
    trace.row("mmap", 0, PAGE_SIZE, RW, ANON, -1, 0, result=BASE, host_calls=1, kinds=int(MAP))
    path = trace.end()
    text = " ".join(laconic("compare", "--ablation", path).stdout.split())
    found = re.search(r"every-call's cycles by program: prog (\d+)%, other (\d+)%\.", text)
    assert found is not None and int(found[1]) > int(found[2])
    told = laconic("compare", "--ablation", path, "--program", "other", "--json", "-")
    figures = json.loads(told.stdout)
    assert figures["calls"] == 1 and figures["selection"]["programs"] == ["other"]
    assert "selected: calls of program other\n" in (
        laconic("compare", "--ablation", path, "--program", "other").stdout
    )


def test_why_laconic_costs_more(tmp_path: Path) -> None:
    """It commits a small mapping at once, of which nothing is touched."""
    trace = begun(tmp_path / "a.trace")
    length = 16 * PAGE_SIZE
    for place in range(4):
        start = BASE + 4 * place * length
        trace.row(
            "mmap", start, length, RW, ANON, -1, 0, result=start, host_calls=1, kinds=int(MAP)
        )
    trace.row("mprotect", BASE, PAGE_SIZE, RW, touched=((BASE, BASE + PAGE_SIZE, 0),))
    text = " ".join(laconic("compare", "--ablation", trace.end()).stdout.split())
    assert "laconic costs more than all changes here: it commits 64 pages instead of 17" in text
    assert "that saves exceptions (0 instead of 1)" in text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--strategy", "laconic"), "omit --strategy"),
        (("--epc", "128M"), "omit --epc"),
        (("--by", "call"), "omit --by"),
        (("--host", "linux"), "omit --host linux"),
    ],
)
def test_options_that_exclude_each_other_are_named(
    trace: str, words: tuple[str, ...], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--ablation", trace, *words]) == 2
    assert why in capfd.readouterr().err
    assert main(["compare", trace, trace]) == 2, "only --ablation accepts several"
    assert main(["compare", "--ablation"]) == 2
