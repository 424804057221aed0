"""`laconic compare --verify`: strategies carried out leaf by leaf, and what it finds when one is
wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.compare import Model, compare
from laconic.commands import main
from laconic.libos.touches import Touches
from laconic.memory.change import MAP, RESTRICT, UNMAP
from laconic.memory.flags import PAGE_SIZE
from laconic.memory.rangemap import Range
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.sgx.costs import DEFAULT, load
from laconic.sgx.meter import Meter
from laconic.sgx.pal.edmm import Edmm
from laconic.strategies.classify import Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.commandline import laconic
from tests.helpers.comparetraces import RW, begun, busy
from tests.helpers.traces import BASE


class Wider(Classify):
    """Opens the pages that mremap moves for writing."""

    name = "wider"

    def move(self, start: int, end: int, vma: Vma, source: int) -> None:
        self.pal.protect([(source, source + end - start, RW)])
        super().move(start, end, vma, source)


class Forgetful(Laconic):
    """What is unmapped stays in the enclave."""

    name = "forgetful"

    def unmap(self, ranges: Iterable[Range]) -> None:
        pass


class TwicePal(Edmm):
    """Accepts each page twice."""

    def commit(
        self, start: int, end: int, prot: int, contents: bool = False, source: int | None = None
    ) -> None:
        super().commit(start, end, prot, contents, source)
        self.meter.eaccept(start, end, prot, 8)


class AcceptsTwice(Laconic):
    """A page is accepted twice."""

    name = "accepts twice"

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches, **options: Any) -> None:
        super().__init__(meter, space, touches, **options | {"pal_type": TwicePal})


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Pages mapped, touched, protected and unmapped, again and again."""
    return busy(tmp_path / "a.trace", 5).end()


@pytest.mark.parametrize("pte", ["rwx", "sync"])
def test_counts_are_those_of_counting_alone(trace: str, pte: str) -> None:
    names = ["classify", "laconic"]
    plain = compare(trace, names, load(DEFAULT), model=Model(pte))
    checked = compare(trace, names, load(DEFAULT), model=Model(pte, verify=True))
    for name in names:
        assert checked.strategies[name].total == plain.strategies[name].total
        assert checked.strategies[name].peak == plain.strategies[name].peak
        assert checked.findings[name].steps > 20 and not checked.findings[name].breaches
    assert not plain.findings


def test_an_excepted_window_is_counted_and_is_no_breach(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """mremap of a touched page that is PROT_NONE now: it is readable while EACCEPTCOPY moves it."""
    there, touched = BASE + 64 * PAGE_SIZE, ((BASE, BASE + PAGE_SIZE, 0),)
    trace = begun(tmp_path / "a.trace")
    trace.mapping(PAGE_SIZE)
    trace.row("mprotect", BASE, PAGE_SIZE, 0, host_calls=1, kinds=int(RESTRICT), touched=touched)
    kinds = int(MAP | UNMAP)
    trace.row(
        "mremap",
        BASE,
        PAGE_SIZE,
        PAGE_SIZE,
        3,
        there,
        result=there,
        host_calls=1,
        kinds=kinds,
        touched=touched,
    )
    report, path = tmp_path / "a.json", trace.end()
    command = [
        "compare",
        path,
        "--verify",
        "--strategy",
        "classify",
        "-j",
        "1",
        "--json",
        str(report),
    ]
    assert main(command) == 0
    found = json.loads(report.read_text())["verify"]["classify"]
    assert (found["breaches"], found["excepted"]) == (0, 1)
    assert "1 excepted window" in capfd.readouterr().out

    command[4] = f"{__name__}:Wider"
    assert main(command) == 70, "the exception is for reading alone"


def test_a_mapping_that_follows_costs_host_calls(trace: str) -> None:
    once, follows = (
        compare(trace, ["laconic"], load(DEFAULT), model=Model(pte)) for pte in ("rwx", "sync")
    )
    ours, theirs = (found.strategies["laconic"].total.low for found in (once, follows))
    assert theirs.host_calls > ours.host_calls
    assert theirs.eaccept == ours.eaccept and theirs.emodpr == ours.emodpr


def test_a_wrong_strategy_is_found(
    trace: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report, name = tmp_path / "a.json", f"{__name__}:Forgetful"
    status = main(
        ["compare", trace, "--verify", "--strategy", name, "-j", "1", "--json", str(report)]
    )
    found = json.loads(report.read_text())["verify"][name]
    assert status == 70 and found["breaches"] and "nothing is mapped" in found["first"][0]
    text = " ".join(capfd.readouterr().out.split())  # lines are wrapped
    assert "breaches of the law Strict" in text


def test_an_instruction_that_the_model_refuses_is_found(trace: str) -> None:
    """A page that is accepted twice."""
    model = Model(verify=True)
    compared = compare(trace, [AcceptsTwice], load(DEFAULT), jobs=1, model=model)
    found = compared.findings[AcceptsTwice.name]
    assert found.breaches and "EACCEPT stopped at" in found.first[0]


def test_the_command(trace: str) -> None:
    done = laconic("compare", trace, "--verify", "--pte", "sync")
    assert (
        done.returncode == 0 and "verify: laconic, " in done.stdout and " 0 breaches" in done.stdout
    )
    assert "not checked: every-call, skip-equal, sgx-emm, edmm-tuned (not strict)" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert laconic("compare", trace, "--pte", "rx").returncode == 2
