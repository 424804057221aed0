"""Real programs through `laconic compare -- CMD`: theirs stays theirs, and the strategies stand in
their order."""

import json
import sys
from pathlib import Path

import pytest

from laconic.analysis.compare import compare
from laconic.trace.reader import TraceReader
from tests.apps.harness import place
from tests.apps.workloads import WORKLOADS, Workload

CHOSEN = ("python3", "gcc", "python3-numpy")


@pytest.mark.parametrize(
    "workload", [pytest.param(each, id=each.name) for each in WORKLOADS if each.name in CHOSEN]
)
def test_output_and_status_are_untouched_and_figures_are_whole(
    workload: Workload, tmp_path: Path
) -> None:
    """Sums of processes and calls are the totals, the bound is below all, and laconic is not above
    every-call."""
    if reason := workload.missing():
        pytest.skip(reason)
    figures, kept = tmp_path / "figures.json", tmp_path / "kept.trace"
    with place(workload) as here:
        native = here.run()
        options = ("--json", str(figures), "--keep", str(kept), "--by", "program")
        outcome = here.run((sys.executable, "-m", "laconic", "compare", *options, "--"))
    assert (outcome.status, outcome.stdout) == (native.status, native.stdout)
    assert outcome.stderr.startswith(native.stderr)
    report = json.loads(figures.read_text())
    assert report["exit_status"] == native.status and report["trace"]["loss"] == []
    strategies = report["strategies"]
    for name, each in strategies.items():
        if name == "bound":
            continue
        for thing, count in each["counts"].items():
            if not thing.endswith("epc_pages"):
                assert count == sum(
                    call[name]["counts"][thing]
                    for call in report["by_call"].values()
                    if name in call
                )
                found = [program["strategies"] for program in report["programs"]]
                assert count == sum(
                    process[name]["counts"][thing] for process in found if name in process
                )
        # edmm-tuned gives pages more access than was requested, which the bound may not.
        if name != "edmm-tuned":
            assert each["ratio_low"]["bound"] >= 1, name
        assert each["counts"]["epc_pages"] == 0
    assert strategies["laconic"]["ratio"]["every_call"] < 1
    assert (
        strategies["bound"]["counts"]["peak_epc_pages"]
        <= strategies["laconic"]["counts"]["peak_epc_pages"]
    )
    assert max(map(len, outcome.stderr[len(native.stderr) :].splitlines())) <= 80


def test_the_kept_trace_gives_the_same_again(tmp_path: Path) -> None:
    """With one process or several, from the API as from the command."""
    from laconic.commands import main
    from laconic.sgx.costs import load

    kept, figures = tmp_path / "kept.trace", tmp_path / "figures.json"
    workload = next(each for each in WORKLOADS if each.name == "python3")
    if reason := workload.missing():
        pytest.skip(reason)
    with place(workload) as here:
        here.run((sys.executable, "-m", "laconic", "run", "--quiet", "-o", str(kept), "--"))
    assert main(["compare", str(kept), "--json", str(figures), "--strategy", "laconic"]) == 0
    report = json.loads(figures.read_text())["strategies"]["laconic"]
    found = compare(TraceReader(str(kept)), ["laconic"], load()).strategies["laconic"]
    assert {
        name: report["counts"][name] for name in found.total.high.as_dict()
    } == found.total.high.as_dict()
    assert [round(cycles) for cycles in found.total.cycles] == [
        report["cycles"]["low"],
        report["cycles"]["high"],
    ]
